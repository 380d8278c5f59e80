"""Paired timings: two commands in turn, so that a drift of the machine falls on both, and their ratio."""

from __future__ import annotations

import compileall
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import resnet_infer

ROOT = Path(__file__).parent.parent
"""The checkout; programs of `benchmarks` are started there."""
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Pair:
    """Wall seconds of ours and theirs, run by run."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        """The median of the ratios ours / theirs, pair by pair."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def interval(self) -> tuple[float, float]:
        """The quartiles of those ratios."""
        quartiles = statistics.quantiles([a / b for a, b in zip(self.ours, self.theirs, strict=True)], n=4)
        return quartiles[0], quartiles[2]

    def to_json(self) -> dict[str, Any]:
        return {
            "ours_median_s": round(statistics.median(self.ours), 4),
            "theirs_median_s": round(statistics.median(self.theirs), 4),
            "ratio": round(self.ratio, 3),
            "ratio_quartiles": [round(x, 3) for x in self.interval],
            "pairs": len(self.ours),
            "ours_s, each": each(self.ours),
            "theirs_s, each": each(self.theirs),
        }


def each(values: Iterable[float]) -> list[float]:
    """What every round gave, with five digits that count, so that every figure can be computed again."""
    return [float(f"{value:.5g}") for value in values]


@cache
def compile_package() -> None:
    """As pip does with what it installs: not with an editable package, and some environments forbid it on import."""
    if not compileall.compile_dir(str(Path(resnet_infer.__file__).parent), quiet=1):
        sys.exit("the package cannot be compiled where it lies, so that its start would be timed too long")


def seconds(command: list[str]) -> float:
    """Wall time of one run, which must succeed."""
    compile_package()
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def peak_memory(command: list[str]) -> float:
    """The most memory that one run of it has resident, in MB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used.ru_maxrss * 1024 / 1e6


def compare(ours: list[str], theirs: list[str], pairs: int = 41) -> Pair:
    """Run both commands once to warm the disk, then in turn, `pairs` times, each first in every second pair."""
    seconds(ours), seconds(theirs)
    result = Pair([], [])
    for number in range(pairs):
        if number % 2:
            result.ours.append(seconds(ours))
        result.theirs.append(seconds(theirs))
        if not number % 2:
            result.ours.append(seconds(ours))
    return result


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    from importlib.metadata import version

    from resnet_infer.utils.cpu import processor

    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "onnxruntime", "pillow", "typer")},
    }


def save(name: str, result: dict[str, Any], gates: dict[str, bool]) -> None:
    """Print the result and keep it with the machine under `results/`; exit 1 if a gate does not hold."""
    result = {**result, "gates": gates}
    text = json.dumps({**result, "machine": machine()}, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    if not all(gates.values()):
        sys.exit(1)


PYTHON = sys.executable
COMMAND = str(Path(sys.executable).with_name("resnet-infer"))
