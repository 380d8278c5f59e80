"""Training recipes as one table. Every value can be overridden; the resolved recipe is saved with the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal

from resnet_infer.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """How a network is trained with SGD.

    - `schedule` "step": `peak_rate`, divided by 10 at each of `milestones` (iterations), after `warmup` iterations at
      a tenth of it for nets of 110 layers and more. "one-cycle": linear up over the first `warmup` iterations
      and linear down to zero.
    - `pad`: zeros around the normalised picture before the random crop; `flip`: mirrored half of the time.
    - `mean` "pixel": the mean picture is subtracted, and nothing divided, as in the paper; "channel": mean and
      standard deviation of each channel.
    - `validation`: pictures held out of the training set to choose `best` by; with 0 the last weights are the best.
    """

    name: str
    iterations: int
    batch_size: int
    peak_rate: float
    schedule: Literal["step", "one-cycle"]
    milestones: tuple[int, ...]
    warmup: int
    momentum: float
    nesterov: bool
    weight_decay: float
    pad: int
    flip: bool
    mean: Literal["pixel", "channel"]
    validation: int
    seed: int = 0

    def rate(self, iteration: int, depth: int) -> float:
        """The learning rate of step `iteration`, counted from 0."""
        if self.schedule == "step":
            if depth >= 110 and iteration < self.warmup:
                return self.peak_rate / 10
            return self.peak_rate * 0.1 ** sum(iteration >= milestone for milestone in self.milestones)
        if iteration < self.warmup:
            return self.peak_rate * (iteration + 1) / self.warmup
        return self.peak_rate * (self.iterations - iteration) / (self.iterations - self.warmup)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(
                # Section 4.2 of the paper.
                name="cifar10-paper",
                iterations=64_000,
                batch_size=128,
                peak_rate=0.1,
                schedule="step",
                milestones=(32_000, 48_000),
                warmup=400,
                momentum=0.9,
                nesterov=False,
                weight_decay=1e-4,
                pad=4,
                flip=True,
                mean="pixel",
                validation=5_000,
            ),
            Recipe(
                # Most of the accuracy in an eighth of the steps (Smith and Topin, "Super-Convergence", 2017).
                name="cifar10-short",
                iterations=8_000,
                batch_size=128,
                peak_rate=0.3,
                schedule="one-cycle",
                milestones=(),
                warmup=1_600,
                momentum=0.9,
                nesterov=True,
                weight_decay=5e-4,
                pad=4,
                flip=True,
                mean="pixel",
                validation=5_000,
            ),
        )
    }
)


def get_recipe(name: str, **overrides: Any) -> Recipe:
    """The recipe called `name` with some values replaced; those that are None are left alone.

    Another number of `iterations` stretches warm-up and milestones with it, unless they are given too.
    """
    if name not in RECIPES:
        close = get_close_matches(name, RECIPES, n=1)
        raise UsageError(
            f"unknown recipe {name!r}" + (f"; did you mean {close[0]}?" if close else ""),
            hint=f"known are {', '.join(RECIPES)}",
        )
    recipe = RECIPES[name]
    changes = {key: value for key, value in overrides.items() if value is not None}
    if "iterations" in changes:
        if changes["iterations"] < 1:
            raise UsageError("a run needs at least one iteration")
        stretch = changes["iterations"] / recipe.iterations
        changes.setdefault("milestones", tuple(round(m * stretch) for m in recipe.milestones))
        changes.setdefault(
            "warmup", round(recipe.warmup * stretch) if recipe.schedule == "one-cycle" else recipe.warmup
        )
    if changes.get("batch_size", 1) < 1:
        raise UsageError("the batch size is at least 1")
    return replace(recipe, **changes)
