"""The page of `results.py`: its tables, its picture, and the figures as JSON."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer.evaluation.result import Result
from resnet_infer.models.spec import ModelSpec
from resnet_infer.utils.cpu import processor, usable_cores
from resnet_infer.utils.files import atomic_path

TRAINED = ("recipe", "data", "date", "iterations")
"""What tells a training run from others; where it was trained and how it may be used is added later."""


@dataclass(frozen=True)
class Row:
    """A line of the tables: a model, or several as an ensemble. Rows of one `group` have one colour."""

    title: str
    group: str
    models: tuple[str, ...]
    megabytes: float
    result: Result

    def to_json(self) -> dict[str, Any]:
        found = self.result.to_json()
        kept = {name: found[name] for name in ("protocol", "top1", "top5", "difference")}
        return {"title": self.title, "mb": round(self.megabytes, 1), **kept}


@dataclass(frozen=True)
class Disagreement:
    """A picture that two runtimes name differently. `gap` is the difference of the two logits, of their spread."""

    picture: str
    torch: str
    artifact: str
    gap: float
    tie: bool


@dataclass(frozen=True)
class Page:
    """All that is shown. `rates` are pictures a second, by row of both tables and by round."""

    spec: ModelSpec
    second: ModelSpec | None
    data: str
    pictures: int
    calibration: int
    weight_bits: int
    scales: Sequence[int]
    precisions: Sequence[Row]
    protocols: Sequence[Row]
    rates: Sequence[Sequence[float]]
    disagreements: Sequence[Disagreement]

    @property
    def rows(self) -> list[Row]:
        return [*self.precisions, *self.protocols]

    @property
    def speeds(self) -> list[float]:
        return [statistics.median(values) for values in self.rates]


def write(page: Page, output: Path) -> None:
    """`output`, and beside it the picture and the figures."""
    machine = f"{processor()}, {usable_cores()} cores, {time.strftime('%Y-%m-%d', time.gmtime())}"
    text = "\n".join(lines(page, machine, f"{output.stem}.svg"))
    document = {
        "model": page.spec.name,
        "second": page.second.to_json() if page.second else None,
        "data": page.data,
        "pictures": page.pictures,
        "machine": machine,
        "disagreements": [asdict(item) for item in page.disagreements],
        "rows": [
            {**row.to_json(), "pictures_per_s": [round(rate, 1) for rate in measured]}
            for row, measured in zip(page.rows, page.rates, strict=True)
        ],
    }
    for path, content in ((output, text), (output.with_suffix(".json"), json.dumps(document, indent=2))):
        with atomic_path(path) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
    draw(page, output.with_suffix(".svg"))
    print(text)


def lines(page: Page, machine: str, picture: str) -> Iterator[str]:
    """Markdown."""
    split = len(page.precisions)
    yield "# Results\n"
    yield f"`{page.spec.name}` on {page.data}: {page.pictures:,} images that were used neither to train it nor to"
    yield f"select it nor to calibrate INT8, which used {page.calibration} training images. Errors in percent, with 95%"
    yield f"confidence intervals. Images per second: from file to answer, all cores ({machine}), median of"
    yield f"{len(page.rates[0])} rounds. Measured by `experiments/results.py`.\n"
    yield f"![top-1 error against time]({picture})\n"
    yield "## Precisions, one crop\n"
    yield from table(page.precisions, page.speeds[:split])
    yield "\nThe difference is in percentage points of top-1 error, to PyTorch on the same images; p is that of"
    yield "McNemar's test. ONNX Runtime computes FP16 in FP32 on a CPU, with rounded weights. `cpu` and `tensorrt` are"
    yield f"the quantization schemes, with weights of {page.weight_bits} and of 8 bits; both ran on this CPU. The"
    yield "built-in artifact has the scheme `cpu` with weights of 7 bits, which no CPU saturates.\n"
    alike = page.pictures - len(page.disagreements)
    yield f"The checkpoint in PyTorch and the FP32 artifact predict the same class for {alike:,} of"
    yield f"the {page.pictures:,} images{', all but these:' if page.disagreements else '.'}\n"
    for item in page.disagreements:
        what = "a tie" if item.tie else "NO TIE"
        yield f"- `{item.picture}`: {item.torch} in PyTorch, {item.artifact} in the artifact; {what}: the two logits"
        yield f"  are {item.gap:.1e} of their standard deviation apart"
    yield "\n## Protocols\n"
    yield f"Multi-scale: the whole image and its mirror image at shorter sides of {', '.join(map(str, page.scales))}."
    yield "The artifacts accept any size. The difference is to FP32 with one crop.\n"
    yield from table(page.protocols, page.speeds[split:])
    if page.second:
        yield ""
        yield from described(page.second, page.spec)


def described(spec: ModelSpec, first: ModelSpec) -> Iterator[str]:
    """What the second network is, by its own words, and whether one of it and the `first` went on from the other."""
    recipe, origin = spec.provenance.get("recipe", {}), spec.provenance.get("from")
    parts = [spec.architecture.name if spec.architecture else spec.name]
    if origin:
        parts.append(f"from `{origin}`")
    if "name" in recipe:
        parts.append(f"recipe `{recipe['name']}`")
    for stage in recipe.get("stages", ()):
        parts.append("{epochs:g} epochs at {crop} pixels with a learning rate up to {peak_rate:g}".format(**stage))
    if "seed" in recipe:
        parts.append(f"seed {recipe['seed']}")
    yield f"The second network: {', '.join(parts)}."
    for later, one, other in (("second", spec, first), ("first", first, spec)):
        if went_on(one, other):
            yield f"The {later} was trained from the other's weights (a snapshot ensemble: Huang et al., 2017), so"
            yield "the two are more alike than networks trained independently."


def went_on(later: ModelSpec, earlier: ModelSpec) -> bool:
    """Whether the training of `later` started from the weights of `earlier`, by what both say of it."""
    start = later.provenance.get("start", {})
    return bool(start) and all(start.get(key) == earlier.provenance.get(key) for key in TRAINED)


def table(rows: Sequence[Row], speeds: Sequence[float]) -> Iterator[str]:
    """Markdown."""
    yield "| | protocol | MB | top-1 error | 95% | top-5 error | 95% | difference | p | images/s |"
    yield "|---|---|---:|---:|---|---:|---|---:|---:|---:|"
    for row, speed in zip(rows, speeds, strict=True):
        cells = [row.title, row.result.protocol, f"{row.megabytes:.1f}"]
        for rate in (row.result.top1, row.result.top5):
            cells += [f"{rate.error:.2f}", "{:.2f}-{:.2f}".format(*rate.interval)] if rate else ["", ""]
        own = row.result.difference
        cells += [f"{own.top1:+.2f}", f"{own.p:.2g}"] if own else ["", ""]
        yield f"| {' | '.join([*cells, f'{speed:.0f}'])} |"


def draw(page: Page, output: Path) -> None:
    """Top-1 error with its interval against milliseconds for a picture; protocols of one network are joined."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.style import context
    from matplotlib.ticker import LogLocator, NullLocator

    with context("default"), matplotlib.rc_context({"svg.hashsalt": "resnet-infer", "font.size": 10}):
        figure = Figure(figsize=(10, 5), layout="constrained")
        axes = figure.subplots()
        took = [1000 / speed for speed in page.speeds]
        joined = {row.group for row in page.protocols}
        for group in dict.fromkeys(row.group for row in page.rows):
            own = [(row, time) for row, time in zip(page.rows, took, strict=True) if row.group == group]
            errors = [row.result.top1.error for row, _ in own]
            bars = np.abs(np.transpose([row.result.top1.interval for row, _ in own]) - errors)
            style = "o-" if group in joined else "s"
            axes.errorbar([x for _, x in own], errors, yerr=bars, fmt=style, markersize=4, linewidth=1, label=group)
            if group in joined:
                for (row, x), error in zip(own, errors, strict=True):
                    axes.annotate(row.result.protocol, (x, error), (5, 5), textcoords="offset points", fontsize=8)
        axes.set(xscale="log", xlabel="milliseconds a picture", ylabel="top-1 error (%)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        with atomic_path(output) as path:
            figure.savefig(path, format="svg", metadata={"Date": None})
