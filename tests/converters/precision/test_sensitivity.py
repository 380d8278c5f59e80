"""The search for the layers that cost most; on real networks it is tested with the command."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.converters.precision.sensitivity import LARGEST_SHARE, LayerCost, fewest_float_layers, layer_costs


def test_layers_are_ranked_by_what_each_alone_costs() -> None:
    reference = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    harm = {"a": 0.1, "b": 3.0, "c": 0.0, "d": np.nan}

    def quantized(left_in_float: Collection[str]) -> Any:
        # In one class of the four: what all have in common costs nothing.
        return reference + np.eye(4)[0] * sum(value for name, value in harm.items() if name not in left_in_float)

    costs = layer_costs(list(harm), reference, quantized)
    assert [item.layer for item in costs] == ["d", "b", "a", "c"]
    between = reference - reference.mean(axis=1, keepdims=True)
    variance = np.var(between, axis=0, ddof=1).sum()
    assert costs[2].cost == pytest.approx(0.01 * 3 / 4 / variance, rel=1e-3)
    assert costs[0].cost == float("inf")


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_fewest_that_pass_are_found(count: int, needed: int) -> None:
    costs = [LayerCost(str(place), 1.0) for place in range(count)]
    asked = []

    def passes(names: Collection[str]) -> bool:
        asked.append(len(names))
        return len(names) >= needed

    found = fewest_float_layers(costs, passes)
    if needed <= int(count * LARGEST_SHARE):
        assert found == [str(place) for place in range(needed)]
    else:
        assert found is None
    assert len(asked) <= 2 * max(count, 2).bit_length()
