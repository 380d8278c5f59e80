"""Where a graph is quantised: which tensors become integers, and whose range each of them has.

For ONNX Runtime's CPU provider everything between the first convolution and the logits is integer, so that its
optimiser makes one integer operator of every node: each convolution, residual addition and pool has integers before
and behind it. TensorRT fuses convolution, addition and ReLU itself, and only if nothing stands between them: what goes
into a layer is quantised, and of a residual addition only the shortcut (TensorRT developer guide, "Q/DQ placement
recommendations"). For both, nothing stands between a layer and the ReLU that follows it.
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
ACTIVATIONS = ("Relu", "Clip")
"""What is computed together with the layer in front of it."""
POOLS = ("GlobalAveragePool", "AveragePool")
CARRIERS = ("MaxPool", "Flatten", "Reshape", "Slice", "Pad", "Transpose", "Squeeze", "Unsqueeze", "Identity")
"""What only moves values, so that its output has the grid of its first input."""


class Net:
    """A graph with what is looked up in it all the time."""

    def __init__(self, model: ModelProto) -> None:
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
        """The value of an input, None if it is not there or not constant."""
        name = node.input[index] if index < len(node.input) else ""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def is_weighted(self, node: NodeProto) -> bool:
        """Whether it is a convolution or fully connected layer of the kind that can be quantised."""
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
        """The nodes that `is_weighted` is true of, in order."""
        return [node for node in self.nodes if self.is_weighted(node)]

    def is_residual(self, node: NodeProto) -> bool:
        """Whether it adds two branches of the network."""
        return node.op_type == "Add" and all(name in self._floats for name in node.input)

    def layers(self) -> list[str]:
        """The names of the nodes that can be quantised or left in float, in order."""
        return [node.name for node in self.nodes if self.is_weighted(node) or self.is_residual(node)]

    def end(self, node: NodeProto) -> str:
        """The output of the node, or of the activation that alone reads it."""
        output: str = node.output[0]
        readers = self.consumers.get(output, [])
        if len(readers) == 1 and readers[0].op_type in ACTIVATIONS and output not in self.outputs:
            return str(readers[0].output[0])
        return output

    def carries(self, node: NodeProto) -> bool:
        """Whether each value of its output is one of its input's values, or zero."""
        if node.op_type == "Pad":
            mode = attribute(node, "mode", b"constant")
            value = self.constant(node, 2)
            zero = len(node.input) < 3 or not node.input[2] or (value is not None and not value.any())
            return mode == b"constant" and zero
        return node.op_type in CARRIERS and len(node.output) == 1

    def origin(self, tensor: str) -> str:
        """The tensor that the values of `tensor` were computed in."""
        node = self.producers.get(tensor)
        while node is not None and self.carries(node):
            tensor = node.input[0]
            node = self.producers.get(tensor)
        return tensor

    def shortcut(self, node: NodeProto) -> str | None:
        """The input of a residual addition that is not its main branch; None if no branch ends in a convolution.

        The main branch ends in a convolution that nothing else reads; of two, the one with more layers before it.
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
    """What is quantised: `tensors`, each with the tensor whose range it has, and the weights of `layers`."""

    tensors: Mapping[str, str]
    layers: frozenset[str]


def place(net: Net, target: Target, float_nodes: Collection[str] = ()) -> Placement:
    """The placement for `target`, with the named layers left in float.

    Raises `UsageError` for a name that is no layer's.
    """
    known = net.layers()
    for name in float_nodes:
        if name not in known:
            raise UsageError(
                f"there is no layer {name!r} to leave in float" + did_you_mean(name, known),
                hint="layers are the names of convolutions, fully connected layers and additions",
            )
    layers = frozenset(known) - frozenset(float_nodes)
    chosen = (_everything if target == "cpu" else _inputs)(net, layers)
    return Placement({name: net.origin(name) for name in chosen if net.consumers.get(name)}, layers)


def _inputs(net: Net, layers: frozenset[str]) -> dict[str, None]:
    """For TensorRT: what goes into a layer, and into an addition by its shortcut. As a dict, which is in order."""
    chosen: dict[str, None] = {}
    for node in net.nodes:
        if node.name in layers:
            tensor = net.shortcut(node) if node.op_type == "Add" else str(node.input[0])
            if tensor is not None:
                chosen[tensor] = None
    return chosen


def _everything(net: Net, layers: frozenset[str]) -> dict[str, None]:
    """For the CPU: what goes into a layer and what comes out of it, and what pools and carriers make of that."""
    chosen: dict[str, None] = {}
    for node in net.nodes:
        if node.name in layers:
            adds = node.op_type == "Add"
            chosen.update(dict.fromkeys(node.input if adds else node.input[:1]))
            # A fully connected layer can put out floats, and the logits need no rounding.
            if adds or node.op_type == "Conv":
                chosen[net.end(node)] = None
        elif node.input and node.input[0] in chosen and (net.carries(node) or node.op_type in POOLS):
            chosen[str(node.output[0])] = None
    return {name: None for name in chosen if name not in net.outputs}
