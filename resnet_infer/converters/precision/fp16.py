"""Convert an FP32 graph to FP16, and leave nodes in FP32 whose values exceed the range of FP16.

FP16 is IEEE 754 binary16: a significand of 11 bits, at most 65504, and fewer bits below 2**-14 (subnormal numbers).
`fp16_graph` rewrites the nodes.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.converters.precision.canonicalise import canonicalise
from resnet_infer.converters.precision.fp16_graph import Fp16Graph
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import ModelError, UsageError, did_you_mean, first_line
from resnet_infer.models.graph import INPUT, get_spec, set_spec
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Images
from resnet_infer.utils.extras import needs

with needs("export", "converting a graph to FP16"):
    import onnx
    from onnx import ModelProto, TensorProto, helper
with needs("cpu", "converting a graph to FP16"):
    from resnet_infer.runtimes import ort_session

ON_CPU = "ONNX Runtime computes FP16 in FP32 on most CPUs: the file is half as large and no faster; FP16 is for GPUs"
"""Note for an FP16 export without a GPU."""
LARGEST = 65504.0
"""Largest finite FP16 number."""
HEADROOM = 2.0
"""Safety factor on the largest measured activations: other images may give larger ones."""
LOST = 2.0**-8
"""Largest relative error of a weight tensor in FP16, in the L2 norm. Rounding alone causes about 2**-12."""
PICTURES = 8
"""Number of synthetic images on which activations are measured by default."""
BATCH = 8
"""Images per inference of the measurement."""
WIDE = frozenset(
    {
        *("Exp", "Log", "LogSoftmax", "LpNormalization", "Pow", "Reciprocal", "Softmax", "Softplus"),
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
    }
)
"""Operators that stay in FP32, because their results exceed the range or precision of FP16. The choice follows the
float32 list of torch's autocast."""
HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that take most of the time, and for which FP16 is worth its casts."""


@dataclass(frozen=True)
class Fp16:
    """Hold an FP16 graph, and in `kept` the reason for every node that stays in FP32."""

    model: ModelProto
    kept: Mapping[str, str]

    def __str__(self) -> str:
        if not self.kept:
            return "every layer is in FP16"
        return "kept in FP32: " + "; ".join(f"{name} ({reason})" for name, reason in self.kept.items())


def to_fp16(model: ModelProto, *, images: Images | None = None, keep: Collection[str] = ()) -> Fp16:
    """Convert an FP32 graph, exported or imported, to FP16: weights, activations and arithmetic.

    The types of the graph's input (`images`, uint8) and output (`logits`, float32) do not change. A node stays in FP32
    if `keep` names it, its operator has no FP16 form or needs FP32, or its weights or activations exceed the range of
    FP16. Activations are measured on `images`, uint8, (N, height, width, 3); the default are synthetic images.

    Weights below 2**-14 lose bits in FP16. The first convolution has many of them, because it includes the division by
    255. Their absolute error is smaller than that of the large weights.

    Raises `ModelError` if no convolution or fully connected layer can be in FP16, or the graph does not run, and
    `UsageError` for a graph that is not FP32, or a name in `keep` that is no node's.

    >>> str(to_fp16(onnx.load("model.onnx")))
    'every layer is in FP16'
    """
    spec = _spec(model)
    result = canonicalise(model)
    graph = Fp16Graph(result)
    known = [node.name for node in result.graph.node]
    for name in keep:
        if name not in known:
            raise UsageError(f"{spec.name} has no node {name!r}" + did_you_mean(name, known))
    if images is None:
        images = natural_noise(PICTURES, spec.input.crop, spec.input.crop)
    activations = [name for node in result.graph.node for name in graph.floats(node.output)]
    kept = _leave_in_fp32(graph, keep, largest(result, activations, images))
    heavy = {node.name for node in result.graph.node if node.op_type in HEAVY}
    if heavy <= kept.keys():
        reason = "; ".join(f"{name}: {kept[name]}" for name in list(kept)[:3])
        raise ModelError(
            f"no layer of {spec.name} fits FP16 ({reason})",
            hint="use --precision fp32",
            source=spec.name,
            reason="unsupported",
        )
    graph.rewrite()
    # The measured errors in the spec are those of the FP32 network.
    set_spec(result, spec.with_(precision="fp16", measured=()))
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:  # the exceptions of onnx share no other base class
        raise ModelError(
            f"{spec.name} gives no valid graph in FP16 ({first_line(error)})", source=spec.name, reason="failed"
        ) from error
    return Fp16(result, kept)


def largest(model: ModelProto, tensors: Collection[str], images: Images) -> dict[str, float]:
    """Measure the largest magnitude in each of the float32 tensors while `model` runs on images.

    `images` are uint8, (N, height, width, 3). Raises `ModelError` if the graph does not run.
    """
    probe = copy.deepcopy(model)
    graph = probe.graph
    del graph.output[:]
    for name in tensors:
        graph.node.append(helper.make_node("Abs", [name], [f"{name}.abs"]))
        graph.node.append(helper.make_node("ReduceMax", [f"{name}.abs"], [f"{name}.largest"], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(f"{name}.largest", TensorProto.FLOAT, []))
    try:
        session = ort_session.open_session(probe.SerializeToString(), ort_session.session_options(silent=True))
        parts = [session.run(None, {INPUT: images[start : start + BATCH]}) for start in range(0, len(images), BATCH)]
    except Exception as error:  # the exceptions of ONNX Runtime share no other base class
        raise ModelError(f"the FP32 graph does not run ({first_line(error)})", reason="failed") from error
    values: NDArray[Any] = np.max(np.array(parts, np.float64), axis=0)
    return dict(zip(tensors, values.tolist(), strict=True))


def _spec(model: ModelProto) -> ModelSpec:
    """Return the spec of the graph. Raises `UsageError` unless it is FP32."""
    spec = get_spec(model)
    if spec.precision != "fp32":
        raise UsageError(f"{spec.name} is {spec.precision} already; FP16 is made of an FP32 graph")
    return spec


def _leave_in_fp32(graph: Fp16Graph, asked: Collection[str], reached: Mapping[str, float]) -> dict[str, str]:
    """Remove the FP16 form of every node that must stay in FP32, and return the reason for each of them.

    `asked` are the nodes that the caller keeps, and `reached` the largest magnitude of each activation.
    """
    # `not <=` rather than `>`, so that NaN counts too.
    over = {name: value for name, value in reached.items() if not value * HEADROOM <= LARGEST}
    unfit = {name: text for name, weight in graph.weights.items() if (text := _unfit(name, weight))}
    kept: dict[str, str] = {}
    for number, node in enumerate(graph.graph.node):
        floats = graph.floats([*node.input, *node.output])
        reasons = [unfit[name] for name in floats if name in unfit]
        reasons += [f"{name} reaches {over[name]:.4g}" for name in floats if name in over]
        if floats and (graph.forms[number] is None or node.op_type in WIDE):
            reasons.append(f"{node.op_type} is computed in FP32")
        if node.name in asked:
            reasons.append("asked for")
        if reasons:
            kept[node.name] = reasons[0]
            graph.forms[number] = None
    kept |= _leave_isolated_in_fp32(graph)
    return {node.name: kept[node.name] for node in graph.graph.node if node.name in kept}


def _unfit(name: str, weight: NDArray[Any]) -> str | None:
    """Return why a weight tensor cannot be FP16: its range or its relative error. None if it can."""
    values = weight[np.isfinite(weight)]
    size = float(np.abs(values).max(initial=0))
    if size > LARGEST:
        return f"{name} reaches {size:.4g}"
    # The values are divided by the largest, so that their squares do not underflow.
    rounded = values.astype(np.float16).astype(np.float32)
    lost = float(np.linalg.norm((rounded - values) / (size or 1)) / (np.linalg.norm(values / (size or 1)) or 1))
    return f"{name} would lose {100 * lost:.2g}% of its norm" if lost > LOST else None


def _leave_isolated_in_fp32(graph: Fp16Graph) -> dict[str, str]:
    """Remove the FP16 form of cheap nodes that have only FP32 nodes around them: casts would cost more than they save.

    Returns the reason for each of them.
    """
    kept: dict[str, str] = {}
    while True:
        half = [(node, form) for node, form in zip(graph.graph.node, graph.forms, strict=True) if form]
        made = {name for node, _ in half for name in node.output}
        read = {name for node, _ in half for name in node.input}
        before = len(kept)
        for number, (node, form) in enumerate(zip(graph.graph.node, graph.forms, strict=True)):
            if form is None or node.op_type in HEAVY:
                continue
            sources = {node.input[place] for place in form.inputs} - graph.weights.keys()
            if sources and not sources & made and not read & set(node.output):
                kept[node.name] = "it stands between nodes in FP32"
                graph.forms[number] = None
        if len(kept) == before:
            return kept
