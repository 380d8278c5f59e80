"""Rewrite nodes of an FP32 ONNX graph in FP16, with casts between the two, and emulate FP16 in FP32.

Which nodes are converted is decided in `fp16`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.utils.extras import needs

with needs("export", "converting a graph to FP16"):
    import onnx
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

    from resnet_infer.models.onnx_tools import captured, element_types, set_items, subgraphs

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
"""Element types of ONNX: float32 and float16."""
_SUFFIX: Mapping[int, str] = {FLOAT: "fp32", HALF: "fp16"}
"""Suffix of the name of a tensor that was cast to the element type."""


@dataclass
class Fp16Form:
    """Hold the indices of those inputs and outputs of a node that change from float32 to float16."""

    inputs: set[int] = field(default_factory=set)
    outputs: set[int] = field(default_factory=set)


class Fp16Graph:
    """Find the nodes of a graph that have an FP16 form, and rewrite those that are chosen, in place.

    `forms` holds the FP16 form of every node, None for a node that stays as it is. To keep further nodes in FP32, set
    their entries to None, then call `rewrite`. `weights` holds the float32 initialisers by name.
    """

    def __init__(self, model: ModelProto) -> None:
        """Find the FP16 form of every node of `model`, which `rewrite` changes."""
        self.graph = model.graph
        self._types = element_types(model)
        self._opsets = {item.domain.removeprefix("ai.onnx"): item.version for item in model.opset_import}
        self.weights = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer if tensor.data_type == FLOAT
        }
        self._captured = {name for node in self.graph.node for name in captured(node)}
        self.forms = [self._form(node) for node in self.graph.node]

    def floats(self, names: Iterable[str]) -> list[str]:
        """Return those of the tensors that are float32."""
        return [name for name in names if self._types.get(name) == FLOAT]

    def _form(self, node: NodeProto) -> Fp16Form | None:
        """Derive the FP16 form of a node from the schema of its operator.

        Returns None if the operator has no FP16 form, or if a type is unknown, a subgraph is involved, or an attribute
        fixes the type.
        """
        names = {name for name in (*node.input, *node.output) if name}
        if not names <= self._types.keys() or names & self._captured or any(subgraphs(node)):
            return None
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opsets[node.domain], node.domain)
        except (onnx.defs.SchemaError, KeyError):
            return None
        if node.op_type == "Constant" or {"dtype", "output_datatype"} & schema.attributes.keys():
            return None
        allowed = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
        form = Fp16Form()
        for found, formal, places in (
            (node.input, schema.inputs, form.inputs),
            (node.output, schema.outputs, form.outputs),
        ):
            for place, name in enumerate(found):
                # A variadic last parameter stands for all that remain.
                kind = formal[min(place, len(formal) - 1)].type_str
                if self._types.get(name) != FLOAT or kind not in allowed:
                    continue
                if "tensor(float16)" not in allowed[kind]:
                    return None
                places.add(place)
        return form if form.inputs or form.outputs else None

    def rewrite(self) -> None:
        """Convert the nodes that have an entry in `forms` to FP16, and insert the casts. The node order is kept."""
        _Rewriting(self.graph, self.weights, self._captured).run(self.forms, set(self.floats(self._types)))


class _Rewriting:
    """Collect the new nodes and initialisers of one `Fp16Graph.rewrite`.

    `names` maps a tensor's original name and an element type to its name in that type.
    """

    def __init__(self, graph: GraphProto, weights: dict[str, NDArray[Any]], captured: set[str]) -> None:
        """Prepare the rewriting. `captured` are the tensors that subgraphs read; their weights stay in float32."""
        self.graph, self.weights = graph, weights
        self.nodes: list[NodeProto] = []
        self.initializers = [tensor for tensor in graph.initializer if tensor.name not in weights]
        self.outputs = {item.name for item in graph.output}
        self.names: dict[tuple[str, int], str] = {(item.name, FLOAT): item.name for item in graph.input}
        for name in captured & weights.keys():
            self.read(name, FLOAT)

    def run(self, forms: list[Fp16Form | None], floats: set[str]) -> None:
        """Rewrite the graph's nodes. `floats` are the names of all float32 tensors."""
        for node, form in zip(self.graph.node, forms, strict=True):
            form = form or Fp16Form()
            for place, name in enumerate(node.input):
                if name in floats:
                    node.input[place] = self.read(name, HALF if place in form.inputs else FLOAT)
            self.nodes.append(node)
            for place, name in enumerate(node.output):
                kind = HALF if place in form.outputs else FLOAT
                node.output[place] = self.names[name, kind] = self.name(name, kind)
            if form.outputs:
                _declare_half(node)
        for name in self.outputs & floats:
            self.read(name, FLOAT)
        set_items(self.graph.node, self.nodes)
        set_items(self.graph.initializer, self.initializers)
        del self.graph.value_info[:]

    def read(self, name: str, kind: int) -> str:
        """Return the name of the tensor in the type `kind`.

        The first call for a type adds the conversion: a Cast node, or for a weight a converted initialiser.
        """
        if (name, kind) not in self.names:
            new = self.name(name, kind)
            if name in self.weights:
                value = self.weights[name].astype(np.float16 if kind == HALF else np.float32)
                self.initializers.append(numpy_helper.from_array(value, new))
            else:
                source = self.names[name, FLOAT if kind == HALF else HALF]
                self.nodes.append(helper.make_node("Cast", [source], [new], name=f"{new}.cast", to=kind))
            self.names[name, kind] = new
        return self.names[name, kind]

    def name(self, name: str, kind: int) -> str:
        """Choose the name of the tensor in the type `kind`.

        A tensor keeps its original name in the type in which it first exists, and gets a suffix in the other. A graph
        output keeps its original name in float32.
        """
        other = FLOAT if kind == HALF else HALF
        own = kind == FLOAT if name in self.outputs else (name, other) not in self.names
        return name if own or not name else f"{name}.{_SUFFIX[kind]}"


