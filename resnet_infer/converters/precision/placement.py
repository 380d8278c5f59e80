"""Choose the tensors of a graph that are quantised, and the tensor from which each of them takes its range.

For ONNX Runtime's CPU provider, all tensors between the first convolution and the logits are quantised. Every
convolution, residual addition and pool then has quantised inputs and outputs, and the optimiser fuses it with its Q/DQ
nodes into one integer operator.

TensorRT fuses convolution, addition and ReLU only if no Q/DQ nodes are between them. Only the inputs of layers are
quantised, and of a residual addition only the shortcut (TensorRT developer guide, "Q/DQ placement recommendations").

For both targets, no Q/DQ nodes are between a layer and the activation that follows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from resnet_infer.errors import UsageError, did_you_mean
from resnet_infer.utils.extras import needs

with needs("export", "quantisation"):
    from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

    from resnet_infer.models.onnx_tools import (
        attribute,
        attributes,
        consumers,
        element_types,
        initializers,
        producers,
    )

Target = Literal["cpu", "tensorrt"]
"""Runtime that an INT8 graph is made for: ONNX Runtime's CPU provider, or TensorRT."""
ACTIVATIONS = ("Relu", "Clip")
"""Operators that a runtime fuses with the layer before them."""
POOLS = ("GlobalAveragePool", "AveragePool")
"""Pooling operators that compute new values."""
CARRIERS = ("MaxPool", "Flatten", "Reshape", "Slice", "Pad", "Transpose", "Squeeze", "Unsqueeze", "Identity")
"""Operators that only move or select values. Their output has the scale and zero point of their first input."""


class Net:
    """Index the nodes and tensors of a graph in canonical form (see `canonicalise`)."""

    def __init__(self, model: ModelProto) -> None:
        """Index the graph of `model`, and count the layers before each tensor."""
        graph = model.graph
        self.nodes = list(graph.node)
        self.constants, self.producers, self.consumers = initializers(graph), producers(graph), consumers(graph)
        self.outputs = {item.name for item in graph.output}
        types = element_types(model)
        self._floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT} - self.constants.keys()
        self._depths: dict[str, int] = {}
        for node in self.nodes:
            depth = max((self._depths.get(name, 0) for name in node.input), default=0) + self.is_weighted(node)
            self._depths.update(dict.fromkeys(node.output, depth))

    def constant(self, node: NodeProto, index: int) -> NDArray[Any] | None:
        """Return the value of an input of the node, None if it is missing or not constant."""
        name = node.input[index] if index < len(node.input) else ""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def is_weighted(self, node: NodeProto) -> bool:
        """Return whether the node is a convolution or fully connected layer that can be quantised.

        Weights and bias must be constant, the weights float32, and a Gemm must not scale or transpose its input.
        """
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in self.constants:
            return False
        weight = self.constants[node.input[1]]
        bias = node.input[2] if len(node.input) > 2 else ""
        if weight.data_type != TensorProto.FLOAT or (bias and bias not in self.constants):
            return False
        if node.op_type == "Conv":
            return True
        settings = attributes(node)
        plain = settings.get("alpha", 1) == settings.get("beta", 1) == 1 and not settings.get("transA", 0)
        return len(weight.dims) == 2 and plain

    def weighted(self) -> list[NodeProto]:
        """Return the nodes for which `is_weighted` is true, in graph order."""
        return [node for node in self.nodes if self.is_weighted(node)]

    def is_residual(self, node: NodeProto) -> bool:
        """Return whether the node adds two branches of the network, rather than a constant."""
        return node.op_type == "Add" and all(name in self._floats for name in node.input)

    def layers(self) -> list[str]:
        """Return the names of the nodes that can be quantised or left in float, in graph order."""
        return [node.name for node in self.nodes if self.is_weighted(node) or self.is_residual(node)]

    def end(self, node: NodeProto) -> str:
        """Return the output of the activation that is the node's only reader, else the node's own output."""
        output: str = node.output[0]
        readers = self.consumers.get(output, [])
        if len(readers) == 1 and readers[0].op_type in ACTIVATIONS and output not in self.outputs:
            return str(readers[0].output[0])
        return output

    def carries(self, node: NodeProto) -> bool:
        """Return whether every output value of the node is one of its input's values, or zero."""
        if node.op_type == "Pad":
            mode = attribute(node, "mode", b"constant")
            value = self.constant(node, 2)
            zero = len(node.input) < 3 or not node.input[2] or (value is not None and not value.any())
            return mode == b"constant" and zero
        return node.op_type in CARRIERS and len(node.output) == 1

    def origin(self, tensor: str) -> str:
        """Return the tensor in which the values of `tensor` were computed, before operators that only move them."""
        node = self.producers.get(tensor)
        while node is not None and self.carries(node):
            tensor = node.input[0]
            node = self.producers.get(tensor)
        return tensor

    def shortcut(self, node: NodeProto) -> str | None:
        """Return the shortcut input of a residual addition, None if no input can be the main branch.

        The main branch is the output of a convolution or fully connected layer that has no other reader. If both
        inputs are, it is the one with more layers before it.
        """
        mains = [
            name
            for name in node.input
            if (source := self.producers.get(name)) is not None
            and self.is_weighted(source)
            and len(self.consumers[name]) == 1
        ]
        if not mains:
            return None
        main = max(mains, key=lambda name: self._depths[name])
        first, second = node.input
        return str(second if first == main else first)


