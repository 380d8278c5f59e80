"""A ResNet-50 in INT8 against its FP32 artifact, and against what ONNX Runtime's own quantisation makes of that.

    python -m benchmarks.int8 PHOTOS

PHOTOS is a folder of photographs. Every measurement is a process of its own, because two sessions in one process spin
on each other's cores; the graphs take turns. `quantize_static` is tried in both of its formats, with what it calls
reduce_range where the CPU needs it, and ours must keep up with the better one.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.paired import PYTHON, Pair, each, save
from benchmarks.untrained import resnet50
from resnet_infer.data.image import read_image
from resnet_infer.data.preprocess import Pixels, centre_crop
from resnet_infer.models.spec import METADATA_KEY, ModelSpec

CALIBRATION = 32
SECONDS = 2.0
ROUNDS = 5
LEAST = {1: 1.6, 8: 1.75}
"""Batch -> how many times as fast as FP32 our INT8 must be."""
LEAST_OF_THEIRS = 0.97
MEASURE = """
import statistics, sys, time
import numpy, onnxruntime
graph, pictures, batch, seconds = sys.argv[1:]
session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
images = numpy.load(pictures)[: int(batch)]
for _ in range(3):
    session.run(None, {"images": images})
times, end = [], time.perf_counter() + float(seconds)
while time.perf_counter() < end or len(times) < 5:
    start = time.perf_counter()
    session.run(None, {"images": images})
    times.append(time.perf_counter() - start)
print(statistics.median(times))
"""


class Reader:
    """The same pictures for theirs, one at a time: a `CalibrationDataReader` of ONNX Runtime by its methods."""

    def __init__(self, views: Pixels) -> None:
        self._views = iter(views)

    def get_next(self) -> dict[str, Pixels] | None:
        view = next(self._views, None)
        return None if view is None else {"images": view[None]}


def graphs(source: Path, photos: list[Path], folder: Path) -> dict[str, Path]:
    """The graphs by name: ours, theirs, and the one that they are made from. Also writes pictures to run them on."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from resnet_infer.converters.precision.calibration import calibrate
    from resnet_infer.converters.precision.int8 import cpu_weight_bits, quantize

    model = onnx.load(source)
    spec = ModelSpec.loads({item.key: item.value for item in model.metadata_props}[METADATA_KEY], str(source))
    views = np.concatenate([centre_crop(read_image(path), spec.input) for path in photos[:CALIBRATION]])
    np.save(folder / "pictures.npy", views[: max(LEAST)])
    bits = cpu_weight_bits()
    found = {"fp32": source, "ours": folder / "ours.onnx"}
    ranges = calibrate(model, zip(map(str, photos), views, strict=False))
    onnx.save(quantize(model, ranges, target="cpu", weight_bits=bits), found["ours"])
    logging.disable(logging.WARNING)  # it recommends a preparation that changes nothing in a fused graph
    for name, form in (("QDQ", QuantFormat.QDQ), ("QOperator", QuantFormat.QOperator)):
        found[name] = folder / f"{name}.onnx"
        quantize_static(
            source,
            found[name],
            Reader(views),
            quant_format=form,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=bits == 7,
        )
    return found


def measure(found: dict[str, Path], pictures: Path, batch: int) -> dict[str, list[float]]:
    """Seconds a call of each graph, round by round; every second round goes the other way."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for number in range(ROUNDS):
        for name in list(found)[:: -1 if number % 2 else 1]:
            command = [PYTHON, "-c", MEASURE, str(found[name]), str(pictures), str(batch), str(SECONDS)]
            times[name].append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="a folder of photographs and nothing else")
    options = parser.parse_args()

    from resnet_infer.converters.precision.int8 import cpu_weight_bits

    photos = sorted(options.photos.iterdir())
    source = resnet50(options.photos)
    result: dict[str, object] = {"weight_bits": cpu_weight_bits(), "rounds": ROUNDS}
    gates = {}
    with tempfile.TemporaryDirectory() as folder:
        found = graphs(source, photos, Path(folder))
        result["megabytes"] = {name: round(path.stat().st_size / 1e6, 1) for name, path in found.items()}
        for batch, least in LEAST.items():
            times = measure(found, Path(folder) / "pictures.npy", batch)
            medians = {name: statistics.median(values) for name, values in times.items()}
            best = min(("QDQ", "QOperator"), key=lambda name: medians[name])
            faster = Pair(times["fp32"], times["ours"]).ratio
            beside = Pair(times[best], times["ours"]).ratio
            result[f"batch {batch}"] = {
                **{f"{name}_ms": round(1000 * value, 2) for name, value in medians.items()},
                "fp32 / ours": round(faster, 3),
                f"{best} / ours": round(beside, 3),
                **{f"{name}_ms, each": each(1000 * value for value in values) for name, values in times.items()},
            }
            gates[f"batch {batch}: fp32 / ours >= {least}"] = faster >= least
            gates[f"batch {batch}: theirs / ours >= {LEAST_OF_THEIRS}"] = beside >= LEAST_OF_THEIRS
    save("int8", result, gates)


if __name__ == "__main__":
    main()
