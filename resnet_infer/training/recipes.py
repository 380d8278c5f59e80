"""Define training recipes as one table. Every value can be overridden; the resolved recipe is saved with the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, get_args

from resnet_infer.errors import UsageError, did_you_mean
from resnet_infer.models.families import find_family
from resnet_infer.models.spec_fields import MAX_SIDE

ScheduleKind = Literal["step", "plateau", "one-cycle", "cosine"]
Augmentation = Literal["pad", "scale", "area", "none"]
MeanKind = Literal["pixel", "channel", "model"]


LONGEST = 10**9
"""Most iterations, most epochs, and most pictures in a batch."""
LARGEST = MAX_SIDE
"""Longest side of a picture, in pixels."""
LARGEST_SEED = 2**63 - 1
"""Largest seed that both NumPy's and torch's generators take."""


def _check(rules: Mapping[str, bool]) -> None:
    """Raise `UsageError` with the first rule that does not hold."""
    for message, holds in rules.items():
        if not holds:
            raise UsageError(message)


@dataclass(frozen=True)
class Stage:
    """Define a part of a run that has its own resolution.

    Crops have `crop` pixels, validation pictures are resized to a shorter side of `resize` pixels, and the learning
    rate reaches `peak_rate`. Raises `UsageError` for values out of range.
    """

    epochs: float
    resize: int
    crop: int
    peak_rate: float

    def __post_init__(self) -> None:
        _check(
            {
                f"a stage has more than 0 epochs, not {self.epochs}": 0 < self.epochs <= LONGEST,
                f"a stage crops 1 to {LARGEST} pixels, not {self.crop}": 1 <= self.crop <= LARGEST,
                f"a stage resizes to its crop or more, up to {LARGEST} pixels, not to {self.resize}": (
                    self.crop <= self.resize <= LARGEST
                ),
                f"a stage has a learning rate above 0, not {self.peak_rate}": 0 < self.peak_rate < math.inf,
            }
        )


@dataclass(frozen=True)
class Recipe:
    """Define how a network is trained: by SGD with v = momentum v + gradient and w -= rate v.

    - Length: `iterations`, or else `epochs`, or else that of `stages`. Stages divide the run in proportion to their
      epochs; each has its own geometry and rate.
    - `schedule`: "step" divides `peak_rate` by 10 at each of `milestones`. "plateau" divides it by 10 whenever the
      error has not fallen for `patience` epochs: that of the validation pictures that choose the weights, or else of
      the training pictures. "one-cycle" rises linearly during `warmup` and falls linearly to zero; "cosine" falls as
      half a cosine. `milestones` and `warmup` below 1 are shares of the run (of the stage), others are iterations.
    - `warmup` of "step" and "plateau" runs at a tenth of the rate. None is the paper's: with "step" and 110 layers or
      more it lasts until the training error is below 80%.
    - `augmentation`: "pad" adds `pad` pixels of the mean on each side and crops at random. "scale" resizes the shorter
      side to a random size in `scales` and crops at random. "area" crops a random share of the picture in `area`, with
      an aspect ratio from 3/4 to 4/3. `flip`: half of the pictures are mirrored. `colour`: deviation of AlexNet's
      shifts along the principal components of the colours, where it was 0.1; 0 for none.
    - `mean`: "pixel" subtracts the mean picture and divides nothing, as in the paper; "channel" uses mean and standard
      deviation of each channel; "model" those of the model that training starts from.
    - `resize`, `crop`: pixels of the view that is measured and later served; None takes the starting model's.
    - `decay_all`: weight decay acts on batch norm and biases too. `zero_init`: the last batch norm of each block
      starts at zero. `freeze`: 1 freezes the stem and the first stage, 2 the second stage too, and so on.
    - `validation`: training pictures to hold out, in proportion to the classes. None takes the data's own validation
      split, or else holds out a tenth, or a fifth of fewer than 1,000 pictures; 0 holds out none.

    Raises `UsageError` for values out of range, and for values that contradict each other.
    """

    name: str
    arch: str | None = "resnet20"
    iterations: int | None = None
    epochs: float | None = None
    stages: tuple[Stage, ...] = ()
    batch_size: int = 128
    peak_rate: float = 0.1
    schedule: ScheduleKind = "one-cycle"
    milestones: tuple[float, ...] = ()
    warmup: float | None = 0.0
    patience: int = 5
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_all: bool = True
    label_smoothing: float = 0.0
    zero_init: bool = False
    augmentation: Augmentation = "pad"
    resize: int | None = 32
    crop: int | None = 32
    pad: int = 4
    scales: tuple[int, int] = (256, 480)
    area: tuple[float, float] = (0.35, 1.0)
    flip: bool = True
    colour: float = 0.0
    mean: MeanKind = "pixel"
    freeze: int = 0
    validation: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("schedule", self.schedule, get_args(ScheduleKind)),
            ("augmentation", self.augmentation, get_args(Augmentation)),
            ("mean", self.mean, get_args(MeanKind)),
        ):
            if value not in choices:
                raise UsageError(f"{name} is one of {', '.join(choices)}, not {value!r}")
        low, high = self.area
        crop, resize = self.crop or self.resize or 1, self.resize or self.crop or LARGEST
        _check(
            {
                f"the batch size is from 1 to {LONGEST}": 1 <= self.batch_size <= LONGEST,
                f"a run has 1 to {LONGEST} iterations": self.iterations is None or 1 <= self.iterations <= LONGEST,
                f"a run has more than 0 epochs and at most {LONGEST}": self.epochs is None
                or 0 < self.epochs <= LONGEST,
                "the learning rate is a number above 0": 0 < self.peak_rate < math.inf,
                "milestones are numbers above 0, each greater than the one before": all(
                    before < after < math.inf for before, after in pairwise((0.0, *self.milestones))
                ),
                "the schedule step needs milestones": bool(self.milestones) or self.schedule != "step",
                "the warm-up is a number that is not negative": self.warmup is None or 0 <= self.warmup < math.inf,
                "the patience is at least one epoch": self.patience >= 1,
                "momentum is from 0 to below 1, and above 0 for Nesterov's": self.nesterov <= (self.momentum > 0)
                and 0 <= self.momentum < 1,
                "weight decay is a number that is not negative": 0 <= self.weight_decay < math.inf,
                "label smoothing is from 0 to below 1": 0 <= self.label_smoothing < 1,
                "the area is two shares of the picture, the smaller first": 0 < low <= high <= 1,
                f"scales are two sizes up to {LARGEST}, the smaller first and not below the crop": (
                    self.augmentation != "scale"
                    or max((stage.crop for stage in self.stages), default=crop)
                    <= self.scales[0]
                    <= self.scales[1]
                    <= LARGEST
                ),
                "the pad is from 0 to the crop": 0 <= self.pad <= min((s.crop for s in self.stages), default=crop)
                or not self.crop
                or self.augmentation != "pad",
                "the deviation of the colours is a number that is not negative": 0 <= self.colour < math.inf,
                "the number of held out pictures is not negative": (self.validation or 0) >= 0,
                f"crop and resize are from 1 to {LARGEST}, and the crop is at most the resize": (
                    1 <= crop <= resize <= LARGEST
                ),
                f"the seed is from 0 to {LARGEST_SEED}": 0 <= self.seed <= LARGEST_SEED,
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON, as `recipe.json` and the provenance of a model have them."""
        return asdict(self)


