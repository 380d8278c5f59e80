"""Time one command of two checkouts in turn, and print the ratio of their seconds.

    python -m tools.time_trees BASE . [--pairs 15] -- export resnet20-cifar10 -o model.onnx

Each run starts a process in a temporary folder, with the checkout in front on PYTHONPATH. Both run once before the
first pair, and each is first in every second pair. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

RESAMPLES = 2000
"""Resamples of the bootstrap for the interval of the median."""


def seconds(checkout: Path, command: list[str], folder: str) -> float:
    """Return the wall seconds of one run, which must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "resnet_infer", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def interval(ratios: list[float]) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the median."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[RESAMPLES // 40], medians[-RESAMPLES // 40]


def main() -> None:
    """Time the command and print a line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base", type=Path, help="the checkout to compare with")
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("command", nargs="+", help="a command of resnet-infer, after --")
    options = parser.parse_args()
    trees = [options.base.resolve(), options.new.resolve()]
    found: dict[Path, list[float]] = {tree: [] for tree in trees}
    with TemporaryDirectory() as folder:
        for tree in trees:
            seconds(tree, options.command, folder)
        for number in range(options.pairs):
            for tree in trees if number % 2 else reversed(trees):
                found[tree].append(seconds(tree, options.command, folder))
    base, new = (found[tree] for tree in trees)
    ratios = [one / other for one, other in zip(new, base, strict=True)]
    print(
        json.dumps(
            {
                "command": " ".join(options.command),
                "ratio": round(statistics.median(ratios), 3),
                "interval": [round(value, 3) for value in interval(ratios)],
                "pairs": options.pairs,
                "base_s": round(statistics.median(base), 3),
                "new_s": round(statistics.median(new), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
