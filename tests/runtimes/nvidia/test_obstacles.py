"""Why a GPU cannot be used: the cause is named, and the cure is one that works."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

from resnet_infer.runtimes import ort_session
from resnet_infer.runtimes.nvidia import libraries, obstacles
from resnet_infer.runtimes.nvidia.driver import Driver
from resnet_infer.runtimes.nvidia.obstacles import NO_DRIVER, Obstacle, cause, obstacle
from resnet_infer.runtimes.nvidia.usable import usable
from resnet_infer.utils import extras

LONG = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, common::Status> "
    "onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, const char*, int) [with ERRTYPE = "
    "cudaError; bool THRW = true; SUCCTYPE = cudaError; std::conditional_t<THRW, void, common::Status> = void] "
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:146 std::conditional_t<THRW, void, common::Status> "
    "onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, const char*, int) [with ERRTYPE = "
    "cudaError; bool THRW = true; SUCCTYPE = cudaError; std::conditional_t<THRW, void, common::Status> = void] "
    "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; hostname=vm ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=355 ; expr=cudaSet; \n\n"
)
"""As ONNX Runtime 1.31.1 raises it."""
GPU = Driver(cuda=(13, 0), gpus=("H200",))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An ONNX Runtime for CUDA 13, a driver, and what the loader says."""

    def build(driver: Driver = GPU, message: str | None = None, names: tuple[str, ...] = ("onnxruntime-gpu",)) -> None:
        monkeypatch.setattr(ort_session, "available_providers", lambda: list(ort_session.PROVIDERS.values()))
        monkeypatch.setattr(ort_session, "CUDA_VERSION", "13.0")
        monkeypatch.setattr(obstacles, "ask_driver", lambda: driver)
        monkeypatch.setattr(libraries, "load", lambda provider: message)
        monkeypatch.setattr(extras, "all_installed", lambda found: [f"{name} 1" for name in names if name in found])

    return build


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LONG, "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"),
        (
            "Failed to load library /x/capi/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot "
            "open shared object file: No such file or directory\n",
            "libcublasLt.so.13: cannot open shared object file: No such file or directory",
        ),
        ("/x/libonnxruntime_providers_cuda.so: undefined symbol: cuNew", "undefined symbol: cuNew"),
        ("a.cc:1 f() [ONNXRuntimeError] : 1 : FAIL : it is full\n", "[ONNXRuntimeError] : 1 : FAIL : it is full"),
        ("plain words", "plain words"),
        ("x" * 500 + " the end", "x" * 292 + " the end"),
        ("", "RuntimeError"),
    ],
)
def test_the_cause_is_taken_out_of_a_long_text(text: str, found: str) -> None:
    assert LONG.index("CUDA failure") > 300
    assert cause(RuntimeError(text)) == found


def test_nothing_hinders_a_machine_with_all(built: Callable[..., None]) -> None:
    built()
    assert obstacle("cuda") is None
    assert usable("tensorrt")


@pytest.mark.parametrize(
    ("driver", "message", "reason", "hint"),
    [
        (
            Driver(error="there is no NVIDIA driver here (x)"),
            "libcublas.so.13: cannot open",
            "no NVIDIA driver",
            NO_DRIVER,
        ),
        (Driver(cuda=(13, 0)), None, "there is no GPU 0: the driver lists none", "CUDA_VISIBLE_DEVICES may hide some"),
        (Driver(cuda=(12, 4), gpus=("A",)), None, "supports CUDA 12.4, and this .* CUDA 13", r"\[gpu-cu12\]"),
        (Driver(cuda=(12, 4), gpus=("A",)), None, "supports CUDA 12.4", "driver to 580 or newer"),
        (
            GPU,
            "libcublasLt.so.13: cannot open shared object file",
            "libcublasLt.so.13: cannot",
            r'"resnet-infer\[gpu\]"',
        ),
        (GPU, "libcudnn.so.9: cannot open shared object file", "libcudnn.so.9", "found in LD_LIBRARY_PATH"),
        (
            GPU,
            "libnvinfer.so.10: cannot open shared object file",
            "nvinfer",
            "TensorRT 10: pip .*tensorrt-cu13>=10.13.2,<11",
        ),
        (GPU, "undefined symbol: cuTensorMapEncodeTiled", "undefined symbol", "driver to 580 or newer"),
    ],
)
def test_an_obstacle_has_its_cause_and_a_cure(
    built: Callable[..., None], driver: Driver, message: str | None, reason: str, hint: str
) -> None:
    built(driver, message)
    found = obstacle("cuda")
    assert found is not None
    assert re.search(reason, found.reason)
    assert re.search(hint, found.hint) or hint == found.hint
    assert not usable("cuda")


def test_another_gpu_than_the_driver_lists(built: Callable[..., None]) -> None:
    built()
    assert obstacle("cuda", 1) == Obstacle(
        "there is no GPU 1: the driver lists 1", "nvidia-smi lists the GPUs; CUDA_VISIBLE_DEVICES may hide some"
    )


