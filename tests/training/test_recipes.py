from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.errors import UsageError
from resnet_infer.training.recipes import RECIPES, get_recipe


def test_the_papers_values() -> None:
    """Section 4.2: SGD with momentum 0.9, weight decay 1e-4, batch 128, 64k iterations, 45k/5k split."""
    recipe = get_recipe("cifar10-paper")
    assert (recipe.iterations, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (64_000, 128, 0.9, 1e-4)
    assert (recipe.nesterov, recipe.pad, recipe.flip, recipe.mean, recipe.validation) == (
        False,
        4,
        True,
        "pixel",
        5_000,
    )


@pytest.mark.parametrize(
    ("iteration", "depth", "rate"),
    [
        (0, 20, 0.1),
        (31_999, 20, 0.1),
        (32_000, 20, 0.01),
        (47_999, 56, 0.01),
        (48_000, 56, 0.001),
        (63_999, 56, 0.001),
        (0, 110, 0.01),
        (399, 110, 0.01),
        (400, 110, 0.1),
    ],
)
def test_the_papers_schedule(iteration: int, depth: int, rate: float) -> None:
    assert get_recipe("cifar10-paper").rate(iteration, depth) == pytest.approx(rate)


@given(st.integers(10, 100_000))
def test_one_cycle_rises_to_its_peak_and_falls_to_zero(iterations: int) -> None:
    recipe = get_recipe("cifar10-short", iterations=iterations)
    rates = [recipe.rate(i, 20) for i in sorted({0, recipe.warmup - 1, recipe.warmup, iterations - 1} - {-1})]
    assert max(rates) == pytest.approx(recipe.peak_rate)
    assert 0 < rates[0] <= recipe.peak_rate
    assert 0 < rates[-1] <= recipe.peak_rate / (iterations - recipe.warmup) * 1.001


def test_another_length_stretches_the_schedule_unless_it_is_given() -> None:
    assert get_recipe("cifar10-paper", iterations=6_400).milestones == (3_200, 4_800)
    assert get_recipe("cifar10-paper", iterations=6_400, milestones=(5,)).milestones == (5,)
    assert get_recipe("cifar10-short", iterations=400).warmup == 80
    assert get_recipe("cifar10-paper", seed=None) == RECIPES["cifar10-paper"]


@pytest.mark.parametrize("overrides", [{"iterations": 0}, {"batch_size": 0}])
def test_nonsense_is_refused(overrides: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        get_recipe("cifar10-paper", **overrides)


def test_a_mistyped_recipe_is_guessed() -> None:
    with pytest.raises(UsageError, match="did you mean cifar10-paper"):
        get_recipe("cifar10-papr")
