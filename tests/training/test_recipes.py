from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.errors import UsageError
from resnet_infer.training.recipes import RECIPES, Stage, get_recipe, parse_stages
from resnet_infer.training.schedule import Schedule
from tests.conftest import ROOT


def schedule(name: str, depth: int = 20, steps_per_epoch: int = 351, **overrides: Any) -> Schedule:
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
    ],
)
def test_the_papers_schedule(iteration: int, depth: int, rate: float) -> None:
    paper = schedule("cifar10-paper", depth)
    assert paper.iterations == 64_000
    assert paper.rate(iteration) == pytest.approx(rate)


@pytest.mark.parametrize("iterations", [64_000, 8_000, 120])
def test_a_deep_net_warms_up_until_its_training_error_is_below_80_percent(iterations: int) -> None:
    """Section 4.2; whatever the length of the run, but not past the first milestone."""
    one = schedule("cifar10-paper", 110, iterations=iterations)
    one.observe_training(50, 80.0)
    assert one.rate(50) == pytest.approx(0.01)
    again = schedule("cifar10-paper", 110, iterations=iterations)
    again.restore(one.state())
    for copy in (one, again):
        copy.observe_training(55, 79.9)
        assert copy.rate(55) == pytest.approx(0.1)
    never = schedule("cifar10-paper", 110, iterations=iterations)
    never.observe_training(iterations // 2, 90.0)
    assert never.rate(iterations // 2) == pytest.approx(0.01)
    assert never.rate(iterations - 1) == pytest.approx(0.001)


@pytest.mark.parametrize("depth", [20, 110])
@pytest.mark.parametrize("name", ["cifar10-paper", "imagenet-paper"])
def test_a_warm_up_that_is_given_is_kept_at_any_depth(name: str, depth: int) -> None:
    one = schedule(name, depth, warmup=300)
    one.observe_training(50, 1.0)
    assert [one.rate(step) for step in (0, 299, 300)] == pytest.approx([0.01, 0.01, 0.1])


@given(
    st.integers(1, 200),
    st.sampled_from(["step", "plateau", "one-cycle", "cosine"]),
    st.none() | st.floats(0, 0.999),
    st.sampled_from(["cifar10-paper", "cifar10-short", "tiny-imagenet", "finetune"]),
)
def test_however_short_a_run_is_it_leaves_its_warm_up(
    iterations: int, kind: str, warmup: float | None, name: str
) -> None:
    milestones = (0.5, 0.75) if kind == "step" else None
    warmup = warmup / 2 if warmup and milestones else warmup
    shortest = max(2 if kind == "step" else 1, iterations, len(RECIPES[name].stages))
    stages = (Stage(1, 64, 56, 0.3), Stage(1, 128, 112, 0.2)) if RECIPES[name].stages else None
    one = schedule(name, iterations=shortest, schedule=kind, warmup=warmup, milestones=milestones, stages=stages)
    assert one.iterations == shortest
    for phase in one.phases:
        rates = [one.rate(step) for step in range(phase.start, phase.stop)]
        assert max(rates) == pytest.approx(phase.peak_rate)


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
    for name in RECIPES:
        assert schedule(name, stages=stages, steps_per_epoch=100, schedule="one-cycle").iterations == 1550
    shorter = schedule("tiny-imagenet", stages=stages, iterations=31)
    assert [(p.start, p.stop) for p in shorter.phases] == [(0, 28), (28, 31)]


def test_another_length_stretches_the_schedule_unless_it_is_given() -> None:
    assert get_recipe("cifar10-paper", iterations=6_400).milestones == (3_200, 4_800)
    assert get_recipe("cifar10-paper", iterations=6_400, milestones=(5,)).milestones == (5,)
    assert schedule("cifar10-paper", epochs=10, steps_per_epoch=100).rate(500) == pytest.approx(0.01)
    assert schedule("cifar10-paper", epochs=10, steps_per_epoch=100).iterations == 1000
    assert get_recipe("cifar10-paper", seed=None) == RECIPES["cifar10-paper"]
    assert get_recipe("cifar10-paper", schedule="cosine", iterations=10).milestones == ()


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
        {"epochs": math.inf},
        {"epochs": math.nan},
        {"epochs": 1e300},
        {"iterations": 10**30},
        {"batch_size": 10**30},
        {"peak_rate": math.nan},
        {"peak_rate": math.inf},
        {"warmup": math.nan},
        {"warmup": math.inf},
        {"warmup": -1.0},
        {"momentum": math.nan},
        {"weight_decay": math.inf},
        {"label_smoothing": math.nan},
        {"colour": math.nan},
        {"area": (math.nan, 1.0)},
        {"milestones": ()},
        {"milestones": (0.5, 0.25)},
        {"milestones": (0.5, 0.5)},
        {"milestones": (math.nan,)},
        {"milestones": (-1.0, 0.5)},
        {"patience": 0, "schedule": "plateau"},
        {"pad": 33},
        {"resize": 10**6, "crop": 32},
        {"seed": -1},
        {"seed": 2**64},
        {"stages": (Stage(1, 32, 32, 0.1),), "crop": 24},
        {"stages": (Stage(1, 32, 32, 0.1),), "peak_rate": 0.2},
        {"colours": 1},
    ],
)
def test_nonsense_is_refused(overrides: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        get_recipe("cifar10-paper", **overrides)


@pytest.mark.parametrize("stage", ["0:32:32:0.1", "-1:32:32:0.1", "1:32:32:-5", "nan:32:32:0.1", "inf:32:32:0.1"])
@pytest.mark.parametrize("other", ["", ",1:32:32:0.1"])
def test_a_stage_without_length_or_rate_is_refused(stage: str, other: str) -> None:
    with pytest.raises(UsageError, match="a stage has"):
        parse_stages(stage + other)


def test_what_does_not_lie_within_the_run_is_refused() -> None:
    with pytest.raises(UsageError, match="warm-up of 400 iterations does not end within the 300 of the run"):
        schedule("cifar10-paper", schedule="cosine", warmup=400, iterations=300)
    with pytest.raises(UsageError, match="milestone 48000 does not lie within the 40000 iterations"):
        schedule("cifar10-paper", milestones=(32_000, 48_000), iterations=40_000)
    with pytest.raises(UsageError, match=r"warm-up of 0.6 does not end before the first milestone, 50"):
        schedule("cifar10-paper", warmup=0.6, iterations=100)
    with pytest.raises(UsageError, match="2 stages do not fit into 1 iterations"):
        schedule("tiny-imagenet", iterations=1)
    with pytest.raises(UsageError, match="at most 1000000000 iterations"):
        schedule("finetune", epochs=1e8)


def test_a_mistyped_recipe_is_guessed() -> None:
    with pytest.raises(UsageError, match="did you mean cifar10-paper"):
        get_recipe("cifar10-papr")
    with pytest.raises(UsageError, match="--peak-rate would not be used: the stages have each their own"):
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
