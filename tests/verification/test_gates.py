"""What a lower precision costs, and the gate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_infer.errors import ParityError, UsageError
from resnet_infer.verification.gates import choose_gate, judge, require
from resnet_infer.verification.metrics import Cost, measure
from resnet_infer.verification.tolerances import GATES, Tolerance
from tests.verification.noise import LABELS, REFERENCE, noisy


def check(cost: Cost, gate: Tolerance) -> None:
    require(judge(cost, gate), gate, "it")


def test_the_same_answers_cost_nothing() -> None:
    cost = measure(REFERENCE, REFERENCE.copy(), LABELS)
    assert cost.error == cost.largest_error == 0
    assert (cost.agreement, cost.difference.top1 if cost.difference else None) == (1, 0)
    assert all(judge(cost, gate).passed for gate in GATES.values())


def test_max_drop_is_the_gate_where_there_are_labels() -> None:
    cost = measure(REFERENCE, noisy(0.3), LABELS)
    assert cost.difference is not None
    drop = cost.difference.top1
    check(cost, choose_gate("int8", drop, labelled=True))
    with pytest.raises(ParityError, match="costs too much accuracy"):
        check(cost, choose_gate("int8", drop - 0.1, labelled=True))
    with pytest.raises(UsageError, match="--max-drop needs pictures"):
        choose_gate("int8", drop, labelled=False)
    assert not judge(measure(REFERENCE, REFERENCE), Tolerance(error=np.inf, agreement=0, max_drop=100)).passed


def test_where_fp32_only_guesses_the_error_is_no_gate() -> None:
    wrong = (LABELS + 1) % 10
    cost = measure(REFERENCE, -REFERENCE, wrong)
    assert cost.difference is not None
    assert cost.difference.top1 <= 0
    assert not judge(cost, choose_gate("int8", 1.0, labelled=True)).passed


def network(seed: int, pictures: int, classes: int, noise: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits of a classifier's last layer on random features, and of one whose features carry noise."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(pictures, 64))
    weights = random.normal(size=(64, classes))
    changed = features + noise * random.normal(size=features.shape)
    return (features @ weights).astype(np.float32), (changed @ weights).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    # Of two classes, 400 pictures leave a tenth of the error to chance.
    pictures=st.integers(400, 1000),
    classes=st.sampled_from([2, 3, 10, 200, 1000]),
    noise=st.sampled_from([0.01, 0.05, 0.5]),
)
def test_the_error_is_that_of_the_features_whatever_classes_and_pictures(
    seed: int, pictures: int, classes: int, noise: float
) -> None:
    found = measure(*network(seed, pictures, classes, noise))
    assert found.error == pytest.approx(noise**2, rel=0.5)
    assert judge(found, Tolerance(error=GATES["int8"].error)).passed == (noise < 0.1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), pictures=st.integers(2, 300), shift=st.sampled_from([0.0, 5.0, -80.0]))
def test_two_logits_and_their_halved_difference_are_one_network(seed: int, pictures: int, shift: float) -> None:
    reference, candidate = network(seed, pictures, 2, 0.05)
    halves = np.array([[0.5, -0.5], [-0.5, 0.5]], np.float32)
    plain = measure(reference, candidate)
    assert measure(reference @ halves, candidate @ halves).error == pytest.approx(plain.error, rel=1e-3)
    common = np.random.default_rng(seed).normal(size=(pictures, 1)).astype(np.float32)
    moved = measure(reference + np.float32(shift), candidate + np.float32(shift) + common)
    assert moved.error == pytest.approx(plain.error, rel=1e-2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), pictures=st.integers(16, 1000), classes=st.sampled_from([2, 10, 200, 1000]))
def test_sound_passes_and_what_is_scaled_or_shifted_does_not(seed: int, pictures: int, classes: int) -> None:
    reference, sound = network(seed, pictures, classes, 0.05)
    gate = Tolerance(error=GATES["int8"].error)
    assert judge(measure(reference, sound), gate).passed
    assert not judge(measure(reference, 0.7 * reference), gate).passed
    spread = (reference - reference.mean(axis=1, keepdims=True)).std(axis=0)
    offset = np.where(np.arange(classes) % 2, 0.5, -0.5) * spread
    assert not judge(measure(reference, reference + offset), gate).passed


def test_what_is_not_finite_is_valid_json() -> None:
    plain = judge(measure(REFERENCE, np.full_like(REFERENCE, np.nan)), GATES["int8"]).to_json()
    assert (plain["error"], plain["largest_error"]) == (None, None)
    json.dumps(plain, allow_nan=False)
