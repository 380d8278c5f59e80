"""`flow`: the one path on which pictures go through models, from one end to the other on all cores."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice
from threading import Lock
from time import perf_counter
from typing import TypeVar

from resnet_infer.data.loader import parallel_map
from resnet_infer.errors import PictureError

LANE_PIXELS = 8 * 224**2
"""Of a batch, where several are inferred at a time on a CPU: on one thread a larger one is no faster."""
FULL = 0.75
"""Share of the time up to which preparation by one lane after the other keeps no lane waiting."""

Item = TypeVar("Item")
Views = TypeVar("Views")
Result = TypeVar("Result")


def flow(
    items: Iterable[Item],
    prepare: Callable[[Item], Views | PictureError],
    infer: Callable[[Sequence[tuple[Item, Views | PictureError]]], Sequence[Result]],
    *,
    lanes: int,
    rows: int = 1,
    batch_size: int = 32,
    workers: int | None = None,
) -> Generator[Result, None, None]:
    """A result for every item, in order: `prepare` decodes one, in threads; `infer` answers several.

    `rows` is what an item adds to a batch of at most `batch_size`. An item that `prepare` has an error for adds
    nothing and is handed on with it. With several `lanes` each takes a few items from end to end; with one, `workers`
    threads prepare beside the one that infers. Memory is bounded however many items there are.
    """
    if lanes > 1:
        # A lane decodes and infers a few pictures from end to end, so that cores do not hand work to each other.
        groups = _groups(items, max(batch_size // rows, 1), lanes)
        turns = _Turns()

        def through(group: list[Item]) -> Sequence[Result]:
            with turns.one():
                ready = [(item, prepare(item)) for item in group]
            return infer(ready)

        with closing(parallel_map(through, groups, workers=lanes, ahead=2 * lanes)) as answered:
            for results in answered:
                yield from results
        return

    def prepared(item: Item) -> tuple[Item, Views | PictureError]:
        return item, prepare(item)

    ahead = 2 * max(batch_size // rows, 1) + 8
    with closing(parallel_map(prepared, items, workers=workers, ahead=ahead)) as ready:
        batches = _batches(ready, rows, batch_size)
        with closing(parallel_map(infer, batches, workers=1, ahead=2)) as answered:
            for results in answered:
                yield from results


def batch_limit(batch_size: int, crop: int, lanes: int) -> int:
    """Most crops of `crop` pixels in a batch: `batch_size`, on several lanes no more than have `LANE_PIXELS`."""
    return min(batch_size, max(LANE_PIXELS // crop**2, 1)) if lanes > 1 else batch_size


class _Turns:
    """Lets one lane prepare at a time, while that is enough for all of them.

    A small picture is many short steps, and after each the lane needs the interpreter again: lanes that prepare at the
    same time wait for each other at every step, and stay side by side for the next pictures too. One after the other,
    one prepares while the others infer. Large pictures take more than one lane can prepare; then nobody waits.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._start = perf_counter()
        self._spent: float | None = None

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around preparing; the first of all, of which nothing is known yet, waits for nobody."""
        alone = self._spent is not None and self._spent <= FULL * (perf_counter() - self._start)
        if alone:
            self._lock.acquire()
        begin = perf_counter()
        try:
            yield
        finally:
            self._spent = (self._spent or 0.0) + perf_counter() - begin
            if alone:
                self._lock.release()


def _groups(items: Iterable[Item], size: int, lanes: int) -> Iterator[list[Item]]:
    """`size` items at a time; where there are too few to fill every lane, an equal share for each."""
    iterator = iter(items)
    head = list(islice(iterator, lanes * size))
    size = min(size, -(-len(head) // lanes))
    whole = chain(head, iterator)
    while group := list(islice(whole, size)):
        yield group


def _batches(
    prepared: Iterable[tuple[Item, Views | PictureError]], rows: int, batch_size: int
) -> Iterator[list[tuple[Item, Views | PictureError]]]:
    """Groups of as many readable items as fit into `batch_size` rows; unreadable ones keep their place."""
    batch: list[tuple[Item, Views | PictureError]] = []
    used = 0
    for item in prepared:
        taken = 0 if isinstance(item[1], PictureError) else rows
        if batch and (used + taken > batch_size or len(batch) >= 2 * batch_size):
            yield batch
            batch, used = [], 0
        batch.append(item)
        used += taken
    if batch:
        yield batch
