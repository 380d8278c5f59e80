"""A graph in FP32 in, the same graph in FP16 out, with FP32 left where half precision has not the range.

Half precision (IEEE 754 binary16) has a significand of 11 bits, ends at 65504, and loses bits below 2**-14.
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
LARGEST = 65504.0
"""The largest finite number of half precision."""
HEADROOM = 2.0
"""Other pictures may reach this many times what those at hand reach."""
LOST = 2.0**-8
"""The share of a weight's norm that may be lost. Rounding takes 2**-12 of it, numbers that are too small all."""
PICTURES = 8
BATCH = 8
WIDE = frozenset(
    {
        *("Exp", "Log", "LogSoftmax", "LpNormalization", "Pow", "Reciprocal", "Softmax", "Softplus"),
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
    }
)
"""Operators that need the range of FP32 whatever they are given; the choice follows torch's autocast."""
HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that half precision is for."""


@dataclass(frozen=True)
class Fp16:
    """The graph in half precision, and the nodes that stayed in FP32, each with the reason."""

    model: ModelProto
    kept: Mapping[str, str]

    def __str__(self) -> str:
        if not self.kept:
            return "every layer is in FP16"
        return "kept in FP32: " + "; ".join(f"{name} ({reason})" for name, reason in self.kept.items())


def to_fp16(model: ModelProto, *, images: Images | None = None, keep: Collection[str] = ()) -> Fp16:
    """The FP32 graph `model`, of ours or adopted, in half precision: weights, activations and arithmetic.

    `images` (uint8 in) and `logits` (float32 out) stay as they are. A node stays in FP32 if it is named in `keep`, if
    its operator has no form in half precision, or if its weights or activations would leave the range. To see that,
    the FP32 graph is run on `images`, uint8 NHWC, by default synthetic ones. Weights below 2**-14, of which the first
    convolution has many because it divides by 255, are rounded more coarsely; that is less than the large ones lose.

    Raises `ModelError` if no layer is left for half precision; `UsageError` for a graph that is not FP32, or a name
    in `keep` that it does not have.
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
    kept = _keep(graph, keep, largest(result, activations, images))
    heavy = {node.name for node in result.graph.node if node.op_type in HEAVY}
    if heavy <= kept.keys():
        reason = "; ".join(f"{name}: {kept[name]}" for name in list(kept)[:3])
        raise ModelError(f"no layer of {spec.name} fits FP16 ({reason})", hint="use --precision fp32")
    graph.rewrite()
    # What was measured, was measured of the FP32 net.
    set_spec(result, spec.with_(precision="fp16", measured=()))
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:  # onnx's exceptions share no base class but this
        raise ModelError(f"{spec.name} gives no valid graph in FP16 ({first_line(error)})") from error
    return Fp16(result, kept)


def largest(model: ModelProto, tensors: Collection[str], images: Images) -> dict[str, float]:
    """The largest magnitude in each of the float32 tensors while `model` runs on `images`, uint8 NHWC, in batches."""
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
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this
        raise ModelError(f"the FP32 graph does not run ({first_line(error)})") from error
    values: NDArray[Any] = np.max(np.array(parts, np.float64), axis=0)
    return dict(zip(tensors, values.tolist(), strict=True))


def _spec(model: ModelProto) -> ModelSpec:
    spec = get_spec(model)
    if spec.precision != "fp32":
        raise UsageError(f"{spec.name} is {spec.precision} already; FP16 is made of an FP32 graph")
    return spec


def _keep(graph: Fp16Graph, asked: Collection[str], reached: Mapping[str, float]) -> dict[str, str]:
    """Take the half form from every node that must stay in FP32. Returns these nodes with the reasons."""
    # Not `>`: what is no number shall count as well.
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
    kept |= _between(graph)
    return {node.name: kept[node.name] for node in graph.graph.node if node.name in kept}


def _unfit(name: str, weight: NDArray[Any]) -> str | None:
    """Why the weight cannot be in half precision; None if it can."""
    values = weight[np.isfinite(weight)]
    size = float(np.abs(values).max(initial=0))
    if size > LARGEST:
        return f"{name} reaches {size:.4g}"
    # Of values in units of the largest, so that no square is too small either.
    rounded = values.astype(np.float16).astype(np.float32)
    lost = float(np.linalg.norm((rounded - values) / (size or 1)) / (np.linalg.norm(values / (size or 1)) or 1))
    return f"{name} would lose {100 * lost:.2g}% of its norm" if lost > LOST else None


def _between(graph: Fp16Graph) -> dict[str, str]:
    """Keep in FP32 what is light and only stands between nodes in FP32: casts would cost more than it saves."""
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
