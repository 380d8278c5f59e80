"""A machine with a GPU and TensorRT, for tests: both are fakes in Python."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest

from tests.tensorrt.fake_driver import FakeDriver
from tests.tensorrt.fake_tensorrt import tensorrt

OURS = (
    *("runtimes.tensorrt.cuda", "runtimes.tensorrt.library", "runtimes.tensorrt.runtime"),
    *("converters.tensorrt.build", "converters.tensorrt.export"),
)


@dataclass
class Machine:
    """A machine with a GPU and a TensorRT, and what shall go wrong on it.

    `parser_errors` are (node, name, operator, text); `build_error` and `load_error` make a build or a load fail;
    `layers` changes what the inspector tells; `capturable=False` are engines that no CUDA graph can hold; `during`
    is called while an engine is built. `built` are the configurations that were built; `seen` the batches that ran.
    """

    version: str = "10.3.0"
    driver: FakeDriver = field(default_factory=FakeDriver)
    parser_errors: list[tuple[int, str, str, str]] = field(default_factory=list)
    build_error: str | None = None
    load_error: str | None = None
    context_error: str | None = None
    layers: Callable[[list[dict[str, Any]]], Any] = lambda layers: layers
    capturable: bool = True
    during: Callable[[Any], None] = lambda config: None
    built: list[SimpleNamespace] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    alive: WeakSet[Any] = field(default_factory=WeakSet)

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def assert_clean(self) -> None:
        """Nothing is left of all that was made."""
        gc.collect()
        assert not self.driver.held
        assert not list(self.alive)


def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """For a fixture: `cuda.bindings.driver` and `tensorrt` are those of the machine until the test ends."""
    machine = Machine()
    cuda, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    bindings.driver = machine.driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", cuda)
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", machine.driver)
    forget()
    set_version(machine, monkeypatch, machine.version)
    yield machine
    forget()


def forget() -> None:
    """Have our modules imported anew, which keep the driver that they found."""
    for name in OURS:
        if sys.modules.pop(f"resnet_infer.{name}", None):
            package, _, module = f"resnet_infer.{name}".rpartition(".")
            delattr(importlib.import_module(package), module)


def set_version(machine: Machine, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Install another TensorRT."""
    machine.version = version
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(machine))
