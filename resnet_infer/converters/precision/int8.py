"""Quantise an FP32 graph to INT8 after training, with static ranges, by QuantizeLinear and DequantizeLinear (Q/DQ).

value = scale * (integer - zero point), as in Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018. `placement` chooses the tensors, and `calibration` has their ranges.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from resnet_infer.converters.precision.calibration import Calibration
from resnet_infer.converters.precision.canonicalise import canonicalise
from resnet_infer.converters.precision.placement import Net, Target, place
from resnet_infer.converters.precision.ranges import TINY, Grid, Method, grid_parameters
from resnet_infer.errors import ModelError, UsageError
from resnet_infer.models.graph import get_spec, set_spec
from resnet_infer.models.onnx_tools import add_constant, attribute, prune_initializers, set_items
from resnet_infer.models.spec import ModelSpec
from resnet_infer.utils import cpu
from resnet_infer.utils.extras import needs

with needs("export", "quantisation"):
    import onnx
    from onnx import ModelProto, NodeProto, helper, numpy_helper

GRIDS: Mapping[Target, Grid] = MappingProxyType({"cpu": "unsigned", "tensorrt": "symmetric"})
"""Kind of quantisation of the activations for each target."""
WEIGHT_LIMITS: Mapping[int, int] = MappingProxyType({8: 127, 7: 64})
"""Bits -> largest integer of a weight. With 7 bits the sum of two products of uint8 and int8 fits into int16:
2 * 255 * 64 = 32640."""
EXACT_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Processor features whose instructions accumulate products of uint8 and int8 in 32 bits."""
LARGEST_BIAS = 2.0**30
"""Largest integer of a bias: half the range of int32, which leaves room for the products that are added to it."""

Array = NDArray[Any]


def cpu_weight_bits(flags: Collection[str] | None = None) -> int:
    """Return 8 if the processor accumulates products of 8-bit integers exactly, else 7.

    `flags` are the processor's features as in /proc/cpuinfo, by default this machine's. x86 processors without VNNI or
    AMX add two products in 16 bits, which can saturate. 7 is the answer for unknown processors too.

    >>> cpu_weight_bits({"avx2"})
    7
    """
    return 8 if EXACT_FLAGS.intersection(cpu.flags() if flags is None else flags) else 7


def layers(model: ModelProto) -> list[str]:
    """Return the names of the nodes that `quantize` can quantise, in graph order.

    They are convolutions, fully connected layers and residual additions.
    """
    return Net(canonicalise(model)).layers()


def quantize(
    model: ModelProto,
    calibration: Calibration,
    *,
    target: Target,
    method: Method = "mse",
    weight_bits: int = 8,
    float_nodes: Collection[str] = (),
) -> ModelProto:
    """Quantise an FP32 graph to INT8. Returns a checked graph with its spec.

    The target "cpu" has uint8 activations with a zero point and int32 biases, as ONNX Runtime's CPU provider expects.
    "tensorrt" has int8 activations with zero point 0 and float32 biases. Both have int8 weights with one scale per
    output channel. The biases are corrected for the mean error of the quantised weights (Nagel et al., 2019).

    `method` chooses the ranges (see `find_range`). `weight_bits` is 8 or 7 (see `cpu_weight_bits`). `float_nodes` names
    those of `layers(model)` that stay in float.

    Raises `ModelError` if the graph is not FP32 or the calibration was made for another network, and `UsageError` for
    an unknown target, method or layer, or another number of bits.

    >>> quantized = quantize(graph, Calibration.load(Path("model.calibration.json")), target="cpu")
    """
    if target not in GRIDS or method not in get_args(Method) or weight_bits not in WEIGHT_LIMITS:
        raise UsageError(
            f"no quantisation for {target!r} by {method!r} with {weight_bits} bits",
            hint=f"targets are {', '.join(GRIDS)}, methods {', '.join(get_args(Method))}, bits 8 and 7",
        )
    spec = _spec(model)
    calibration.require(model)
    result = canonicalise(model)
    if target == "cpu":
        _repeat_along_rows(result)
    _Writer(result, calibration, target, method, WEIGHT_LIMITS[weight_bits], float_nodes).write()
    details = {
        "target": target,
        "method": method,
        "weight_bits": weight_bits,
        "pictures": len(calibration.pictures),
        "sha256": calibration.sha256,
        "float_nodes": sorted(float_nodes),
    }
    # The measured errors in the spec are those of the FP32 network.
    set_spec(result, spec.with_(precision="int8", measured=(), provenance={**spec.provenance, "quantization": details}))
    onnx.checker.check_model(result, full_check=True)
    return result


