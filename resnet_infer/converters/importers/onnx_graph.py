"""Change an imported ONNX graph in place to the package's form: uint8 images in, logits out, batches of any size."""

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
"""Order of the axes of a batch of images: channels before or after height and width."""
FLOOR = 1e-30
"""Smallest probability whose logarithm is taken: smaller ones count as this, which keeps logits finite in float32."""
INITIALIZERS_APART = 4
"""First IR version in which an initializer need not be a graph input too (ONNX IR specification)."""
_OURS = "resnet_infer."
"""Prefix of the names of added nodes and tensors."""


def softmax_input(graph: GraphProto, output: str) -> str | None:
    """Return the input of the Softmax over the classes that computes `output`, or None if there is no such Softmax.

    `output` names a tensor of shape (N, classes). Identity nodes behind the Softmax are skipped.
    """
    node = producer(graph, output)
    if node is None or node.op_type != "Softmax":
        return None
    # The default axis is 1 before opset 13 and -1 from 13 on: the same axis of a two-dimensional tensor.
    return node.input[0] if attribute(node, "axis", 1) in (1, -1) else None


def producer(graph: GraphProto, output: str) -> NodeProto | None:
    """Return the node that computes `output`, skipping Identity nodes; None for an input or an initializer."""
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
    """Replace the float32 input `name` by `images`, uint8 (N, *size, 3) RGB, and nodes that cast and normalise them.

    - `layout`: axes of the replaced input; a Transpose is added for `nchw`.
    - `spec`: mean and standard deviation, as RGB.
    - `size`: height and width, each a number of pixels or the name of a dynamic axis.
    - `reverse`: the graph takes BGR.

    The Cast comes first because TensorRT requires it for uint8 inputs.
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
    # Shapes inferred for the replaced input may be wrong for this one.
    del graph.value_info[:]
    model.ir_version = max(model.ir_version, INITIALIZERS_APART)


def full_range(values: NDArray[Any]) -> NDArray[np.float32]:
    """Convert a mean or standard deviation from units of the full range to the units of pixels from 0 to 255."""
    scaled: NDArray[np.float32] = (values.astype(np.float64) * 255).astype(np.float32)
    return scaled


def replace_output(graph: GraphProto, name: str, classes: int, *, logarithm: bool) -> None:
    """Make `logits`, float32 (N, classes), the only output: the tensor `name`, or its logarithm if `logarithm`.

    The logarithm turns probabilities into logits with the same softmax. Nodes without a use are removed.
    """
    if logarithm:
        floor = add_constant(graph, f"{_OURS}floor", np.array([FLOOR], np.float32))
        graph.node.append(helper.make_node("Max", [name, floor], [f"{_OURS}max"], name=f"{_OURS}max"))
        graph.node.append(helper.make_node("Log", [f"{_OURS}max"], [OUTPUT], name=f"{_OURS}log"))
    else:
        graph.node.append(helper.make_node("Identity", [name], [OUTPUT], name=f"{_OURS}{OUTPUT}"))
    set_items(graph.output, [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", classes])])
    prune(graph)


def free_names(graph: GraphProto) -> Mapping[str, str]:
    """Rename the tensors that have the names of the future input and output, and return the new names by old name."""
    names = {name: f"original.{name}" for name in (INPUT, OUTPUT)}
    rename(graph, names)
    return names


def open_batch(graph: GraphProto, batch: int) -> None:
    """Make the Reshape nodes whose target shape begins with the fixed number `batch` work for any number of images.

    The first number of a shape need not be the batch, so the caller must check the changed graph by running it.
    """
    shapes = _integer_constants(graph)
    for number, node in enumerate(graph.node):
        shape = shapes.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) == 2 else None
        if shape is None or not shape.size or shape[0] != batch:
            continue
        # In Reshape, -1 is inferred from the other sizes, and may occur once; 0 copies the size of the input's axis.
        opened = np.array([0 if -1 in shape[1:] else -1, *shape[1:]], np.int64)
        node.input[1] = add_constant(graph, f"{_OURS}shape{number}", opened)


def _integer_constants(graph: GraphProto) -> dict[str, NDArray[Any]]:
    """Return all one-dimensional int64 constants by name."""
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in constants(graph).items()
        if tensor.data_type == TensorProto.INT64 and len(tensor.dims) == 1
    }
