"""`flow`: the one path on which pictures go through models, from one end to the other on all cores."""

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
"""Of a batch, where several are inferred at a time on a CPU: on one thread a larger one is no faster."""
FIRST_ROWS = 8
"""Most of the first batches of lanes, so that first answers come soon."""
GROWTH_DIVISOR = 8
"""A later batch of a lane is at most this part of what it has had, so that lanes finish at about the same time."""
MAX_TURN_LOAD = 0.75
"""Share of the time up to which lanes that prepare one after the other hardly wait for each other."""
PATIENCE = 4
"""A lane waits for its turn as long as this many rounds of turns should take."""

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
    """A result for every item, in order: `prepare` decodes one, in threads; `infer` answers several.

    `rows` is what an item adds to a batch of at most `batch_size`. An item that `prepare` has an error for adds
    nothing and is handed on with it. With several `lanes` each takes a few items from end to end; with one, `workers`
    threads prepare beside the one that infers. Memory is bounded however many items there are.

    An error of `items`, or one that `prepare` raises, comes after the results of all items before it; one that `infer`
    raises after those of the earlier batches.

    With `live`, `items` that are no list or tuple are read in a thread of their own. Where they keep it waiting, what
    has come is answered in smaller batches.
    """
    max_items = max(batch_size // rows, 1)
    ahead = 2 * max_items + 8
    with arriving(items, min(LIMIT, ahead // 2)) if live else nullcontext(items) as source:
        if lanes > 1:
            # A lane decodes and infers a few pictures from end to end, so that cores do not hand work to each other.
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
            return item, prepare(item)

        with closing(stage(prepared, source, workers=workers, ahead=ahead)) as ready:
            batches = _batches(ready, rows, batch_size)
            with closing(stage(infer, batches, workers=1, ahead=2)) as answered:
                for results in answered:
                    if not isinstance(results, Quiet):
                        yield from results


def batch_limit(batch_size: int, side: int, lanes: int) -> int:
    """Most views of `side` pixels in a batch: `batch_size`, on several lanes no more than have `LANE_PIXELS`."""
    return min(batch_size, max(LANE_PIXELS // side**2, 1)) if lanes > 1 else batch_size


class _Lane(Generic[Item, Views, Result]):
    """What every lane does with a group of items: prepare them, infer.

    A small picture is many short steps, and after each the lane needs the interpreter again: lanes that prepare at the
    same time wait for each other at every step, and stay side by side for the next pictures too. So one prepares while
    the others infer, as long as that is enough for all of them. Large pictures take more than one lane can prepare:
    then nobody waits. What is enough is judged by the group that was answered last.
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
        """Seconds to prepare and to infer a group."""

    def __call__(self, group: list[Item]) -> tuple[Sequence[Result], BaseException | None]:
        """The results of the group; where an item could not be prepared, those before it, and its error."""
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
        """For this lane's turn, if there are turns; whether it has one."""
        if self._last is None:
            return False
        prepare, infer = self._last
        round_of_turns = self._lanes * prepare
        # Who has the turn may have met larger pictures: then others do not wait for them.
        return round_of_turns <= MAX_TURN_LOAD * (prepare + infer) and self._turn.acquire(
            timeout=PATIENCE * round_of_turns
        )


def _groups(items: Iterable[Item | Quiet], size: int, first: int, lanes: int) -> Iterator[list[Item] | Quiet]:
    """`first` items at a time, later up to `size`; where there are too few to fill every lane, an equal share each.

    Before `QUIET` comes what there is.
    """
    source = UntilError(items)
    head: list[Item | Quiet] = []
    for item in source:
        head.append(item)
        if isinstance(item, Quiet) or len(head) == lanes * min(first, size):
            break
    least = max(-(-sum(not isinstance(item, Quiet) for item in head) // lanes), 1)
    whole = chain(iter(head), source)  # an iterator of a list lets go of it at its end
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
    """Groups of as many readable items as fit into `batch_size` rows; unreadable ones keep their place.

    Before `QUIET` comes what there is.
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
