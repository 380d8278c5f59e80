"""Measure which layers lose most by INT8, and find the fewest that must stay in float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_infer.runtimes.base import Logits
from resnet_infer.verification.metrics import measure

LARGEST_SHARE = 0.25
"""Largest share of the layers that may stay in float. With more of them it hardly counts as INT8."""

Quantized = Callable[[Collection[str]], Logits]
"""Function from the names of layers left in float to the quantised network's logits, (N, classes), on all images."""


@dataclass(frozen=True)
class LayerCost:
    """Hold the `Cost.error` of the network in which this layer alone is INT8."""

    layer: str
    cost: float

    def to_json(self) -> dict[str, Any]:
        """Return the layer and its cost as JSON values."""
        return dict(vars(self))


def layer_costs(
    layers: Sequence[str], reference: Logits, quantized: Quantized, advance: Callable[[int], None] = lambda count: None
) -> list[LayerCost]:
    """Measure the cost of every layer in INT8 alone, and return the costs, highest first.

    `reference` holds the FP32 logits, (N, classes). After each layer `advance` is called with 1.
    """
    costs = []
    for layer in layers:
        logits = quantized([other for other in layers if other != layer])
        costs.append(LayerCost(layer, measure(reference, logits).error))
        advance(1)
    return sorted(costs, key=lambda item: -item.cost)


def fewest_float_layers(costs: Sequence[LayerCost], passes: Callable[[Collection[str]], bool]) -> list[str] | None:
    """Return the fewest layers that must stay in float for the network to pass, None if they exceed `LARGEST_SHARE`.

    The layers are taken in the order of `costs`. `passes` is called with the layers left in float. If it passes with
    some number of them, it is assumed to pass with more, so an exponential and a binary search find the least number
    with a logarithmic number of calls.
    """
    names = [item.layer for item in costs]
    most = int(len(names) * LARGEST_SHARE)
    low, high = 0, 1
    while high <= most and not passes(names[:high]):
        low, high = high, min(2 * high, most) if high < most else most + 1
    if high > most:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(names[:middle]) else (middle, high)
    return names[:high]
