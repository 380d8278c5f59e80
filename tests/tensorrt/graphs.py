"""Small artifacts in every kind of graph that TensorRT is given."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from resnet_infer.models.graph import set_spec
from resnet_infer.models.spec import InputSpec, ModelSpec

CLASSES = 5
SIZE = 8


def small_graph(
    *,
    half: bool = False,
    quantized: bool = False,
    open_size: bool = False,
    convolutions: int = 2,
    opset: int = 19,
    seed: int = 0,
) -> ModelProto:
    """Convolutions, a mean over the picture and a product, random; the first of two is quantised if asked for."""
    rng = np.random.default_rng(seed)
    dtype: Any = np.float16 if half else np.float32
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        output = "logits" if name == "last" else f"{name}.out"
        nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def pair(x: str, scale: float) -> str:
        """Q/DQ, symmetric."""
        parameters = constant(f"{x}.scale", np.array(scale, dtype)), constant(f"{x}.zero", np.int8(0))
        return node(
            "DequantizeLinear", node("QuantizeLinear", x, *parameters, name=f"{x}.q"), *parameters, name=f"{x}.dq"
        )

    x = node("Cast", "images", name="cast", to=TensorProto.FLOAT16 if half else TensorProto.FLOAT)
    x = node("Transpose", x, name="nchw", perm=[0, 3, 1, 2])
    channels = 3
    for index in range(convolutions):
        weight = constant(f"conv{index}.weight", rng.normal(0, 0.05, (4, channels, 3, 3)).astype(dtype))
        if quantized and index == 0:
            x, weight = pair(x, 2.0), pair(weight, 0.002)
        x = node("Conv", x, weight, name=f"conv{index}", pads=[1, 1, 1, 1])
        channels = 4
    x = node("Flatten", node("GlobalAveragePool", x, name="mean"), name="flatten")
    x = node("Gemm", x, constant("fc.weight", rng.normal(0, 1, (4, CLASSES)).astype(dtype)), name="fc")
    node("Cast", x, name="last", to=TensorProto.FLOAT)

    side: Any = ["H", "W"] if open_size else [SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *side, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    geometry = InputSpec(resize=SIZE, crop=SIZE, mean=np.zeros(3), std=np.ones(3))
    set_spec(model, ModelSpec("small", None, tuple("abcde"), geometry))
    return model


def small(**options: Any) -> bytes:
    """`small_graph`, serialised."""
    content: bytes = small_graph(**options).SerializeToString()
    return content
