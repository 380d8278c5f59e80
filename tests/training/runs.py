"""Short runs of a small network, and what they left."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer.models.architectures import architecture
from resnet_infer.models.checkpoint import load_checkpoint
from resnet_infer.training.input.splits import open_splits
from resnet_infer.training.loop.options import Options
from resnet_infer.training.loop.trainer import Trainer
from resnet_infer.training.recipes import Recipe, get_recipe


def recipe(name: str = "cifar10-short", **changes: Any) -> Recipe:
    quick: dict[str, Any] = {"iterations": 12, "batch_size": 16, "validation": 8}
    if "stages" not in changes:
        quick |= {"peak_rate": 0.1, "resize": 16, "crop": 16}
    return get_recipe(name, **{**quick, **changes})


def trainer(
    folder: Path,
    run: Path,
    log: Callable[[str], None] = lambda line: None,
    options: Options = Options(precision="fp32"),  # noqa: B008
    **changes: Any,
) -> Trainer:
    one = recipe(**changes)
    return Trainer(
        architecture("resnet8", 3), one, open_splits(folder, validation=one.validation), run, options=options, log=log
    )


def same(one: Path, other: Path) -> None:
    first, second = load_checkpoint(one), load_checkpoint(other)
    assert all(np.array_equal(value, second.weights[name]) for name, value in first.weights.items())
    assert first.extra
    assert all(np.array_equal(value, second.extra[name]) for name, value in first.extra.items())


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))
