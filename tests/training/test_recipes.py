from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.errors import UsageError
from resnet_infer.training.recipes import RECIPES, Stage, get_recipe, parse_stages
from resnet_infer.training.schedule import Schedule
from tests.conftest import ROOT


def schedule(name: str, depth: int = 20, steps_per_epoch: int = 351, **overrides: object) -> Schedule:
    return Schedule(get_recipe(name, **overrides), steps_per_epoch, depth, (32, 32))


def test_the_papers_values_for_cifar() -> None:
    """Section 4.2: SGD with momentum 0.9, weight decay 1e-4, batch 128, 64k iterations, pad 4, flip, mean picture."""
    recipe = get_recipe("cifar10-paper")
    assert (recipe.iterations, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (64_000, 128, 0.9, 1e-4)
    assert (recipe.nesterov, recipe.decay_all, recipe.label_smoothing, recipe.colour) == (False, True, 0, 0)
    assert (recipe.augmentation, recipe.pad, recipe.crop, recipe.flip, recipe.mean) == ("pad", 4, 32, True, "pixel")


def test_the_papers_values_for_imagenet() -> None:
    """Section 3.4: shorter side in [256, 480], 224 crop, colour augmentation, batch 256, at most 60e4 iterations."""
    recipe = get_recipe("imagenet-paper")
    assert (recipe.iterations, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (600_000, 256, 0.9, 1e-4)
    assert (recipe.schedule, recipe.peak_rate, recipe.nesterov, recipe.decay_all) == ("plateau", 0.1, False, True)
    assert (recipe.augmentation, recipe.scales, recipe.crop, recipe.flip) == ("scale", (256, 480), 224, True)
    assert (recipe.mean, recipe.colour) == ("pixel", 0.1)


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
    paper = schedule("cifar10-paper", depth)
    assert paper.iterations == 64_000
    assert paper.rate(iteration) == pytest.approx(rate)


@given(st.integers(10, 100_000), st.sampled_from(["one-cycle", "cosine"]))
def test_the_rate_rises_to_its_peak_and_falls_to_zero(iterations: int, kind: str) -> None:
    one = schedule("cifar10-short", iterations=iterations, schedule=kind)
    top = round(0.2 * iterations)
    rates = [one.rate(i) for i in range(0, iterations, max(1, iterations // 50))]
    falling = [one.rate(i) for i in range(top, iterations, max(1, iterations // 50))]
    assert one.rate(top - 1) == pytest.approx(0.3)
    assert max(rates) <= 0.3 + 1e-9
    assert falling == sorted(set(falling), reverse=True)
    assert 0 < one.rate(iterations - 1) <= 0.3 / (iterations - top) * 1.001 * (2 if kind == "cosine" else 1)


def test_a_plateau_divides_the_rate_and_survives_a_restart() -> None:
    one = schedule("imagenet-paper", 50, patience=2)
    for error in (50, 40, 41, 40):
        assert one.rate(10**5) == pytest.approx(0.1)
        one.observe(error)
    assert one.rate(0) == pytest.approx(0.01)
    one.observe(39)
    one.observe(39)
    again = schedule("imagenet-paper", 50, patience=2)
    again.restore(one.state())
    for copy in (one, again):
        copy.observe(39)
        assert copy.rate(0) == pytest.approx(0.001)


def test_stages_follow_each_other_with_rates_and_sizes_of_their_own() -> None:
    stages = parse_stages("14:64:56:0.5,1.5:128:112:0.15")
    assert stages == (Stage(14, 64, 56, 0.5), Stage(1.5, 128, 112, 0.15))
    one = schedule("tiny-imagenet", 18, steps_per_epoch=100, stages=stages, warmup=0.2)
    assert [(p.start, p.stop, p.resize, p.crop) for p in one.phases] == [(0, 1400, 64, 56), (1400, 1550, 128, 112)]
    assert [one.rate(step) for step in (279, 1429)] == pytest.approx([0.5, 0.15])
    shorter = schedule("tiny-imagenet", stages=stages, iterations=31)
    assert [(p.start, p.stop) for p in shorter.phases] == [(0, 28), (28, 31)]


def test_another_length_stretches_the_schedule_unless_it_is_given() -> None:
    assert get_recipe("cifar10-paper", iterations=6_400).milestones == (3_200, 4_800)
    assert get_recipe("cifar10-paper", iterations=6_400, milestones=(5,)).milestones == (5,)
    assert schedule("cifar10-paper", epochs=10, steps_per_epoch=100).rate(500) == pytest.approx(0.01)
    assert schedule("cifar10-paper", epochs=10, steps_per_epoch=100).iterations == 1000
    assert get_recipe("cifar10-paper", seed=None) == RECIPES["cifar10-paper"]


@pytest.mark.parametrize(
    "overrides",
    [
        {"iterations": 0},
        {"batch_size": 0},
        {"epochs": 0.0},
        {"epochs": 1.0, "iterations": 1},
        {"peak_rate": 0.0},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"label_smoothing": 1.0},
        {"area": (0.5, 0.1)},
        {"augmentation": "scale", "scales": (16, 32)},
        {"crop": 64},
        {"schedule": "never"},
        {"validation": -1},
        {"colours": 1},
    ],
)
def test_nonsense_is_refused(overrides: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        get_recipe("cifar10-paper", **overrides)


def test_a_mistyped_recipe_is_guessed() -> None:
    with pytest.raises(UsageError, match="did you mean cifar10-paper"):
        get_recipe("cifar10-papr")
    with pytest.raises(UsageError, match="stages of tiny-imagenet"):
        get_recipe("tiny-imagenet", peak_rate=0.1)
    with pytest.raises(UsageError, match="no list of stages"):
        parse_stages("14:64")


def test_the_documentation_lists_the_recipes() -> None:
    def plus(*values: object) -> str:
        return " + ".join(str(value) for value in values)

    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for recipe in RECIPES.values():
        stages = recipe.stages
        if stages:
            length = f"{plus(*(f'{stage.epochs:g}' for stage in stages))} epochs"
        else:
            length = f"{recipe.iterations:,} iterations" if recipe.iterations else f"{recipe.epochs:g} epochs"
        rate = plus(*(stage.peak_rate for stage in stages)) or recipe.peak_rate
        crop = plus(*(stage.crop for stage in stages)) or recipe.crop or "of `--from`"
        row = (
            *(f"`{recipe.name}`", recipe.arch or "of `--from`", length, recipe.batch_size),
            *(f"{rate}, {recipe.schedule}", f"{recipe.weight_decay:f}".rstrip("0")),
        )
        decay = "on all" if recipe.decay_all else "on weights"
        assert f"| {' | '.join(map(str, row))} {decay} | {recipe.augmentation}, {crop} |" in text
