"""The service beside its peers: requests a second on loopback, and what one request takes longer than in process.

    python -m benchmarks.serving PHOTOS [8|16|32|64|small|latency]...

PHOTOS is a folder of photographs. Without a part all are measured, which takes a quarter of an hour; a number is
ResNet-50 INT8 at so many connections. Figures of parts that are not measured stay in the result. Peers: the best
offline rate in process, a batchable BentoML service as its documentation shows, LitServe, and a bare Starlette
application over our batcher. All answer the same files with the same artifact, one after the other on the same cores,
in rounds; the load is made on these cores too, and not taken off. BentoML and LitServe are installed in an environment
of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.http_load import closed_loop, post, steady_rate
from benchmarks.paired import COMMAND, PYTHON, RESULTS, ROOT, each, save
from benchmarks.untrained import resnet50
from resnet_infer.benchmarking.latency.statistics import paired_ratio
from resnet_infer.data.image import read_image
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.models.weights.download import cache_folder
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.zoo import SMALL, built_in

PROGRAMS = ROOT / "benchmarks" / "peer_programs"
PEERS = ("bentoml", "litserve", "onnxruntime", "pillow", "numpy", "python-multipart")
SECONDS, SETTLE = 2.0, 0.4
"""Of a measurement, and before one."""
ROUNDS = 15
CONNECTIONS = (8, 16, 32, 64)
PARTS = (*map(str, CONNECTIONS), "small", "latency")
OFFLINE = """
import sys, time
from pathlib import Path
from resnet_infer.classifier import Classifier, Picture
sys.setswitchinterval(0.0005)
artifact, how, settle, *names = sys.argv[1:]
contents = [Path(name).read_bytes() for name in names]
def endless(until):
    while time.perf_counter() < until:
        for content in contents:
            yield Picture("picture", content)
            if time.perf_counter() >= until:
                return
