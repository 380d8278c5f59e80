"""Every call of TensorRT and CUDA goes through the real Python bindings of each version that is supported.

The bindings check names, arguments and attributes as they do for a user. Behind them are dummies, so no results come
back: those are the business of the tests that use the fake, and of a machine with a GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_infer import zoo
from resnet_infer.runtimes.nvidia.device_errors import STICKY
from tests.conftest import ROOT
from tests.tensorrt.fetch import PACKAGES, made_for_this_python

pytest.importorskip("onnx", reason="the extra `export`")
pytest.importorskip("onnxruntime", reason="the extra `cpu`")

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("RESNET_INFER_TENSORRT", ROOT / ".venv-dev" / "tensorrt"))
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin", "nvparsers")
VERSIONS = [
    ("tensorrt-8.6.1", "cuda-12.9.10"),
    ("tensorrt-10.3.0", "cuda-12.9.10"),
    ("tensorrt-10.16.1.11", "cuda-13.2.0"),
    ("tensorrt-11.4.0.106", "cuda-13.2.0"),
]


@pytest.fixture(scope="session")
def dummies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library for every name that the bindings link to or look for."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C++ compiler (g++) to build stand-ins for NVIDIA's libraries")
    folder = tmp_path_factory.mktemp("dummies")
    for name, source in (("backend.so", "dummy_backend.cpp"), ("libcuda.so.1", "dummy_driver.cpp")):
        command = [
            compiler,
            "-std=c++17",
            "-O1",
            "-shared",
            "-fPIC",
            str(HERE / source),
            "-o",
            str(folder / name),
            "-ldl",
        ]
        subprocess.run(command, check=True, capture_output=True)
    for library in LIBRARIES:
        for major in (8, 10, 11):
            (folder / f"lib{library}.so.{major}").symlink_to("backend.so")
    return folder


def run(arguments: list[str], packages: tuple[str, ...], libraries: Path | None) -> subprocess.CompletedProcess[str]:
    for name in packages:
        if not made_for_this_python(name):
            pytest.skip(f"{name} was never made for this Python")
        if not (FOLDER / name).is_dir():
            pytest.skip(f"{name} is not in {FOLDER}: python tests/tensorrt/fetch.py {FOLDER}")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(path) for path in (*(FOLDER / name for name in packages), ROOT)),
        "LD_LIBRARY_PATH": str(libraries or ""),
    }
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], env=environment, text=True, capture_output=True, timeout=120
    )


@pytest.mark.parametrize(("tensorrt", "cuda"), VERSIONS)
def test_every_call_is_one_that_the_bindings_take(tensorrt: str, cuda: str, dummies: Path, tmp_path: Path) -> None:
    model = zoo.built_in(zoo.SMALL, ".onnx")
    result = run([str(HERE / "calls.py"), str(model), str(tmp_path)], (tensorrt, cuda), dummies)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["version"] == tensorrt.removeprefix("tensorrt-")
    assert report["precisions"] == {"fp32": "passed", "fp16": "passed", "int8": "passed"}
    assert report["mistakes"]
    for mistake, outcome in report["mistakes"].items():
        assert outcome in ("AttributeError", "TypeError"), f"nobody noticed {mistake}"


@pytest.mark.parametrize("cuda", ["cuda-12.9.10", "cuda-13.2.0"])
def test_without_a_driver_the_real_bindings_give_a_clear_error(cuda: str) -> None:
    code = "from resnet_infer.runtimes.tensorrt.cuda import Gpu; Gpu()"
    result = run(["-c", code], (cuda,), None)
    if result.returncode == 0:
        pytest.skip("there is a driver here")
    assert "RuntimeUnavailableError: there is no NVIDIA driver on this machine that works" in result.stderr


DRIVER_ERRORS = """
import json
from cuda.bindings import driver
print(json.dumps({item.name: [int(item), item.__doc__ or ""] for item in driver.CUresult}))
"""


@pytest.mark.parametrize("cuda", ["cuda-12.9.10", "cuda-13.2.0"])
def test_errors_that_last_have_the_numbers_of_the_driver(cuda: str) -> None:
    result = run(["-c", DRIVER_ERRORS], (cuda,), None)
    assert result.returncode == 0, result.stderr
    errors = json.loads(result.stdout)
    for code, (name, _) in STICKY.items():
        assert errors[f"CUDA_ERROR_{name}"][0] == code
    lasting = {code for code, told in errors.values() if "terminated and relaunched" in told}
    assert lasting <= set(STICKY)


def test_all_that_is_fetched_is_used() -> None:
    assert {name for pair in VERSIONS for name in pair} == set(PACKAGES)
