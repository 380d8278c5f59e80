"""One network in every precision and by the paper's protocols: errors, rates, and a picture of both.

    python -m experiments.results MODEL DATA --scales 112,128,160,192,240 [--second MODEL] [-o docs/results.md]

DATA is a data set with the splits train (pictures of it calibrate INT8) and val, all of which is answered. MODEL and
the second member of an ensemble are checkpoints or names. Rates are of `evaluate` from file to answer, on a CPU, all
cores, on part of the same pictures, in rounds in which every row has its turn. Beside FILE.md lie FILE.svg and
FILE.json. Artifacts and answers are kept in `--work`, so that a run that was stopped goes on. The exit code is 1 if
torch and the FP32 artifact name different classes for any other reason than rounding.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from experiments.results_page import Disagreement, Page, Row, write
from experiments.variants import variants
from resnet_infer import zoo
from resnet_infer.converters.precision.ranges import Method
from resnet_infer.data.datasets import Dataset
from resnet_infer.data.feed import open_feed
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.result import Evaluation, Result
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.utils.error_statistics import difference
from resnet_infer.utils.progress import progress
from resnet_infer.verification.tolerances import FP32_DELTA

SPLIT = "val"
TIMED = {"1-crop": 1500, "10-crop": 200, "multi-scale": 100}
"""Pictures of a turn, by protocol."""
ROUNDS = 3
CALIBRATION = 512
WEIGHT_BITS = 7
"""Of the INT8 that the protocols are tried with: as in the built-in artifacts, which run on every CPU."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--scales", metavar="S,S,...", required=True)
    parser.add_argument("--second", metavar="MODEL")
    parser.add_argument("--rounds", metavar="N", type=int, default=ROUNDS)
    parser.add_argument("--work", metavar="FOLDER", type=Path, default=Path("runs/results"))
    parser.add_argument("-o", "--output", metavar="FILE.md", type=Path, default=Path("results.md"))
    options = parser.parse_args()
    from resnet_infer.converters.precision.int8 import cpu_weight_bits

    options.work.mkdir(parents=True, exist_ok=True)
    scales = [int(side) for side in options.scales.split(",")]
    precisions, found = by_precision(options.model, options.data, options.work)
    apart = list(disagreements(found, precisions[0].models[0], found.dataset))
    protocols = by_protocol(options.model, options.second, options.data, scales, options.work)
    rows = [*precisions, *protocols]
    page = Page(
        spec=found.results[0].spec,
        second=zoo.checkpoint(options.second).spec if options.second else None,
        data=found.dataset.name,
        pictures=found.pictures,
        calibration=CALIBRATION,
        weight_bits=cpu_weight_bits(),
        scales=scales,
        precisions=precisions,
        protocols=protocols,
        rates=measure_rates(rows, found.dataset, scales, options.rounds, options.work / "timed"),
        disagreements=apart,
    )
    write(page, options.output)
    return int(not all(item.tie for item in apart))


def answered(models: Sequence[str], data: Path, work: Path, name: str, **options: Any) -> Evaluation:
    """An evaluation that goes on with the answers there are."""
    with progress(name, None, "pictures") as advance:
        return evaluate(
            models,
            data,
            EvaluationConfig(
                split=SPLIT,
                device="cpu",
                answers=work / f"{name}.jsonl",
                resume=True,
                started=lambda dataset, done: advance,
                **options,
            ),
        )


def by_precision(model: str, data: Path, work: Path) -> tuple[list[Row], Evaluation]:
    """One crop: torch, which the others are compared with, every artifact made here, and the one that is shipped."""
    reference, *made = variants(model, data, CALIBRATION, work)
    titles = {reference: "FP32, torch", **{path: f"{Path(path).stem}, ONNX" for path in made}}
    if model in zoo.BUILT_IN:
        titles[model] = f"the built-in `{model}`"
    methods = get_args(Method)
    found = answered([*titles][1:], data, work, "precisions", protocols=["1-crop"], reference=reference)
    return [
        Row(
            title, " ".join(word for word in title.split() if word.strip(",") not in methods), (path,), size(path), item
        )
        for (path, title), item in zip(titles.items(), found.results, strict=True)
    ], found


