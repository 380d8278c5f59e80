"""Run images through a model in lanes: read, decode and infer on all cores, and give results in order.

Only this module decides how a stream of items is spread over cores. What an item is, and how it is decoded and
inferred, is up to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from itertools import chain
from threading import Lock
from time import perf_counter
from typing import Generic, TypeVar

from resnet_infer.data.arrivals import LIMIT, arriving
from resnet_infer.errors import PictureError
from resnet_infer.utils.lifetime import in_one_process
from resnet_infer.utils.parallel import Quiet, UntilError, stage

LANE_PIXELS = 8 * 224**2
"""Most pixels in a batch of a CPU lane (eight 224x224 crops). A lane has one thread, where larger batches are no
faster.
"""
FIRST_ROWS = 8
"""Most rows in the first batch of a lane, so that the first results come soon."""
GROWTH_DIVISOR = 8
"""Divisor: a later batch has at most an eighth of the items that each lane has had, so that lanes finish together."""
MAX_TURN_LOAD = 0.75
"""Lanes take turns to prepare while a round of turns takes at most this share of the time for a group. Beyond that,
they would wait for each other.
"""
PATIENCE = 4
"""Longest wait for a turn, in rounds of turns. A round is the time in which every lane prepares one group."""

Item = TypeVar("Item")
Views = TypeVar("Views")
Result = TypeVar("Result")


@in_one_process
def run_lanes(
    items: Iterable[Item],
    prepare: Callable[[Item], Views | PictureError],
    infer: Callable[[Sequence[tuple[Item, Views | PictureError]]], Sequence[Result]],
    *,
    lanes: int,
    rows: int = 1,
    batch_size: int = 32,
    workers: int | None = None,
    live: bool = False,
) -> Generator[Result, None, None]:
    """Yield a result for every item, in the order of `items`.

    `prepare` decodes one item in a thread. It returns what `infer` takes, or a `PictureError`, which is handed to
    `infer` in its place. `infer` gets a batch of pairs (item, prepared) and returns one result for each.

    An item adds `rows` rows to a batch of at most `batch_size` rows; an item with an error adds none. With several
    `lanes`, each lane takes a few items from decoding to inference. With one lane, `workers` threads decode (default:
    the usable cores) while one thread infers. Memory use is bounded, also for endless `items`.

    With `live`, `items` that are not a list or tuple are read in a thread of their own. Whenever the source pauses, the
    items that have arrived are inferred in smaller batches.

    Errors are raised in order: an error of `items` or `prepare` after the results of all earlier items, an error of
    `infer` after the results of all earlier batches.

    >>> def infer(batch):
    ...     return [2 * number for _, number in batch]
    >>> list(run_lanes(["1", "2", "3"], int, infer, lanes=1))
    [2, 4, 6]
    """
    max_items = max(batch_size // rows, 1)
    ahead = 2 * max_items + 8
    with arriving(items, min(LIMIT, ahead // 2)) if live else nullcontext(items) as source:
        if lanes > 1:
            # A lane takes its images from decoding to inference, so that no data moves between cores.
            groups = _groups(source, max_items, max(FIRST_ROWS // rows, 1), lanes)
            with closing(stage(_Lane(prepare, infer, lanes), groups, workers=lanes, ahead=2 * lanes)) as done:
                for group in done:
                    if not isinstance(group, Quiet):
                        part, error = group
                        yield from part
                        if error is not None:
                            raise error
            return

        def prepared(item: Item) -> tuple[Item, Views | PictureError]:
            """Return an item with what was prepared of it."""
            return item, prepare(item)

        with closing(stage(prepared, source, workers=workers, ahead=ahead)) as ready:
            batches = _batches(ready, rows, batch_size)
            with closing(stage(infer, batches, workers=1, ahead=2)) as answered:
                for results in answered:
                    if not isinstance(results, Quiet):
                        yield from results


def batch_limit(batch_size: int, side: int, lanes: int) -> int:
    """Return the most views in a batch for crops of `side` x `side` pixels.

    One lane takes `batch_size`. Each of several lanes takes at most as many as `LANE_PIXELS` allows, and at least one.
    """
    return min(batch_size, max(LANE_PIXELS // side**2, 1)) if lanes > 1 else batch_size


class _Lane(Generic[Item, Views, Result]):
    """Prepare a group of items and infer it, in any of the lanes.

    Decoding a small image is many short steps, and each needs Python's global interpreter lock. Lanes that decode at
    the same time slow each other down at every step. So one lane prepares while the others infer, as long as one is
    enough to keep them all busy. Large images need several lanes to decode at once; then no lane waits. The times of
    the most recent group decide which of the two it is.
    """

    def __init__(
        self,
        prepare: Callable[[Item], Views | PictureError],
        infer: Callable[[Sequence[tuple[Item, Views | PictureError]]], Sequence[Result]],
        lanes: int,
    ) -> None:
        self._prepare, self._infer, self._lanes = prepare, infer, lanes
        self._turn = Lock()
        self._last: tuple[float, float] | None = None
        """Seconds to prepare and seconds to infer the most recent group."""

    def __call__(self, group: list[Item]) -> tuple[Sequence[Result], BaseException | None]:
        """Return the results of the group.

        If an item could not be prepared, return the results of the items before it, and its error.
        """
        has_turn = self._take_turn()
        begin = perf_counter()
        prepared = UntilError((item, self._prepare(item)) for item in group)
        try:
            ready = list(prepared)
        finally:
            if has_turn:
                self._turn.release()
        middle = perf_counter()
        results = self._infer(ready) if ready else ()
        self._last = middle - begin, perf_counter() - middle
        return results, prepared.error

    def _take_turn(self) -> bool:
        """Wait for this lane's turn to prepare, if lanes take turns. Return whether it has the turn."""
        if self._last is None:
            return False
        prepare, infer = self._last
        round_of_turns = self._lanes * prepare
        # The lane whose turn it is may be decoding larger images; the timeout keeps the others from waiting for them.
        return round_of_turns <= MAX_TURN_LOAD * (prepare + infer) and self._turn.acquire(
            timeout=PATIENCE * round_of_turns
        )


