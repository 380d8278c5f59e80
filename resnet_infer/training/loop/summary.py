"""Describe a run and the model that it trains: identity, spec, and measured errors."""

from __future__ import annotations

import time
from typing import Any

from resnet_infer._version import __version__
from resnet_infer.data.datasets import Dataset
from resnet_infer.models.architectures import Architecture
from resnet_infer.models.spec import InputSpec, Measured, ModelSpec
from resnet_infer.training.device import describe
from resnet_infer.training.distributed import World
from resnet_infer.training.error_rates import Counts
from resnet_infer.training.recipes import Recipe

TOP5_CLASSES = 100
"""Fewest classes for which the top-5 error is stated."""


def run_identity(arch: Architecture, recipe: Recipe, train: Dataset, start: ModelSpec | None) -> dict[str, Any]:
    """Return what makes a run the same run when it is resumed, as JSON; `RunFolder` compares it."""
    return {
        "recipe": recipe.to_json(),
        "network": arch.to_json(),
        "data": f"{train.name}, {len(train.samples)} pictures",
        "classes": list(train.classes),
        "from": start.name if start else None,
    }


def trained_spec(
    arch: Architecture,
    recipe: Recipe,
    train: Dataset,
    geometry: InputSpec,
    world: World,
    precision: str,
    start: ModelSpec | None,
) -> ModelSpec:
    """Return the spec of a model trained here.

    `geometry` is its input. `start` is the spec of the model whose weights the run began with, None for random weights.
    """
    provenance = {
        "trained_by": f"resnet-infer {__version__}",
        "recipe": recipe.to_json(),
        "data": f"{train.name}, {len(train.samples)} pictures",
        "class_order": train.class_order,
        "training_precision": precision,
        "machine": describe(world.device) + (f", {world.size} processes" if world.size > 1 else ""),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    return ModelSpec(
        name=f"{arch.name}-{train.name.partition('/')[0].partition('.')[0]}",
        architecture=arch,
        classes=train.classes,
        class_ids=train.class_ids,
        input=geometry,
        provenance={**provenance, "from": start.name, "start": dict(start.provenance)} if start else provenance,
    )


def measured_on(data: Dataset, counts: Counts, protocol: str, *, test: bool) -> Measured:
    """Return the top-1 and top-5 error, in percent. The name of a validation split says that it is one."""
    name = data.name if test else f"{data.name} (validation)"
    top5 = round(counts.top5, 2) if len(data.classes) >= TOP5_CLASSES else None
    return Measured(name, protocol, counts.total, round(counts.top1, 2), top5, "torch")
