"""The steps of `benchmarks.gpu`, each in a process of its own; in a dry run with stand-ins for GPU and libraries.

A step writes its JSON after every item. An item that raises an exception is written down with it and fails the step,
and the next one is tried all the same.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu import ROOT, STEPS, read, write
from resnet_infer import zoo
from resnet_infer.data.synthetic import natural_noise

BATCHES = (1, 8, 32, 64)
"""Batches whose speed is measured."""
PACKAGES: tuple[str, ...] = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "triton",
    "cuda-bindings",
    "cuda-python",
)
PACKAGES += ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-bindings", "bentoml")

TOLD = (": error", "images/s", "images/s, with the start", ": error, ms", "16 connections", "1: s", "plain")
"""Ends of the names of values that the table shows."""

Images = NDArray[np.uint8]


class SkippedError(Exception):
    """Report that a step cannot be taken here; the message says what is not there."""


class Found:
    """What a step has found, written to its file as it grows."""

    def __init__(self, name: str, out: Path, dry: bool) -> None:
        self.step = next(step for step in STEPS if step.name == name)
        self.out, self.dry = out, dry
        self.values: dict[str, Any] = read(out, self.step) | {"state": "running", "dry_run": dry}
        self.failed: list[str] = []
        self.device = "cpu" if dry else "cuda:0"

    def put(self, name: str, value: Any) -> Any:
        """Write a value down."""
        self.values[name] = value
        write(self.out, self.step, self.values)
        return value

    def require(self, name: str, passed: bool) -> None:
        """Write down whether something holds that must."""
        if not passed:
            self.failed.append(name)
        self.put(name, bool(passed))

    @contextlib.contextmanager
    def item(self, name: str) -> Iterator[None]:
        """Write down what the block raises, under this name, and go on after it."""
        begin = time.perf_counter()
        try:
            yield
        except SkippedError:
            raise
        except Exception as error:
            traceback.print_exc()
            self.failed.append(name)
            self.put(f"{name}: error", f"{type(error).__name__}: {error}"[:1500])
        self.put(f"{name}: s", round(time.perf_counter() - begin, 3))

    def end(self) -> None:
        """Write down the outcome, and the figures for the table."""
        told = [f"{name} {value}" for name, value in self.values.items() if name.endswith(TOLD)]
        self.values["says"] = "; ".join(told)[:400]
        self.values["state"] = "failed" if self.failed else "passed"
        if self.failed:
            self.values["why"] = f"failed: {', '.join(self.failed)}"
        write(self.out, self.step, self.values)


def run(name: str | None, out: Path, dry: bool) -> None:
    """Take a step, or without a name make the models of all steps."""
    if name is None:
        for model in ("fp32", "fp16", "int8", "resnet50-fp16"):
            print(graph(out, model, dry))
        return
    found = Found(name, out, dry)
    function: Callable[[Found], None] = globals()[name.replace("-", "_")]
    with contextlib.ExitStack() as stack:
        if dry and name.startswith(("driver", "trt")):
            import pytest

            from tests.tensorrt import machine

            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for _ in (installed := machine.install(patch)):
                stack.callback(lambda: next(installed, None))
                break
        try:
            _require_gpu(found)
            with found.item(name):
                function(found)
        except SkippedError as skipped:
            found.put("why", f"skipped: {skipped}")
            found.put("state", "skipped")
        else:
            found.end()


def _require_gpu(found: Found) -> None:
    """Raise `SkippedError` if the library of the step is there, but is none for GPUs."""
    name = found.step.name
    if found.dry or name == "machine":
        return
    if name.startswith("ort") or name == "serving":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise SkippedError("onnxruntime is not built for CUDA")
    if name.startswith(("torch", "broken", "train")):
        import torch as library

        if not library.cuda.is_available():
            raise SkippedError("torch has no GPU")
    if name.startswith(("driver", "trt")):
        from resnet_infer.errors import RuntimeUnavailableError
        from resnet_infer.runtimes.tensorrt.cuda import device_count

        try:
            count = device_count()
        except RuntimeUnavailableError as error:
            raise SkippedError(error.message) from error
        if not count:
            raise SkippedError("the driver knows no GPU")


# Models, images and time


def network(dry: bool) -> str:
    """The built-in model: the larger one, in a dry run the one that is quick."""
    return zoo.SMALL if dry else "resnet18-tinyimagenet"


def images(count: int, dry: bool, seed: int = 0) -> Images:
    """Noise with the spectrum of photographs, at the size of the built-in model."""
    side = 32 if dry else 64
    return natural_noise(count, side, side, seed)


def graph(out: Path, precision: str, dry: bool) -> Path:
    """The built-in model's graph, made once. INT8 is placed for TensorRT; `resnet50-fp16` has random weights."""
    name = network(dry)
    if precision == "fp32":
        return zoo.built_in(name, ".onnx")
    path = out / "models" / f"{precision if precision.startswith('resnet50') else f'{name}-{precision}'}.onnx"
    if path.exists():
        return path
    import onnx

    from resnet_infer.converters.precision.calibration import calibrate
    from resnet_infer.converters.precision.fp16 import to_fp16
    from resnet_infer.converters.precision.int8 import quantize

    source, pictures = onnx.load(zoo.built_in(name, ".onnx")), images(32, dry, seed=1)
    if precision == "int8":
        calibration = calibrate(source, ((str(number), picture) for number, picture in enumerate(pictures)))
        made = quantize(source, calibration, target="tensorrt")
    elif precision == "fp16" or dry:
        made = to_fp16(source, images=pictures[:8]).model
    else:
        from resnet_infer.models.architectures import architecture
        from resnet_infer.models.graph import build_graph
        from resnet_infer.models.network import untrained_checkpoint
        from resnet_infer.models.spec import InputSpec, ModelSpec, imagenet_classes

        geometry = InputSpec(256, 224, np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
        names, ids = imagenet_classes()
        spec = ModelSpec("resnet50-untrained", architecture("resnet50"), names, geometry, class_ids=ids)
        pictures = natural_noise(16, 224, 224, 1)
        made = to_fp16(build_graph(untrained_checkpoint(spec, pictures)), images=pictures[:4]).model
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(made.SerializeToString())
    return path


def settled(work: Callable[[], object], dry: bool, seconds: float = 3.0) -> float:
    """Milliseconds of a call that waits for the GPU: the last of three medians in a row that agree within 3%."""
    medians: list[float] = []
    end = time.perf_counter() + (0.01 if dry else seconds)
    while time.perf_counter() < end:
        times = []
        for _ in range(3 if dry else 15):
            begin = time.perf_counter()
            work()
            times.append(1000 * (time.perf_counter() - begin))
        medians.append(statistics.median(times))
        if len(medians) >= 3 and max(medians[-3:]) <= 1.03 * min(medians[-3:]):
            break
    return float(f"{medians[-1]:.4g}")


def speeds(runtime: Any, pictures: Images, dry: bool) -> dict[str, float]:
    """Images a second by batch."""
    found = {}
    for batch in BATCHES[:2] if dry else BATCHES:
        part = np.resize(pictures, (batch, *pictures.shape[1:]))
        found[str(batch)] = float(f"{1000 * batch / settled(partial(runtime, part), dry):.5g}")
    return found


def error_of(logits: Any, reference: Any) -> float:
    """Largest difference of a logit over the spread of the reference's logits."""
    spread = float(np.std(reference - reference.mean(axis=0)))
    return float(f"{float(np.abs(logits - reference).max()) / spread:.3g}")


def reference_logits(path: Path, pictures: Images) -> Any:
    """Logits by ONNX Runtime on the CPU."""
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    with OnnxRuntime(path, device="cpu") as runtime:
        return runtime(pictures)


def in_threads(runtime: Any, pictures: Images, calls: int) -> int:
    """Wrong answers of two threads that call with different images of one shape."""
    parts = [pictures[:4], pictures[4:8]]
    right = [runtime(part) for part in parts]

    def wrong(number: int) -> int:
        return sum(not np.allclose(runtime(parts[number]), right[number], rtol=1e-2, atol=1e-2) for _ in range(calls))

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(wrong, range(2)))


