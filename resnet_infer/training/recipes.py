"""Training recipes as one table. Every value can be overridden; the resolved recipe is saved with the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from resnet_infer.errors import UsageError, did_you_mean

ScheduleKind = Literal["step", "plateau", "one-cycle", "cosine"]
Augmentation = Literal["pad", "scale", "area", "none"]
MeanKind = Literal["pixel", "channel", "model"]


@dataclass(frozen=True)
class Stage:
    """A part of a run at a resolution of its own: crops of `crop` pixels, measured at `resize`, up to `peak_rate`."""

    epochs: float
    resize: int
    crop: int
    peak_rate: float


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD, v = momentum v + gradient, w -= rate v.

    - Length: `iterations`, or else `epochs`. `stages`, if there are any, divide it; each has its own geometry and rate.
    - `schedule`: "step" divides `peak_rate` by 10 at each of `milestones`, after `warmup` iterations at a tenth of it
      for nets of 110 layers and more; "plateau" divides by 10 whenever the validation error has not fallen for
      `patience` epochs; "one-cycle" rises linearly during `warmup` and falls linearly to zero, "cosine" as half a
      cosine. `milestones` and `warmup` below 1 are shares of the run (of the stage), others iterations.
    - `augmentation`: "pad" adds `pad` pixels of the mean on each side and crops at random; "scale" resizes the shorter
      side to a random size in `scales` and crops at random; "area" crops a random share of the picture in `area`, of
      an aspect from 3/4 to 4/3. `flip`: mirrored half of the time. `colour`: deviation of AlexNet's shifts along the
      principal components of the colours, 0.1 there; 0 for none.
    - `mean` "pixel": the mean picture is subtracted, and nothing divided, as in the paper; "channel": mean and
      standard deviation of each channel; "model": those of the model that training starts from.
    - `resize`, `crop`: the view that is measured and later answered; None is the starting model's.
    - `decay_all`: weight decay acts on batch norm and biases too. `zero_init`: the last batch norm of each block
      starts at zero. `freeze`: 1 keeps the stem and the first stage as they are, 2 the second stage too, and so on.
    - `validation`: pictures of the training split held out to choose `best` by. None takes the data's own validation
      split or else a tenth; 0 none, and the last weights are the best.
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
    warmup: float = 0.0
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
        checks = {
            "the batch size is at least 1": self.batch_size >= 1,
            "a run needs at least one iteration": self.iterations is None or self.iterations >= 1,
            "a run needs more than 0 epochs": self.epochs is None or self.epochs > 0,
            "the learning rate is above 0": self.peak_rate > 0,
            "momentum is from 0 to below 1, and above 0 for Nesterov's": self.nesterov <= (self.momentum > 0)
            and 0 <= self.momentum < 1,
            "weight decay is not negative": self.weight_decay >= 0,
            "label smoothing is from 0 to below 1": 0 <= self.label_smoothing < 1,
            "the area is two shares of the picture, the smaller first": 0 < low <= high <= 1,
            "scales are two sizes, the smaller first and not below the crop": (self.crop or 1)
            <= self.scales[0]
            <= self.scales[1]
            or self.augmentation != "scale",
            "the number of held out pictures is not negative": (self.validation or 0) >= 0,
            "the crop is at most the resize": (self.crop or 1) <= (self.resize or self.crop or 1),
        }
        for message, holds in checks.items():
            if not holds:
                raise UsageError(message)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_CIFAR10_PAPER = Recipe(
    # Section 4.2 of the paper. Its 45k/5k split is a tenth held out.
    name="cifar10-paper",
    iterations=64_000,
    schedule="step",
    milestones=(32_000, 48_000),
    warmup=400,
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
                # Pictures of 64 pixels, enlarged: to a last stage of 4 x 4 cells instead of 2 x 2, which is worth more
                # than any number of epochs. The first stage is quick and gives the second its start.
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
                # A low rate, because the weights are good already and only the head is new.
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


def get_recipe(name: str, **overrides: Any) -> Recipe:
    """The recipe called `name` with some values replaced; those that are None are left alone.

    Another length, as `iterations` or as `epochs`, stretches milestones with it, unless they are given too. Raises
    `UsageError` for an unknown recipe and for values that make no sense.
    """
    if name not in RECIPES:
        raise UsageError(
            f"unknown recipe {name!r}" + did_you_mean(name, RECIPES),
            hint=f"known are {', '.join(RECIPES)}",
        )
    recipe = RECIPES[name]
    changes = {key: value for key, value in overrides.items() if value is not None}
    if unknown := set(changes) - {field.name for field in fields(Recipe)}:
        raise UsageError(f"a recipe has no {', '.join(sorted(unknown))}")
    if "iterations" in changes and "epochs" in changes:
        raise UsageError("the length is given twice, as iterations and as epochs")
    if "iterations" in changes or "epochs" in changes:
        length = changes.setdefault("iterations", None)
        changes.setdefault("epochs", None)
        if recipe.milestones and recipe.iterations:
            shares = tuple(milestone / recipe.iterations for milestone in recipe.milestones)
            changes.setdefault("milestones", tuple(round(s * length) for s in shares) if length else shares)
    own = sorted({"resize", "crop", "peak_rate"} & set(changes))
    if recipe.stages and own and "stages" not in changes:
        raise UsageError(f"the stages of {name} have each their own {', '.join(own)}", hint="give all with --stages")
    return replace(recipe, **changes)


def parse_stages(text: str) -> tuple[Stage, ...]:
    """`EPOCHS:RESIZE:CROP:RATE,...`, e.g. `20:64:64:0.1,1.5:96:96:0.01`. Raises `UsageError`."""
    try:
        rows = [part.split(":") for part in text.split(",")]
        return tuple(Stage(float(e), int(resize), int(crop), float(rate)) for e, resize, crop, rate in rows)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no list of stages", hint="write EPOCHS:RESIZE:CROP:RATE,... as in 20:64:64:0.1"
        ) from error