def _groups(items: Iterable[Item | Quiet], size: int, first: int, lanes: int) -> Iterator[list[Item] | Quiet]:
    """Yield groups of `first` items, later of up to `size`.

    Where there are too few items to fill every lane, all lanes get an equal share. A pause (`QUIET`) is handed on after
    the items before it, which form a group of their own.
    """
    source = UntilError(items)
    head: list[Item | Quiet] = []
    for item in source:
        head.append(item)
        if isinstance(item, Quiet) or len(head) == lanes * min(first, size):
            break
    least = max(-(-sum(not isinstance(item, Quiet) for item in head) // lanes), 1)
    whole = chain(iter(head), source)  # a list's iterator drops the list at its end
    del head
    taken = 0
    group: list[Item] = []
    for item in whole:
        if not isinstance(item, Quiet):
            group.append(item)
        if isinstance(item, Quiet) or len(group) >= max(least, min(size, taken // (GROWTH_DIVISOR * lanes))):
            if source.interrupted:
                break
            taken += len(group)
            if group:
                yield group
            if isinstance(item, Quiet):
                yield item
            group = []
    if group and not source.interrupted:
        yield group
    source.settle()


def _batches(
    prepared: Iterable[tuple[Item, Views | PictureError] | Quiet], rows: int, batch_size: int
) -> Iterator[list[tuple[Item, Views | PictureError]] | Quiet]:
    """Yield groups of as many readable items as fit into `batch_size` rows. Unreadable items keep their place.

    A pause (`QUIET`) is handed on after the items before it, which form a batch of their own.
    """
    batch: list[tuple[Item, Views | PictureError]] = []
    used = 0
    source = UntilError(prepared)
    for item in source:
        if isinstance(item, Quiet):
            if batch:
                yield batch
            batch, used = [], 0
            yield item
            continue
        taken = 0 if isinstance(item[1], PictureError) else rows
        if batch and (used + taken > batch_size or len(batch) >= 2 * batch_size):
            yield batch
            batch, used = [], 0
        batch.append(item)
        used += taken
    if batch and not source.interrupted:
        yield batch
    source.settle()
