"""Files that the tests of several runtimes open."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_infer import zoo
from tests.runtimes.engines import write_engine


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_engine(tmp_path)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An artifact without its spec, as another program would have written it."""
    onnx = pytest.importorskip("onnx", reason="takes the spec out of an artifact (the extra `export`)")
    model = onnx.load(zoo.built_in(zoo.SMALL, ".onnx"))
    del model.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    return path
