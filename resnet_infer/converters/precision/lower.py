"""Lower an FP32 graph to FP16 or INT8, and check what that costs against a gate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnet_infer.converters.precision.calibration import Calibration
from resnet_infer.converters.precision.fp16 import to_fp16
from resnet_infer.converters.precision.fp16_graph import emulate
from resnet_infer.converters.precision.int8 import cpu_weight_bits, quantize
from resnet_infer.converters.precision.int8 import layers as quantizable_layers
from resnet_infer.converters.precision.placement import Target
from resnet_infer.converters.precision.ranges import Method
from resnet_infer.converters.precision.sensitivity import LayerCost, fewest_float_layers, layer_costs
from resnet_infer.data.feed import Feed
from resnet_infer.models.graph import get_spec
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Logits
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.utils.extras import needs
from resnet_infer.utils.progress import progress
from resnet_infer.verification.gates import judge, require
from resnet_infer.verification.metrics import Cost, measure
from resnet_infer.verification.tolerances import Tolerance, Verdict

with needs("export", "lowering the precision of a graph"):
    from onnx import ModelProto

HALF_PICTURES = 8
"""Images on which the largest activations are measured for FP16."""
BATCH = 32
"""Images per inference of the comparison."""


@dataclass(frozen=True)
class Lowered:
    """Hold a graph in a lower precision, and what that costs.

    `verdict` judges the cost by `gate`. `float_layers` maps the layers that stay in FP32 to the reason. `layer_costs`
    are the costs of single layers, highest first, empty if they were not needed.
    """

    model: ModelProto
    verdict: Verdict[Cost]
    gate: Tolerance
    float_layers: dict[str, str]
    layer_costs: tuple[LayerCost, ...] = ()

    @property
    def spec(self) -> ModelSpec:
        """Spec that the graph carries."""
        return get_spec(self.model)

    def to_json(self) -> dict[str, Any]:
        """Return the cost, the gate, the float layers and the costs of layers as JSON values."""
        return {
            "cost": self.verdict.to_json(),
            "gate": self.gate.to_json("error", "agreement", "max_drop"),
            "float_layers": self.float_layers,
            "layer_costs": [item.to_json() for item in self.layer_costs],
        }


def logits_of(model: ModelProto, feed: Feed) -> Logits:
    """Run a graph on all images of the feed, by ONNX Runtime on the CPU. Returns logits, float32, (N, classes)."""
    with OnnxRuntime(model.SerializeToString(), device="cpu") as runtime:
        return np.concatenate([runtime(batch) for batch in feed.batches(BATCH)])


def lower_to_fp16(graph: ModelProto, feed: Feed, gate: Tolerance) -> Lowered:
    """Convert an FP32 graph to FP16.

    Raises `ParityError` if that costs more on the images of `feed` than `gate` allows, and as `to_fp16`.
    """
    half = to_fp16(graph, images=next(feed.batches(HALF_PICTURES)))
    # On most CPUs ONNX Runtime computes FP16 nodes in FP32. The emulated graph rounds every result to FP16.
    cost = measure(logits_of(graph, feed), logits_of(emulate(half.model), feed), feed.labels)
    verdict = judge(cost, gate)
    require(verdict, gate, "FP16")
    return Lowered(half.model, verdict, gate, dict(half.kept))


def lower_to_int8(
    graph: ModelProto,
    calibration: Calibration,
    feed: Feed,
    gate: Tolerance,
    *,
    target: Target = "cpu",
    method: Method = "mse",
    weight_bits: int | None = None,
    float_layers: Collection[str] = (),
) -> Lowered:
    """Quantise an FP32 graph to INT8 for `target`, with the nodes `float_layers` left in float.

    `method` chooses how ranges follow from the calibration (see `find_range`). `weight_bits` is 8 or 7; the default is
    what this machine's processor needs for the target "cpu" (see `cpu_weight_bits`), and 8 for "tensorrt".

    If the cost on the images of `feed` exceeds `gate`, the cost of every layer alone is measured, and the fewest
    layers, in the order of their cost, that make the graph pass stay in float too. Raises `ParityError` naming the most
    costly layers if that does not suffice, and as `quantize`.
    """
    asked = tuple(float_layers)
    bits = weight_bits or (cpu_weight_bits() if target == "cpu" else 8)
    reference = logits_of(graph, feed)

    def build(others: Collection[str]) -> ModelProto:
        """Quantise the graph with the layers `others` left in float too."""
        return quantize(
            graph,
            calibration,
            target=target,
            method=method,
            weight_bits=bits,
            float_nodes=tuple(dict.fromkeys((*asked, *others))),
        )

    def judged(model: ModelProto) -> Verdict[Cost]:
        """Judge the cost of a quantised graph."""
        return judge(measure(reference, logits_of(model, feed), feed.labels), gate)

    model = build(())
    verdict = judged(model)
    kept = dict.fromkeys(asked, "asked for")
    if verdict.passed:
        return Lowered(model, verdict, gate, kept)
    layers = [name for name in quantizable_layers(graph) if name not in asked]
    with progress("layers", len(layers), "layers") as advance:
        costs = layer_costs(layers, reference, lambda others: logits_of(build(others), feed), advance)
    found = fewest_float_layers(costs, lambda names: judged(build(names)).passed)
    dearest = ", ".join(f"{item.layer} ({item.cost:.2g})" for item in costs[:3])
    if found is None:
        require(verdict, gate, f"INT8 ({method}; the dearest layers, by squared error of the logits, are {dearest})")
        raise AssertionError("a cost that missed its gate passed it")
    model = build(found)
    places = {item.layer: item.cost for item in costs}
    kept.update({name: f"alone it costs {places[name]:.2g} of the logits' variance" for name in found})
    return Lowered(model, judged(model), gate, kept, tuple(costs))