# The machine and the driver


def machine(found: Found) -> None:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    found.put("packages", versions)
    found.put("python", platform.python_version())
    if shutil.which("nvidia-smi"):
        for option in ("-L", "-q"):
            done = subprocess.run(["nvidia-smi", option], capture_output=True, text=True, timeout=15)
            found.put(f"nvidia-smi {option}", done.stdout.splitlines()[:400])
    command = [sys.executable, "-m", "resnet_infer", "env", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT)
    found.put("env", json.loads(done.stdout))


def driver(found: Found) -> None:
    from resnet_infer.errors import RuntimeUnavailableError
    from resnet_infer.runtimes.tensorrt import cuda

    gpus = found.put("GPUs", cuda.device_count())
    gpu = cuda.Gpu(0)
    found.put("name", f"{gpu.name}, compute capability {gpu.compute_capability}")
    with found.item("copies"), gpu.current():
        size = 1 << (12 if found.dry else 26)
        there, back = gpu.allocate_pinned(size), gpu.allocate_pinned(size)
        there[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        address = gpu.allocate(size)

        def work() -> None:
            gpu.upload(there, address)
            gpu.download(address, back)

        def timed() -> None:
            work()
            gpu.synchronize()

        timed()
        found.require("bytes come back", bool((there == back).all()))
        found.put("MB there and back, ms", [size / 1e6, settled(timed, found.dry)])
        back[:] = 0
        captured = gpu.capture(work)
        gpu.launch(captured)
        gpu.synchronize()
        found.require("bytes come back by a graph", bool((there == back).all()))
        gpu.discard(captured)
    with found.item("200 GB"):
        try:
            with gpu.current():
                gpu.allocate(200 * 10**9)
            found.require("200 GB are refused", False)
        except RuntimeUnavailableError as error:
            found.require("200 GB are refused", error.reason == "memory")
            found.put("200 GB", error.message)
    gpu.close()
    with found.item("open and close"):
        free = []
        for _ in range(20 if found.dry else 200):
            with contextlib.closing(cuda.Gpu(0)) as other, other.current():
                other.allocate(1 << 10)
                free.append(int(vars(cuda)["driver"].cuMemGetInfo()[1]))
        found.require("memory is the same after opening and closing", free[-1] >= free[10])
    with found.item("a wrong number"):
        try:
            cuda.Gpu(gpus)
            found.require("a wrong number is refused", False)
        except RuntimeUnavailableError as error:
            found.put("a wrong number is refused", error.message)
    if not found.dry:
        with found.item("UUIDs"):
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=15).stdout
            uuids = [part.split(")")[0] for part in listed.split("UUID: ")[1:]]
            code = (
                "from resnet_infer.runtimes.tensorrt.cuda import Gpu, device_count; print(device_count(), Gpu(0).name)"
            )
            for visible in (uuids[0], ",".join(uuids), "0,-1,1", ""):
                done = subprocess.run(
                    [sys.executable, "-c", code],
                    env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
                    capture_output=True,
                    text=True,
                    cwd=ROOT,
                    timeout=20,
                )
                found.put(f"CUDA_VISIBLE_DEVICES={visible}", (done.stdout or done.stderr).strip()[-300:])