def emulate(model: ModelProto) -> ModelProto:
    """Convert an FP16 graph to an FP32 graph that rounds the result of every node to FP16.

    Sums are accumulated in FP32, as in the matrix units of GPUs, so the emulation on a CPU predicts the logits of
    `model` on a GPU. Running `model` itself on a CPU does not: where ONNX Runtime has no FP16 kernels, as on x86, it
    does not round activations to FP16, and an overflow remains unnoticed.
    """
    result = copy.deepcopy(model)
    types = element_types(result)
    for tensor in result.graph.initializer:
        _widen(tensor)
    nodes = []
    for node in result.graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == HALF:
                attribute.i = FLOAT
            elif node.op_type == "ConstantOfShape":
                _widen(attribute.t)
        for place, name in enumerate(node.output):
            if types.get(name) == HALF:
                exact, half = f"{name}.exact", f"{name}.half"
                node.output[place] = exact
                nodes.append(helper.make_node("Cast", [exact], [half], name=half, to=HALF))
                nodes.append(helper.make_node("Cast", [half], [name], name=f"{name}.rounded", to=FLOAT))
    set_items(result.graph.node, nodes)
    del result.graph.value_info[:]
    onnx.checker.check_model(result, full_check=True)
    return result


def _widen(tensor: TensorProto) -> None:
    """Convert a float16 tensor to float32, in place."""
    if tensor.data_type == HALF:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _declare_half(node: NodeProto) -> None:
    """Change the attribute that sets the output type of a Cast or ConstantOfShape node to float16."""
    if node.op_type == "Cast":
        next(item for item in node.attribute if item.name == "to").i = HALF
    elif node.op_type == "ConstantOfShape":
        value = np.zeros(1, np.float32)
        if node.attribute:
            value = numpy_helper.to_array(node.attribute[0].t)
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(value.astype(np.float16))))
