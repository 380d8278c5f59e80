"""Read the ONNX graph of an engine to be built, and check that it suits the precision and the version of TensorRT."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from resnet_infer.errors import ModelError, UsageError, first_line
from resnet_infer.models.spec import ModelSpec, Precision
from resnet_infer.utils.extras import needs

with needs("export", "building a TensorRT engine"):
    import onnx
    from onnx import TensorProto

    from resnet_infer.models.graph import get_spec
    from resnet_infer.models.onnx_tools import attribute, constants, opset, producers

STRONGLY_TYPED = 10
"""First major version of TensorRT for which networks are built strongly typed: precisions follow the graph's types."""
HALF_QUANTIZED_OPSET = 19
"""First ONNX opset whose QuantizeLinear and DequantizeLinear accept float16 (ONNX operator changelog)."""

_LOWER: Mapping[Precision, set[Precision]] = {"fp32": {"fp16", "int8"}, "fp16": {"int8"}, "int8": set()}
"""Precision of an engine -> lower precisions, which its graph must not contain."""


@dataclass(frozen=True)
class GraphKind:
    """Describe the graph that a precision needs.

    - `half`: its weights and activations are float16 (`precision.fp16.to_fp16`).
    - `quantized`: it has QuantizeLinear and DequantizeLinear (Q/DQ) nodes (`precision.int8.quantize` with target
      "tensorrt").
    """

    half: bool
    quantized: bool


def graph_for(precision: Precision, major: int) -> GraphKind:
    """Return the kind of graph from which TensorRT of version `major` builds an engine of `precision`.

    - FP32: the FP32 graph.
    - FP16: from TensorRT 10 on the float16 graph, because networks are strongly typed. TensorRT 8 gets the FP32 graph
      and permission to choose FP16 kernels (`BuilderFlag.FP16`).
    - INT8: the FP32 graph with Q/DQ nodes. TensorRT 10 and newer also accept a float16 graph with Q/DQ nodes, from
      opset 19 on; its layers without quantisation run in FP16.

    >>> graph_for("fp16", 10)
    GraphKind(half=True, quantized=False)
    """
    return GraphKind(half=precision == "fp16" and major >= STRONGLY_TYPED, quantized=precision == "int8")


@dataclass(frozen=True)
class EngineGraph:
    """Hold an ONNX artifact with what the build needs to know of its graph.

    - `label`, `path`, `content`: name for messages, file if there is one, and bytes of the artifact.
    - `images`, `logits`: names of the input and output tensors.
    - `size`: (height, width) of the input in pixels, each None if it is dynamic.
    - `nodes`: (name, operator) of each node, in the graph's order.
    - `convolutions`: number of convolutions that compute in each precision, judged by the type of their weights and
      by the Q/DQ nodes in front of them.
    - `opset`: version of ONNX's operators.
    """

    label: str
    path: Path | None
    content: bytes
    spec: ModelSpec
    images: str
    logits: str
    size: tuple[int | None, int | None]
    nodes: tuple[tuple[str, str], ...]
    convolutions: Mapping[Precision, int]
    opset: int

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the artifact in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    def require(self, precision: Precision, major: int) -> None:
        """Raise `ModelError` unless TensorRT of version `major` can build an engine of `precision` from the graph."""
        kind = graph_for(precision, major)
        found = {name for name, count in self.convolutions.items() if count}
        if kind.quantized and "int8" not in found:
            raise ModelError(
                f"{self.label} has no quantised convolution, and TensorRT takes INT8 from the graph",
                hint="quantise it first: resnet-infer export --precision int8 --calibration-data FOLDER",
                source=self.label,
                reason="unsupported",
            )
        if kind.half and "fp16" not in found:
            raise ModelError(
                f"{self.label} is in {_named(found)}, and TensorRT {major} takes its precision from the graph",
                hint="convert the graph to float16 first: resnet-infer export --precision fp16",
                source=self.label,
                reason="unsupported",
            )
        lower = found & _LOWER[precision]
        if lower:
            raise ModelError(
                f"{self.label} is in {_named(lower)} already, so no engine in {precision} can be made of it",
                hint="give the checkpoint, or the FP32 artifact",
                source=self.label,
                reason="unsupported",
            )
        if "fp16" in found and kind.quantized and self.opset < HALF_QUANTIZED_OPSET:
            raise ModelError(
                f"{self.label} mixes float16 with Q/DQ nodes at opset {self.opset}, and they take it from opset "
                f"{HALF_QUANTIZED_OPSET} on",
                source=self.label,
                reason="unsupported",
            )