@pytest.mark.parametrize("message", [None, "libcublasLt.so.13: cannot open shared object file", "file too short"])
def test_two_distributions_come_first(
    built: Callable[..., None], monkeypatch: pytest.MonkeyPatch, message: str | None
) -> None:
    built(message=message, names=("onnxruntime", "onnxruntime-gpu"))
    if message is None:
        monkeypatch.setattr(ort_session, "available_providers", lambda: ["CPUExecutionProvider"])
    found = obstacle("cuda")
    assert found is not None
    assert found.hint == (
        "onnxruntime and onnxruntime-gpu are installed into the same folder; uninstall all, then install one: "
        'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "resnet-infer[gpu]"'
    )


@pytest.mark.parametrize(("cuda", "extra"), [((12, 8), "gpu-cu12"), ((13, 0), "gpu"), (None, "gpu")])
def test_a_build_without_cuda_is_replaced_by_the_one_for_the_driver(
    built: Callable[..., None], monkeypatch: pytest.MonkeyPatch, cuda: tuple[int, int] | None, extra: str
) -> None:
    built(Driver(cuda=cuda, gpus=("A",)), names=("onnxruntime",))
    monkeypatch.setattr(ort_session, "available_providers", lambda: ["CPUExecutionProvider"])
    found = obstacle("cuda")
    assert found is not None
    assert found.reason == "this ONNX Runtime has no CUDA"
    if sys.version_info >= (3, 11):
        assert found.hint == f'pip uninstall -y onnxruntime && pip install "resnet-infer[{extra}]"'


# Libraries, with the real loader


def library(folder: Path, name: str, *needs: str, code: str = "") -> None:
    """A shared library that needs others, which are there while it is linked."""
    source = folder / f"{name}.c"
    source.write_text(code or f"int in_{abs(hash(name))}(void) {{ return 1; }}\n")
    links = [f"-Wl,-soname,{name}" if need == "-soname" else f"-l:{need}" for need in needs]
    command = ["gcc", "-shared", "-fPIC", "-Wl,--no-as-needed", "-o", str(folder / name), str(source), f"-L{folder}"]
    subprocess.run([*command, *links], check=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an ONNX Runtime whose provider for CUDA needs a library that is missing."""
    if sys.platform != "linux":
        pytest.skip("needs gcc for Linux (apt-get install gcc)")
    capi = tmp_path / "capi"
    capi.mkdir()
    library(capi, "libonnxruntime_providers_shared.so", code="int provided_by_the_host(void) { return 1; }\n")
    library(capi, "libneeded-by-tests.so.13")
    code = "extern int provided_by_the_host(void); int start(void) { return provided_by_the_host(); }\n"
    library(capi, "libonnxruntime_providers_cuda.so", "libneeded-by-tests.so.13", code=code)
    monkeypatch.setattr(ort_session, "FOLDER", str(tmp_path))
    monkeypatch.setattr(ort_session, "preload_cuda", lambda: ())
    return capi


def test_the_library_that_cannot_be_opened_is_named(folder: Path) -> None:
    needed = folder / "libneeded-by-tests.so.13"
    content = needed.read_bytes()
    needed.unlink()
    assert str(libraries.load("cuda")).startswith("libneeded-by-tests.so.13: cannot open shared object file")
    assert libraries.load("tensorrt") is None  # a build without it: nothing is known
    needed.write_bytes(content)
    assert libraries.error_of(str(needed)) is None  # as preloading does: it is found by its path, not by its name


def test_tensorrt_is_loaded_from_its_package(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "TENSORRT_MAJOR", 77)
    package = tmp_path / "packages" / "tensorrt_libs"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    library(package, "libnvinfer.so.77", "-soname")
    monkeypatch.syspath_prepend(package.parent)
    assert "cannot open" in str(libraries.error_of("libnvinfer.so.77"))
    libraries.load("tensorrt")
    assert libraries.error_of("libnvinfer.so.77") is None


def test_libraries_have_the_versions_of_their_cuda() -> None:
    assert {"libcublasLt.so.13", "libcufft.so.12", "libcurand.so.10", "libcudnn.so.9"} < set(libraries.names(13))
    assert {"libcublas.so.12", "libcufft.so.11", "libcudart.so.12"} < set(libraries.names(12))


def test_what_preloading_prints_is_caught(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")
    space = vars(onnxruntime)
    monkeypatch.setitem(space, "preload_dlls", getattr(onnxruntime, "preload_dlls", None))
    exec("def preload_dlls():\n    print('Failed to load', 'libx')\n    print('Please follow')\n", space)
    ort_session.preload_cuda.cache_clear()
    try:
        for _ in range(2):  # the second time from the cache
            assert ort_session.preload_cuda() == ("Failed to load libx", "Please follow")
    finally:
        ort_session.preload_cuda.cache_clear()
    assert "print" not in space
    assert capfd.readouterr() == ("", "")
