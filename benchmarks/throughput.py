"""Pictures a second of `classify DIR` against a plain loop of PIL and ONNX Runtime, and against what the cores allow.

    python -m benchmarks.throughput PHOTOS

PHOTOS is a folder of photographs and nothing else. The loop decodes and infers in turn, in batches of the size that
`classify` is given (on a CPU it takes smaller ones of large pictures, see `batch_limit`), ONNX Runtime at its defaults.
The bound is cores / (core-seconds to decode and infer one picture), measured while all cores do just that.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np

from benchmarks.paired import COMMAND, PYTHON, Pair, each, save, seconds
from benchmarks.untrained import resnet50
from resnet_infer.data.image import read_image
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.lanes import batch_limit
from resnet_infer.models.spec import ModelSpec
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.zoo import SMALL, built_in

BATCH = 32
LOOP = """
import sys
from pathlib import Path
import numpy, onnxruntime
from PIL import Image
artifact, resize, batch, *folders = sys.argv[1:]
session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
size, resize = session.get_inputs()[0].shape[1], int(resize)
def read(path):
    picture = Image.open(path).convert("RGB")
    scale = resize / min(picture.size)
    picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return numpy.asarray(picture.crop((left, top, left + size, top + size)))
paths = [path for folder in folders for path in sorted(Path(folder).iterdir())]
for start in range(0, len(paths), int(batch)):
    part = paths[start : start + int(batch)]
    logits = session.run(None, {"images": numpy.stack([read(path) for path in part])})[0]
    for path, row in zip(part, logits):
        probabilities = numpy.exp(row - row.max())
        probabilities /= probabilities.sum()
        print(path, *((index, probabilities[index]) for index in numpy.argsort(-probabilities)[:5]))
"""


def bound(artifact: Path, photos: list[Path]) -> float:
    """Pictures a second if every core did nothing but decode and infer: a process of one thread for each, at once."""
    count = usable_cores()
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        start = manager.Barrier(count)
        with ProcessPoolExecutor(count, mp_context=context) as pool:
            return sum(pool.map(_alone, [artifact] * count, [photos] * count, [start] * count))


def _alone(artifact: Path, photos: list[Path], start: Barrier) -> float:
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    runtime = OnnxRuntime(artifact, device="cpu", threads=1)

    def answer(part: list[Path]) -> None:
        runtime(np.concatenate([centre_crop(read_image(path), runtime.spec.input) for path in part]))

    size = batch_limit(BATCH, runtime.spec.input.crop, usable_cores())
    answer(photos[:size])
    start.wait()
    begin = time.perf_counter()
    for first in range(0, len(photos), size):
        answer(photos[first : first + size])
    return len(photos) / (time.perf_counter() - begin)


def against(
    ours: list[str], theirs: list[str], artifact: Path, sample: list[Path], count: int, rounds: int, what: str
) -> dict[str, Any]:
    """Two commands that answer `count` pictures, in turn, each first in every second round; and the bound of a sample.

    The bound is measured between the rounds, and each round of ours compared with the mean of the two beside it.
    """
    limits, mine, other = [bound(artifact, sample)], [], []
    for number in range(rounds):
        if number % 2:
            mine.append(seconds(ours))
        other.append(seconds(theirs))
        if not number % 2:
            mine.append(seconds(ours))
        limits.append(bound(artifact, sample))
    beside = [statistics.mean(pair) for pair in pairwise(limits)]
    return {
        "pictures": count,
        "batch": BATCH,
        f"{what}_per_s": round(count / statistics.median(mine), 1),
        "loop_per_s": round(count / statistics.median(other), 1),
        "bound_per_s": round(statistics.median(limits), 1),
        f"{what} / loop": round(1 / Pair(mine, other).ratio, 3),
        f"{what} / bound": round(statistics.median(count / a / b for a, b in zip(mine, beside, strict=True)), 3),
        "bound / loop": round(statistics.median(a * b / count for a, b in zip(other, beside, strict=True)), 3),
        "rounds": rounds,
        f"{what}_s, each": each(mine),
        "loop_s, each": each(other),
        "bound_per_s, each": each(limits),
    }


def spec_of(artifact: Path) -> ModelSpec:
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    with OnnxRuntime(artifact, device="cpu") as runtime:
        return runtime.spec


def loop(artifact: Path, folders: list[str]) -> list[str]:
    return [PYTHON, "-c", LOOP, str(artifact), str(spec_of(artifact).input.resize), str(BATCH), *folders]


def measure(artifact: Path, folder: Path, repeats: int, rounds: int) -> dict[str, Any]:
    photos = sorted(folder.iterdir())
    folders = [str(folder)] * repeats
    ours = [COMMAND, "classify", "-m", str(artifact), "-b", str(BATCH), "-f", "jsonl", *folders]
    sample = photos * max(repeats // 4, 1)
    return against(ours, loop(artifact, folders), artifact, sample, len(photos) * repeats, rounds, "classify")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="a folder of photographs and nothing else")
    folder = parser.parse_args().photos
    small = measure(built_in(SMALL, ".onnx"), folder, repeats=32, rounds=4)
    large = measure(resnet50(folder), folder, repeats=8, rounds=2)
    gates = {
        f"{SMALL}: classify / loop >= 1.6": small["classify / loop"] >= 1.6,
        "resnet50: classify / bound >= 0.95": large["classify / bound"] >= 0.95,
    }
    save("throughput", {SMALL: small, "resnet50": large}, gates)


if __name__ == "__main__":
    main()
