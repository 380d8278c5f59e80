"""Which pictures are trained on, which choose the best weights, and which measure them in the end."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from resnet_infer.data.datasets import FORMATS, ClassOrder, Dataset, _unwrap, split_dataset
from resnet_infer.data.datasets.archive import open_tree
from resnet_infer.data.datasets.formats import Request
from resnet_infer.errors import DataError


@dataclass(frozen=True)
class Splits:
    """`best` is chosen by `validation`; `test` is looked at once, when all is done."""

    train: Dataset
    validation: Dataset | None
    test: Dataset | None


def open_all(source: Path, class_order: ClassOrder | None = None) -> dict[str | None, Dataset]:
    """Every split of `source`, read once; one under None if it is not divided. Raises as `open_dataset` does."""
    tree = _unwrap(open_tree(source))
    for _, recognise in FORMATS:
        if found := recognise(tree):
            name = Path(os.path.abspath(source)).name
            return {
                split: found.load(Request(f"{name}/{split}" if split else name, split, class_order))
                for split in found.splits or (None,)
            }
    raise DataError(
        f"{source} is no data set of a known format", hint=f"known are {', '.join(name for name, _ in FORMATS)}"
    )


def open_splits(
    source: Path, *, validation: int | None = None, seed: int = 0, class_order: ClassOrder | None = None
) -> Splits:
    """Open `source` and hold `validation` training pictures out, drawn by `seed`.

    None takes the source's own validation split, and holds out a tenth where it has none. If a number is held out
    although there is such a split, and no test split, then that split is the test. Raises `DataError`.
    """
    found = open_all(source, class_order)
    train = found.get("train", found.get(None))
    if train is None:
        raise DataError(f"{source} has no split train; it has: {', '.join(map(str, found))}")
    for name, split in found.items():
        if split.classes != train.classes:
            raise DataError(f"{source}: the splits train and {name} have different classes")
    own, test = found.get("val"), found.get("test")
    if own and validation is None:
        return Splits(train, own, test)
    held_out = max(1, len(train.samples) // 10) if validation is None else validation
    if not held_out:
        return Splits(train, None, test or own)
    rest, part = split_dataset(train, held_out, seed)
    return Splits(replace(rest, name=train.name), part, test or own)
