"""What `export` refuses before anything slow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_infer import zoo
from resnet_infer.models.checkpoint import load_checkpoint
from tests.conftest import DEMO

for module, extra in (("onnxruntime", "cpu"), ("onnx", "export")):
    pytest.importorskip(module, reason=f"the extra `{extra}`")

from resnet_infer.converters.export import ExportConfig, Pictures, export  # noqa: E402
from resnet_infer.converters.precision import fp16, fp16_graph, lower  # noqa: E402
from resnet_infer.errors import ModelError, ParityError, UsageError  # noqa: E402


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("target", ["auto", "gpu"])
def test_a_target_that_is_none_is_refused(target: Any, precision: Any, tmp_path: Path) -> None:
    """That `auto` is among them keeps what measures out of the library's `export`; the command has it."""
    config = ExportConfig(precision=precision, target=target)
    with pytest.raises(UsageError, match=f"unknown target '{target}'") as raised:
        export(tmp_path / "there-is-none.onnx", tmp_path / "made.onnx", config)
    assert raised.value.hint == "known are cpu, tensorrt"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.engine", "model.txt"])
def test_an_export_starts_from_a_checkpoint_or_a_graph(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"what it is")
    with pytest.raises(ModelError, match="an export starts from a checkpoint or an ONNX artifact"):
        export(tmp_path / name, tmp_path / "new.onnx", ExportConfig())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_suffix_that_no_format_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no format ends in \.pt") as raised:
        export(tmp_path / "there-is-none.onnx", tmp_path / "made.pt", ExportConfig())
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("an artifact ends in .onnx or ")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("made.onnx", {"max_batch": 8}, "--max-batch is an option of --format tensorrt, not of onnx"),
        ("made.engine", {"dynamic_size": True}, "--dynamic-size is an option of --format onnx"),
        ("made.onnx", {"dynamic_sizes": True}, "did you mean dynamic_size?"),
    ],
)
def test_an_option_that_the_format_has_not_is_refused(
    name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        export(tmp_path / "there-is-none.onnx", tmp_path / name, ExportConfig(options=options))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_that_was_written_otherwise_is_not_kept(
    precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the proof of an ONNX file: one byte of the weights is lost on its way to the disk."""

    def write(lowered: Any, path: Path, config: ExportConfig) -> dict[str, Any]:
        content = bytearray(lowered.graph.content)
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        return {}

    monkeypatch.setattr("resnet_infer.converters.onnx.write", write)
    pictures = Pictures(calibration=DEMO, check=None) if precision == "int8" else Pictures()
    checkpoint = load_checkpoint(zoo.built_in(zoo.SMALL, ".safetensors"))
    with pytest.raises(ParityError, match="is not the graph that was verified"):
        export(checkpoint, tmp_path / "made.onnx", ExportConfig(precision=precision, pictures=pictures))
    assert not list(tmp_path.iterdir())


def test_a_lower_precision_is_run_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FP16 is measured on a graph that rounds as a GPU does. The graph that is written is another, and can be wrong."""
    real, emulate = fp16.to_fp16, fp16_graph.emulate
    sound: list[Any] = []

    def wrong(model: Any, **options: Any) -> Any:
        sound.append(real(model, **options).model)
        made = real(model, **options)
        for weight in made.model.graph.initializer:
            if weight.name == "fc.bias":
                weight.raw_data = np.frombuffer(weight.raw_data, np.float16)[::-1].tobytes()
        return made

    monkeypatch.setattr(lower, "to_fp16", wrong)
    monkeypatch.setattr(lower, "emulate", lambda model: emulate(sound[-1]))
    checkpoint = load_checkpoint(zoo.built_in(zoo.SMALL, ".safetensors"))
    with pytest.raises(ParityError, match="as it was written"):
        export(checkpoint, tmp_path / "made.onnx", ExportConfig(precision="fp16"))
    assert not list(tmp_path.iterdir())
