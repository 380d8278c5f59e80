"""The service beside its peers: requests a second on loopback, and what one request takes longer than in process.

    python benchmarks/serving.py PHOTOS

PHOTOS is a folder of photographs. Peers: the best offline rate in process, a batchable BentoML service as its
documentation shows, LitServe, and a bare Starlette application over our batcher. All answer the same files with the
same artifact, one after the other on the same cores, in rounds; the load is made on these cores too. BentoML and
LitServe are installed in an environment of their own, with what they bring themselves.
"""

from __future__ import annotations

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from http_load import closed_loop, post
from paired import COMMAND, PYTHON, save
from untrained import resnet50

from resnet_infer.data.image import read_image
from resnet_infer.data.loader import usable_cores
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.models.download import cache_folder
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.zoo import DEFAULT, built_in

HERE = Path(__file__).parent
PEERS = ("bentoml", "litserve", "onnxruntime", "pillow", "numpy", "python-multipart")
SECONDS = 8.0
ROUNDS = 3
CONNECTIONS = (8, 16, 32, 64)
OFFLINE = """
import sys, time
from pathlib import Path
from resnet_infer.classifier import Classifier, Picture
sys.setswitchinterval(0.0005)
artifact, seconds, throughput, *names = sys.argv[1:]
contents = [Path(name).read_bytes() for name in names]
with Classifier(artifact, device="cpu", throughput=throughput == "many") as classifier:
    if throughput == "one":
        times, until = [], time.perf_counter() + float(seconds)
        for content in contents[:4]:
            classifier.classify(content)
        while time.perf_counter() < until:
            begin = time.perf_counter()
            classifier.classify(contents[len(times) % len(contents)])
            times.append(time.perf_counter() - begin)
        times.sort()
        print(times[len(times) // 2])
    else:
        def endless():
            while time.perf_counter() < until:
                for content in contents:
                    yield Picture("picture", content)
        until = time.perf_counter() + 1
        list(classifier.stream(endless()))
        begin = time.perf_counter()
        until = begin + float(seconds)
        count = sum(1 for _ in classifier.stream(endless()))
        print(count / (time.perf_counter() - begin))
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

        from resnet_infer.converters.calibrate import calibrate
        from resnet_infer.converters.quantize import cpu_weight_bits, quantize

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
def running(command: Sequence[str], port: int, ready: str, **environment: str) -> Iterator[str]:
    """A server in a process group of its own, warm; its URL."""
    with tempfile.TemporaryDirectory() as home, open(Path(home) / "log", "wb+") as log:
        known = {"BENTOML_HOME": home, "BENTOML_DO_NOT_TRACK": "True", "BENTOML_QUIET": "True"}
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
            yield url
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
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
        return running([PYTHON, str(HERE / "peers" / "bare_starlette.py"), str(port)], port, "/readyz", **environment)

    def bentoml(self) -> Any:
        port = free_port()
        command = [peers(), "-m", "bentoml", "serve", "plain_bentoml:Plain", "--port", str(port), "--host", "127.0.0.1"]
        command += ["--working-dir", str(HERE / "peers")]
        return running(command, port, "/readyz", ARTIFACT=str(self.artifact), RESIZE=str(self.resize))

    def litserve(self) -> Any:
        port = free_port()
        command = [peers(), str(HERE / "peers" / "plain_litserve.py"), str(port), str(usable_cores())]
        return running(command, port, "/health", ARTIFACT=str(self.artifact), RESIZE=str(self.resize))

    def requests(self, server: str, url: str) -> list[bytes]:
        """What this server understands: the raw picture, or a form."""
        if server in ("ours", "bare"):
            return [post(url, "/classify", content) for content in self.contents]
        path, name = ("/classify", "images") if server == "bentoml" else ("/predict", "image")
        return [post(url, path, *form(content, name)) for content in self.contents]

    def rates(self, server: str, connections: Sequence[int]) -> dict[int, float]:
        """Successes a second by the number of connections; any other answer is an error."""
        start: Callable[[], Any] = getattr(self, server)
        with start() as url:
            requests = self.requests(server, url)
            closed_loop(url, requests, connections=8, seconds=2)
            found = {}
            for count in connections:
                load = closed_loop(url, requests, connections=count, seconds=SECONDS)
                if set(load.statuses) != {200}:
                    raise RuntimeError(f"{server} answered {dict(load.statuses)} to {count} connections")
                found[count] = load.rate
            return found

    def offline(self, how: str) -> float:
        """Pictures a second in process (`many`), or the median seconds of one after the other (`one`)."""
        command = [PYTHON, "-c", OFFLINE, str(self.artifact), str(SECONDS), how, *map(str, self.photos)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def compare(self, servers: Sequence[str], connections: Sequence[int]) -> dict[str, Any]:
        """Rates of `ours` and the other servers, and the medians of the ratios ours / theirs, round by round."""
        rounds: list[dict[str, Any]] = []
        for number in range(ROUNDS):
            order = ["ours", *servers] if number % 2 else [*servers, "ours"]
            rounds.append({"offline": self.offline("many"), **{name: self.rates(name, connections) for name in order}})
        found: dict[str, Any] = {"offline_per_s": round(statistics.median(item["offline"] for item in rounds), 1)}
        for count in connections:
            line: dict[str, float] = {}
            for name in ("ours", *servers):
                line[f"{name}_per_s"] = round(statistics.median(item[name][count] for item in rounds), 1)
            for name in servers:
                ratios = [item["ours"][count] / item[name][count] for item in rounds]
                line[f"ours / {name}"] = round(statistics.median(ratios), 3)
            line["ours / offline"] = round(
                statistics.median(item["ours"][count] / item["offline"] for item in rounds), 3
            )
            found[f"{count} connections"] = line
        return found

    def latency(self) -> dict[str, float]:
        """Milliseconds of one request at a time, through the service and in process, in turn."""
        there, here = [], []
        with self.ours() as url:
            requests = self.requests("ours", url)
            closed_loop(url, requests, connections=1, seconds=2)
            for _ in range(ROUNDS):
                there.append(closed_loop(url, requests, connections=1, seconds=SECONDS).median)
                here.append(self.offline("one"))
        added = statistics.median(a - b for a, b in zip(there, here, strict=True))
        return {
            "service_ms": round(1000 * statistics.median(there), 2),
            "in_process_ms": round(1000 * statistics.median(here), 2),
            "added_ms": round(1000 * added, 2),
        }


def main() -> None:
    folder = Path(sys.argv[1])
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    chosen = [photos[i] for i in np.linspace(0, len(photos) - 1, min(len(photos), 200)).astype(int)]
    large = Bench(int8(resnet50(folder), photos), chosen)
    small = Bench(built_in(DEFAULT, ".onnx"), chosen)
    heavy = large.compare(["bentoml"], CONNECTIONS)
    light = small.compare(["bentoml", "litserve", "bare"], (32,))
    latencies = {"resnet50 INT8": large.latency(), DEFAULT: small.latency()}
    lines = [heavy[f"{count} connections"] for count in CONNECTIONS]
    quick = light["32 connections"]
    save(
        "serving",
        {"resnet50 INT8": heavy, DEFAULT: light, "one connection": latencies, "rounds": ROUNDS, "photos": len(chosen)},
        {
            "resnet50 INT8: ours / offline >= 0.95 at 8 to 64 connections": min(x["ours / offline"] for x in lines)
            >= 0.95,
            "resnet50 INT8: ours / bentoml >= 1.15 at 8 to 64": min(x["ours / bentoml"] for x in lines) >= 1.15,
            f"{DEFAULT}: ours / bentoml >= 2.5": quick["ours / bentoml"] >= 2.5,
            f"{DEFAULT}: ours / bare >= 0.95": quick["ours / bare"] >= 0.95,
            f"{DEFAULT}: ours / litserve >= 1.5": quick["ours / litserve"] >= 1.5,
            "one connection adds <= 3 ms": max(item["added_ms"] for item in latencies.values()) <= 3,
        },
    )


if __name__ == "__main__":
    main()
