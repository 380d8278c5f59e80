"""INT8 by post-training static quantisation: QuantizeLinear and DequantizeLinear around what shall be integer.

y = scale * (q - zero point), as in Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018.
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
WEIGHT_LIMITS: Mapping[int, int] = MappingProxyType({8: 127, 7: 64})
"""Bits -> the largest integer of a weight. With 7 bits two products of uint8 and int8 add up within 16 bits."""
EXACT_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Extensions with which uint8 times int8 is added up in 32 bits."""
LARGEST_BIAS = 2.0**30
"""In steps of its scale; half of what int32 holds, for the sums beside it."""

Array = NDArray[Any]


def cpu_weight_bits(flags: Collection[str] | None = None) -> int:
    """8 where the processor adds up products of 8 bits exactly, else 7. `flags` are by default this processor's.

    x86 before VNNI (and AMX) adds two products in 16 bits, which saturate. Of what is not known, 7 is taken.
    """
    return 8 if EXACT_FLAGS.intersection(cpu.flags() if flags is None else flags) else 7


def layers(model: ModelProto) -> list[str]:
    """The names of what `quantize` makes integer: convolutions, fully connected layers and residual additions."""
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
    """The FP32 net as a checked INT8 graph, its spec included.

    Target `cpu` has uint8 activations and int32 biases, as ONNX Runtime's CPU provider wants them; `tensorrt` is
    symmetric with float biases. Both have int8 weights with a scale per output channel; of `weight_bits` see
    `cpu_weight_bits`. `float_nodes` are the `layers` to leave in float.

    Raises `ModelError` if the calibration is another net's, or the net is not FP32; `UsageError` for unknown names.
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
        _widen(result)
    _Writer(result, calibration, target, method, WEIGHT_LIMITS[weight_bits], float_nodes).write()
    details = {
        "target": target,
        "method": method,
        "weight_bits": weight_bits,
        "pictures": len(calibration.pictures),
        "sha256": calibration.sha256,
        "float_nodes": sorted(float_nodes),
    }
    # What was measured, was measured of the FP32 net.
    set_spec(result, spec.with_(precision="int8", measured=(), provenance={**spec.provenance, "quantization": details}))
    onnx.checker.check_model(result, full_check=True)
    return result


def _spec(model: ModelProto) -> ModelSpec:
    spec = get_spec(model)
    if spec.precision != "fp32":
        raise ModelError(f"{spec.name} is {spec.precision} already", hint="INT8 is made of the FP32 net")
    return spec


class _Writer:
    """Rewrites a plain graph in place."""

    def __init__(
        self,
        model: ModelProto,
        calibration: Calibration,
        target: Target,
        method: Method,
        weight_limit: int,
        float_nodes: Collection[str],
    ) -> None:
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
        for node in self.net.nodes:
            if self._moves(node):
                self._move(node)
                continue
            if node.name in self.placement.layers and node.op_type != "Add":
                self._weights(node)
            for index, name in enumerate(node.input):
                if name in self.scales:
                    node.input[index] = f"{name}.dequantized"
            self.nodes.append(node)
            for name in node.output:
                self._pair(name)
        set_items(self.graph.node, self.nodes)
        prune_initializers(self.graph)

    def _pair(self, name: str) -> None:
        """Behind a tensor that is quantised, a QuantizeLinear and a DequantizeLinear."""
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
        if not all(self._moves(reader) for reader in self.net.consumers[name]):
            self._node("DequantizeLinear", [f"{name}.quantized", *self.grids[name]], f"{name}.dequantized")

    def _moves(self, node: NodeProto) -> bool:
        """Whether a node moves integers as they are."""
        both = node.input and node.input[0] in self.scales and node.output[0] in self.scales
        return self.target == "cpu" and bool(both) and self.net.carries(node)

    def _move(self, node: NodeProto) -> None:
        source, target = node.input[0], node.output[0]
        self.grids[target] = self.grids[source]
        node.input[0], node.output[0] = f"{source}.quantized", f"{target}.quantized"
        if node.op_type == "Pad":
            rest = list(node.input[3:])
            del node.input[2:]
            node.input.extend([self.grids[source][1], *rest])
        self.nodes.append(node)
        self._dequantize(target)

    def _weights(self, node: NodeProto) -> None:
        """Make a layer's weights integers, and for the CPU its bias as well; correct the bias for what that changes."""
        weight = self.net.constant(node, 1)
        assert weight is not None
        axis = _output_axis(node)
        rows = np.moveaxis(weight, axis, 0).astype(np.float64)
        bias = self.net.constant(node, 2)
        if bias is None:
            bias = np.zeros(len(rows))
        input_scale = self.scales[node.input[0]][0]
        scale = np.abs(rows).reshape(len(rows), -1).max(axis=1) / self.weight_limit
        # The bias of a channel with hardly any weight, a constant, would need more than 32 bits. Where it is a float in
        # this graph, ONNX Runtime makes an integer of it by itself, and lets it overflow.
        scale = np.maximum(scale, np.abs(bias) / (LARGEST_BIAS * float(input_scale)))
        scale = np.where(scale > TINY, scale, 1.0).astype(np.float32)
        steps = scale.astype(np.float64).reshape(-1, *[1] * (rows.ndim - 1))
        integers = np.clip(np.rint(rows / steps), -self.weight_limit, self.weight_limit)
        zeros = np.zeros(len(scale), np.int8)
        stored = np.moveaxis(integers, 0, axis).astype(np.int8)
        corrected = bias - self._shift(node.input[0], integers * steps - rows)
        node.input[1] = self._constant_dequantized(f"{node.name}.weight", [stored, scale, zeros], axis)
        if node.op_type == "MatMul":
            return  # which has no bias
        del node.input[2:]
        name = f"{node.name}.bias"
        if self.target == "cpu":
            scale = input_scale * scale
            stored = np.rint(corrected / scale.astype(np.float64)).astype(np.int32)
            node.input.append(self._constant_dequantized(name, [stored, scale], 0))
        else:
            node.input.append(add_constant(self.graph, f"{name}.corrected", corrected.astype(np.float32)))

    def _shift(self, tensor: str, error: Array) -> Array:
        """What errors of the weights, (outputs, inputs, ...), add to each output where the input is `tensor`'s mean.

        Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2.
        """
        means = np.array(self.calibration.mean(tensor))
        sums = error.reshape(*error.shape[:2], -1).sum(axis=2)
        groups, rest = divmod(len(means), sums.shape[1])
        if rest or not groups or sums.shape[0] % groups:
            raise ModelError(
                f"the calibration has {len(means)} means of {tensor}, which does not fit its weights",
                hint="calibrate again",
            )
        split = sums.reshape(groups, -1, sums.shape[1])
        return np.asarray(np.einsum("goi,gi->go", split, means.reshape(groups, -1)).reshape(-1))

    def _constant_dequantized(self, name: str, values: list[Array], axis: int) -> str:
        """A constant of integers, their scales and zero points if any, made floats again by a node."""
        parts = zip(("quantized", "scale", "zero_point"), values, strict=False)
        inputs = [add_constant(self.graph, f"{name}.{part}", value) for part, value in parts]
        return self._node("DequantizeLinear", inputs, f"{name}.dequantized", axis=axis)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output


_FRONT = ("Cast", "Transpose", "Gather", "Sub", "Div")
"""What stands between the pictures and the network."""


def _widen(model: ModelProto) -> None:
    """Repeat the mean of each channel along a row of pixels, where pictures have one width.

    ONNX Runtime moves the transposition to channels first behind the integer layers. The mean is then subtracted with
    channels last, three numbers at a time: a tenth of the speed of subtracting rows, and 3% of a ResNet-50's time.
    """
    width = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer if len(item.dims) == 4}
    reached = {model.graph.input[0].name}
    for node in model.graph.node:
        if node.input and node.input[0] in reached and node.op_type in _FRONT:
            reached.update(node.output)
            value = constants.get(node.input[-1])
            shape = list(value.shape) if value is not None else []
            if value is not None and width and shape in ([1, 3, 1, 1], [1, 1, 1, 3]):
                shape[3 if shape[1] == 3 else 2] = width
                node.input[1] = f"{node.input[1]}.row"
                add_constant(model.graph, node.input[1], np.broadcast_to(value, shape))


def _output_axis(node: NodeProto) -> int:
    """Which axis of a layer's weights its output channels are."""
    if node.op_type == "Conv":
        return 0
    return 0 if attribute(node, "transB") else 1
