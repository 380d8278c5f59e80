"""Convert a graph to a canonical form: constants are initialisers, batch norm is folded, node names are unique.

The graphs that `models/graph.py` writes have this form already; imported graphs may not.
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
"""First version of the ONNX operators with a scale per channel in QuantizeLinear and DequantizeLinear."""

Array = NDArray[Any]


def canonicalise(model: ModelProto) -> ModelProto:
    """Return an equivalent copy in canonical form, with opset 13 or newer.

    Raises `ModelError` for a graph of an older opset that onnx cannot convert.
    """
    found = opset(model)
    if found < PER_CHANNEL_OPSET:
        try:
            copy = version_converter.convert_version(model, OPSET)
        except Exception as error:  # a RuntimeError or an exception of onnx
            raise ModelError(
                f"the graph has opset {found} and cannot be brought to {OPSET} ({first_line(error)})",
                hint=f"export it again with opset_version={OPSET}",
                reason="unsupported",
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
    """Replace Constant nodes by initialisers of the same names."""
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
    """Fold every BatchNormalization into its convolution, in float64, unless another node reads the convolution too."""
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
    """Compute the weight and the bias, float32, of a convolution that includes the batch norm after it."""

    def value(name: str) -> Array:
        """Return a constant as float64."""
        return numpy_helper.to_array(constants[name]).astype(np.float64)

    weight = value(conv.input[1])
    bias = value(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else np.zeros(len(weight))
    gamma, beta, mean, variance = map(value, norm.input[1:5])
    epsilon = attribute(norm, "epsilon", 1e-5)
    scale = gamma / np.sqrt(variance + epsilon)
    folded = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return folded.astype(np.float32), ((bias - mean) * scale + beta).astype(np.float32)
