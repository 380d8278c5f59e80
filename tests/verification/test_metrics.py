"""How far logits and tensors are apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resnet_infer.errors import UsageError
from resnet_infer.verification.metrics import (
    TensorDelta,
    against_float32,
    against_float64,
    measure,
    of_spread,
    plain,
    same_answers,
    spread,
)
from tests.verification.noise import LABELS, RANDOM, REFERENCE, noisy


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


def test_one_picture_is_not_enough() -> None:
    with pytest.raises(UsageError, match="cannot be compared"):
        measure(REFERENCE[:1], REFERENCE[:1])


def test_the_spread_is_of_each_class_about_its_own_mean() -> None:
    logits = np.array([[1.0, 100.0], [3.0, 102.0]])
    assert spread(logits) == 1
    assert of_spread(0.5, 2.0) == 0.25
    assert of_spread(0.5, 0.0) == of_spread(0.5, math.nan) == math.inf


def test_answers_are_the_same_only_if_the_candidate_s_logits_are_finite() -> None:
    reference = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    candidate = np.array([[0.0, 2.0], [0.0, 1.0], [1.0, np.nan], [-np.inf, 1.0]])
    assert same_answers(reference, candidate).tolist() == [True, False, False, False]


def test_what_only_float32_knows_is_given_its_own_error() -> None:
    source = np.array([[0.0, 1.0], [2.0, 0.0], [4.0, 8.0]], np.float32)
    candidate = source + np.array([[0.0, 0.0], [0.0, 0.03], [0.0, 0.0]], np.float32)
    exact = source[:1].astype(np.float64) + 0.01
    found = against_float64(source, candidate, exact, np.array([0]))
    assert found is not None
    assert found.own_delta == pytest.approx(0.01)
    assert found.exact_pictures == 1
    assert found.max_delta == pytest.approx(0.02)  # 0.03 from float32, which errs by 0.01
    assert against_float32(source, candidate).max_delta == pytest.approx(0.03)
    assert against_float64(source, candidate, exact + 1, np.array([0])) is None
    assert against_float64(source, candidate, None, np.array([0])) is None


def test_tensors_are_compared_part_by_part() -> None:
    expected, actual = RANDOM.normal(size=(2, 4, 100))
    found = TensorDelta()
    for part in zip(expected, actual, strict=True):
        found.add(*part)
    delta = actual - expected
    assert found.largest == np.abs(delta).max()
    assert found.relative == pytest.approx(np.sqrt(np.mean(delta**2) / np.mean(expected**2)))
    assert found.cosine == pytest.approx(np.vdot(expected, actual) / np.linalg.norm(expected) / np.linalg.norm(actual))


@pytest.mark.parametrize(
    ("expected", "actual", "relative", "cosine"),
    [(0.0, 0.0, 0.0, 1.0), (0.0, 1.0, math.inf, 0.0), (1.0, 0.0, 1.0, 0.0), (2.0, -2.0, 2.0, -1.0)],
)
def test_tensors_of_zeros(expected: float, actual: float, relative: float, cosine: float) -> None:
    found = TensorDelta()
    found.add(np.full(8, expected), np.full(8, actual))
    assert found.relative == pytest.approx(relative)
    assert found.cosine == pytest.approx(cosine)


def test_a_tensor_that_is_not_finite_is_apart() -> None:
    found = TensorDelta()
    found.add(np.ones(3), np.array([1.0, np.nan, 1.0]))
    assert math.isnan(found.relative)
    assert math.isnan(found.largest)


def test_json_has_no_nan_and_no_infinity() -> None:
    values = {"a": 1.5, "b": math.nan, "c": -math.inf, "d": "nan", "e": None, "f": 3}
    assert plain(values) == {"a": 1.5, "b": None, "c": None, "d": "nan", "e": None, "f": 3}
