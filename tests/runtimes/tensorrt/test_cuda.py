"""The GPU and TensorRT behind it: what is missing is said, and in which order it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from resnet_infer.errors import MissingExtraError, RuntimeUnavailableError

pytest.importorskip("onnx", reason="the fake of TensorRT needs it (the extra `export`)")
pytest.importorskip("onnxruntime", reason="the fake of TensorRT needs it (the extra `cpu`)")

from tests.tensorrt import machine as machines
from tests.tensorrt.fake_driver import Code, FakeDriver
from tests.tensorrt.machine import Machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield from machines.install(monkeypatch)


def open_gpu(number: int = 0) -> Any:
    from resnet_infer.runtimes.tensorrt.cuda import Gpu

    return Gpu(number)


def load() -> Any:
    from resnet_infer.runtimes.tensorrt.library import load_tensorrt

    gpu = open_gpu()
    try:
        return load_tensorrt(gpu)
    finally:
        gpu.close()


def test_a_gpu_has_a_name_and_a_compute_capability(machine: Machine) -> None:
    machine.driver.devices.append(("NVIDIA Other GPU", (8, 6)))
    for number, (name, capability) in enumerate(machine.driver.devices):
        gpu = open_gpu(number)
        assert (gpu.number, gpu.name, gpu.compute_capability) == (number, name, capability)
        assert ("context", number) in machine.driver.held.values()
        gpu.close()
        gpu.close()
        machine.assert_clean()


def no_driver(machine: Machine) -> None:
    machine.driver.failing["cuInit"] = RuntimeError("Failed to dlopen libcuda.so.1")


def broken_driver(machine: Machine) -> None:
    machine.driver.failing["cuInit"] = Code.CUDA_ERROR_INVALID_CONTEXT


def no_gpu(machine: Machine) -> None:
    machine.driver.devices.clear()


@pytest.mark.parametrize(
    ("break_it", "number", "message"),
    [
        (no_driver, 0, r"no NVIDIA driver on this machine that works \(Failed to dlopen libcuda\.so\.1\)"),
        (broken_driver, 0, "no NVIDIA driver .* that works .CUDA_ERROR_INVALID_CONTEXT"),
        (no_gpu, 0, "there is no GPU 0: the driver knows none"),
        (lambda machine: None, 3, "there is no GPU 3: the driver knows 1"),
    ],
)
def test_what_is_missing_is_said(machine: Machine, break_it: Callable[..., None], number: int, message: str) -> None:
    break_it(machine)
    with pytest.raises(RuntimeUnavailableError, match=message) as caught:
        open_gpu(number)
    assert "nvidia-smi" in str(caught.value.hint)
    machine.assert_clean()


def test_the_driver_is_found_where_older_packages_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machines.forget()
    package, module = ModuleType("cuda"), FakeDriver()
    package.__path__ = []
    package.cuda = module  # type: ignore[attr-defined]
    for name, value in (("cuda", package), ("cuda.bindings", None), ("cuda.cuda", module)):
        monkeypatch.setitem(sys.modules, name, value)
    gpu = open_gpu()
    assert gpu.name == "NVIDIA Test GPU"
    gpu.close()
    assert not module.held
    machines.forget()


def test_without_the_package_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    machines.forget()
    monkeypatch.setitem(sys.modules, "cuda", None)
    for name in ("runtimes.tensorrt.runtime", "converters.tensorrt.export"):
        with pytest.raises(MissingExtraError, match="needs the package cuda") as caught:
            __import__(f"resnet_infer.{name}")
        assert 'pip install "resnet-infer[tensorrt]"' in str(caught.value.hint)
        machines.forget()


def test_a_missing_or_broken_tensorrt_is_said(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load().__version__ == machine.version
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match="needs the package tensorrt") as caught:
        load()
    assert 'pip install "resnet-infer[tensorrt]"' in str(caught.value.hint)
    for source, message in (
        ("raise ImportError('libnvinfer.so.10: cannot open shared object file')", "does not load .libnvinfer"),
        ("import tensorrt_bindings_that_are_missing", "does not load .No module named"),
        ("__version__ = '8.5.3'", r"TensorRT 8\.5\.3 is too old"),
        ("", "TensorRT of unknown version is too old"),
    ):
        folder = tmp_path / str(len(message))
        folder.mkdir()
        (folder / "tensorrt.py").write_text(source)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            patch.delitem(sys.modules, "tensorrt", raising=False)
            with pytest.raises(RuntimeUnavailableError, match=message):
                load()
            sys.modules.pop("tensorrt", None)
    machine.assert_clean()
