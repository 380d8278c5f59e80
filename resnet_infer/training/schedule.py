"""Which step belongs to which stage of a run, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resnet_infer.training.recipes import Recipe, Stage

DEEP = 110
"""Nets of so many layers start at a tenth of the rate (paper, section 4.2)."""


@dataclass(frozen=True)
class Phase:
    """A stage laid out in iterations: `start` up to, not including, `stop`."""

    start: int
    stop: int
    resize: int
    crop: int
    peak_rate: float


class Schedule:
    """The phases of a run and the learning rate of each step, a function of the step and of `drops`."""

    def __init__(self, recipe: Recipe, steps_per_epoch: int, depth: int, size: tuple[int, int]) -> None:
        """`size` is resize and crop where the recipe leaves them to the model."""
        self.recipe, self.depth = recipe, depth
        self.drops, self.lowest, self.waited = 0, math.inf, 0
        stages = recipe.stages or (
            Stage(recipe.epochs or 1.0, recipe.resize or size[0], recipe.crop or size[1], recipe.peak_rate),
        )
        whole = sum(stage.epochs for stage in stages)
        total = recipe.iterations or max(1, round((recipe.epochs or whole) * steps_per_epoch))
        phases: list[Phase] = []
        passed = 0.0
        for stage in stages:
            start = phases[-1].stop if phases else 0
            passed += stage.epochs
            stop = max(start + 1, round(total * passed / whole))
            phases.append(Phase(start, stop, stage.resize, stage.crop, stage.peak_rate))
        self.phases = tuple(phases)

    @property
    def iterations(self) -> int:
        return self.phases[-1].stop

    def phase(self, iteration: int) -> Phase:
        """The phase of step `iteration`, counted from 0."""
        return next((phase for phase in self.phases if iteration < phase.stop), self.phases[-1])

    def rate(self, iteration: int) -> float:
        """The learning rate of step `iteration`, counted from 0."""
        recipe, phase = self.recipe, self.phase(iteration)
        at, length, peak = iteration - phase.start, phase.stop - phase.start, phase.peak_rate
        warmup = _iterations(recipe.warmup, length)
        if recipe.schedule == "plateau":
            return peak * 0.1**self.drops
        if recipe.schedule == "step":
            if self.depth >= DEEP and at < warmup:
                return peak / 10
            return peak * 0.1 ** sum(at >= _iterations(milestone, length) for milestone in recipe.milestones)
        if at < warmup:
            return peak * (at + 1) / warmup
        left = (length - at) / (length - warmup)
        return peak * (left if recipe.schedule == "one-cycle" else (1 - math.cos(math.pi * left)) / 2)

    def observe(self, error: float) -> None:
        """Take note of an epoch's error; a plateau divides the rate by 10."""
        if error < self.lowest:
            self.lowest, self.waited = error, 0
            return
        self.waited += 1
        if self.waited >= self.recipe.patience:
            self.drops, self.waited = self.drops + 1, 0

    def state(self) -> list[float]:
        return [self.drops, self.lowest, self.waited]

    def restore(self, state: list[float]) -> None:
        self.drops, self.lowest, self.waited = int(state[0]), state[1], int(state[2])


def _iterations(value: float, length: int) -> int:
    return round(value * length) if value < 1 else round(value)
