"""Write the ONNX graph of a network directly from its plan and numpy weights, without tracing.

Every graph takes `images`, uint8 (N, H, W, 3), and returns `logits`, float32 (N, classes). In the fused form batch norm
and the scale of the input are folded into the convolutions in float64. The mean stays a subtraction in front of the
first convolution: the zero padding stands for the mean there, so a folded mean would be wrong at the border.

Opset 17 is the newest that TensorRT 8.6 reads, and has all operators that a ResNet needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer._version import __version__
from resnet_infer.errors import ModelError, ResnetInferError, UsageError, first_line
from resnet_infer.models.architectures import (
    NORM_EPSILON,
    NORM_PARAMETERS,
    NORM_STATISTICS,
    Block,
    Conv,
    ZeroPadShortcut,
)
from resnet_infer.models.checkpoint import Checkpoint, check_weights
from resnet_infer.models.spec import METADATA_KEY, ModelSpec
from resnet_infer.utils.extras import needs

with needs("export", "writing an ONNX graph"):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""IR version of the release with opset 17 (ONNX 1.12), so that old readers accept the file."""
INPUT, OUTPUT = "images", "logits"

Array = NDArray[Any]


@contextlib.contextmanager
def reading_graph(path: Path) -> Iterator[None]:
    """Convert errors from a self-contradictory graph, read from the file `path`, to a `ModelError`.

    A damaged or unusual file can have a weight whose size does not match its data, a node without inputs, or an unknown
    type. onnx, protobuf and numpy each raise exceptions of their own for that.
    """
    try:
        yield
    except (ResnetInferError, MemoryError, OSError):
        raise
    except Exception as error:  # the exceptions of onnx share no other base class
        raise ModelError(
            f"{path}: its graph is damaged, or of a form that is not understood ({type(error).__name__}: "
            f"{first_line(error)})",
            hint="write it again with the program that it comes from; --debug shows where it fails",
            source=path,
            reason="damaged",
        ) from error


def build_graph(checkpoint: Checkpoint, *, fused: bool = True, dynamic_size: bool = False) -> onnx.ModelProto:
    """Build the network as a checked ONNX model with the spec in its metadata.

    `fused=False` keeps batch norm and the normalisation of the input as they are defined: slow, and the reference for
    the fused form. `dynamic_size` leaves height and width open (at least what the network needs to keep one pixel).

    Raises `ModelError` if the weights do not fit, and `UsageError` for `dynamic_size` with a per-pixel mean, which has
    a fixed size.
    """
    spec = checkpoint.spec
    check_weights(spec, checkpoint.weights, spec.name)
    if dynamic_size and spec.input.per_pixel:
        raise UsageError(
            f"{spec.name} subtracts a mean per pixel, which fixes the size of its pictures",
            hint="leave --dynamic-size out",
        )
    return _Writer(checkpoint, fused).model(dynamic_size)


