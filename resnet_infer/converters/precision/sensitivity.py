"""Which layers INT8 costs most, and the fewest of them that must stay in float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_infer.runtimes.base import Logits
from resnet_infer.verification.metrics import measure

LARGEST_SHARE = 0.25
"""With more of its layers than this in float a network is no INT8 network any more."""

Quantized = Callable[[Collection[str]], Logits]
"""The logits of the network on the pictures of the comparison, with the named layers left in float."""


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs when it alone is INT8: the `Cost.error` of that network."""

    layer: str
    cost: float

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def layer_costs(
    layers: Sequence[str], reference: Logits, quantized: Quantized, advance: Callable[[int], None] = lambda count: None
) -> list[LayerCost]:
    """The cost of every layer, dearest first. `reference` are the logits (N, classes) of the network in float."""
    costs = []
    for layer in layers:
        logits = quantized([other for other in layers if other != layer])
        costs.append(LayerCost(layer, measure(reference, logits).error))
        advance(1)
    return sorted(costs, key=lambda item: -item.cost)


def fewest_float_layers(costs: Sequence[LayerCost], passes: Callable[[Collection[str]], bool]) -> list[str] | None:
    """The shortest head of `costs` that, left in float, makes the network pass; None if none is short enough.

    `passes` is asked a logarithmic number of times: it is taken to hold from some length on.
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
