"""Lower an FP32 graph to FP16 or INT8, and measure what that costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from resnet_infer.converters.config import ExportConfig
from resnet_infer.converters.pictures import ExportPictures
from resnet_infer.converters.precision.calibration import Calibration, calibrate
from resnet_infer.converters.precision.fp16 import ON_CPU, to_fp16
from resnet_infer.converters.precision.fp16_graph import emulate
from resnet_infer.converters.precision.int8 import cpu_weight_bits, quantize
from resnet_infer.converters.precision.int8 import layers as quantizable_layers
from resnet_infer.converters.precision.sensitivity import LayerCost, fewest_float_layers, layer_costs
from resnet_infer.data.feed import Feed
from resnet_infer.models.graph import Graph
from resnet_infer.runtimes.base import Images, Logits
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.utils.console import warn
from resnet_infer.utils.extras import needs
from resnet_infer.utils.progress import progress
from resnet_infer.verification.gates import judge
from resnet_infer.verification.metrics import Cost, measure
from resnet_infer.verification.tolerances import Verdict

with needs("export", "lowering the precision of a graph"):
    from onnx import ModelProto
with needs("cpu", "lowering the precision of a graph"):
    from resnet_infer.runtimes import ort_session

HALF_PICTURES = 8
"""Images on which the largest activations are measured for FP16."""
BATCH = 32
"""Images per inference of the comparison."""


PROOF_PICTURES = 8
"""Images whose logits are kept to prove the written file."""


@dataclass(frozen=True)
class Lowered:
    """Hold a graph in the precision of the export, the FP32 graph `source`, and what the precision costs.

    `verdict` judges the cost by the gate of the images; `what` names the graph in a message. `float_layers` maps the
    layers that stay in FP32 to the reason. `layer_costs` are the costs of single layers, highest first, empty if they
    were not needed. `answers` are images and their logits by the lowered graph. An FP32 graph has none of these.
    """

    graph: Graph
    source: Graph
    verdict: Verdict[Cost] | None = None
    what: str = ""
    float_layers: Mapping[str, str] = field(default_factory=dict)
    layer_costs: tuple[LayerCost, ...] = ()
    calibration: Calibration | None = None
    answers: tuple[Images, Logits] | None = None


def lower(source: Graph, pictures: ExportPictures | None, config: ExportConfig) -> Lowered:
    """Lower the FP32 graph `source` to the precision of `config`, and measure what that costs.

    The images are those of `open_pictures`. Whether the cost is accepted is the caller's to check.
    """
    if pictures is None:
        return Lowered(source, source)
    if config.precision == "fp16":
        return lower_to_fp16(source, pictures)
    return lower_to_int8(source, pictures, config)


def logits_of(model: bytes, feed: Feed) -> Logits:
    """Run a serialised graph on all images of the feed, by ONNX Runtime on the CPU. Returns float32, (N, classes)."""
    with OnnxRuntime(model, device="cpu") as runtime:
        return np.concatenate([runtime(batch) for batch in feed.batches(BATCH)])


def lower_to_fp16(source: Graph, pictures: ExportPictures) -> Lowered:
    """Convert an FP32 graph to FP16. Raises as `to_fp16`."""
    if ort_session.CUDA not in ort_session.available_providers():
        warn(ON_CPU)
    feed = pictures.check
    images = next(feed.batches(HALF_PICTURES))
    half = to_fp16(source.model, images=images)
    # On most CPUs ONNX Runtime computes FP16 nodes in FP32. The emulated graph rounds every result to FP16.
    logits = logits_of(emulate(half.model).SerializeToString(), feed)
    cost = measure(logits_of(source.content, feed), logits, feed.labels)
    return Lowered(
        Graph.of(half.model),
        source,
        judge(cost, pictures.gate),
        "FP16",
        dict(half.kept),
        answers=(images[:PROOF_PICTURES], logits[:PROOF_PICTURES]),
    )


def lower_to_int8(source: Graph, pictures: ExportPictures, config: ExportConfig) -> Lowered:
    """Quantise an FP32 graph to INT8 by the target, method, weight bits and float layers of `config`.

    The method chooses how ranges follow from the calibration (see `find_range`). Weights have 8 or 7 bits; the default
    is what this machine's processor needs for the target "cpu" (see `cpu_weight_bits`), and 8 for "tensorrt".

    If the cost exceeds the gate, the cost of every layer alone is measured, and the fewest layers, in the order of
    their cost, that make the graph pass stay in float too. If that does not suffice, the verdict fails, and `what`
    names the most costly layers. Raises as `quantize`, and `ModelError` for a calibration of another graph.
    """
    feed, gate = pictures.check, pictures.gate
    calibration = _calibration(source, pictures.calibration)
    target = config.target or "cpu"
    asked = tuple(config.float_layers)
    bits = config.weight_bits or (cpu_weight_bits() if target == "cpu" else 8)
    reference = logits_of(source.content, feed)

    def build(others: Collection[str]) -> tuple[ModelProto, Logits]:
        """Quantise the graph with the layers `others` left in float too, and run it."""
        model = quantize(
            source.model,
            calibration,
            target=target,
            method=config.method,
            weight_bits=bits,
            float_nodes=tuple(dict.fromkeys((*asked, *others))),
        )
        return model, logits_of(model.SerializeToString(), feed)

    def judged(logits: Logits) -> Verdict[Cost]:
        """Judge the cost of a quantised graph with these logits."""
        return judge(measure(reference, logits, feed.labels), gate)

    model, logits = build(())
    verdict, what = judged(logits), "INT8"
    kept = dict.fromkeys(asked, "asked for")
    costs: list[LayerCost] = []
    if not verdict.passed:
        layers = [name for name in quantizable_layers(source.model) if name not in asked]
        with progress("layers", len(layers), "layers") as advance:
            costs = layer_costs(layers, reference, lambda others: build(others)[1], advance)
        found = fewest_float_layers(costs, lambda names: judged(build(names)[1]).passed)
        if found is None:
            dearest = ", ".join(f"{item.layer} ({item.cost:.2g})" for item in costs[:3])
            what = f"INT8 ({config.method}; the dearest layers, by squared error of the logits, are {dearest})"
        else:
            model, logits = build(found)
            verdict = judged(logits)
            places = {item.layer: item.cost for item in costs}
            kept.update({name: f"alone it costs {places[name]:.2g} of the logits' variance" for name in found})
    answers = (next(feed.batches(PROOF_PICTURES)), logits[:PROOF_PICTURES])
    return Lowered(Graph.of(model), source, verdict, what, kept, tuple(costs), calibration, answers)


def _calibration(source: Graph, given: Feed | Calibration | None) -> Calibration:
    """Calibrate on a feed, or check that a calibration of an earlier export is of this graph."""
    assert given is not None, "INT8 without pictures passed the check of the configuration"
    if isinstance(given, Calibration):
        given.require(source.model)
        return given
    with progress("calibrating", len(given), "pictures") as advance:
        return calibrate(source.model, given.crops(), advance=advance)
