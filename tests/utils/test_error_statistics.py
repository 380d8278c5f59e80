"""Ranks, intervals and McNemar's test, against definitions written out."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.utils.error_statistics import Errors, difference, interval, mcnemar, ranks


@given(st.lists(st.lists(st.integers(-3, 3), min_size=7, max_size=7), min_size=1, max_size=20), st.randoms())
def test_rank_is_the_place_of_the_right_class_in_a_stable_sort(rows: list[list[int]], random) -> None:  # type: ignore[no-untyped-def]
    scores = np.array(rows, np.float32)
    labels = np.array([random.randrange(7) for _ in rows])
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = [list(row).index(label) for row, label in zip(order, labels, strict=True)]
    assert ranks(scores, labels).tolist() == expected


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_never_right(broken: float) -> None:
    assert ranks(np.array([[0.0, broken]]), np.array([1]))[0] > 0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_tail(first: int, second: int) -> None:
    count = first + second
    tail = sum(comb(count, k) for k in range(min(first, second) + 1))
    exact = 1.0 if first == second else min(1.0, float(2 * Fraction(tail, 2**count)))
    assert mcnemar(first, second) == pytest.approx(exact, rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_mcnemar_of_many() -> None:
    assert 0 < mcnemar(40_000, 41_000) < 0.001


def test_wilson_by_hand() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert interval(81, 263) == pytest.approx((25.53, 36.62), abs=0.01)
    assert interval(0, 20) == pytest.approx((0, 16.11), abs=0.01)
    assert interval(0, 0) == (0, 100)


def test_difference() -> None:
    found = difference(np.array([0, 0, 6, 1]), np.array([1, 0, 0, 5]), classes=10)
    assert (found.top1, found.only_reference_wrong, found.only_model_wrong) == (0, 1, 1)
    assert (found.reference, found.model) == (Errors(50, 25), Errors(50, 25))
    worse = difference(np.array([0, 0]), np.array([1, 2]), classes=5)
    assert (worse.top1, worse.model.top5, worse.p) == (100, None, 0.5)
