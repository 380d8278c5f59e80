"""A stand-in for NVIDIA's driver."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_infer import zoo
from resnet_infer.runtimes.artifacts import read_onnx_spec
from tests.conftest import ROOT


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `libcuda.so.1` of one GPU, which computes nothing."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("needs g++ (apt-get install g++)")
    folder = tmp_path_factory.mktemp("driver")
    source = ROOT / "tests" / "tensorrt" / "dummy_driver.cpp"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source, "-ldl"], check=True)
    return folder


@pytest.fixture
def with_precision() -> Callable[[Any], bytes]:
    """The small built-in model, with a spec of another precision."""
    onnx = pytest.importorskip("onnx", reason="changes the model (the extra `export`)")
    from resnet_infer.models.graph import set_spec

    def changed(precision: Any) -> bytes:
        model = onnx.load(zoo.built_in(zoo.SMALL, ".onnx"))
        set_spec(model, read_onnx_spec(zoo.built_in(zoo.SMALL, ".onnx")).with_(precision=precision))
        return bytes(model.SerializeToString())

    return changed
