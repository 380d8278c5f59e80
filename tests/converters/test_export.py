"""What `export` refuses before anything slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

for module, extra in (("onnxruntime", "cpu"), ("onnx", "export")):
    pytest.importorskip(module, reason=f"the extra `{extra}`")

from resnet_infer.converters.export import ExportConfig, export  # noqa: E402
from resnet_infer.errors import UsageError  # noqa: E402


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("target", ["auto", "gpu"])
def test_a_target_that_is_none_is_refused(target: Any, precision: Any, tmp_path: Path) -> None:
    """That `auto` is among them keeps what measures out of the library's `export`; the command has it."""
    config = ExportConfig(precision=precision, target=target)
    with pytest.raises(UsageError, match=f"unknown target '{target}'") as raised:
        export(tmp_path / "there-is-none.onnx", tmp_path / "made.onnx", config)
    assert raised.value.hint == "known are cpu, tensorrt"
    assert not list(tmp_path.iterdir())
