"""Map a function over items in threads, in order and with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from enum import Enum
from itertools import chain, islice
from typing import Generic, TypeVar

from resnet_infer.utils.cpu import usable_cores
from resnet_infer.utils.lifetime import in_one_process
from resnet_infer.utils.threads import require_threads

Item = TypeVar("Item")
Result = TypeVar("Result")


class Quiet(Enum):
    """Mark a pause in a stream of items: the next item has not come, so the results so far are due (`Arriving`)."""

    QUIET = "give out what there is"


class UntilError(Generic[Item]):
    """Iterate over `items` up to their first error, and keep it as `error` for `settle` to raise.

    So the items before an error can be processed and their results given out first.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._iterator = iter(items)
        self.error: BaseException | None = None

    def __iter__(self) -> UntilError[Item]:
        return self

    def __next__(self) -> Item:
        if self.error is None:
            try:
                return next(self._iterator)
            except StopIteration:
                raise
            except BaseException as error:  # raised by `settle`
                self.error = error
        raise StopIteration

    @property
    def interrupted(self) -> bool:
        """Return whether an interrupt or an exit ended the items. Nothing new should then begin."""
        return self.error is not None and not isinstance(self.error, Exception)

    def settle(self) -> None:
        """Raise the error that ended the items, once."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame


@in_one_process
def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None, ahead: int = 64
) -> Generator[Result, None, None]:
    """Map `function` over `items` in threads, and yield the results in order.

    `workers` is the number of threads (default: the usable cores). At most `ahead` items are taken whose results have
    not been given out, two at first. `items` may be endless; they are read as results are taken, and while the next
    item is awaited no result is given out (`Arriving` serves items that keep their reader waiting). Closing the
    generator ends the threads.

    An error of `function` or `items` is raised in its turn, after the results of all items before it. After an
    interrupt of `items` (`KeyboardInterrupt`, `SystemExit`) no new item begins, and the results of the begun ones come
    first. An interrupt of the thread that waits for a result is raised at once.

    >>> list(parallel_map(len, ["a", "bb", "ccc"]))
    [1, 2, 3]
    """
    with closing(stage(function, items, workers=workers, ahead=ahead)) as results:
        for result in results:
            if not isinstance(result, Quiet):
                yield result


def stage(
    function: Callable[[Item], Result], items: Iterable[Item | Quiet], *, workers: int | None = None, ahead: int = 64
) -> Generator[Result | Quiet, None, None]:
    """Do what `parallel_map` does, as one stage of several.

    A pause (`QUIET`) among `items` is handed on after the results of all items before it.
    """
    require_threads(workers, "workers")
    source = UntilError(items)
    first = list(islice(source, 2))
    if len(first) < 2:  # threads would gain nothing
        if not source.interrupted:
            for item in first:
                yield item if isinstance(item, Quiet) else function(item)
        source.settle()
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    whole = chain(iter(first), source)  # a list's iterator drops the list at its end
    del first
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers or usable_cores(), thread_name_prefix="decode") as pool:
        try:
            for item in whole:
                if isinstance(item, Quiet):
                    while pending:
                        yield pending.popleft().result()
                    yield item
                    continue
                pending.append(pool.submit(function, item))
                while pending and (len(pending) >= ahead or pending[0].done()):
                    yield pending.popleft().result()
            if source.interrupted:
                for future in pending:
                    future.cancel()  # those that have begun, which come first, cannot be cancelled
            while pending and not pending[0].cancelled():
                yield pending.popleft().result()
        except GeneratorExit:
            if source.interrupted:
                source.settle()
            raise
        finally:
            for future in pending:
                future.cancel()
    source.settle()
