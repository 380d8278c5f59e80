"""Which pictures are trained on, which choose the best weights, and which measure them in the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from resnet_infer.data.datasets import ClassOrder, Dataset, open_all, split_dataset
from resnet_infer.errors import DataError


@dataclass(frozen=True)
class Splits:
    """`best` is chosen by `validation`; `test` is looked at once, when all is done."""

    train: Dataset
    validation: Dataset | None
    test: Dataset | None


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
