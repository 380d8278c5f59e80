"""Assign each step of a run to a stage, and compute its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resnet_infer.errors import UsageError
from resnet_infer.training.recipes import LONGEST, Recipe, Stage

DEEP = 110
"""Layers from which on a network starts at a tenth of the rate (paper, section 4.2)."""
WARM_ERROR = 80.0
"""Training error in percent below which such a network continues at the full rate (paper, section 4.2)."""


@dataclass(frozen=True)
class Phase:
    """Lay out a stage in iterations: from `start` up to, and not including, `stop`."""

    start: int
    stop: int
    resize: int
    crop: int
    peak_rate: float


class Schedule:
    """Compute the phases of a run and the learning rate of each step.

    The rate depends only on the step and on the errors that were observed before it.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int, depth: int, size: tuple[int, int]) -> None:
        """Prepare the schedule. `size` is resize and crop, in pixels, if the recipe leaves them to the model.

        Raises `UsageError` if the run is too short for its stages, its warm-up or its milestones.
        """
        self.recipe = recipe
        self.drops, self.lowest, self.waited = 0, math.inf, 0
        self.cold = recipe.warmup is None and recipe.schedule == "step" and depth >= DEEP
        stages = recipe.stages or (
            Stage(recipe.epochs or 1.0, recipe.resize or size[0], recipe.crop or size[1], recipe.peak_rate),
        )
        whole = sum(stage.epochs for stage in stages)
        total = recipe.iterations or max(1, round((recipe.epochs or whole) * steps_per_epoch))
        if not len(stages) <= total <= LONGEST:
            raise UsageError(
                f"{len(stages)} stages do not fit into {total} iterations"
                if total < len(stages)
                else f"a run has at most {LONGEST} iterations, not {total}",
                hint="give another length with --iterations or --epochs",
            )
        phases: list[Phase] = []
        passed = 0.0
        for index, stage in enumerate(stages):
            start = phases[-1].stop if phases else 0
            passed += stage.epochs
            stop = min(max(start + 1, round(total * passed / whole)), total - len(stages) + index + 1)
            phases.append(Phase(start, stop, stage.resize, stage.crop, stage.peak_rate))
        self.phases = tuple(phases)
        for phase in phases:
            self._require_room(phase.stop - phase.start)

    def _require_room(self, length: int) -> None:
        """Raise `UsageError` if warm-up or milestones do not lie within a phase of so many iterations."""
        of = "the run" if len(self.phases) == 1 else "a stage"
        if (self.recipe.warmup or 0) >= max(1, length):
            raise UsageError(
                f"a warm-up of {self.recipe.warmup:g} iterations does not end within the {length} of {of}",
                hint="give a share of it, as in --warmup 0.1, or a longer run",
            )
        if late := [milestone for milestone in self.recipe.milestones if milestone >= max(1, length)]:
            raise UsageError(
                f"the milestone {late[0]:g} does not lie within the {length} iterations of {of}",
                hint="give shares of it, as in --milestones 0.5,0.75, or a longer run",
            )
        warmup, *places = (v * length if v < 1 else v for v in (self.recipe.warmup or 0, *self.recipe.milestones))
        if self.recipe.schedule == "step" and warmup and warmup >= places[0]:
            raise UsageError(
                f"a warm-up of {self.recipe.warmup:g} does not end before the first milestone, "
                f"{self.recipe.milestones[0]:g}",
                hint="give a shorter one with --warmup",
            )

    @property
    def iterations(self) -> int:
        """Steps of the whole run."""
        return self.phases[-1].stop

    def phase(self, iteration: int) -> Phase:
        """Return the phase of step `iteration`, counted from 0."""
        return next((phase for phase in self.phases if iteration < phase.stop), self.phases[-1])

    def rate(self, iteration: int) -> float:
        """Return the learning rate of step `iteration`, counted from 0."""
        recipe, phase = self.recipe, self.phase(iteration)
        at, length, peak = iteration - phase.start, phase.stop - phase.start, phase.peak_rate
        places = [max(1, _iterations(milestone, length)) for milestone in recipe.milestones]
        # A share of few iterations may round to all of them; the warm-up must still end.
        warmup = min(_iterations(recipe.warmup or 0, length), min(places, default=length) - 1)
        if recipe.schedule in ("step", "plateau"):
            if self.cold or at < warmup:
                return peak / 10
            passed = sum(at >= place for place in places)
            return peak * 0.1 ** (passed if recipe.schedule == "step" else self.drops)
        if at < warmup:
            return peak * (at + 1) / warmup
        left = (length - at) / (length - warmup)
        return peak * (left if recipe.schedule == "one-cycle" else (1 - math.cos(math.pi * left)) / 2)

    def observe(self, error: float) -> None:
        """Record the error of an epoch, in percent.

        After `patience` epochs without a fall, a plateau divides the rate.
        """
        if error < self.lowest:
            self.lowest, self.waited = error, 0
            return
        self.waited += 1
        if self.waited >= self.recipe.patience:
            self.drops, self.waited = self.drops + 1, 0

    def observe_training(self, iteration: int, error: float) -> None:
        """Record the training error of the epoch so far, in percent, after `iteration` steps.

        An error below `WARM_ERROR` ends the paper's warm-up. The first milestone ends it too: a rate that is about to
        be divided by 10 needs no warm-up.
        """
        milestones = [max(1, _iterations(milestone, self.iterations)) for milestone in self.recipe.milestones]
        if error < WARM_ERROR or iteration >= min(milestones, default=0):
            self.cold = False

    def state(self) -> list[float]:
        """Return what was observed, for a checkpoint."""
        return [self.drops, self.lowest, self.waited, float(self.cold)]

    def restore(self, state: list[float]) -> None:
        """Continue from what `state` returned."""
        self.drops, self.lowest, self.waited, self.cold = int(state[0]), state[1], int(state[2]), bool(state[3])


def _iterations(value: float, length: int) -> int:
    """Return a share of `length` (below 1), or a number of iterations, as iterations."""
    return round(value * length) if value < 1 else round(value)
