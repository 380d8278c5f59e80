"""Surgery on an ONNX graph in FP32: nodes into half precision, casts between the two, and half precision emulated."""

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
_SUFFIX: Mapping[int, str] = {FLOAT: "fp32", HALF: "fp16"}


@dataclass
class Fp16Form:
    """The places of a node's inputs and outputs that are float32 now and half precision in its half form."""

    inputs: set[int] = field(default_factory=set)
    outputs: set[int] = field(default_factory=set)


class Fp16Graph:
    """The graph of a model: what of it can be in half precision, and the rewriting, in place, of what shall be.

    `forms` has an entry for every node, None for one that stays as it is; callers set further ones to None and then
    call `rewrite`. `weights` are the float32 initializers by name.
    """

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self._types = element_types(model)
        self._opsets = {item.domain.removeprefix("ai.onnx"): item.version for item in model.opset_import}
        self.weights = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer if tensor.data_type == FLOAT
        }
        self._captured = {name for node in self.graph.node for name in captured(node)}
        self.forms = [self._form(node) for node in self.graph.node]

    def floats(self, names: Iterable[str]) -> list[str]:
        """Those of the tensors that are float32."""
        return [name for name in names if self._types.get(name) == FLOAT]

    def _form(self, node: NodeProto) -> Fp16Form | None:
        """The node's half form, by the definition of its operator; None if there is none, or it cannot be told."""
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
                # The last parameter may stand for any number of them.
                kind = formal[min(place, len(formal) - 1)].type_str
                if self._types.get(name) != FLOAT or kind not in allowed:
                    continue
                if "tensor(float16)" not in allowed[kind]:
                    return None
                places.add(place)
        return form if form.inputs or form.outputs else None

    def rewrite(self) -> None:
        """Write the nodes that have a form in half precision, in the order they have, and the casts it takes."""
        _Rewriting(self.graph, self.weights, self._captured).run(self.forms, set(self.floats(self._types)))


class _Rewriting:
    def __init__(self, graph: GraphProto, weights: dict[str, NDArray[Any]], captured: set[str]) -> None:
        self.graph, self.weights = graph, weights
        self.nodes: list[NodeProto] = []
        self.initializers = [tensor for tensor in graph.initializer if tensor.name not in weights]
        self.outputs = {item.name for item in graph.output}
        self.names: dict[tuple[str, int], str] = {(item.name, FLOAT): item.name for item in graph.input}
        for name in captured & weights.keys():
            self.read(name, FLOAT)

    def run(self, forms: list[Fp16Form | None], floats: set[str]) -> None:
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
        """The name of the tensor in that type. Where it is first asked for it is cast, or rounded if a weight."""
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
        """Its own name for the type that is made first, but an output's stays that of the float32 one."""
        other = FLOAT if kind == HALF else HALF
        own = kind == FLOAT if name in self.outputs else (name, other) not in self.names
        return name if own or not name else f"{name}.{_SUFFIX[kind]}"


def emulate(model: ModelProto) -> ModelProto:
    """`model`, which is in half precision, as a graph in FP32 that rounds every result to half precision.

    Sums are taken in FP32, as a GPU's matrix units do. It answers on any CPU as `model` does on a GPU. The graph itself
    does not: where ONNX Runtime has no kernels in half precision, as on x86, it leaves the rounding of activations out,
    and an overflow is not seen.
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
    if tensor.data_type == HALF:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _declare_half(node: NodeProto) -> None:
    """Change the attribute that says which type the node puts out."""
    if node.op_type == "Cast":
        next(item for item in node.attribute if item.name == "to").i = HALF
    elif node.op_type == "ConstantOfShape":
        value = np.zeros(1, np.float32)
        if node.attribute:
            value = numpy_helper.to_array(node.attribute[0].t)
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(value.astype(np.float16))))
