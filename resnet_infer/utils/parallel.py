"""Decoding in threads beside the consumer, in order, with bounded memory."""

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
    """What comes between items where the next one keeps its readers waiting, see `Arriving`."""

    QUIET = "give out what there is"


class UntilError(Generic[Item]):
    """An iterator over `items` that ends where they fail, with `error`; `settle` raises it.

    So what was read before an error can be worked off and given out first.
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
        """Whether the items ended with an interrupt or an exit, after which nothing new is to be begun."""
        return self.error is not None and not isinstance(self.error, Exception)

    def settle(self) -> None:
        """Raise the error that ended the items, once."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame


@in_one_process
def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None, ahead: int = 64
) -> Generator[Result, None, None]:
    """`map(function, items)` in threads: results in order, at most `ahead` items taken that are not yet given out.

    An exception of `function` is raised when its turn comes, and so is one of `items`: first come the results of all
    items before it. After an interrupt of `items` (`KeyboardInterrupt`, `SystemExit`) nothing new is begun: first come
    the results of the items that are done or being worked on. An interrupt of the thread that waits for a result is
    raised at once. `items` may be endless; it is read as results are taken, two at first whatever `ahead` is, and while
    it is read no result is given out (`Arriving` is for items that keep their reader waiting). Closing the generator
    ends the threads.
    """
    with closing(stage(function, items, workers=workers, ahead=ahead)) as results:
        for result in results:
            if not isinstance(result, Quiet):
                yield result


def stage(
    function: Callable[[Item], Result], items: Iterable[Item | Quiet], *, workers: int | None = None, ahead: int = 64
) -> Generator[Result | Quiet, None, None]:
    """What `parallel_map` is. `QUIET` among `items` is handed on after the results of all items before it."""
    require_threads(workers, "workers")
    source = UntilError(items)
    first = list(islice(source, 2))
    if len(first) < 2:  # a thread would bring nothing
        if not source.interrupted:
            for item in first:
                yield item if isinstance(item, Quiet) else function(item)
        source.settle()
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    whole = chain(iter(first), source)  # an iterator of a list lets go of it at its end
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
                    future.cancel()  # but for those that have begun, which are the first ones
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
