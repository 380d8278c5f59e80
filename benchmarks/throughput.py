"""Pictures a second of `classify DIR` against a plain loop of PIL and ONNX Runtime, and against what the cores allow.

    python benchmarks/throughput.py PHOTOS

PHOTOS is a folder of photographs and nothing else. The loop decodes and infers in turn, in batches of the size that
`classify` is given (on a CPU it takes smaller ones of large pictures, see `batch_limit`), ONNX Runtime at its defaults.
The bound is cores / (core-seconds to decode and infer one picture), measured while all cores do just that.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
from paired import COMMAND, PYTHON, Pair, save, seconds
from untrained import resnet50

from resnet_infer.data.image import read_image
from resnet_infer.data.loader import usable_cores
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.flow import batch_limit
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
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


def measure(artifact: Path, folder: Path, repeats: int, pairs: int) -> dict[str, float]:
    photos = sorted(folder.iterdir())
    folders = [str(folder)] * repeats
    with OnnxRuntime(artifact, device="cpu") as runtime:
        resize = runtime.spec.input.resize
    ours = [COMMAND, "classify", "-m", str(artifact), "-b", str(BATCH), "-f", "jsonl", *folders]
    theirs = [PYTHON, "-c", LOOP, str(artifact), str(resize), str(BATCH), *folders]
    limits, mine, other = [], [], []
    for _ in range(pairs):
        limits.append(bound(artifact, photos * 2))
        mine.append(seconds(ours))
        other.append(seconds(theirs))
    count = len(photos) * repeats
    rates = [count / value for value in mine]
    return {
        "pictures": count,
        "batch": BATCH,
        "classify_per_s": round(statistics.median(rates), 1),
        "loop_per_s": round(count / statistics.median(other), 1),
        "bound_per_s": round(statistics.median(limits), 1),
        "classify / loop": round(1 / Pair(mine, other).ratio, 3),
        "classify / bound": round(statistics.median(a / b for a, b in zip(rates, limits, strict=True)), 3),
        "rounds": pairs,
    }


def main() -> None:
    folder = Path(sys.argv[1])
    small = measure(built_in(SMALL, ".onnx"), folder, repeats=32, pairs=3)
    large = measure(resnet50(folder), folder, repeats=8, pairs=2)
    gates = {
        f"{SMALL}: classify / loop >= 1.6": float(small["classify / loop"]) >= 1.6,
        "resnet50: classify / bound >= 0.95": float(large["classify / bound"]) >= 0.95,
    }
    save("throughput", {SMALL: small, "resnet50": large}, gates)


if __name__ == "__main__":
    main()
