"""What a format says of a source that it recognises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resnet_infer.data.datasets.classes import ClassOrder
from resnet_infer.data.datasets.dataset import Dataset
from resnet_infer.errors import SplitError

SPLITS = ("train", "val", "test")
_ALIASES = {"training": "train", "valid": "val", "validation": "val"}


@dataclass(frozen=True)
class Request:
    """What the caller wants: `split` is one of the source's, or None if it has none. `name` is the data set's.

    `missing_ok`: a file that is listed and not there is an unreadable picture, not an error of the data set.
    """

    name: str
    split: str | None
    class_order: ClassOrder | None
    missing_ok: bool = False


@dataclass(frozen=True)
class Recognised:
    """The splits that the source has, none if it is one whole, and how to load it."""

    splits: tuple[str, ...]
    load: Callable[[Request], Dataset]


def canonical_split(name: str) -> str:
    """train, val or test for any of the usual spellings; other names in lower case."""
    return _ALIASES.get(name.lower(), name.lower())


def is_split(name: str) -> bool:
    """Whether a folder of that name may hold a split."""
    return canonical_split(name) in SPLITS


def choose_split(wanted: str | None, splits: tuple[str, ...], where: str) -> str | None:
    """The split to load. Raises `SplitError` listing what there is if it must be named, or is not there."""
    if wanted is None and len(splits) > 1:
        raise SplitError(f"{where} has several splits: {', '.join(splits)}", hint="name the one to use")
    if wanted is None:
        return splits[0] if splits else None
    split = canonical_split(wanted)
    if split not in splits:
        there = f"it has: {', '.join(splits)}" if splits else "it is not divided into splits"
        raise SplitError(
            f"{where} has no split {wanted!r} with labels; {there}", hint=None if splits else "name no split"
        )
    return split