def _spec(model: ModelProto) -> ModelSpec:
    """Return the spec of the graph. Raises `ModelError` unless it is FP32."""
    spec = get_spec(model)
    if spec.precision != "fp32":
        raise ModelError(
            f"{spec.name} is {spec.precision} already",
            hint="INT8 is made of the FP32 net",
            source=spec.name,
            reason="unsupported",
        )
    return spec


class _Writer:
    """Quantise a graph in canonical form, in place.

    `scales` maps every quantised tensor to its scale and zero point, and `grids` to the names of the initialisers that
    hold them.
    """

    def __init__(
        self,
        model: ModelProto,
        calibration: Calibration,
        target: Target,
        method: Method,
        weight_limit: int,
        float_nodes: Collection[str],
    ) -> None:
        """Choose the tensors to quantise, and their scales and zero points."""
        self.calibration = calibration
        self.graph, self.target, self.weight_limit = model.graph, target, weight_limit
        self.net = Net(model)
        self.placement = place(self.net, target, float_nodes)
        grid = GRIDS[target]
        self.scales = {
            name: grid_parameters(calibration.range(origin, grid, method), grid)
            for name, origin in self.placement.tensors.items()
        }
        self.grids: dict[str, list[str]] = {}
        self.nodes: list[NodeProto] = []

    def write(self) -> None:
        """Insert the Q/DQ nodes, and quantise the weights."""
        for node in self.net.nodes:
            if self._moves_integers(node):
                self._move_integers(node)
                continue
            if node.name in self.placement.layers and node.op_type != "Add":
                self._quantize_weights(node)
            for index, name in enumerate(node.input):
                if name in self.scales:
                    node.input[index] = f"{name}.dequantized"
            self.nodes.append(node)
            for name in node.output:
                self._add_qdq(name)
        set_items(self.graph.node, self.nodes)
        prune_initializers(self.graph)

    def _add_qdq(self, name: str) -> None:
        """Add a QuantizeLinear and a DequantizeLinear node after a tensor, if it is to be quantised."""
        if name not in self.scales:
            return
        scale, zero = self.scales[name]
        kind = np.uint8 if GRIDS[self.target] == "unsigned" else np.int8
        self.grids[name] = [
            add_constant(self.graph, f"{name}.scale", scale),
            add_constant(self.graph, f"{name}.zero_point", kind(zero)),
        ]
        self._node("QuantizeLinear", [name, *self.grids[name]], f"{name}.quantized")
        self._dequantize(name)

    def _dequantize(self, name: str) -> None:
        """Add a DequantizeLinear node after a quantised tensor, unless all its readers move integers."""
        if not all(self._moves_integers(reader) for reader in self.net.consumers[name]):
            self._node("DequantizeLinear", [f"{name}.quantized", *self.grids[name]], f"{name}.dequantized")

    def _moves_integers(self, node: NodeProto) -> bool:
        """Return whether a node only moves values, and does so on the integers themselves."""
        both = node.input and node.input[0] in self.scales and node.output[0] in self.scales
        return self.target == "cpu" and bool(both) and self.net.carries(node)

    def _move_integers(self, node: NodeProto) -> None:
        """Connect a node that moves values to the integers. The zero point becomes the value of a Pad."""
        source, target = node.input[0], node.output[0]
        self.grids[target] = self.grids[source]
        node.input[0], node.output[0] = f"{source}.quantized", f"{target}.quantized"
        if node.op_type == "Pad":
            rest = list(node.input[3:])
            del node.input[2:]
            node.input.extend([self.grids[source][1], *rest])
        self.nodes.append(node)
        self._dequantize(target)

    def _quantize_weights(self, node: NodeProto) -> None:
        """Quantise a layer's weights, correct its bias for their error, and for the CPU quantise the bias too."""
        weight = self.net.constant(node, 1)
        assert weight is not None
        axis = _output_axis(node)
        rows = np.moveaxis(weight, axis, 0).astype(np.float64)
        bias = self.net.constant(node, 2)
        if bias is None:
            bias = np.zeros(len(rows))
        input_scale = self.scales[node.input[0]][0]
        scale = np.abs(rows).reshape(len(rows), -1).max(axis=1) / self.weight_limit
        # In a channel with tiny weights, the scale would be so small that the bias exceeds 32 bits. Leaving the bias in
        # float does not help: ONNX Runtime quantises it itself, and lets it overflow.
        scale = np.maximum(scale, np.abs(bias) / (LARGEST_BIAS * float(input_scale)))
        scale = np.where(scale > TINY, scale, 1.0).astype(np.float32)
        steps = scale.astype(np.float64).reshape(-1, *[1] * (rows.ndim - 1))
        integers = np.clip(np.rint(rows / steps), -self.weight_limit, self.weight_limit)
        zeros = np.zeros(len(scale), np.int8)
        stored = np.moveaxis(integers, 0, axis).astype(np.int8)
        corrected = bias - self._mean_output_change(node.input[0], integers * steps - rows)
        node.input[1] = self._constant_dequantized(f"{node.name}.weight", [stored, scale, zeros], axis)
        if node.op_type == "MatMul":
            return  # MatMul has no bias
        del node.input[2:]
        name = f"{node.name}.bias"
        if self.target == "cpu":
            scale = input_scale * scale
            stored = np.rint(corrected / scale.astype(np.float64)).astype(np.int32)
            node.input.append(self._constant_dequantized(name, [stored, scale], 0))
        else:
            node.input.append(add_constant(self.graph, f"{name}.corrected", corrected.astype(np.float32)))

    def _mean_output_change(self, tensor: str, error: Array) -> Array:
        """Compute the mean change of each output channel, (outputs,), that the errors of the weights cause.

        `error` holds the errors, (outputs, inputs, ...). The input is the mean of `tensor` in each channel, as in Nagel
        et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2.
        """
        means = np.array(self.calibration.mean(tensor))
        sums = error.reshape(*error.shape[:2], -1).sum(axis=2)
        groups, rest = divmod(len(means), sums.shape[1])
        if rest or not groups or sums.shape[0] % groups:
            raise ModelError(
                f"the calibration has {len(means)} means of {tensor}, which does not fit its weights",
                hint="calibrate again",
                reason="mismatch",
            )
        split = sums.reshape(groups, -1, sums.shape[1])
        return np.asarray(np.einsum("goi,gi->go", split, means.reshape(groups, -1)).reshape(-1))

    def _constant_dequantized(self, name: str, values: list[Array], axis: int) -> str:
        """Add integers, their scales and optional zero points, and a DequantizeLinear node. Returns its output."""
        parts = zip(("quantized", "scale", "zero_point"), values, strict=False)
        inputs = [add_constant(self.graph, f"{name}.{part}", value) for part, value in parts]
        return self._node("DequantizeLinear", inputs, f"{name}.dequantized", axis=axis)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node, and return its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output


