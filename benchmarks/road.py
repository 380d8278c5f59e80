"""Core-milliseconds of the road from a JPEG file to its answer: decode, resize, inference, and all the rest.

    python -m benchmarks.road PHOTOS [--base CHECKOUT]

PHOTOS is a folder of photographs. The stages are measured alone, on one thread, in the batches that `classify` takes.
The whole is the CPU time of `classify` on all photographs eight times, less that of one photograph, for each further
one. With --base another checkout is measured in turn. CPU time, unlike wall time, hardly depends on what else runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paired import PYTHON, ROOT, each, save
from benchmarks.serving import int8
from benchmarks.untrained import resnet50
from resnet_infer.data.image import read_image
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.lanes import batch_limit
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.zoo import DEFAULT, built_in

REPEATS, ROUNDS = 8, 3
LEAST = 0.93
"""Least share of the stages in the whole."""


def cpu_ms(action: Callable[[], Any], pictures: int) -> float:
    """CPU milliseconds of this process for each picture."""
    start = time.process_time()
    action()
    return 1000 * (time.process_time() - start) / pictures


def stages(artifact: Path, photos: list[Path]) -> dict[str, float]:
    """Core-milliseconds of each stage for a picture: medians over the rounds."""
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    with OnnxRuntime(artifact, device="cpu", threads=1) as runtime:
        geometry = runtime.spec.input
        size = batch_limit(32, geometry.crop, usable_cores())
        contents = [path.read_bytes() for path in photos]
        images = [read_image(content) for content in contents]
        crops = np.concatenate([centre_crop(image, geometry) for image in images])
        batches = [crops[start : start + size] for start in range(0, len(crops), size)]
        steps: dict[str, Callable[[], Any]] = {
            "decode": lambda: [read_image(content) for content in contents],
            "resize": lambda: [centre_crop(image, geometry) for image in images],
            "inference": lambda: [runtime(batch) for batch in batches],
        }
        found: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(ROUNDS + 1):
            for name, action in steps.items():
                found[name].append(cpu_ms(action, len(photos)))
    return {name: round(statistics.median(values[1:]), 3) for name, values in found.items()}


def classify(checkout: Path, artifact: Path, places: list[str]) -> float:
    """CPU seconds of a whole process."""
    command = [PYTHON, "-m", "resnet_infer", "classify", "-m", str(artifact), "--runtime", "onnxruntime", "-f", "jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with subprocess.Popen(
        [*command, *places], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used.ru_utime + used.ru_stime


def measure(artifact: Path, folder: Path, checkouts: dict[str, Path]) -> dict[str, Any]:
    """The stages, and the whole of each checkout."""
    photos = sorted(folder.iterdir())
    alone = stages(artifact, photos)
    whole: dict[str, list[float]] = {name: [] for name in checkouts}
    for _ in range(ROUNDS):
        for name, checkout in checkouts.items():
            one = classify(checkout, artifact, [str(photos[0])])
            many = classify(checkout, artifact, [str(folder)] * REPEATS)
            whole[name].append(1000 * (many - one) / (len(photos) * REPEATS - 1))
    found: dict[str, Any] = {"core_ms": {**alone, "stages": round(sum(alone.values()), 3)}}
    for name, values in whole.items():
        middle = statistics.median(values)
        found[name] = {
            "core_ms": round(middle, 3),
            "rest": round(middle - sum(alone.values()), 3),
            "stages / whole": round(sum(alone.values()) / middle, 3),
            "core_ms, each": each(values),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="a folder of photographs and nothing else")
    parser.add_argument("--base", metavar="CHECKOUT", type=Path, help="another checkout to compare with")
    given = parser.parse_args()
    checkouts = {"now": ROOT, **({"base": given.base.resolve()} if given.base else {})}
    folder = given.photos.resolve()
    large = resnet50(folder)
    found = {
        DEFAULT: measure(built_in(DEFAULT, ".onnx"), folder, checkouts),
        "resnet50 FP32": measure(large, folder, checkouts),
        "resnet50 INT8": measure(int8(large, sorted(folder.iterdir())), folder, checkouts),
    }
    gates = {
        f"{name}: stages / whole >= {LEAST}": item["now"]["stages / whole"] >= LEAST for name, item in found.items()
    }
    save("road", found, gates)


if __name__ == "__main__":
    main()
