"""Decide which pictures are trained on, which choose the weights, and which measure them in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.datasets import ClassOrder, Dataset, open_all
from resnet_infer.errors import DataError

SMALL = 1_000
"""Pictures below which a fifth is held out; from there on a tenth is."""
FEWEST_TO_CHOOSE = 100
"""Fewest pictures that choose weights. With fewer, chance would choose: the last weights are kept."""
NAMED = 8
"""Most classes that a message names."""


@dataclass(frozen=True)
class Splits:
    """Hold the splits of a run.

    The network learns from `train`; `validation` is measured after every epoch, and `test` once after the last.
    `warnings` say what the errors will not show.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    warnings: tuple[str, ...] = field(default=())


def open_splits(
    source: Path, *, validation: int | None = None, seed: int = 0, class_order: ClassOrder | None = None
) -> Splits:
    """Open `source`, and hold out `validation` training pictures, drawn by `seed` in proportion to the classes.

    None takes the source's own validation split. If it has none, a tenth is held out, or a fifth of fewer than `SMALL`
    pictures. If a number is held out although the source has a validation split and no test split, that validation
    split becomes the test split. Raises `DataError`, also if some class has no picture to train on.
    """
    found = open_all(source, class_order)
    train = found.get("train", found.get(None))
    if train is None:
        raise DataError(
            f"{source} has no split train; it has: {', '.join(map(str, found))}", source=source, reason="missing"
        )
    for name, split in found.items():
        if split.classes != train.classes:
            raise DataError(
                f"{source}: the splits train and {name} have different classes", source=source, reason="mismatch"
            )
    counts = _counts(train)
    if not counts.all():
        raise DataError(
            f"{source} has no pictures to train on of {_named(train.classes, counts == 0)}",
            hint="add some, or leave these classes out of the other splits too",
            source=source,
            reason="empty",
        )
    own, test = found.get("val"), found.get("test")
    if own and validation is None:
        return Splits(train, own, test, _unmeasured(own))
    held_out = _usual_count(counts) if validation is None else validation
    if not held_out:
        return Splits(train, None, test or own)
    rest, part = hold_out(train, held_out, seed)
    return Splits(rest, part, test or own, _unmeasured(part))


def hold_out(dataset: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Return the rest, and `count` pictures drawn at random in proportion to the classes.

    Both keep the order of `dataset`. Of each class at least one picture is held out and one kept; a class of one
    picture keeps it. The draw is a permutation by NumPy's PCG64 generator, so it depends on `seed` alone and not on the
    machine. Raises `DataError` if so many cannot be held out.

    Example: the paper's 45k/5k split of CIFAR-10 is `hold_out(train, 5000, seed)`.
    """
    counts = _counts(dataset)
    least, most = _bounds(counts)
    if not least.sum() <= count <= most.sum() or not most.sum():
        raise DataError(
            f"cannot hold out {count} of the {counts.sum()} pictures of {dataset.name}: from each of "
            f"{len(counts)} classes comes at least one, and one stays to be trained on",
            hint=f"hold out {max(1, least.sum())} to {most.sum()}, or none with --validation 0"
            if most.sum()
            else "no class has a second picture: hold none out with --validation 0",
            source=dataset.name,
            reason="empty",
        )
    some, rest = _divided(dataset, _shares(counts, count, least, most), seed)
    return rest, replace(some, name=f"{dataset.name}/held-out")


def divide_validation(splits: Splits, seed: int) -> tuple[Dataset | None, Dataset | None]:
    """Return the validation pictures that choose the weights, and those that only measure them.

    With a test split all of them choose. Otherwise half of each class chooses, and the other half measures the chosen
    weights, because the lowest of many errors underestimates. If fewer than `FEWEST_TO_CHOOSE` would choose, none do:
    the last weights are kept, and all pictures measure them.
    """
    whole = splits.validation
    if whole is None:
        return None, None
    counts = _counts(whole)
    halves = counts // 2 + (np.cumsum(counts % 2) % 2) * (counts % 2)  # odd classes alternate in rounding up and down
    if (len(whole.samples) if splits.test else int(halves.sum())) < FEWEST_TO_CHOOSE:
        return None, whole
    return (whole, None) if splits.test else _divided(whole, halves, seed)


def _bounds(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the fewest and the most pictures to hold out of each class: at least one is kept."""
    return (counts - 1).clip(0, 1), (counts - 1).clip(0)


def _usual_count(counts: NDArray[np.int64]) -> int:
    """Return a tenth of all pictures, a fifth of fewer than `SMALL`; at least 1, so that too few are refused."""
    least, most = _bounds(counts)
    total = int(counts.sum())
    return max(1, int(np.clip(total // (5 if total < SMALL else 10), least.sum(), most.sum())))


def _shares(
    counts: NDArray[np.int64], count: int, least: NDArray[np.int64], most: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many of `count` pictures come from each class: in proportion, by the largest remainder."""
    ideal = counts * (count / counts.sum())
    shares: NDArray[np.int64] = np.floor(ideal).astype(np.int64).clip(least, most)
    while shares.sum() != count:
        if shares.sum() < count:
            shares[np.argmax(np.where(shares < most, ideal - shares, -np.inf))] += 1
        else:
            shares[np.argmin(np.where(shares > least, ideal - shares, np.inf))] -= 1
    return shares


def _divided(dataset: Dataset, shares: NDArray[np.int64], seed: int) -> tuple[Dataset, Dataset]:
    """Draw so many pictures of each class at random; return them and the others, both in the order of `dataset`."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(dataset.samples))
    labels = np.array([sample.label for sample in dataset.samples])[order]
    places = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=len(shares))
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn = np.zeros(len(labels), bool)
    drawn[order[places[rank < np.repeat(shares, counts)]]] = True
    some, others = ([dataset.samples[index] for index in np.flatnonzero(part).tolist()] for part in (drawn, ~drawn))
    return replace(dataset, samples=some), replace(dataset, samples=others)


def _counts(dataset: Dataset) -> NDArray[np.int64]:
    """Count the pictures of each class."""
    return np.bincount([sample.label for sample in dataset.samples], minlength=len(dataset.classes))


def _unmeasured(validation: Dataset) -> tuple[str, ...]:
    """Return a warning that names the classes without validation pictures, if there are any."""
    missing = _counts(validation) == 0
    if not missing.any():
        return ()
    return (
        f"the validation error says nothing of {_named(validation.classes, missing)}: "
        "they have no picture that is not trained on",
    )


def _named(classes: Sequence[str], which: NDArray[np.bool_]) -> str:
    """Return the classes selected by the mask `which`, at most `NAMED` of them by name."""
    names = [classes[index] for index in np.flatnonzero(which).tolist()]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{'class' if len(names) == 1 else 'classes'} {', '.join(names[:NAMED])}{more}"