_NORMALISATION = ("Cast", "Transpose", "Gather", "Sub", "Div")
"""Operators between the input images and the first layer."""


def _repeat_along_rows(model: ModelProto) -> None:
    """Repeat the constants of the input normalisation, one per channel, along a row of pixels if the width is fixed.

    ONNX Runtime moves the transposition to channels first behind the integer layers. The mean is then subtracted with
    channels last. Broadcasting three numbers takes ten times as long as subtracting whole rows, 3% of the time of a
    ResNet-50.
    """
    width = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer if len(item.dims) == 4}
    reached = {model.graph.input[0].name}
    for node in model.graph.node:
        if node.input and node.input[0] in reached and node.op_type in _NORMALISATION:
            reached.update(node.output)
            value = constants.get(node.input[-1])
            shape = list(value.shape) if value is not None else []
            if value is not None and width and shape in ([1, 3, 1, 1], [1, 1, 1, 3]):
                shape[3 if shape[1] == 3 else 2] = width
                node.input[1] = f"{node.input[1]}.row"
                add_constant(model.graph, node.input[1], np.broadcast_to(value, shape))


def _output_axis(node: NodeProto) -> int:
    """Return the axis of the output channels in a layer's weights."""
    if node.op_type == "Conv":
        return 0
    return 0 if attribute(node, "transB") else 1
