"""A graph made plain: what is constant is an initializer, batch norm is in its convolution, each node has its name.

The graphs that `models/graph.py` writes are so already; adopted ones may not be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ModelError, first_line
from resnet_infer.models.graph import OPSET
from resnet_infer.models.onnx_tools import (
    add_constant,
    attribute,
    constant_of,
    consumers,
    initializers,
    opset,
    producers,
    set_items,
)
from resnet_infer.utils.extras import needs

with needs("export", "quantisation"):
    from onnx import ModelProto, NodeProto, helper, numpy_helper, version_converter

PER_CHANNEL_OPSET = 13
"""The first with a scale per channel."""

Array = NDArray[Any]


def canonicalise(model: ModelProto) -> ModelProto:
    """A plain copy that computes the same. Raises `ModelError` for an old graph that cannot be brought up to date."""
    found = opset(model)
    if found < PER_CHANNEL_OPSET:
        try:
            copy = version_converter.convert_version(model, OPSET)
        except Exception as error:  # a RuntimeError or one of onnx's own
            raise ModelError(
                f"the graph has opset {found} and cannot be brought to {OPSET} ({first_line(error)})",
                hint=f"export it again with opset_version={OPSET}",
            ) from error
        helper.set_model_props(copy, {item.key: item.value for item in model.metadata_props})
    else:
        copy = ModelProto()
        copy.CopyFrom(model)
    _lift_constants(copy)
    _fold_norms(copy)
    taken: set[str] = set()
    for node in copy.graph.node:
        if not node.name or node.name in taken:
            node.name = node.output[0]
        taken.add(node.name)
    return copy


def _lift_constants(model: ModelProto) -> None:
    graph = model.graph
    kept = []
    for node in graph.node:
        value = constant_of(node)
        if value is None:
            kept.append(node)
        else:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
    set_items(graph.node, kept)


def _fold_norms(model: ModelProto) -> None:
    """Fold each BatchNormalization into the convolution that it alone reads. Computed in float64."""
    graph = model.graph
    constants, makers, readers = initializers(graph), producers(graph), consumers(graph)
    outputs = {item.name for item in graph.output}
    kept = []
    for node in graph.node:
        conv = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if (
            conv is None
            or conv.op_type != "Conv"
            or len(readers[node.input[0]]) > 1
            or node.input[0] in outputs
            or not all(name in constants for name in [*conv.input[1:], *node.input[1:]] if name)
        ):
            kept.append(node)
            continue
        weight, bias = _folded(conv, node, constants)
        names = [f"{node.output[0]}.folded.{part}" for part in ("weight", "bias")]
        for name, value in zip(names, (weight, bias), strict=True):
            add_constant(graph, name, value)
        del conv.input[1:]
        conv.input.extend(names)
        conv.output[0] = node.output[0]
    set_items(graph.node, kept)


def _folded(conv: NodeProto, norm: NodeProto, constants: dict[str, Any]) -> tuple[Array, Array]:
    def value(name: str) -> Array:
        return numpy_helper.to_array(constants[name]).astype(np.float64)

    weight = value(conv.input[1])
    bias = value(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else np.zeros(len(weight))
    gamma, beta, mean, variance = map(value, norm.input[1:5])
    epsilon = attribute(norm, "epsilon", 1e-5)
    scale = gamma / np.sqrt(variance + epsilon)
    folded = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return folded.astype(np.float32), ((bias - mean) * scale + beta).astype(np.float32)
