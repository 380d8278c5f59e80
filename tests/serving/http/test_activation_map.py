"""Class activation maps add up to the logits, whatever form pooling and linear layer have in the graph."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.errors import ModelError
from resnet_infer.models.onnx_file import add_outputs, read_graph
from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.runtimes.activation_map import ActivationMaps
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.zoo import SMALL, built_in

onnxruntime = pytest.importorskip("onnxruntime", reason="runs the graphs")
onnx = pytest.importorskip("onnx", reason="graphs are made with onnx")
BUILT_IN = built_in(SMALL, ".onnx")
CLASSES = 6


def spec(classes: int = CLASSES) -> ModelSpec:
    geometry = InputSpec(8, 8, np.zeros(3), np.ones(3))
    return ModelSpec("tiny", None, tuple(f"class {i}" for i in range(classes)), geometry)


def write(path: Path, end: list[tuple[str, list[str], str, dict[str, Any]]], channels: int = 5, **weights: Any) -> Path:
    """A network of one convolution, and the end that is to be looked at: operator, inputs, output, attributes."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(channels, 3, 3, 3)).astype(np.float32) / 100
    steps = [
        ("Cast", ["images"], "float", {"to": onnx.TensorProto.FLOAT}),
        ("Transpose", ["float"], "planes", {"perm": [0, 3, 1, 2]}),
        ("Conv", ["planes", "kernel"], "conv", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Relu", ["conv"], "features", {}),
        *end,
    ]
    nodes = [helper.make_node(op, inputs, [output], **attributes) for op, inputs, output, attributes in steps]
    constants = {"kernel": kernel, **weights}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def weight(shape: tuple[int, ...], seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


Step = tuple[str, list[str], str, dict[str, Any]]
"""Operator, inputs, output, attributes."""
GEMM: Step = ("Gemm", ["flat", "weight", "bias"], "logits", {"transB": 1})
POOL: list[Step] = [("GlobalAveragePool", ["features"], "pooled", {}), ("Flatten", ["pooled"], "flat", {})]
ENDS: dict[str, tuple[list[Step], dict[str, Any]]] = {
    "gemm": ([*POOL, GEMM], {"weight": weight((CLASSES, 5)), "bias": weight((CLASSES,))}),
    "matmul": (
        [*POOL, ("MatMul", ["flat", "weight"], "product", {}), ("Add", ["product", "bias"], "logits", {})],
        {"weight": weight((5, CLASSES)), "bias": weight((CLASSES,))},
    ),
    "mean": (
        [("ReduceMean", ["features"], "flat", {"axes": [2, 3], "keepdims": 0}), GEMM],
        {"weight": weight((CLASSES, 5)), "bias": weight((CLASSES,))},
    ),
    "quantized": (
        [
            ("QuantizeLinear", ["features", "scale", "zero"], "whole", {}),
            ("DequantizeLinear", ["whole", "scale", "zero"], "again", {}),
            ("GlobalAveragePool", ["again"], "pooled", {}),
            ("Flatten", ["pooled"], "flat", {}),
            ("DequantizeLinear", ["weight", "step", "none"], "real", {}),
            ("Gemm", ["flat", "real", "bias"], "logits", {"transB": 1}),
        ],
        {
            "weight": np.random.default_rng(1).integers(-127, 128, (CLASSES, 5)).astype(np.int8),
            "bias": weight((CLASSES,)),
            "scale": np.float32(0.02),
            "zero": np.uint8(0),
            "step": np.float32(0.01),
            "none": np.int8(0),
        },
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_maps_add_up_to_the_logits(tmp_path: Path, end: str) -> None:
    nodes, weights = ENDS[end]
    path = write(tmp_path / "model.onnx", nodes, **weights)
    maps = ActivationMaps(path, spec())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(5).integers(0, 256, (3, 8, 8, 3), np.uint8)
    for view in images:
        drawn = maps(view[None], range(CLASSES))
        assert drawn.shape == (CLASSES, 8, 8)
        (logits,) = session.run(None, {"images": view[None]})
        np.testing.assert_allclose(drawn.mean(axis=(1, 2)) + weights["bias"], logits[0], rtol=1e-3, atol=1e-4)


def test_a_square_weight_is_read_the_right_way_round(tmp_path: Path) -> None:
    """With as many channels as classes its shape does not tell; the logits do."""
    for transposed in (0, 1):
        gemm = ("Gemm", ["flat", "weight"], "logits", {"transB": transposed})
        path = write(
            tmp_path / f"{transposed}.onnx", [*POOL, gemm], channels=CLASSES, weight=weight((CLASSES, CLASSES))
        )
        maps = ActivationMaps(path, spec())
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        view = np.full((1, 8, 8, 3), 77, np.uint8)
        drawn = maps(view, range(CLASSES)).mean(axis=(1, 2))
        np.testing.assert_allclose(drawn, session.run(None, {"images": view})[0][0], rtol=1e-3, atol=1e-4)


def test_the_built_in_model_and_only_the_classes_asked_for() -> None:
    model = onnx.load(BUILT_IN)
    bias = next(onnx.numpy_helper.to_array(item) for item in model.graph.initializer if item.name == "fc.bias")
    with OnnxRuntime(BUILT_IN, device="cpu") as runtime:
        maps = ActivationMaps(BUILT_IN, runtime.spec, runtime.size)
        view = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
        drawn = maps(view, [7, 2])
        np.testing.assert_allclose(drawn.mean(axis=(1, 2)) + bias[[7, 2]], runtime(view)[0, [7, 2]], atol=1e-4)


REFUSED: dict[str, tuple[list[Step], dict[str, Any]]] = {
    "two layers": (
        [*POOL, ("Gemm", ["flat", "first"], "hidden", {}), ("Relu", ["hidden"], "more", {}),
         ("Gemm", ["more", "weight"], "logits", {})],
        {"first": weight((5, 7)), "weight": weight((7, CLASSES))},
    ),
    "no pooling": ([("Flatten", ["features"], "flat", {}), ("Gemm", ["flat", "weight"], "logits", {})],
                   {"weight": weight((320, CLASSES))}),
    "maximum": (
        [("GlobalMaxPool", ["features"], "pooled", {}), ("Flatten", ["pooled"], "flat", {}),
         ("Gemm", ["flat", "weight"], "logits", {})],
        {"weight": weight((5, CLASSES))},
    ),
    "mean over channels": (
        [("ReduceMean", ["features"], "flat2", {"axes": [1], "keepdims": 0}), ("Flatten", ["flat2"], "flat", {}),
         ("Gemm", ["flat", "weight"], "logits", {})],
        {"weight": weight((64, CLASSES))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("end", REFUSED)
def test_what_does_not_end_in_average_pooling_has_no_maps(tmp_path: Path, end: str) -> None:
    nodes, weights = REFUSED[end]
    path = write(tmp_path / "model.onnx", nodes, **weights)
    with pytest.raises(ModelError, match=str(path)):
        ActivationMaps(path, spec())


def test_the_graph_is_read_as_onnx_reads_it() -> None:
    content = BUILT_IN.read_bytes()
    graph, model = read_graph(content), onnx.load(BUILT_IN)
    assert [(node.op, node.inputs, node.outputs) for node in graph.nodes] == [
        (node.op_type, tuple(node.input), tuple(node.output)) for node in model.graph.node
    ]
    assert graph.outputs == ("logits",)
    more = onnx.load_from_string(add_outputs(content, ["avgpool.out", "fc.weight"]))
    assert [output.name for output in more.graph.output] == ["logits", "avgpool.out", "fc.weight"]
    assert more.graph.node == model.graph.node
    assert more.metadata_props == model.metadata_props


@given(st.binary(max_size=60) | st.integers(0, 3000).map(lambda size: BUILT_IN.read_bytes()[:size]))
def test_what_is_no_onnx_file_is_an_error_of_ours_or_an_empty_graph(content: bytes) -> None:
    with contextlib.suppress(ModelError):
        read_graph(content)
