"""Run an ONNX graph in float64 with numpy: slow, and exact enough to measure the error of float32.

Convolution, pooling and batch normalisation are implemented here: the first two for speed, the last because ONNX's
reference implementation takes old opsets for training. Every other operator runs in ONNX's reference implementation.
Operators that have no meaning in float64, and graphs inside operators, are not covered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from resnet_infer.errors import first_line
from resnet_infer.utils.extras import needs
from resnet_infer.verification.parity import NotCoveredError

with needs("export", "evaluating a graph in float64"):
    import onnx
    from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    from resnet_infer.models.onnx_tools import ONNX_DOMAINS, attributes, consumers, initializers, inputs, subgraphs

Array = NDArray[Any]
Operator = Callable[..., Array]
ROUNDED = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
"""Types whose rounding is part of the meaning of a graph."""


class Float64Graph:
    """Evaluate a graph with one input and float32 arithmetic in float64.

    `output` names the tensor to compute, by default the graph's first output. Raises `NotCoveredError` for a graph with
    subgraphs, operators outside ONNX's own domains, or float16.
    """

    def __init__(self, model: ModelProto, output: str | None = None) -> None:
        graph = model.graph
        self._opsets = [item for item in model.opset_import if item.domain in ONNX_DOMAINS]
        self._constants = {name: _constant(tensor) for name, tensor in initializers(graph).items()}
        (self._input,) = (item.name for item in inputs(graph))
        self._output = output or graph.output[0].name
        self._steps = [(node, self._operator(node)) for node in graph.node]
        self._readers = Counter({name: len(nodes) for name, nodes in consumers(graph).items()})
        self._readers[self._output] += 1

    def __call__(self, value: Array) -> NDArray[np.float64]:
        """Return the output for `value`, which is float64, or integers that the graph itself converts to float.

        Raises `NotCoveredError` if an operator fails, or answers in less than float64.
        """
        values: dict[str, Any] = {"": None, **self._constants, self._input: value}
        left = Counter(self._readers)
        for node, operator in self._steps:
            results = operator(*map(values.get, node.input))
            for name, result in zip(node.output, results, strict=False):
                if isinstance(result, np.ndarray) and result.dtype in (np.float32, np.float16):
                    raise NotCoveredError(f"{node.op_type} has no float64")
                values[name] = result
            left.subtract(node.input)
            for name in node.input:
                if not left[name] and name not in self._constants:
                    values[name] = None
        found = values[self._output]
        if not isinstance(found, np.ndarray) or found.dtype != np.float64:
            raise NotCoveredError(f"its output {self._output} is no float")
        return found

    def _operator(self, node: NodeProto) -> Callable[..., Any]:
        """Return a function that computes the tuple of the node's outputs from its inputs."""
        if node.domain not in ONNX_DOMAINS:
            raise NotCoveredError(f"{node.domain}.{node.op_type} is no operator of ONNX's own")
        settings = attributes(node)
        if any(subgraphs(node)):
            raise NotCoveredError(f"{node.op_type} holds another graph")
        own = _OWN.get(node.op_type)
        if own is not None and len(node.output) == 1:
            return lambda *inputs: (own(*inputs, **settings),)
        return self._reference(node)

    def _reference(self, node: NodeProto) -> Callable[..., Any]:
        """Return the operator of ONNX's reference implementation, its constants and casts in float64."""
        copy = NodeProto.FromString(node.SerializeToString())
        for item in copy.attribute:
            if item.HasField("t"):
                item.t.CopyFrom(numpy_helper.from_array(_constant(item.t), item.t.name))
            elif node.op_type == "Constant" and item.name in ("value_float", "value_floats"):
                value = np.array(helper.get_attribute_value(item), np.float64)
                item.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
            elif item.name == "to" and node.op_type == "Cast":
                if item.i in ROUNDED:
                    raise NotCoveredError("it computes in float16")
                item.i = TensorProto.DOUBLE if item.i == TensorProto.FLOAT else item.i
        fed = [name for name in dict.fromkeys(node.input) if name]
        graph = helper.make_graph(
            [copy],
            "node",
            [helper.make_value_info(name, onnx.TypeProto()) for name in fed],
            [helper.make_value_info(name, onnx.TypeProto()) for name in node.output if name],
        )
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=self._opsets))

        def run(*values: Any) -> Any:
            feed = {name: value for name, value in zip(node.input, values, strict=True) if name}
            try:
                found = iter(evaluator.run(None, feed))
            except Exception as error:  # whatever a reference implementation stumbles over
                raise NotCoveredError(f"{node.op_type} fails ({first_line(error)})") from error
            return [next(found) if name else None for name in node.output]

        return run


