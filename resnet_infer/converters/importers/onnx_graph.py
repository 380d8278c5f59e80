"""Surgery on a foreign ONNX graph: our input in front of it, logits behind it, a batch of any size through it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_infer.models.graph import INPUT, OUTPUT
from resnet_infer.models.onnx_tools import add_constant, attribute, constants, producers, prune, rename, set_items
from resnet_infer.models.spec import InputSpec
from resnet_infer.utils.extras import needs

with needs("export", "adopting an ONNX graph"):
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Layout = Literal["nchw", "nhwc"]
FLOOR = 1e-30
"""The least probability that is told apart from zero."""
INITIALIZERS_APART = 4
"""The first IR version in which an initializer need not be an input as well."""
_OURS = "resnet_infer."
"""Prefix of the names of what is added."""


def softmax_input(graph: GraphProto, output: str) -> str | None:
    """What goes into the softmax over classes that `output`, of shape (N, classes), comes from; None without one."""
    node = producer(graph, output)
    if node is None or node.op_type != "Softmax":
        return None
    # Before opset 13 the axis is 1 by default, and -1 since: the same for two dimensions.
    return node.input[0] if attribute(node, "axis", 1) in (1, -1) else None


def producer(graph: GraphProto, output: str) -> NodeProto | None:
    """The node that computes `output`; nodes that only pass it on are passed over."""
    nodes = producers(graph)
    node = nodes.get(output)
    while node is not None and node.op_type == "Identity":
        node = nodes.get(node.input[0])
    return node


def replace_input(
    model: ModelProto,
    name: str,
    layout: Layout,
    spec: InputSpec,
    size: tuple[int | str, ...],
    *,
    reverse: bool = False,
) -> None:
    """Put `images`, uint8 (N, *size, 3), in the place of the float input `name`: cast, transpose, normalise.

    `reverse` gives the graph BGR. The cast comes first because TensorRT demands it.
    """
    graph = model.graph
    shape = (1, 3, 1, 1) if layout == "nchw" else (1, 1, 1, 3)
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("Cast", [], {"to": TensorProto.FLOAT})]
    if layout == "nchw":
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    if reverse:
        order = add_constant(graph, f"{_OURS}gather.operand", np.array([2, 1, 0], np.int64))
        steps.append(("Gather", [order], {"axis": 1 if layout == "nchw" else 3}))
    for kind, values, neutral in (("Sub", spec.mean, 0), ("Div", spec.std, 1)):
        constant = full_range(values)[:: -1 if reverse else 1]
        if (constant != neutral).any():
            operand = add_constant(graph, f"{_OURS}{kind.lower()}.operand", constant.reshape(shape))
            steps.append((kind, [operand], {}))
    names = [INPUT, *(f"{_OURS}{kind.lower()}" for kind, _, _ in steps[:-1]), name]
    front = [
        helper.make_node(kind, [source, *more], [target], name=f"{_OURS}{kind.lower()}", **attributes)
        for (kind, more, attributes), source, target in zip(steps, names, names[1:], strict=False)
    ]
    set_items(graph.node, [*front, *graph.node])
    set_items(graph.input, [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", *size, 3])])
    # Sizes that were inferred for the old input may be wrong for this one.
    del graph.value_info[:]
    model.ir_version = max(model.ir_version, INITIALIZERS_APART)


def full_range(values: NDArray[Any]) -> NDArray[np.float32]:
    """Mean or std of pixels up to 1 as those of pixels up to 255."""
    scaled: NDArray[np.float32] = (values.astype(np.float64) * 255).astype(np.float32)
    return scaled


def replace_output(graph: GraphProto, name: str, classes: int, *, logarithm: bool) -> None:
    """Make `logits`, float32 (N, classes), of the tensor `name` (its logarithm for probabilities), the only output."""
    if logarithm:
        floor = add_constant(graph, f"{_OURS}floor", np.array([FLOOR], np.float32))
        graph.node.append(helper.make_node("Max", [name, floor], [f"{_OURS}max"], name=f"{_OURS}max"))
        graph.node.append(helper.make_node("Log", [f"{_OURS}max"], [OUTPUT], name=f"{_OURS}log"))
    else:
        graph.node.append(helper.make_node("Identity", [name], [OUTPUT], name=f"{_OURS}{OUTPUT}"))
    set_items(graph.output, [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", classes])])
    prune(graph)


def free_names(graph: GraphProto) -> Mapping[str, str]:
    """Rename whatever is called as the input and output that the graph is going to have; old names -> new names."""
    names = {name: f"original.{name}" for name in (INPUT, OUTPUT)}
    rename(graph, names)
    return names


def open_batch(graph: GraphProto, batch: int) -> None:
    """Let `Reshape` nodes that were written for `batch` pictures follow the real number.

    This is a good guess and no more: run the graph afterwards.
    """
    shapes = _integer_constants(graph)
    for number, node in enumerate(graph.node):
        shape = shapes.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) == 2 else None
        if shape is None or not shape.size or shape[0] != batch:
            continue
        # -1 is what is left over; 0, which copies the size that comes in, is for where -1 is taken.
        opened = np.array([0 if -1 in shape[1:] else -1, *shape[1:]], np.int64)
        node.input[1] = add_constant(graph, f"{_OURS}shape{number}", opened)


def _integer_constants(graph: GraphProto) -> dict[str, NDArray[Any]]:
    """Every one-dimensional int64 constant by name."""
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in constants(graph).items()
        if tensor.data_type == TensorProto.INT64 and len(tensor.dims) == 1
    }