# torch


def torch(found: Found) -> None:
    import torch as library

    from resnet_infer.runtimes.pytorch import TorchRuntime

    model, pictures = zoo.built_in(network(found.dry), ".safetensors"), images(16, found.dry)
    with TorchRuntime(model, device="cpu") as runtime:
        right = runtime(pictures)
    kinds: list[Any] = [library.backends.cudnn.conv, library.backends.cuda.matmul]  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    limits: dict[Any, float] = {"fp32": 1e-4, "tf32": 2e-2, "fp16": 2e-2, "bf16": 2e-1}
    for precision, limit in limits.items():
        if found.dry and precision != "fp32":
            continue
        with found.item(precision), TorchRuntime(model, device=found.device, precision=precision) as runtime:
            error = found.put(f"{precision}: error", error_of(runtime(pictures), right))
            found.require(f"{precision}: error at most {limit}", error <= limit)
            found.put(f"{precision}: images/s", speeds(runtime, pictures, found.dry))
            if precision == "fp32":
                wrong = in_threads(runtime, pictures, 5 if found.dry else 300)
                found.require("two threads get their own answers", wrong == 0)
    found.require("settings of torch are put back", before == [kind.fp32_precision for kind in kinds])
    if not found.dry:
        options: dict[str, Any] = {"precision": "fp16", "fused": True, "channels_last": True}
        for name, compiled in (("fp16, fused, NHWC", False), ("the same, compiled", True)):
            options["compile"] = compiled
            with found.item(name), TorchRuntime(model, device=found.device, **options) as runtime:
                found.put(f"{name}: images/s", speeds(runtime, pictures, found.dry))