def _constant(tensor: TensorProto) -> Array:
    """Return a constant's values, float32 as float64. Raises `NotCoveredError` for float16."""
    if tensor.data_type in ROUNDED:
        raise NotCoveredError("it computes in float16")
    value: Array = numpy_helper.to_array(tensor)
    return value.astype(np.float64) if value.dtype == np.float32 else value


def _windows(x: Array, kernel: tuple[int, ...], attributes: Mapping[str, Any], fill: float) -> Array:
    """Return the windows under a kernel, (N, C, H', W', kh, kw).

    Raises `NotCoveredError` for dilation, ceil mode and automatic padding.
    """
    unusual = (
        len(kernel) != 2
        or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        or attributes.get("ceil_mode", 0)
        or any(step != 1 for step in attributes.get("dilations", ()))
    )
    if unusual:
        raise NotCoveredError("a window with another padding than zeros by number, or holes")
    top, left, bottom, right = attributes.get("pads") or (0, 0, 0, 0)
    down, across = attributes.get("strides") or (1, 1)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    return sliding_window_view(padded, kernel, axis=(2, 3))[:, :, ::down, ::across]


def _conv(x: Array, weight: Array, bias: Array | None = None, **attributes: Any) -> Array:
    """Compute Conv of x, (N, C, H, W), one image at a time, as a product of matrices per group."""
    windows = _windows(x, weight.shape[2:], attributes, 0.0)
    groups = int(attributes.get("group", 1))
    count, _, height, width = windows.shape[:4]
    out = np.empty((count, len(weight), height, width), np.float64)
    split = out.reshape(count, groups, -1, height * width)
    kernels = weight.reshape(groups, len(weight) // groups, -1)
    for index in range(count):
        columns = windows[index].transpose(0, 3, 4, 1, 2).reshape(groups, -1, height * width)
        np.matmul(kernels, columns, out=split[index])
    if bias is not None:
        out += bias[:, None, None]
    return out


def _max_pool(x: Array, **attributes: Any) -> Array:
    """Compute MaxPool of x, (N, C, H, W)."""
    found: Array = _windows(x, tuple(attributes["kernel_shape"]), attributes, -np.inf).max(axis=(4, 5))
    return found


def _average_pool(x: Array, **attributes: Any) -> Array:
    """Compute AveragePool of x, (N, C, H, W)."""
    kernel = tuple(attributes["kernel_shape"])
    sums = _windows(x, kernel, attributes, 0.0).sum(axis=(4, 5))
    counts = _windows(np.ones((1, 1, *x.shape[2:])), kernel, attributes, 0.0).sum(axis=(4, 5))
    found: Array = sums / (np.prod(kernel) if attributes.get("count_include_pad", 0) else counts)
    return found


def _batch_norm(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, **attributes: Any) -> Array:
    """Compute BatchNormalization of x, (N, C, ...), by the stored statistics."""
    if attributes.get("training_mode", 0) or not attributes.get("spatial", 1):
        raise NotCoveredError("a batch normalisation that is trained, or not per channel")
    scale = gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    shape = (-1, *[1] * (x.ndim - 2))
    found: Array = x * scale.reshape(shape) + (beta - mean * scale).reshape(shape)
    return found


_OWN: Mapping[str, Operator] = {
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
}
"""Operators that are implemented here."""
