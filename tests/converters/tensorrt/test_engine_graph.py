"""The graph that an engine is made of: which kind a precision wants, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_infer.errors import ModelError
from resnet_infer.models.spec import Precision

onnx = pytest.importorskip("onnx", reason="the extra `export`")

from resnet_infer.converters.tensorrt.engine_graph import GraphKind, graph_for, read_graph  # noqa: E402
from tests.tensorrt.graphs import small, small_graph  # noqa: E402


def test_the_table_of_graphs() -> None:
    for major in (8, 10, 11):
        assert graph_for("fp32", major) == GraphKind(half=False, quantized=False)
        assert graph_for("int8", major) == GraphKind(half=False, quantized=True)
        assert graph_for("fp16", major) == GraphKind(half=major >= 10, quantized=False)


@pytest.mark.parametrize(
    ("kind", "precision", "major", "message"),
    [
        ({}, "int8", 8, "has no quantised convolution"),
        ({}, "int8", 10, "has no quantised convolution"),
        ({}, "fp16", 10, "is in FP32, and TensorRT 10 takes its precision from the graph"),
        ({}, "fp16", 8, None),
        ({"half": True}, "fp32", 10, "is in FP16 already"),
        ({"quantized": True}, "fp32", 10, "is in INT8 already"),
        ({"quantized": True}, "fp16", 8, "is in INT8 already"),
        ({"half": True, "quantized": True}, "int8", 10, None),
        ({"half": True, "quantized": True, "opset": 17}, "int8", 10, "mixes float16 with Q/DQ nodes at opset 17"),
    ],
)
def test_a_graph_of_another_kind_is_refused(
    kind: dict[str, Any], precision: Precision, major: int, message: str | None
) -> None:
    read = read_graph(small(**kind))
    if message is None:
        read.require(precision, major)
    else:
        with pytest.raises(ModelError, match=message):
            read.require(precision, major)


def change_input_type(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def change_output_type(model: Any) -> None:
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def fix_the_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def transpose_first(model: Any) -> None:
    model.graph.node[1].input[0] = "images"


def forget_the_spec(model: Any) -> None:
    del model.metadata_props[:]


def add_an_output(model: Any) -> None:
    model.graph.output.append(onnx.helper.make_tensor_value_info("mean.out", onnx.TensorProto.FLOAT, None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_input_type, r"input images is not uint8 \(N, height, width, 3\)"),
        (fix_the_batch, r"input images is not uint8 \(N, height, width, 3\)"),
        (change_output_type, "output logits is not float32"),
        (transpose_first, "TensorRT takes uint8 only where a Cast comes first"),
        (forget_the_spec, "carries no model spec"),
        (add_an_output, "has 1 inputs and 2 outputs"),
    ],
)
def test_a_graph_that_is_no_artifact_is_named(change: Callable[[Any], None], message: str) -> None:
    model = small_graph()
    change(model)
    with pytest.raises(ModelError, match=message):
        read_graph(model.SerializeToString())


def test_a_file_that_is_missing_or_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx does not exist"):
        read_graph(tmp_path / "nowhere.onnx")
    with pytest.raises(ModelError, match="the model is no ONNX model, or damaged"):
        read_graph(b"\xff\xff no model")