def read_graph(model: bytes | Path) -> EngineGraph:
    """Read an ONNX artifact, given as its bytes or its path.

    Raises `ModelError` if the file is missing or damaged, or has no model spec. Raises it also unless the graph has one
    input, uint8 (N, height, width, 3) with a dynamic batch, and one float32 output, and casts the input first: TensorRT
    accepts uint8 only for a network input that is cast to a floating-point type (`DataType.UINT8` in its API
    reference).
    """
    path = model if isinstance(model, Path) else None
    label = str(path) if path else "the model"
    if path and not path.is_file():
        raise ModelError(f"{path} does not exist", source=path, reason="missing")
    content = path.read_bytes() if path else model
    assert isinstance(content, bytes)
    try:
        proto = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's exceptions; protobuf is no direct dependency
        raise ModelError(
            f"{label} is no ONNX model, or damaged ({first_line(error)})", source=label, reason="damaged"
        ) from error
    spec = get_spec(proto, label)
    graph = proto.graph
    if (len(graph.input), len(graph.output)) != (1, 1):
        raise ModelError(
            f"{label} has {len(graph.input)} inputs and {len(graph.output)} outputs, not one of each",
            source=label,
            reason="unsupported",
        )
    images, logits = graph.input[0], graph.output[0]
    tensor = images.type.tensor_type
    sides = [item.dim_value or None for item in tensor.shape.dim]
    if tensor.elem_type != TensorProto.UINT8 or len(sides) != 4 or sides[0] or sides[3] != 3:
        raise ModelError(
            f"{label}: the input {images.name} is not uint8 (N, height, width, 3)", source=label, reason="unsupported"
        )
    if logits.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ModelError(f"{label}: the output {logits.name} is not float32", source=label, reason="unsupported")
    if any(images.name in node.input and node.op_type != "Cast" for node in graph.node):
        raise ModelError(
            f"{label}: TensorRT takes uint8 only where a Cast comes first", source=label, reason="unsupported"
        )
    return EngineGraph(
        label=label,
        path=path,
        content=content,
        spec=spec,
        images=images.name,
        logits=logits.name,
        size=(sides[1], sides[2]),
        nodes=tuple((node.name, node.op_type) for node in graph.node),
        convolutions=_convolutions(graph),
        opset=opset(proto),
    )


def check_batches(low: int, best: int, high: int) -> tuple[int, int, int]:
    """Return the smallest, optimal and largest batch. Raises `UsageError` unless 1 <= low <= best <= high."""
    if not 1 <= low <= best <= high:
        raise UsageError(
            f"batches of {low}, {best} and {high} pictures make no range",
            hint="1 <= --min-batch <= --opt-batch <= --max-batch",
        )
    return low, best, high


def _convolutions(graph: onnx.GraphProto) -> Mapping[Precision, int]:
    """Count the convolutions that compute in each precision. See `EngineGraph.convolutions`."""
    makers = producers(graph)
    types = {name: tensor.data_type for name, tensor in constants(graph).items()}
    found: Counter[Precision] = Counter()
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        if all(name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input[:2]):
            found["int8"] += 1
        else:
            found["fp16" if _type(node.input[1], makers, types) == TensorProto.FLOAT16 else "fp32"] += 1
    return found


def _type(name: str, makers: Mapping[str, onnx.NodeProto], types: Mapping[str, int]) -> int | None:
    """Return the element type of weights (`TensorProto.DataType`), or None if it is unknown.

    The result type of a Cast counts. For a DequantizeLinear it is the type of its scale.
    """
    node = makers.get(name)
    if name in types or node is None:
        return types.get(name)
    if node.op_type == "Cast":
        kind: int | None = attribute(node, "to")
        return kind
    return types.get(node.input[1]) if node.op_type == "DequantizeLinear" else None


def _named(precisions: set[Precision]) -> str:
    """Return the precisions as text for a message, e.g. `FP16 and INT8`."""
    return " and ".join(sorted(item.upper() for item in precisions)) or "no known precision"
