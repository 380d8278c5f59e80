"""Open a labelled data set, and of several splits the one that is meant."""

from __future__ import annotations

from pathlib import Path

from resnet_infer.data.datasets import ClassOrder, Dataset, open_dataset
from resnet_infer.errors import DataError, SplitError, UsageError

DEFAULT_SPLITS = ("test", "val")
"""Splits that are taken by default: the first of these that the data set has."""


def open_labelled(data: Path, split: str | None, *, missing_ok: bool = False) -> Dataset:
    """Open the data set at `data`: of several splits the one named, or the first of `DEFAULT_SPLITS`.

    Classes are in the order that the format has, else ordered as strings: whoever evaluates finds them by their names.
    `missing_ok` is as in `open_dataset`. Raises `DataError` if there is no such data or split.
    """
    absent: SplitError | None = None
    # Classes are found by their names, so that any order will do where the data leaves it open.
    orders: tuple[ClassOrder | None, ...] = (None, "string")
    for name in (split,) if split else (None, *DEFAULT_SPLITS):
        reason: DataError | None = None
        for order in orders:
            try:
                return open_dataset(data, name, class_order=order, missing_ok=missing_ok)
            except UsageError:  # the format has an order of its own
                continue
            except SplitError as error:
                absent = absent or error
                break
            except DataError as error:
                reason = error
        if reason:
            raise reason
    assert absent is not None
    raise absent
