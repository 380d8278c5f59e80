"""Pictures a second of `train` against the loop that people write: resnet20 on CIFAR-10 in batches of 128.

    python -m benchmarks.training DATA [--steps N] [--rounds N]

DATA is CIFAR-10 in any form that `train` takes. Measured are the steps from end to end, data path and augmentation
included, once the first `WARM_UP` are done; not the start, and not what follows an epoch. Three ways, in turn, each in
a process of its own with the pictures decoded in memory:

- the trainer as `train` sets it up on this device;
- the trainer in float32 and not compiled, which is what the data path alone brings;
- a plain loop: a DataLoader with worker processes, PIL and a tensor for every picture, eager float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.paired import PYTHON, ROOT, each, save
from resnet_infer.utils.cpu import usable_cores

WAYS: dict[str, dict[str, Any] | None] = {
    "train": {},
    "train, eager fp32": {"precision": "fp32", "compile": False},
    "plain loop": None,
}
"""Name -> options of the trainer; the plain loop has none."""


def measure(way: str, data: Path, steps: int) -> float:
    """In a process of its own."""
    command = [PYTHON, "-m", "benchmarks.training", str(data), "--steps", str(steps), "--way", way]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(done.stderr)
    rate = float(json.loads(done.stdout.splitlines()[-1]))
    print(f"{way}: {rate:.0f} pictures/s", file=sys.stderr, flush=True)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the trainer's steps against a plain loop.")
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--steps", type=int, help="steps that are counted; default: 100, on a GPU 1,500")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    import torch

    from benchmarks.training_loops import BATCH, decoded, plain_loop, trainer
    from resnet_infer.training.device import choose_precision, describe
    from resnet_infer.training.distributed import join_world
    from resnet_infer.training.loop.options import Options

    with join_world() as world:
        device = world.device
    steps = arguments.steps or (1500 if device.type == "cuda" else 100)
    if arguments.way:
        options = WAYS[arguments.way]
        data = arguments.data
        print(plain_loop(data, steps) if options is None else trainer(data, steps, Options(**options)))
        return
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        decoded(arguments.data, Path(folder))
        for number in range(arguments.rounds):
            first = number % len(WAYS)
            for way in [*WAYS][first:] + [*WAYS][:first]:
                rates[way].append(measure(way, Path(folder), steps))
    ours, eager, plain = rates.values()
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    ratio, gate = statistics.median(ratios), 10 if device.type == "cuda" else 1.35
    result = {
        "device": describe(device),
        "torch": torch.__version__,
        "precision of train": choose_precision("auto", device),
        "workers of the plain loop": max(2, usable_cores()),
        "batch": BATCH,
        "steps": steps,
        "rounds": arguments.rounds,
        "pictures_per_s": {way: round(statistics.median(values)) for way, values in rates.items()},
        "by_round": {way: each(values) for way, values in rates.items()},
        "train / plain loop": round(ratio, 2),
        "train, eager fp32 / plain loop": round(statistics.median(a / b for a, b in zip(eager, plain, strict=True)), 2),
    }
    save("training", result, {f"train / plain loop >= {gate}": ratio >= gate})


if __name__ == "__main__":
    main()
