"""The memory of a GPU is asked of NVML, which may count the GPUs in another order than CUDA."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from resnet_infer.benchmarking.latency.memory import device_in_use

NAMES = ["T4", "H100", "T4"]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An NVML of three GPUs, of which number N uses N + 1 bytes."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    fake: Any = SimpleNamespace(
        NVMLError=type("NVMLError", (Exception,), {}),
        names=NAMES,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(fake.names),
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetHandleByUUID=lambda name: {b"GPU-h": 1}[name],
        nvmlDeviceGetName=lambda number: fake.names[number],
        nvmlDeviceGetMemoryInfo=lambda number: SimpleNamespace(used=number + 1),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_a_number_is_asked_for_only_where_both_mean_the_same(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_in_use("cuda:0") is None  # CUDA's is the H100
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert device_in_use("cuda:0") == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    assert device_in_use("cuda:0") == 3
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    nvml.names = ["T4"] * 3
    assert device_in_use("cuda:1") == 2
    assert device_in_use("cuda:2") is None
    assert device_in_use("cpu") is None


def test_a_uuid_means_the_same_everywhere(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-h")
    assert device_in_use("cuda:0") == 2