@dataclass(frozen=True)
class Placement:
    """Hold what is quantised.

    `tensors` maps every quantised activation to the tensor that gives its range. `layers` are the names of the
    quantised layers, whose weights become integers.
    """

    tensors: Mapping[str, str]
    layers: frozenset[str]


def place(net: Net, target: Target, float_nodes: Collection[str] = ()) -> Placement:
    """Choose what is quantised for `target`, with the layers named in `float_nodes` left in float.

    Raises `UsageError` for a name that is no layer's.

    >>> sorted(place(Net(canonicalise(model)), "tensorrt").layers)[:2]
    ['conv1', 'fc']
    """
    known = net.layers()
    for name in float_nodes:
        if name not in known:
            raise UsageError(
                f"there is no layer {name!r} to leave in float" + did_you_mean(name, known),
                hint="layers are the names of convolutions, fully connected layers and additions",
            )
    layers = frozenset(known) - frozenset(float_nodes)
    chosen = (_cpu_tensors if target == "cpu" else _tensorrt_tensors)(net, layers)
    return Placement({name: net.origin(name) for name in chosen if net.consumers.get(name)}, layers)


def _tensorrt_tensors(net: Net, layers: frozenset[str]) -> dict[str, None]:
    """Choose the tensors for TensorRT: inputs of layers, and shortcuts of additions. The dict is an ordered set."""
    chosen: dict[str, None] = {}
    for node in net.nodes:
        if node.name in layers:
            tensor = net.shortcut(node) if node.op_type == "Add" else str(node.input[0])
            if tensor is not None:
                chosen[tensor] = None
    return chosen


def _cpu_tensors(net: Net, layers: frozenset[str]) -> dict[str, None]:
    """Choose the tensors for the CPU: inputs and outputs of layers, and what pools and carriers compute from them.

    The dict is an ordered set. The outputs of fully connected layers and of the graph are not quantised.
    """
    chosen: dict[str, None] = {}
    for node in net.nodes:
        if node.name in layers:
            adds = node.op_type == "Add"
            chosen.update(dict.fromkeys(node.input if adds else node.input[:1]))
            # ONNX Runtime's fully connected layer can return floats, and the logits are better not rounded.
            if adds or node.op_type == "Conv":
                chosen[net.end(node)] = None
        elif node.input and node.input[0] in chosen and (net.carries(node) or node.op_type in POOLS):
            chosen[str(node.output[0])] = None
    return {name: None for name in chosen if name not in net.outputs}