def by_protocol(model: str, second: str | None, data: Path, scales: Sequence[int], work: Path) -> list[Row]:
    """The paper's protocols by FP32 and INT8, and by an ensemble of two in INT8; compared with FP32 by one crop."""
    full, int8, other = (str(work / f"{name} of any size.onnx") for name in ("FP32", "INT8", "INT8 second"))
    any_size(model, data, Path(int8), full=Path(full))
    members = [int8]
    if second:
        any_size(second, data, Path(other))
        members.append(other)
    rows: list[Row] = []

    def add(title: str, models: Sequence[str], item: Result) -> None:
        base = rows[0].result.answered if rows else item.answered
        own = difference(base.ranks, item.answered.ranks, len(item.spec.classes)) if rows else None
        rows.append(Row(title, title, tuple(models), size(*models), replace(item, difference=own)))

    for protocol in TIMED:
        options: dict[str, Any] = {"protocols": [protocol], "scales": scales if protocol == "multi-scale" else None}
        add("FP32", [full], answered([full], data, work, protocol, **options).results[0])
        found = answered(members, data, work, f"{protocol} in INT8", ensemble=len(members) > 1, **options).results
        add("INT8", members[:1], found[0])
        if second:
            add("INT8, the second network", members[1:], found[1])
            add("INT8, ensemble of both", members, found[2])
    return rows


def any_size(model: str, data: Path, int8: Path, full: Path | None = None) -> None:
    """Write the INT8 artifact of `model` that takes pictures of any size, and the FP32 one it was made of to `full`."""
    import onnx

    from resnet_infer.converters.precision.calibration import calibrate
    from resnet_infer.converters.precision.int8 import quantize
    from resnet_infer.converters.source import open_source

    source = open_source(zoo.checkpoint(model), dynamic_size=True)
    if full:
        onnx.save(source.graph.model, full)
    calibration = calibrate(
        source.graph.model, open_feed(data, source.graph.spec, count=CALIBRATION, prefer=("train",)).crops()
    )
    onnx.save(quantize(source.graph.model, calibration, target="cpu", method="mse", weight_bits=WEIGHT_BITS), int8)


def size(*models: str) -> float:
    """Of the files, in MB."""
    return sum(zoo.find(model.removeprefix("torch:")).stat().st_size for model in models) / 1e6


def measure_rates(
    rows: Sequence[Row], dataset: Dataset, scales: Sequence[int], rounds: int, folder: Path
) -> list[list[float]]:
    """Pictures a second of every row in every round; the order is turned round after each."""
    parts = {protocol: part(dataset, count, folder / protocol) for protocol, count in TIMED.items()}
    rates: list[list[float]] = [[] for _ in rows]
    with progress("timing", rounds * len(rows), "turns") as advance:
        for turn in range(rounds):
            for number in sorted(range(len(rows)), reverse=turn % 2 == 1):
                row = rows[number]
                found = evaluate(
                    row.models,
                    parts[row.result.protocol],
                    EvaluationConfig(
                        protocols=[row.result.protocol],
                        scales=scales if row.result.protocol == "multi-scale" else None,
                        ensemble=len(row.models) > 1,
                        device="cpu",
                    ),
                )
                rates[number].append(found.seconds.pictures / found.seconds.wall)
                advance(1)
    return rates


def part(dataset: Dataset, count: int, folder: Path) -> Path:
    """Files of `count` pictures, evenly spread, in folders called after their classes."""
    names = dataset.class_ids or dataset.classes
    for number, sample in enumerate(dataset.samples[:: max(len(dataset.samples) // count, 1)][:count]):
        content = sample.read()
        assert isinstance(content, bytes)
        path = folder / names[sample.label] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def disagreements(found: Evaluation, checkpoint: str, dataset: Dataset) -> Iterator[Disagreement]:
    """Where torch and the FP32 artifact name different classes, and how far apart their logits are in torch.

    A tie is no further apart than twice what the parity check lets a logit move.
    """
    torch, artifact = (item.answered for item in found.results[:2])
    places = np.flatnonzero(torch.top1 != artifact.top1)
    with open_runtime(Path(checkpoint.removeprefix("torch:")), runtime="torch", device="cpu") as runtime:

        def logits(number: int) -> Any:
            spec = runtime.spec.input
            return runtime(centre_crop(dataset.samples[number].image(exif=spec.exif), spec))[0]

        sample = np.stack([logits(number) for number in range(min(64, len(dataset.samples)))])
        spread = float(np.std(sample - sample.mean(axis=0)))
        for place in places:
            number, first, second = int(torch.pictures[place]), int(torch.top1[place]), int(artifact.top1[place])
            own = logits(number)
            gap = abs(float(own[first] - own[second])) / spread
            names = runtime.spec.classes
            yield Disagreement(dataset.samples[number].name, names[first], names[second], gap, gap <= 2 * FP32_DELTA)


if __name__ == "__main__":
    sys.exit(main())
