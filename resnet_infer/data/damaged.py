"""Pictures that cannot be read, all in one message: whoever repairs them wants to begin again once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TypeVar

from resnet_infer.errors import PictureError, bare
from resnet_infer.utils.parallel import parallel_map

NAMED = 20
"""Pictures that a message names; after so many the search ends."""

Item = TypeVar("Item")


def unreadable(
    read: Callable[[Item], object], items: Iterable[Item], most: int = NAMED, workers: int | None = None
) -> Iterator[PictureError]:
    """The first `most` errors of `read`, which is called in threads."""

    def error_of(item: Item) -> PictureError | None:
        try:
            read(item)
        except PictureError as error:
            return bare(error)
        return None

    with closing(parallel_map(error_of, items, workers=workers)) as found:
        yield from islice((error for error in found if error), most)


def in_one(errors: Sequence[PictureError], name: str, count: int, hint: str) -> PictureError:
    """One error for all pictures of the data set called `name`, which has `count`, that cannot be read."""
    lines = "\n  ".join(error.message for error in errors)
    more = "at least " if len(errors) >= NAMED else ""
    which = "the only picture" if count == 1 else f"{more}{len(errors)} of the {count} pictures"
    return PictureError(f"{which} of {name} cannot be read:\n  {lines}", hint=hint)