class _Writer:
    """Collect the nodes and weights of a graph."""

    def __init__(self, checkpoint: Checkpoint, fused: bool) -> None:
        arch = checkpoint.spec.architecture
        assert arch is not None
        self.spec, self.weights, self.fused = checkpoint.spec, checkpoint.weights, fused
        self.plan = arch.plan()
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def model(self, dynamic_size: bool) -> onnx.ModelProto:
        """Build the whole model."""
        x = self._conv(self.plan.stem, self._front())
        x = self._node("Relu", [x], "relu1")
        if self.plan.max_pool:
            x = self._node("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        for block in self.plan.blocks:
            x = self._block(block, x)
        x = self._node("GlobalAveragePool", [x], "avgpool")
        x = self._node("Flatten", [x], "flatten")
        weight = self._constant("fc.weight", self.weights["fc.weight"])
        bias = self._constant("fc.bias", self.weights["fc.bias"])
        self._node("Gemm", [x, weight, bias], "fc", output=OUTPUT, transB=1)

        side: tuple[int | str, int | str] = ("H", "W") if dynamic_size else (self.spec.input.crop,) * 2
        graph = helper.make_graph(
            self.nodes,
            self.spec.name,
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", *side, 3])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", self.plan.num_classes])],
            self.initializers,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="resnet-infer",
            producer_version=__version__,
        )
        set_spec(model, self.spec)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _front(self) -> str:
        """Convert uint8 NHWC to the input of the first convolution. Cast comes first because TensorRT demands it."""
        x = self._node("Cast", [INPUT], "cast", to=TensorProto.FLOAT)
        x = self._node("Transpose", [x], "nchw", perm=[0, 3, 1, 2])
        mean = self._channels_first(self.spec.input.mean.astype(np.float64))
        if self.fused:
            # The first convolution contains the scale.
            if mean.any():
                x = self._node("Sub", [x, self._constant("mean", mean * 255)], "subtract_mean")
            return x
        x = self._node("Div", [x, self._constant("range", np.array(255.0))], "divide_range")
        x = self._node("Sub", [x, self._constant("mean", mean)], "subtract_mean")
        std = self._channels_first(self.spec.input.std.astype(np.float64))
        return self._node("Div", [x, self._constant("std", std)], "divide_std")

    @staticmethod
    def _channels_first(value: Array) -> Array:
        """Shape a mean or deviation for broadcasting over NCHW."""
        return value.reshape(1, 3, 1, 1) if value.ndim == 1 else value.transpose(2, 0, 1)[None]

    def _block(self, block: Block, x: str) -> str:
        """Add the nodes of a block, and return its output."""
        out = x
        for index, conv in enumerate(block.convs, start=1):
            out = self._conv(conv, out)
            if index < len(block.convs):
                out = self._node("Relu", [out], f"{block.name}.relu{index}")
        if block.shortcut is not None:
            out = self._node("Add", [out, self._shortcut(block, x)], f"{block.name}.add")
        return self._node("Relu", [out], f"{block.name}.relu")

    def _shortcut(self, block: Block, x: str) -> str:
        """Add the nodes of a shortcut, and return its output."""
        if isinstance(block.shortcut, Conv):
            return self._conv(block.shortcut, x)
        if isinstance(block.shortcut, ZeroPadShortcut):
            return self._zero_pad(block.name, block.shortcut, x)
        return x

    def _zero_pad(self, name: str, shortcut: ZeroPadShortcut, x: str) -> str:
        """Add the nodes of shortcut option A, and return its output."""
        if shortcut.stride > 1:
            integers = {"starts": [0, 0], "ends": [2**31 - 1] * 2, "axes": [2, 3], "steps": [shortcut.stride] * 2}
            inputs = [self._constant(f"{name}.shortcut.{k}", np.array(v, np.int64)) for k, v in integers.items()]
            x = self._node("Slice", [x, *inputs], f"{name}.shortcut.slice")
        pads = np.array([0, shortcut.before, 0, 0, 0, shortcut.after, 0, 0], np.int64)
        return self._node("Pad", [x, self._constant(f"{name}.shortcut.pads", pads)], f"{name}.shortcut.pad")

    def _conv(self, conv: Conv, x: str) -> str:
        """Add a convolution and its batch norm, and return the output."""
        weight = self.weights[f"{conv.name}.weight"].astype(np.float64)
        gamma, beta, mean, variance = (
            self.weights[f"{conv.norm}.{part}"].astype(np.float64) for part in NORM_PARAMETERS + NORM_STATISTICS
        )
        attributes: dict[str, Any] = {
            "kernel_shape": [conv.kernel] * 2,
            "strides": [conv.stride] * 2,
            "pads": [conv.padding] * 4,
        }
        if conv.groups > 1:
            attributes["group"] = conv.groups
        if not self.fused:
            x = self._node("Conv", [x, self._constant(f"{conv.name}.weight", weight)], conv.name, attributes=attributes)
            parts = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": variance}
            inputs = [self._constant(f"{conv.norm}.{part}", value) for part, value in parts.items()]
            return self._node("BatchNormalization", [x, *inputs], conv.norm, epsilon=NORM_EPSILON)
        scale = gamma / np.sqrt(variance + NORM_EPSILON)
        weight = weight * scale[:, None, None, None]
        if conv is self.plan.stem:
            weight = weight / (255 * self.spec.input.std.astype(np.float64))[:, None, None]
        inputs = [
            self._constant(f"{conv.name}.weight", weight),
            self._constant(f"{conv.name}.bias", beta - mean * scale),
        ]
        return self._node("Conv", [x, *inputs], conv.name, attributes=attributes)

    def _constant(self, name: str, value: Array) -> str:
        """Add a constant, floating-point numbers as float32, and return its name."""
        value = value.astype(np.float32) if value.dtype.kind == "f" else value
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _node(
        self,
        kind: str,
        inputs: list[str],
        name: str,
        *,
        output: str | None = None,
        attributes: dict[str, Any] | None = None,
        **more: Any,
    ) -> str:
        """Add a node, and return its output."""
        output = output or f"{name}.out"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **(attributes or {}), **more))
        return output


@dataclass(frozen=True)
class Graph:
    """Hold an ONNX model and the spec in its metadata. Neither is changed; a step that changes one returns a new graph.

    >>> graph = Graph.of(onnx.load("model.onnx"))
    >>> graph.spec.precision, len(graph.content)
    ('fp32', 1114064)
    """

    model: onnx.ModelProto
    spec: ModelSpec

    @classmethod
    def of(cls, model: onnx.ModelProto, label: str = "the graph") -> Graph:
        """Return a model with the spec that its metadata has. Raises `ModelError` if it has none."""
        return cls(model, get_spec(model, label))

    @cached_property
    def content(self) -> bytes:
        """Return the serialised model, as it is written to a file."""
        content: bytes = self.model.SerializeToString()
        return content

    def with_spec(self, spec: ModelSpec) -> Graph:
        """Return a copy of the graph with another spec."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        set_spec(model, spec)
        return Graph(model, spec)


def get_spec(model: onnx.ModelProto, label: str = "the graph") -> ModelSpec:
    """Return the spec in the model's metadata. Raises `ModelError` if there is none."""
    return ModelSpec.from_metadata({item.key: item.value for item in model.metadata_props}, label)


def set_spec(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Write the spec into the model's metadata, in place of any other."""
    properties = {item.key: item.value for item in model.metadata_props}
    helper.set_model_props(model, {**properties, METADATA_KEY: spec.dumps()})
