"""Time one command of two checkouts in turn, and print the ratios of their seconds, by the wall and of the CPU.

    python -m tools.time_trees BASE . [--pairs 15] -- export resnet20-cifar10 -o model.onnx

Each run starts a process in a temporary folder, with the checkout in front on PYTHONPATH. Both are compiled to
bytecode, which an environment may forbid on import, and run once before the first pair; each is first in every second
pair. Run it on a quiet machine; on a busy one only the CPU seconds, of the process and those that it waited for, mean
something.
"""

from __future__ import annotations

import argparse
import compileall
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


def seconds(checkout: Path, command: list[str], folder: str) -> tuple[float, float]:
    """Return the wall seconds and the CPU seconds of one run, which must succeed."""
    started = [sys.executable, "-m", "resnet_infer", *command]
    start = time.perf_counter()
    process = subprocess.Popen(
        started,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, started)
    return wall, used.ru_utime + used.ru_stime


def ratio(new: list[float], base: list[float]) -> dict[str, float | list[float]]:
    """Return the medians, the median of the ratios pair by pair, and its 95% bootstrap interval."""
    ratios = [one / other for one, other in zip(new, base, strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return {
        "ratio": round(statistics.median(ratios), 3),
        "interval": [round(medians[RESAMPLES // 40], 3), round(medians[-RESAMPLES // 40], 3)],
        "base_s": round(statistics.median(base), 3),
        "new_s": round(statistics.median(new), 3),
    }


def main() -> None:
    """Time the command and print a line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base", type=Path, help="the checkout to compare with")
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("command", nargs="+", help="a command of resnet-infer, after --")
    options = parser.parse_args()
    trees = [options.base.resolve(), options.new.resolve()]
    found: dict[Path, list[tuple[float, float]]] = {tree: [] for tree in trees}
    with TemporaryDirectory() as folder:
        for tree in trees:
            compileall.compile_dir(str(tree / "resnet_infer"), quiet=1)
            seconds(tree, options.command, folder)
        for number in range(options.pairs):
            for tree in trees if number % 2 else reversed(trees):
                found[tree].append(seconds(tree, options.command, folder))
    base, new = (list(zip(*found[tree], strict=True)) for tree in trees)
    result: dict[str, object] = {"command": " ".join(options.command), "pairs": options.pairs}
    for number, name in enumerate(("wall", "cpu")):
        result[name] = ratio(list(new[number]), list(base[number]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