_CIFAR10_PAPER = Recipe(
    # Section 4.2 of the paper. Its 45k/5k split holds out a tenth.
    name="cifar10-paper",
    iterations=64_000,
    schedule="step",
    milestones=(32_000, 48_000),
    warmup=None,
)
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            _CIFAR10_PAPER,
            replace(
                # Most of the accuracy in an eighth of the steps (Smith and Topin, "Super-Convergence", 2017).
                _CIFAR10_PAPER,
                name="cifar10-short",
                iterations=8_000,
                peak_rate=0.3,
                schedule="one-cycle",
                milestones=(),
                warmup=0.2,
                nesterov=True,
                weight_decay=5e-4,
            ),
            Recipe(
                # Section 3.4 of the paper.
                name="imagenet-paper",
                arch="resnet50",
                iterations=600_000,
                batch_size=256,
                schedule="plateau",
                augmentation="scale",
                resize=256,
                crop=224,
                colour=0.1,
            ),
            Recipe(
                name="tiny-imagenet",
                arch="resnet18",
                # Pictures of 64 pixels are enlarged, so that the last feature maps have 4x4 cells instead of 2x2. That
                # gains more than any number of epochs. The first stage is a cheap start for the second.
                stages=(Stage(10, 64, 56, 0.5), Stage(8, 128, 112, 0.2)),
                warmup=0.2,
                nesterov=True,
                weight_decay=5e-4,
                decay_all=False,
                label_smoothing=0.1,
                zero_init=True,
                augmentation="area",
                mean="channel",
                validation=2_000,
            ),
            Recipe(
                # The rate is low, because the weights are good already and only the head is new.
                name="finetune",
                arch=None,
                epochs=10,
                batch_size=32,
                peak_rate=0.01,
                schedule="cosine",
                warmup=0.1,
                nesterov=True,
                decay_all=False,
                label_smoothing=0.1,
                augmentation="area",
                resize=None,
                crop=None,
                mean="model",
            ),
        )
    }
)


