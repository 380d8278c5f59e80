"""Look up and change parts of an ONNX graph; shared by all modules that work on graphs.

A name of "" stands for an optional input or output that is left out, and is no tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from resnet_infer.utils.extras import needs

with needs("export", "working on an ONNX graph"):
    from onnx import (
        GraphProto,
        ModelProto,
        NodeProto,
        TensorProto,
        ValueInfoProto,
        helper,
        numpy_helper,
        shape_inference,
    )

ONNX_DOMAINS = ("", "ai.onnx")
"""Both names of the domain of ONNX's own operators."""


def opset(model: ModelProto) -> int:
    """Return the version of ONNX's own operators that the model uses, 0 if it does not say."""
    return next((item.version for item in model.opset_import if item.domain in ONNX_DOMAINS), 0)


def initializers(graph: GraphProto) -> dict[str, TensorProto]:
    """Map names to the graph's initialisers."""
    return {tensor.name: tensor for tensor in graph.initializer}


def constant_of(node: NodeProto) -> TensorProto | None:
    """Return the tensor of a Constant node; None for other nodes, and for constants given as plain numbers."""
    return attribute(node, "value") if node.op_type == "Constant" else None


def constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the tensors of initialisers and of Constant nodes, by the name under which nodes read them."""
    made = {node.output[0]: tensor for node in graph.node if (tensor := constant_of(node)) is not None}
    return initializers(graph) | made


def inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Return the inputs that must be fed. Before IR version 4 a graph's inputs include its initialisers."""
    known = initializers(graph)
    return [item for item in graph.input if item.name not in known]


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Map every computed tensor to the node that computes it, in the order of the nodes."""
    return {name: node for node in graph.node for name in node.output if name}


def consumers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Map every tensor to the nodes that read it, in order; a node that reads it twice is listed twice."""
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in reads(node):
            if name:
                found.setdefault(name, []).append(node)
    return found


def reads(node: NodeProto) -> Iterator[str]:
    """Yield the names of the tensors that a node and its subgraphs read."""
    yield from node.input
    yield from captured(node)


def captured(node: NodeProto) -> Iterator[str]:
    """Yield the names of all tensors that a node's subgraphs read, whether computed outside or inside them."""
    for subgraph in subgraphs(node):
        yield from (item.name for item in subgraph.output)
        for inner in subgraph.node:
            yield from reads(inner)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the subgraphs of a node, such as the branches of an If."""
    for item in node.attribute:
        if item.HasField("g"):
            yield item.g
        yield from item.graphs


def all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield the graph and all its subgraphs, at any depth."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute (a text as bytes), or `default` where the node does not have it."""
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return the values of all attributes of a node by name, as `attribute` does."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def element_types(model: ModelProto) -> dict[str, int]:
    """Map tensors to their element types (`TensorProto.FLOAT`), as far as they are stated or can be inferred."""
    graph = shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    written = {item.name: item.type.tensor_type.elem_type for item in values if item.type.HasField("tensor_type")}
    return written | {name: tensor.data_type for name, tensor in initializers(graph).items()}


def add_constant(graph: GraphProto, name: str, value: ArrayLike) -> str:
    """Append an initialiser with the dtype and shape of `value`. Returns `name`, for a node to read."""
    graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
    return name


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors (old name -> new name) wherever they occur, in subgraphs too."""
    for node in graph.node:
        for places in (node.input, node.output):
            for index, name in enumerate(places):
                places[index] = names.get(name, name)
        for subgraph in subgraphs(node):
            rename(subgraph, names)
    for item in (*graph.input, *graph.output, *graph.initializer):
        item.name = names.get(item.name, item.name)


def set_items(field: Any, items: Iterable[Any]) -> None:
    """Replace the content of a repeated field (`graph.node`). The new content may include messages of the old."""
    kept = copy.deepcopy(list(items))
    del field[:]
    field.extend(kept)


def prune(graph: GraphProto) -> None:
    """Remove the nodes and initialisers that the outputs do not depend on."""
    needed = {item.name for item in graph.output}
    for index in reversed(range(len(graph.node))):
        if needed.intersection(graph.node[index].output):
            needed.update(reads(graph.node[index]))
        else:
            del graph.node[index]
    prune_initializers(graph)


def prune_initializers(graph: GraphProto) -> None:
    """Remove the initialisers that no node reads and that are not outputs."""
    needed = {item.name for item in graph.output}.union(*map(reads, graph.node))
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
