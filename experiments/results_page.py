"""The page of `results.py`: its tables, its picture, and the figures as JSON."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.style import context

from resnet_infer.cpu import processor
from resnet_infer.evaluation.result import Evaluation, Result
from resnet_infer.files import atomic_path


@dataclass(frozen=True)
class Row:
    """A line of the tables: models, more than one of them an ensemble, by a protocol."""

    title: str
    models: tuple[str, ...]
    protocol: str
    result: Result

    def to_json(self) -> dict[str, Any]:
        found = self.result.to_json()
        return {"title": self.title, **{name: found[name] for name in ("protocol", "top1", "top5", "difference")}}


def write(
    output: Path,
    precisions: Sequence[Row],
    protocols: Sequence[Row],
    rates: Sequence[Sequence[float]],
    ties: Sequence[str],
    found: Evaluation,
    scales: Sequence[int],
    calibration: int,
) -> None:
    """`output`, and beside it picture and figures; `rates` are of the rows of both tables, `found` is of one crop."""
    spec, split = found.results[0].spec, len(precisions)
    rows, speeds = [*precisions, *protocols], [statistics.median(values) for values in rates]
    machine = f"{processor()}, {len(os.sched_getaffinity(0))} cores, {time.strftime('%Y-%m-%d', time.gmtime())}"
    lines = [
        "# Results",
        "",
        f"`{spec.name}` on {found.dataset.name}: {found.pictures:,} pictures that neither trained it, nor chose it,",
        f"nor calibrated INT8, which took {calibration} of the training set. Errors in percent with 95% intervals.",
        f"Pictures a second: from file to answer, all cores ({machine}), the median of {len(rates[0])} rounds.",
        "",
        f"![top-1 error against time]({output.stem}.svg)",
        "",
        "## Precisions, one crop",
        "",
        *table(precisions, speeds[:split]),
        "",
        "The difference is in points of top-1 error, to torch on the same pictures; p is McNemar's. ONNX Runtime on a",
        "CPU computes FP16 in FP32, with the rounded weights. `cpu` and `tensorrt` say what INT8 is placed for; both",
        "ran on this CPU.",
        "",
        f"The checkpoint in torch and the FP32 artifact name the same class on {found.pictures - len(ties):,} of the "
        f"{found.pictures:,} pictures{', all but:' if ties else '.'}",
        *([""] if ties else []),
        *(f"- {tie}" for tie in ties),
        "",
        "## Protocols",
        "",
        f"Multi-scale: the whole picture and its mirror image at shorter sides of {', '.join(map(str, scales))}.",
        "The difference is to FP32 by one crop.",
        "",
        *table(protocols, speeds[split:]),
    ]
    with atomic_path(output) as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    document = {
        "model": spec.name,
        "data": found.dataset.name,
        "pictures": found.pictures,
        "machine": machine,
        "disagreements": list(ties),
        "rows": [
            {**row.to_json(), "pictures_per_s": [round(rate, 1) for rate in measured]}
            for row, measured in zip(rows, rates, strict=True)
        ],
    }
    with atomic_path(output.with_suffix(".json")) as path:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    draw(rows, speeds, output.with_suffix(".svg"))
    print("\n".join(lines))


def table(rows: Sequence[Row], speeds: Sequence[float]) -> Iterator[str]:
    """Markdown."""
    yield "| | protocol | top-1 error | 95% | top-5 error | 95% | difference | p | pictures/s |"
    yield "|---|---|---:|---|---:|---|---:|---:|---:|"
    for row, speed in zip(rows, speeds, strict=True):
        cells = [row.title, row.protocol]
        for rate in (row.result.top1, row.result.top5):
            cells += [f"{rate.error:.2f}", "{:.2f}-{:.2f}".format(*rate.interval)] if rate else ["", ""]
        own = row.result.difference
        cells += [f"{own.top1:+.2f}", f"{own.p:.3f}"] if own else ["", ""]
        yield f"| {' | '.join([*cells, f'{speed:.0f}'])} |"


def draw(rows: Sequence[Row], speeds: Sequence[float], output: Path) -> None:
    """Top-1 error with its interval against milliseconds for a picture; rows of one title are joined."""
    with context("default"), matplotlib.rc_context({"svg.hashsalt": "resnet-infer", "font.size": 10}):
        figure = Figure(figsize=(10, 5), layout="constrained")
        axes = figure.subplots()
        for title in dict.fromkeys(row.title for row in rows):
            own = [(row, 1000 / speed) for row, speed in zip(rows, speeds, strict=True) if row.title == title]
            errors = [row.result.top1.error for row, _ in own]
            spread = np.abs(np.transpose([row.result.top1.interval for row, _ in own]) - errors)
            axes.errorbar(
                [took for _, took in own], errors, yerr=spread, marker="o", markersize=4, linewidth=1, label=title
            )
            if len(own) > 1:
                for (row, took), error in zip(own, errors, strict=True):
                    axes.annotate(row.protocol, (took, error), (5, 5), textcoords="offset points", fontsize=8)
        axes.set(xscale="log", xlabel="milliseconds a picture", ylabel="top-1 error (%)")
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        with atomic_path(output) as path:
            figure.savefig(path, format="svg", metadata={"Date": None})
