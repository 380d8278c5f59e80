"""What a lower precision costs, and the gate."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_infer.converters.guard import GATES, Gate, choose_gate, measure, require
from resnet_infer.errors import ParityError, UsageError

RANDOM = np.random.default_rng(0)
REFERENCE = RANDOM.normal(size=(500, 10)).astype(np.float32) + np.arange(10, dtype=np.float32)
LABELS = REFERENCE.argmax(1)


def noisy(scale: float) -> np.ndarray:
    return (REFERENCE + RANDOM.normal(scale=scale, size=REFERENCE.shape)).astype(np.float32)


def test_the_same_answers_cost_nothing() -> None:
    cost = measure(REFERENCE, REFERENCE.copy(), LABELS)
    assert cost.error == cost.largest_error == 0
    assert (cost.agreement, cost.difference.top1 if cost.difference else None) == (1, 0)
    assert all(cost.passes(gate) for gate in GATES.values())


def test_cost_rises_with_noise() -> None:
    costs = [measure(REFERENCE, noisy(scale), LABELS) for scale in (0.01, 0.1, 1.0)]
    assert costs[0].error < costs[1].error < costs[2].error
    assert costs[0].agreement > costs[1].agreement > costs[2].agreement
    assert costs[2].difference is not None
    assert costs[2].difference.top1 == pytest.approx(100 * (1 - costs[2].agreement))
    assert costs[2].difference.p < 1e-9


def test_what_every_picture_has_in_common_counts_for_nothing() -> None:
    same = np.repeat(REFERENCE.mean(axis=0, keepdims=True), len(REFERENCE), axis=0)
    raw = (REFERENCE * same).sum(1) / np.linalg.norm(REFERENCE, axis=1) / np.linalg.norm(same, axis=1)
    assert raw.mean() > 0.9
    assert measure(REFERENCE, same).error > 0.9


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_answers_that_are_not_finite_fail(value: float) -> None:
    cost = measure(REFERENCE, np.full_like(REFERENCE, value), LABELS)
    assert (cost.error, cost.agreement) == (np.inf, 0)
    assert cost.difference is not None
    assert cost.difference.top1 == 100


def test_max_drop_is_the_gate_where_there_are_labels() -> None:
    cost = measure(REFERENCE, noisy(0.3), LABELS)
    assert cost.difference is not None
    drop = cost.difference.top1
    require(cost, choose_gate("int8", drop, labelled=True), "it")
    with pytest.raises(ParityError, match="costs too much accuracy"):
        require(cost, choose_gate("int8", drop - 0.1, labelled=True), "it")
    with pytest.raises(UsageError, match="--max-drop needs pictures"):
        choose_gate("int8", drop, labelled=False)
    assert not measure(REFERENCE, REFERENCE).passes(Gate(np.inf, 0, max_drop=100))


def test_where_fp32_only_guesses_the_error_is_no_gate() -> None:
    wrong = (LABELS + 1) % 10
    cost = measure(REFERENCE, -REFERENCE, wrong)
    assert cost.difference is not None
    assert cost.difference.top1 <= 0
    assert not cost.passes(choose_gate("int8", 1.0, labelled=True))


def test_one_picture_is_not_enough() -> None:
    with pytest.raises(UsageError, match="cannot be compared"):
        measure(REFERENCE[:1], REFERENCE[:1])
