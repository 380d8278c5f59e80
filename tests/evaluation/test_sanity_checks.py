"""What is said of figures that cannot be right, and that nothing is said of those that can."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_infer.evaluation.sanity_checks import sanity_checks

NAMES = [str(number) for number in range(12)]
Classes = NDArray[np.int64]


def answers(labels: Classes, accuracy: float, seed: int) -> Classes:
    """Right with that probability, else any class."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(len(labels)) < accuracy, labels, generator.integers(0, len(NAMES), len(labels)))


@given(st.floats(0.25, 1), st.integers(0, 2**32), st.integers(20, 200))
def test_a_model_that_has_learnt_something_is_not_doubted(accuracy: float, seed: int, each: int) -> None:
    labels = np.repeat(np.arange(12), each)
    assert sanity_checks(labels, answers(labels, accuracy, seed), NAMES) == []


@given(st.floats(0.6, 1), st.integers(0, 2**32))
def test_classes_sorted_as_text_are_noticed(accuracy: float, seed: int) -> None:
    labels = np.repeat(np.arange(12), 40)
    place = np.array([sorted(NAMES).index(name) for name in NAMES])
    (found,) = sanity_checks(place[labels], answers(labels, accuracy, seed), NAMES)
    assert re.match("([7-9]|10) classes seem to have changed places: ", found)


def test_two_classes_that_changed_places_are_named() -> None:
    labels = np.repeat(np.arange(12), 40)
    swapped = np.where(labels == 3, 5, np.where(labels == 5, 3, labels))
    (found,) = sanity_checks(labels, answers(swapped, 0.9, 0), NAMES)
    assert "2 classes seem to have changed places: 3 is answered with 5 (9" in found


def test_one_class_that_is_hard_is_no_change_of_places() -> None:
    labels = np.repeat(np.arange(12), 40)
    assert sanity_checks(labels, np.where(labels == 3, 5, labels), NAMES) == []


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_labels_are_noticed(seed: int) -> None:
    labels = np.repeat(np.arange(12), 40)
    shuffled = np.random.default_rng(seed).permutation(labels)
    (found,) = sanity_checks(shuffled, answers(labels, 0.95, seed), NAMES)
    assert "no better than guessing" in found


def test_too_few_pictures_say_nothing() -> None:
    assert sanity_checks(np.arange(12), np.roll(np.arange(12), 1), NAMES) == []


def test_a_single_class_is_no_reason_for_doubt() -> None:
    assert sanity_checks(np.full(100, 3), np.full(100, 3), NAMES) == []
