"""What our runtime adds to ONNX Runtime: a call of ours against a bare `session.run`.

    python -m benchmarks.inference PHOTOS

PHOTOS is a folder of photographs. Both run the same graph with the same options in a process of their own, and take
turns of a tenth of a second; in between each waits until its threads sleep. Every second round goes the other way. A
round gives a ratio of two medians; the interval is that of the median of these ratios, see `paired_ratio`. The INT8
graph is made with ranges of synthetic pictures: its speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.paired import PYTHON, each, save
from benchmarks.untrained import resnet50
from resnet_infer.benchmarking.latency.statistics import paired_ratio
from resnet_infer.models.weights.download import cache_folder

SECONDS = 0.1
ROUNDS = {1: 100, 8: 40}
"""By batch size."""
MOST = 1.02
WORKER = """
import statistics, sys, time
from pathlib import Path
import numpy
kind, path, batch, threads = sys.argv[1:]
if kind == "ours":
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime
    call = OnnxRuntime(Path(path), device="cpu", threads=int(threads) or None)
else:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if int(threads):
        options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    call = lambda images: session.run(["logits"], {"images": images})[0]
images = numpy.random.default_rng(0).integers(0, 256, (int(batch), 224, 224, 3), numpy.uint8)
def turn(seconds):
    call(images)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or not times:
        start = time.perf_counter()
        call(images)
        times.append(time.perf_counter() - start)
    median, deadline = statistics.median(times), time.perf_counter() + 1
    while time.perf_counter() < deadline:
        busy = time.process_time()
        time.sleep(0.02)
        if time.process_time() - busy < 0.001:
            break
    return median
turn(1.0)
for line in sys.stdin:
    print(turn(float(line)), flush=True)
"""


def int8(source: Path) -> Path:
    """The artifact in INT8, made once and kept in the cache."""
    target = cache_folder() / "benchmarks" / "resnet50-untrained-int8.onnx"
    if not target.exists():
        import onnx

        from resnet_infer.converters.precision.calibration import calibrate
        from resnet_infer.converters.precision.int8 import cpu_weight_bits, quantize
        from resnet_infer.data.synthetic import natural_noise

        model = onnx.load(source)
        pictures = natural_noise(32, 224, 224)
        ranges = calibrate(model, zip(map(str, range(len(pictures))), pictures, strict=True))
        onnx.save(quantize(model, ranges, target="cpu", weight_bits=cpu_weight_bits()), target)
    return target


class Process:
    """One of both, which takes a turn when it is asked to and gives the median seconds of a call."""

    def __init__(self, kind: str, artifact: Path, batch: int, threads: int) -> None:
        command = [PYTHON, "-c", WORKER, kind, str(artifact), str(batch), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{SECONDS}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def measure(artifact: Path, batch: int, threads: int) -> dict[str, Any]:
    processes = [Process(kind, artifact, batch, threads) for kind in ("ours", "bare")]
    times: list[list[float]] = [[], []]
    try:
        for process in processes:
            process.turn()
        for number in range(ROUNDS[batch]):
            for place in (0, 1) if number % 2 == 0 else (1, 0):
                times[place].append(processes[place].turn())
    finally:
        for process in processes:
            process.close()
    ratio = paired_ratio(*times)
    assert ratio.interval is not None
    return {
        "ours_ms": round(1000 * statistics.median(times[0]), 3),
        "bare_ms": round(1000 * statistics.median(times[1]), 3),
        "ours / bare": round(ratio.value, 4),
        "interval": [round(end, 4) for end in ratio.interval],
        "rounds": ratio.pairs,
        "ours_ms, each": each(1000 * value for value in times[0]),
        "bare_ms, each": each(1000 * value for value in times[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="a folder of photographs")
    fp32 = resnet50(parser.parse_args().photos)
    result: dict[str, Any] = {}
    gates = {}
    for precision, artifact in (("int8", int8(fp32)), ("fp32", fp32)):
        for batch in ROUNDS:
            for threads in (0, 1):
                name = f"{precision}, batch {batch}, {'all cores' if not threads else '1 thread'}"
                result[name] = measure(artifact, batch, threads)
                print(name, result[name], file=sys.stderr, flush=True)
                gates[f"{name}: ours / bare <= {MOST}"] = result[name]["ours / bare"] <= MOST
    save("inference", result, gates)


if __name__ == "__main__":
    main()