def get_recipe(name: str, *, fine_tuning: bool = False, **overrides: Any) -> Recipe:
    """Return the recipe called `name`, with the values in `overrides` that are not None.

    Another length, as `iterations` or as `epochs`, scales milestones along, unless they are given too. Stages that are
    given without a length define it. `fine_tuning`: the run begins with another model's weights.

    Raises `UsageError` for an unknown recipe or value, for a value out of range, and for one that the run would not
    use.

    Example: `get_recipe("cifar10-short", epochs=10, peak_rate=0.2)`
    """
    if name not in RECIPES:
        raise UsageError(
            f"unknown recipe {name!r}" + did_you_mean(name, RECIPES),
            hint=f"known are {', '.join(RECIPES)}",
        )
    recipe = RECIPES[name]
    given = {key: value for key, value in overrides.items() if value is not None}
    if unknown := set(given) - {field.name for field in fields(Recipe)}:
        raise UsageError(f"a recipe has no {', '.join(sorted(unknown))}")
    if "iterations" in given and "epochs" in given:
        raise UsageError("the length is given twice, as iterations and as epochs")
    changes = dict(given)
    if given.get("schedule", "step") != "step":
        changes.setdefault("milestones", ())
    if {"iterations", "epochs", "stages"} & set(given):
        changes = {"iterations": None, "epochs": None, **changes}
        if recipe.milestones and recipe.iterations:
            changes.setdefault("milestones", _stretched(recipe.milestones, recipe.iterations, given.get("iterations")))
    if given.get("schedule", recipe.schedule) == "step" and not changes.get("milestones", recipe.milestones):
        raise UsageError(
            "the schedule step needs milestones",
            hint="say where the rate is divided by 10, as iterations or shares of the run: --milestones 0.5,0.75",
        )
    resolved = replace(recipe, **changes)
    for key in given:
        if reason := _unused(key, resolved, fine_tuning):
            raise UsageError(f"--{key.replace('_', '-')} would not be used: {reason}")
    return resolved


def _stretched(milestones: tuple[float, ...], before: int, now: int | None) -> tuple[float, ...]:
    """Scale the milestones of a run of `before` iterations: to iterations if all come out whole, else to shares."""
    shares = tuple(milestone / before for milestone in milestones)
    places = [share * now for share in shares] if now else []
    whole = places and all(place >= 1 and place.is_integer() for place in places)
    return tuple(int(place) for place in places) if whole else shares


def _unused(key: str, recipe: Recipe, fine_tuning: bool) -> str | None:
    """Return why the run does not use the recipe's value `key`, or None if it does."""
    uses, reason = _USES.get(key, (lambda *_: True, ""))
    return None if uses(recipe, fine_tuning) else reason.format(recipe)


_OF_STAGES = "the stages have each their own; give all of them with --stages"
_USES: Mapping[str, tuple[Callable[[Recipe, bool], bool], str]] = MappingProxyType(
    {
        "resize": (lambda recipe, _: not recipe.stages, _OF_STAGES),
        "crop": (lambda recipe, _: not recipe.stages, _OF_STAGES),
        "peak_rate": (lambda recipe, _: not recipe.stages, _OF_STAGES),
        "milestones": (
            lambda recipe, _: recipe.schedule == "step",
            "the schedule is {0.schedule}; take --schedule step",
        ),
        "patience": (
            lambda recipe, _: recipe.schedule == "plateau",
            "the schedule is {0.schedule}; take --schedule plateau",
        ),
        "pad": (
            lambda recipe, _: recipe.augmentation == "pad",
            "the augmentation is {0.augmentation}; take --augmentation pad",
        ),
        "scales": (
            lambda recipe, _: recipe.augmentation == "scale",
            "the augmentation is {0.augmentation}; take --augmentation scale",
        ),
        "area": (
            lambda recipe, _: recipe.augmentation == "area",
            "the augmentation is {0.augmentation}; take --augmentation area",
        ),
        "zero_init": (
            lambda recipe, fine_tuning: not fine_tuning and not (recipe.arch and find_family(recipe.arch).plain),
            "it is for networks with shortcuts that begin with random weights",
        ),
    }
)
"""Value of a recipe -> when it is used, and the reason to give when it is not. All other values are always used."""


def parse_stages(text: str) -> tuple[Stage, ...]:
    """Parse `EPOCHS:RESIZE:CROP:RATE,...`, for example `20:64:64:0.1,1.5:96:96:0.01`.

    Raises `UsageError` for other text, and for values out of range.
    """
    try:
        rows = [part.split(":") for part in text.split(",")]
        return tuple(Stage(float(e), int(resize), int(crop), float(rate)) for e, resize, crop, rate in rows)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no list of stages", hint="write EPOCHS:RESIZE:CROP:RATE,... as in 20:64:64:0.1"
        ) from error
