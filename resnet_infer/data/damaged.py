"""Collect images that cannot be read into one error message, so that all can be repaired before the next attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TypeVar

from resnet_infer.errors import PictureError, bare
from resnet_infer.utils.parallel import parallel_map

NAMED = 20
"""Most images that a message names. The search ends after so many."""

Item = TypeVar("Item")


def unreadable(
    read: Callable[[Item], object], items: Iterable[Item], most: int = NAMED, workers: int | None = None
) -> Iterator[PictureError]:
    """Yield the first `most` errors that `read` raises for `items`. `read` is called in threads."""

    def error_of(item: Item) -> PictureError | None:
        """Return the error of one item, or None."""
        try:
            read(item)
        except PictureError as error:
            return bare(error)
        return None

    with closing(parallel_map(error_of, items, workers=workers)) as found:
        yield from islice((error for error in found if error), most)


def in_one(errors: Sequence[PictureError], name: str, count: int, hint: str) -> PictureError:
    """Return one error for all unreadable images of the data set `name`, which has `count` images."""
    lines = "\n  ".join(error.message for error in errors)
    more = "at least " if len(errors) >= NAMED else ""
    which = "the only picture" if count == 1 else f"{more}{len(errors)} of the {count} pictures"
    return PictureError(f"{which} of {name} cannot be read:\n  {lines}", hint=hint, source=name, reason="damaged")