def torch_tests(found: Found) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", "tests/runtimes/test_pytorch.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, cwd=ROOT)
    found.put("said", done.stdout.splitlines()[-5:])
    found.require("tests pass", done.returncode == 0)


def broken(found: Found) -> None:
    """In a child: an assertion that fails on the device, after which nothing works; what do our calls say?"""
    code = f"""
import json, sys, time
import numpy, torch
from resnet_infer import zoo
from resnet_infer.runtimes.pytorch import TorchRuntime
runtime = TorchRuntime(zoo.built_in({network(found.dry)!r}, ".safetensors"), device={found.device!r})
images = numpy.zeros((1, *runtime.size, 3), numpy.uint8)
runtime(images)
said = []
if {found.dry}:
    runtime.device = "cuda:0"
    runtime._run = lambda images: (_ for _ in ()).throw(RuntimeError("CUDA error: device-side assert triggered"))
else:
    try:
        torch.zeros(2, device="cuda")[torch.tensor([9], device="cuda")]
        torch.cuda.synchronize()
    except Exception as error:
        said.append([type(error).__name__, str(error)[:300]])
for _ in range(2):
    try:
        runtime(images)
        said.append(["answered", ""])
    except Exception as error:
        said.append([type(error).__name__, str(error)[:300], getattr(error, "sticky", None)])
print(json.dumps(said), flush=True)
runtime.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=35, cwd=ROOT)
    found.put("exit code of the process", done.returncode)
    found.put("stderr", done.stderr[-1500:])
    said = found.put("what every call says", json.loads(done.stdout))
    found.require("ours are device errors that last", [item[0::2] for item in said[-2:]] == [["DeviceError", True]] * 2)


# ONNX Runtime

CHILD = """
import json, sys, time
import onnxruntime
{before}
begin = time.perf_counter()
options = onnxruntime.SessionOptions()
session = onnxruntime.InferenceSession({model!r}, options, providers={providers!r})
print(json.dumps([session.get_providers(), round(time.perf_counter() - begin, 2)]))
"""


def _providers(found: Found, **options: Any) -> list[Any]:
    """What a session is opened with."""
    if found.dry:
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": 0, **options})]


def ort_start(found: Found) -> None:
    model = str(graph(found.out, "fp32", found.dry))
    ways = {"plain": "", "import torch first": "import torch"}
    ways["preload_dlls"] = "onnxruntime.preload_dlls()" if not found.dry else ""
    for name, before in ways.items():
        code = CHILD.format(before=before, model=model, providers=_providers(found))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT)
        found.put(name, [done.stdout.strip(), done.stderr.strip()[-1500:]])
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    with OnnxRuntime(Path(model), device=found.device) as runtime:
        found.put("ours", runtime.describe())
        found.require("ours starts on the device", runtime.device == found.device)


def _session(found: Found, path: Path, **options: Any) -> Callable[[Images], Any]:
    """A function that runs a graph with these options of the provider for CUDA."""
    import onnxruntime

    if not found.dry:
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(str(path), providers=_providers(found, **options))
    return lambda pictures: session.run(None, {session.get_inputs()[0].name: pictures})[0]


def ort_precision(found: Found) -> None:
    pictures = images(8, found.dry)
    for precision in ("fp32", "fp16"):
        path = graph(found.out, precision, found.dry)
        right = reference_logits(graph(found.out, "fp32", found.dry), pictures)
        for name, options in (("default", {}), ("use_tf32 0", {"use_tf32": 0}), ("use_tf32 1", {"use_tf32": 1})):
            with found.item(f"{precision}, {name}"):
                infer = _session(found, path, **options)
                error = error_of(infer(pictures), right)
                found.put(f"{precision}, {name}: error, ms", [error, settled(partial(infer, pictures), found.dry)])


def ort_shapes(found: Found) -> None:
    pictures, path = images(8, found.dry), graph(found.out, "fp32", found.dry)
    for search in ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"):
        with found.item(search):
            infer = _session(found, path, cudnn_conv_algo_search=search)
            infer(pictures)
            for name, sizes in (("8, 8, 8", (8, 8, 8)), ("8, 7, 8", (8, 7, 8)), ("again", (8, 7, 8))):
                times = []
                for size in sizes:
                    begin = time.perf_counter()
                    infer(pictures[:size])
                    times.append(round(1000 * (time.perf_counter() - begin), 2))
                found.put(f"{search}: {name}: ms", times)
    import onnxruntime

    for precision in ("fp32", "fp16", "int8"):
        with found.item(f"{precision} without the CPU"):
            options = onnxruntime.SessionOptions()
            if not found.dry:
                options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            model = str(graph(found.out, precision, found.dry))
            onnxruntime.InferenceSession(model, options, providers=_providers(found))


def ort_ours(found: Found) -> None:
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    pictures = images(16, found.dry)
    right = reference_logits(graph(found.out, "fp32", found.dry), pictures)
    for precision, limit in (("fp32", 1e-3), ("fp16", 5e-2)):
        path = graph(found.out, precision, found.dry)
        with found.item(precision), OnnxRuntime(path, device=found.device) as runtime:
            error = found.put(f"{precision}: error", error_of(runtime(pictures), right))
            found.require(f"{precision}: error at most {limit}", error <= limit)
            apart = [error_of(runtime(pictures[:size]), right[:size]) for size in range(2, 10)]
            found.require(f"{precision}: batches of 2 to 9", max(apart) <= 4 * limit)
            wrong = in_threads(runtime, pictures, 5 if found.dry else 1000)
            found.require(f"{precision}: two threads get their own answers", wrong == 0)
            found.put(f"{precision}: images/s", speeds(runtime, pictures, found.dry))


# TensorRT


def trt_fp32(found: Found) -> None:
    engine(found, "fp32", "fp32")


def trt_fp16(found: Found) -> None:
    engine(found, "fp16", "fp16")


def trt_int8(found: Found) -> None:
    engine(found, "int8", "int8")


def trt_resnet50(found: Found) -> None:
    engine(found, "resnet50-fp16", "fp16", again=True)


def engine(found: Found, model: str, precision: Any, *, again: bool = False) -> None:
    """Build an engine, prove it, run it by all sizes with and without CUDA graphs, and time it."""
    from resnet_infer.converters.tensorrt import build
    from resnet_infer.converters.tensorrt.engine_graph import graph_for
    from resnet_infer.converters.tensorrt.export import BuildOptions, build_engine, prove, require_tensorrt
    from resnet_infer.runtimes.tensorrt.runtime import TensorRTRuntime

    read_layers = vars(build)["read_layers"]

    def kept(text: str) -> Any:
        (found.out / f"{found.step.name}-inspector.json").write_text(text, encoding="utf-8")
        return read_layers(text)

    vars(build)["read_layers"] = kept
    major = found.put("TensorRT", require_tensorrt())
    half = graph_for(precision, major).half or precision != "fp16"
    path = graph(found.out, model if half else model.replace("fp16", "fp32"), found.dry)
    options = BuildOptions(1, 8, 64, optimization_level=1, timing_cache=found.out / "timing.cache")
    target = found.out / f"{found.step.name}.engine"
    for number in range(2 if again else 1):
        begin = time.perf_counter()
        info = build_engine(path, target, precision=precision, options=options)
        found.put(f"build {number + 1}: s", round(time.perf_counter() - begin, 2))
    found.put("layers", dict(info.layers))
    with found.item("prove"):
        found.put("prove", str(prove(target, path)))
    pictures = natural_noise(16, *info.size)
    right = reference_logits(path, pictures)
    for graphs in (True, False):
        with found.item(f"graphs {graphs}"), TensorRTRuntime(target, cuda_graph=graphs) as runtime:
            apart = [error_of(runtime(pictures[:size]), right[:size]) for size in range(2, 10) for _ in range(2)]
            found.put(f"graphs {graphs}: largest error of batches 2 to 9", max(apart))
            found.require(f"graphs {graphs}: batches 2 to 9", max(apart) <= (0.05 if precision == "fp32" else 2))
            found.require(f"graphs {graphs}: kept", runtime.cuda_graph == graphs)
            found.put(f"graphs {graphs}: images/s", speeds(runtime, pictures, found.dry))


# The service


def serving(found: Found) -> None:
    import http.client
    import socket

    from resnet_infer.classifier import Classifier

    model = graph(found.out, "fp32", found.dry)
    picture = (ROOT / "tests" / "pictures" / "cat.jpg").read_bytes()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "resnet_infer", "serve", str(model), "--port", str(port), "--device", found.device]
    process = subprocess.Popen(command, cwd=found.out)

    def ask(method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    try:
        begin, ready = time.monotonic(), False
        while not ready and time.monotonic() - begin < 40 and process.poll() is None:
            with contextlib.suppress(OSError):
                ready = ask("GET", "/readyz")[0] == 200
            time.sleep(0.1)
        found.require("ready", ready)
        found.put("ready after, s", round(time.monotonic() - begin, 1))
        status, body = ask("POST", "/classify", picture)
        with Classifier(model, device="cpu") as classifier:
            expected = classifier.classify(picture)[0].label
        found.require("answers as classify", status == 200 and json.loads(body)["predictions"][0]["label"] == expected)
        count = 20 if found.dry else 2000
        begin = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda _: ask("POST", "/classify", picture)[0], range(count)))
        found.put("requests/s by 16 connections", round(count / (time.monotonic() - begin), 1))
        found.put("statuses", {str(code): statuses.count(code) for code in set(statuses)})
        lines = ask("GET", "/metrics")[1].decode().splitlines()
        found.put("metrics", [line for line in lines if line.startswith("resnet_infer_batch") or "stage" in line][:60])
    finally:
        process.terminate()
    found.require("ends", process.wait(30) == 0)


# Training


def _data(found: Found) -> Path:
    """Folders of noise in ten classes."""
    from PIL import Image

    folder = found.out / "data"
    for label in range(10):
        place = folder / f"class{label}"
        if place.exists():
            continue
        place.mkdir(parents=True)
        for number, picture in enumerate(natural_noise(8 if found.dry else 64, 32, 32, label)):
            Image.fromarray(picture).save(place / f"{number}.png")
    return folder


def _options(found: Found) -> dict[str, Any]:
    size = {"iterations": 2, "batch_size": 8} if found.dry else {"iterations": 200, "batch_size": 128}
    return {"arch": "resnet20", "validation": 0, "device": "cpu" if found.dry else "cuda", "workers": 0, **size}


def _train(found: Found, **options: Any) -> None:
    """Train 200 steps, and write down the table of the run."""
    from resnet_infer import train

    folder = found.out / f"{found.step.name}-run"
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.perf_counter()
    options = {**_options(found), **options, "log": print}
    train(_data(found), folder, **options)
    seconds = time.perf_counter() - begin
    found.put("images/s, with the start", round(options["iterations"] * options["batch_size"] / seconds, 1))
    rows = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    found.put("table", [rows[0], *rows[-5:]])
    names = rows[0].split(",")
    loss = float(rows[-1].split(",")[next(i for i, name in enumerate(names) if "loss" in name)])
    found.require("the loss is finite", math.isfinite(loss))


def train_fp32(found: Found) -> None:
    _train(found, precision="fp32", compile=False)


def train_bf16(found: Found) -> None:
    _train(found, precision="bf16", compile=False)


def train_compiled(found: Found) -> None:
    _train(found, precision="fp32" if found.dry else "bf16", compile=not found.dry)


def train_fp16(found: Found) -> None:
    _train(found, precision="bf16" if found.dry else "fp16", compile=False)


def train_resume(found: Found) -> None:
    """SIGTERM in the middle, then `--resume`."""
    folder = found.out / f"{found.step.name}-run"
    shutil.rmtree(folder, ignore_errors=True)
    options = _options(found)
    iterations = 400 if found.dry else 20000
    command = [
        sys.executable,
        "-m",
        "resnet_infer",
        "train",
        str(_data(found)),
        "-o",
        str(folder),
        "--arch",
        "resnet20",
    ]
    command += ["--iterations", str(iterations), "--batch-size", str(options["batch_size"]), "--validation", "0"]
    command += ["--device", options["device"], "--no-compile"]
    process = subprocess.Popen(command, cwd=ROOT)
    until = time.monotonic() + 30
    while not (folder / "last.safetensors").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    process.terminate()
    found.put("exit code", process.wait(30))
    found.require("it stops", process.returncode == 143)
    resumed = subprocess.Popen([*command, "--resume"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert resumed.stderr is not None
    watch = threading.Timer(25, resumed.kill)
    watch.start()
    said = ""
    for line in resumed.stderr:
        said += line
        if "going on with" in line:
            break
    resumed.terminate()
    resumed.stderr.read()
    resumed.wait(30)
    watch.cancel()
    found.require("it goes on", "going on with" in said)
    found.put("said", said[-1000:])