with Classifier(artifact, device="cpu", throughput=how == "many") as classifier:
    for line in sys.stdin:
        begin = time.perf_counter() + float(settle)
        until = begin + float(line)
        if how == "many":
            answers = classifier.stream(endless(until))
            found = sum(begin <= time.perf_counter() <= until for _ in answers) / float(line)
        else:
            times = []
            while time.perf_counter() < until:
                begin = time.perf_counter()
                classifier.classify(contents[len(times) % len(contents)])
                times.append(time.perf_counter() - begin)
            found = sorted(times)[len(times) // 2]
        print(found, flush=True)
"""


def peers() -> str:
    """The python of an environment with the peers, made once and kept in the cache."""
    folder = cache_folder() / "benchmarks" / "serving-peers"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
        (folder / "ready").touch()
    return str(python)


def int8(source: Path, photos: list[Path]) -> Path:
    """The artifact in INT8 for this CPU, made once and kept in the cache."""
    target = source.with_name(f"{source.stem}-int8.onnx")
    if not target.exists():
        import onnx

        from resnet_infer.converters.precision.calibration import calibrate
        from resnet_infer.converters.precision.int8 import cpu_weight_bits, quantize
        from resnet_infer.runtimes.onnxruntime import OnnxRuntime

        with OnnxRuntime(source, device="cpu") as runtime:
            geometry = runtime.spec.input
        model = onnx.load(source)
        views = [centre_crop(read_image(path), geometry)[0] for path in photos[:32]]
        ranges = calibrate(model, zip(map(str, photos), views, strict=False))
        onnx.save(quantize(model, ranges, target="cpu", weight_bits=cpu_weight_bits()), target)
    return target


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], port: int, ready: str, **environment: str) -> Iterator[tuple[str, int]]:
    """A server in a process group of its own, warm; its URL, and the group."""
    with tempfile.TemporaryDirectory() as home, open(Path(home) / "log", "wb+") as log:
        known = {
            "BENTOML_HOME": home,
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_QUIET": "True",
            "PYTHONPATH": str(ROOT),  # programs of `benchmarks` import from it
        }
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **known, **environment}
        )
        url = f"http://127.0.0.1:{port}"
        try:
            until = time.monotonic() + 90
            while True:
                try:
                    with urllib.request.urlopen(url + ready, timeout=5):
                        break
                except OSError as error:
                    if time.monotonic() > until or process.poll() is not None:
                        log.seek(0)
                        raise RuntimeError(f"{command} did not start:\n{log.read().decode()}") from error
                    time.sleep(0.2)
            yield url, process.pid
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    os.killpg(process.pid, signal.SIGCONT)
                    process.wait(20)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue


def form(content: bytes, name: str) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """A form with one file, and the header that says so."""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = head.encode() + content + b"\r\n--b--\r\n"
    return body, (("Content-Type", "multipart/form-data; boundary=b"),)


class Bench:
    """An artifact, the files, and the servers that answer for them."""

    def __init__(self, artifact: Path, photos: list[Path]) -> None:
        from resnet_infer.runtimes.onnxruntime import OnnxRuntime

        self.artifact, self.photos = artifact, photos
        with OnnxRuntime(artifact, device="cpu") as runtime:
            self.resize = runtime.spec.input.resize
        self.contents = [path.read_bytes() for path in photos]

    def ours(self) -> Any:
        port = free_port()
        return running([COMMAND, "serve", str(self.artifact), "--port", str(port)], port, "/readyz")

    def bare(self) -> Any:
        port = free_port()
        environment = {"RESNET_INFER_SERVE_MODEL": str(self.artifact)}
        return running([PYTHON, str(PROGRAMS / "bare_starlette.py"), str(port)], port, "/readyz", **environment)

    def bentoml(self) -> Any:
        port = free_port()
        command = [peers(), "-m", "bentoml", "serve", "plain_bentoml:Plain", "--port", str(port), "--host", "127.0.0.1"]
        command += ["--working-dir", str(PROGRAMS)]
        return running(command, port, "/readyz", ARTIFACT=str(self.artifact), RESIZE=str(self.resize))

    def litserve(self) -> Any:
        port = free_port()
        command = [peers(), str(PROGRAMS / "run_litserve.py"), str(port), str(usable_cores())]
        return running(command, port, "/health", ARTIFACT=str(self.artifact), RESIZE=str(self.resize))

    def requests(self, server: str, url: str) -> list[bytes]:
        """What this server understands: the raw picture, or a form."""
        if server in ("ours", "bare"):
            return [post(url, "/classify", content) for content in self.contents]
        path, name = ("/classify", "images") if server == "bentoml" else ("/predict", "image")
        return [post(url, path, *form(content, name)) for content in self.contents]

    @contextmanager
    def measures(self, name: str, how: str = "many") -> Iterator[Callable[[int], float]]:
        """What measures it once, by the number of connections: successes a second, or with `one` median seconds."""
        if name == "offline":
            command = [PYTHON, "-c", OFFLINE, str(self.artifact), how, str(SETTLE), *map(str, self.photos)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                questions, answers = process.stdin, process.stdout

                def offline(connections: int, seconds: float = SECONDS) -> float:
                    print(seconds, file=questions, flush=True)
                    return float(answers.readline())

                offline(0, 1)
                yield offline
            return
        start: Callable[[], Any] = getattr(self, name)
        with start() as (url, group):
            requests = self.requests(name, url)

            def load(connections: int) -> float:
                os.killpg(group, signal.SIGCONT)
                try:
                    if how == "one":
                        return closed_loop(url, requests, connections=1, seconds=SECONDS).median
                    return steady_rate(url, requests, connections=connections, seconds=SECONDS, settle=SETTLE)
                finally:
                    os.killpg(group, signal.SIGSTOP)  # LitServe's processes are at work also without requests

            closed_loop(url, requests, connections=8 if how == "many" else 1, seconds=2)
            os.killpg(group, signal.SIGSTOP)
            yield load

    def compare(self, peers: Sequence[str], connections: Sequence[int]) -> dict[str, Any]:
        """Rates of `ours` and its peers, and the median of the ratios ours / theirs of a round, with its interval.

        All are started beforehand, and run in turn: the speed of a machine drifts within a minute.
        """
        names = ["ours", *peers]
        found: dict[str, Any] = {}
        if not connections:
            return found
        with ExitStack() as stack:
            measures = {name: stack.enter_context(self.measures(name)) for name in names}
            for count in connections:
                rounds = []
                for number in range(ROUNDS):
                    order = names[number % len(names) :] + names[: number % len(names)]
                    rounds.append({name: measures[name](count) for name in order})
                line: dict[str, Any] = {}
                for name in names:
                    line[f"{name}_per_s"] = round(statistics.median(one[name] for one in rounds), 1)
                for name in peers:
                    ratio = paired_ratio([one["ours"] for one in rounds], [one[name] for one in rounds])
                    line[f"ours / {name}"] = round(ratio.value, 3)
                    line[f"ours / {name}, 95%"] = [round(bound, 3) for bound in ratio.interval or ()]
                line["per_s, each"] = {name: each(one[name] for one in rounds) for name in names}
                found[str(count)] = line
                print(count, json.dumps(line), file=sys.stderr, flush=True)
        return found

    def latency(self) -> dict[str, Any]:
        """Milliseconds of one request at a time, through the service and in process, in turn."""
        with self.measures("ours", "one") as there, self.measures("offline", "one") as here:
            pairs = [(there(1), here(1)) for _ in range(ROUNDS)]
        added = [1000 * (service - process) for service, process in pairs]
        return {
            "service_ms": round(1000 * statistics.median(service for service, _ in pairs), 2),
            "in_process_ms": round(1000 * statistics.median(process for _, process in pairs), 2),
            "added_ms": round(statistics.median(added), 2),
            "added_ms, each": [round(value, 2) for value in added],
            "service_ms, each": each(1000 * service for service, _ in pairs),
            "in_process_ms, each": each(1000 * process for _, process in pairs),
        }


def gates(result: dict[str, Any]) -> dict[str, bool]:
    """What is to hold, for the parts that there are."""
    found: dict[str, bool] = {}
    for count, line in result["large"].items():
        found[f"large, {count} connections: ours / offline >= 0.95"] = line["ours / offline"] >= 0.95
        found[f"large, {count} connections: ours / bentoml >= 1.15"] = line["ours / bentoml"] >= 1.15
    for line in result["small"].values():
        for peer, least in (("bentoml", 2.5), ("bare", 0.95), ("litserve", 1.5)):
            found[f"small: ours / {peer} >= {least}"] = line[f"ours / {peer}"] >= least
    for model, line in result["latency"].items():
        found[f"{model}, one connection: added <= 3 ms"] = line["added_ms"] <= 3
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="a folder of photographs and nothing else")
    parser.add_argument("parts", metavar="PART", nargs="*", help=f"of {' '.join(PARTS)}; default: all")
    options = parser.parse_args()
    folder, parts = options.photos, options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {' '.join(sorted(unknown))}")
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    chosen = [photos[i] for i in np.linspace(0, len(photos) - 1, min(len(photos), 200)).astype(int)]
    large = Bench(int8(resnet50(folder), photos), chosen)
    small = Bench(built_in(SMALL, ".onnx"), chosen)
    peers()
    path = RESULTS / "serving.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    result |= {"models": {"large": "ResNet-50, INT8", "small": SMALL}, "rounds": ROUNDS, "photos": len(chosen)}
    result = {"large": {}, "small": {}, "latency": {}, **result}
    result["large"] |= large.compare(["offline", "bentoml"], [count for count in CONNECTIONS if str(count) in parts])
    if "small" in parts:
        result["small"] = small.compare(["offline", "bare", "bentoml", "litserve"], [32])
    if "latency" in parts:
        result["latency"] = {"large": large.latency(), "small": small.latency()}
    save("serving", result, gates(result))


if __name__ == "__main__":
    main()
