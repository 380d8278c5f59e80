"""Determine the precision of an imported ONNX graph, and whether it uses operators that only ONNX Runtime has."""

from __future__ import annotations

from collections.abc import Iterator

from resnet_infer.errors import ModelError
from resnet_infer.models.spec import Precision
from resnet_infer.utils.extras import needs

with needs("export", "adopting an ONNX graph"):
    from onnx import ModelProto, NodeProto, TensorProto

    from resnet_infer.models.onnx_tools import ONNX_DOMAINS, all_graphs, attribute, constant_of

PROCESSOR_DOMAINS = ("com.microsoft.nchwc",)
"""Domains of ONNX Runtime's operators whose weights are laid out for the vector width of one kind of processor."""
INTEGER_OPERATORS = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "MatMulIntegerToFloat", "QGemm")
"""Operators on 8-bit integers, besides those whose names begin with `QLinear`."""
EIGHT_BITS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32)
"""Types of quantised tensors in an INT8 graph: int8 and uint8 for activations and weights, int32 for biases."""


def precision_of_graph(model: ModelProto, label: str) -> Precision:
    """Return the lowest precision of any node or weight in the graph.

    `label` names the graph in messages. Raises `ModelError` for a precision that a spec cannot express: bfloat16,
    float8, and quantisation to other integers than those of `EIGHT_BITS`.
    """
    nodes, tensors = list(_nodes(model)), list(_tensors(model))
    kinds = {tensor.data_type for tensor in tensors}
    kinds |= {attribute(node, "to", TensorProto.UNDEFINED) for node in nodes if node.op_type == "Cast"}
    quantized = [node for node in nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    types = {tensor.name: tensor.data_type for tensor in tensors}
    widths = {types[name] for node in quantized for name in node.input[2:3] if name in types}
    widths |= {types[node.input[0]] for node in quantized if node.op_type.startswith("D") and node.input[0] in types}
    widths |= {kind for node in quantized if (kind := attribute(node, "output_dtype"))}
    odd = sorted(TensorProto.DataType.Name(kind).lower() for kind in widths - set(EIGHT_BITS))
    if TensorProto.BFLOAT16 in kinds:
        odd.append("bfloat16")
    if odd:
        raise ModelError(
            f"{label} computes in {odd[0]}, which is not among fp32, fp16 and int8",
            hint="export it in float32, adopt that, and lower it with: resnet-infer export --precision fp16 or int8",
            source=label,
            reason="unsupported",
        )
    if quantized or any(node.op_type.startswith("QLinear") or node.op_type in INTEGER_OPERATORS for node in nodes):
        return "int8"
    return "fp16" if TensorProto.FLOAT16 in kinds else "fp32"


def own_operators(model: ModelProto, label: str) -> tuple[str, ...]:
    """Return the operators outside ONNX's domains and the model's own functions, as `domain.operator`.

    Such operators, for example `com.microsoft.FusedConv`, come from ONNX Runtime's graph optimisations. Raises
    `ModelError` if one of them is in `PROCESSOR_DOMAINS`.
    """
    found = dict.fromkeys(
        f"{node.domain}.{node.op_type}" for node in _nodes(model) if node.domain not in _known_domains(model)
    )
    bound = [name for name in found if name.rpartition(".")[0] in PROCESSOR_DOMAINS]
    if bound:
        raise ModelError(
            f"{label} was optimised by ONNX Runtime for the processor it was saved on ({', '.join(bound)})",
            hint="adopt the graph that it was made from, or save it again with graph_optimization_level = "
            "ORT_ENABLE_BASIC",
            source=label,
            reason="unsupported",
        )
    return tuple(found)


def _known_domains(model: ModelProto) -> tuple[str, ...]:
    """Return the domains of ONNX's operators and of the functions that the model defines."""
    return (*ONNX_DOMAINS, "ai.onnx.ml", *(function.domain for function in model.functions))


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield the nodes of the graph, its subgraphs and the model's functions."""
    for graph in all_graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield the initialisers, and for each Constant node an empty tensor with its type and the name of its output."""
    for graph in all_graphs(model.graph):
        yield from graph.initializer
    for node in _nodes(model):
        value = constant_of(node)
        if value is not None:
            yield TensorProto(name=node.output[0], data_type=value.data_type)
