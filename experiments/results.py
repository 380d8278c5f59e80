"""One network in every precision and by the paper's protocols: errors, rates, and a picture of both.

    python experiments/results.py MODEL DATA --scales 112,128,160,192,240 [--second MODEL] [-o docs/results.md]

DATA is a data set with the splits train (pictures of it calibrate INT8) and val, all of which is answered. MODEL and
the second member of an ensemble are checkpoints or names. Rates are of `evaluate` from file to answer, all cores, on
part of the same pictures, in rounds in which every row has its turn. Beside FILE.md lie FILE.svg and FILE.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from results_page import Row, write
from variants import variants

from resnet_infer import zoo
from resnet_infer.data.datasets import open_dataset
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.result import Evaluation, Result
from resnet_infer.metrics import difference
from resnet_infer.progress import progress
from resnet_infer.runtimes.registry import open_runtime

TIMED = {"1-crop": 1000, "10-crop": 200, "multi-scale": 100}
"""Pictures of a turn, by protocol."""
ROUNDS = 3
CALIBRATION = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--scales", metavar="S,S,...", required=True)
    parser.add_argument("--second", metavar="MODEL")
    parser.add_argument("--rounds", metavar="N", type=int, default=ROUNDS)
    parser.add_argument("-o", "--output", metavar="FILE.md", type=Path, default=Path("results.md"))
    options = parser.parse_args()
    scales = [int(side) for side in options.scales.split(",")]
    with TemporaryDirectory() as name:
        folder = Path(name)
        models = list(variants(options.model, options.data, CALIBRATION, folder, dynamic_size=True))
        second = other(options.second, folder) if options.second else None
        precisions, found = by_precision(models, options.model, options.data)
        protocols = by_protocol(models, second, options.data, scales)
        rates = measure_rates([*precisions, *protocols], options.data, scales, options.rounds, folder)
        ties = list(disagreements(found, models, options.data))
    write(options.output, precisions, protocols, rates, ties, found, scales, CALIBRATION)


def other(model: str, folder: Path) -> str:
    """The second member, exported as the first is."""
    from resnet_infer.converters.export import export_onnx

    path = folder / "second.onnx"
    export_onnx(zoo.checkpoint(model), path, dynamic_size=True)
    return str(path)


def watched(models: Sequence[str], data: Path, **options: Any) -> Evaluation:
    with progress("evaluating", None, "pictures") as advance:
        return evaluate(models, data, started=lambda dataset, done: advance, **options)


def by_precision(models: Sequence[str], shipped: str, data: Path) -> tuple[list[Row], Evaluation]:
    """One crop: torch, which the others are compared with, every artifact made here, and the one that is shipped."""
    reference, *others = models
    if shipped in zoo.BUILT_IN:
        others.append(shipped)
    found = watched(others, data, protocols=["1-crop"], reference=reference)
    titles = [Path(model.removeprefix("torch:")).stem for model in models]
    titles = ["FP32, torch", *(f"{title}, ONNX" for title in titles[1:]), f"INT8, the built-in `{shipped}`"]
    arguments = [reference, *others]
    return [
        Row(title, (argument,), "1-crop", item)
        for title, argument, item in zip(titles, arguments, found.results, strict=False)
    ], found


def by_protocol(models: Sequence[str], second: str | None, data: Path, scales: Sequence[int]) -> list[Row]:
    """The paper's protocols by FP32 and INT8, and by an ensemble of two in FP32; compared with FP32 by one crop."""
    places = {Path(model).stem: model for model in models}
    first, int8 = places["FP32"], places["INT8 cpu mse"]
    rows: list[Row] = []

    def add(title: str, members: Sequence[str], item: Result) -> None:
        base = rows[0].result.answered if rows else item.answered
        own = difference(base.ranks, item.answered.ranks, len(item.spec.classes)) if rows else None
        rows.append(Row(title, tuple(members), item.protocol, replace(item, difference=own)))

    for protocol in TIMED:
        options: dict[str, Any] = {"protocols": [protocol], "scales": scales if protocol == "multi-scale" else None}
        both = [first, *([second] if second else [])]
        found = watched(both, data, ensemble=len(both) > 1, **options).results
        add("FP32", [first], found[0])
        add("INT8", [int8], watched([int8], data, **options).results[0])
        if second:
            add("FP32, the second network", [second], found[1])
            add("FP32, ensemble of both", both, found[2])
    return rows


def measure_rates(
    rows: Sequence[Row], data: Path, scales: Sequence[int], rounds: int, folder: Path
) -> list[list[float]]:
    """Pictures a second of every row in every round; the order is turned round after each."""
    samples = open_dataset(data, "val")
    parts = {}
    for protocol, count in TIMED.items():
        parts[protocol] = folder / protocol
        names = samples.class_ids or samples.classes
        chosen = samples.samples[:: max(len(samples.samples) // count, 1)][:count]
        for number, sample in enumerate(chosen):
            content = sample.read()
            assert isinstance(content, bytes)
            path = parts[protocol] / names[sample.label] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    rates: list[list[float]] = [[] for _ in rows]
    with progress("timing", rounds * len(rows), "turns") as advance:
        for turn in range(rounds):
            order = range(len(rows)) if turn % 2 == 0 else reversed(range(len(rows)))
            for number in order:
                row = rows[number]
                found = evaluate(
                    row.models,
                    parts[row.protocol],
                    protocols=[row.protocol],
                    scales=scales if row.protocol == "multi-scale" else None,
                    ensemble=len(row.models) > 1,
                )
                rates[number].append(found.seconds.pictures / found.seconds.wall)
                advance(1)
    return rates


def disagreements(found: Evaluation, models: Sequence[str], data: Path) -> Iterator[str]:
    """Where torch and the FP32 artifact name different classes: the picture, both, and how close they are in torch."""
    torch, artifact = (item.answered for item in found.results[:2])
    runtime = open_runtime(Path(models[0].removeprefix("torch:")), runtime="torch", device="cpu")
    samples, classes = open_dataset(data, "val").samples, runtime.spec.classes
    for place in np.flatnonzero(torch.top1 != artifact.top1):
        sample = samples[int(torch.pictures[place])]
        logits = runtime(centre_crop(sample.image(), runtime.spec.input)[None])[0]
        one, two = (classes[int(item.top1[place])] for item in (torch, artifact))
        gap = float(logits[torch.top1[place]] - logits[artifact.top1[place]])
        yield f"`{sample.name}`: {one} in torch, {two} in the artifact; their logits differ by {gap:.1e} in torch"


if __name__ == "__main__":
    sys.exit(main())
