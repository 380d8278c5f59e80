"""Items that keep their reader waiting: read in a thread beside it, so that what has come is answered meanwhile."""

from __future__ import annotations

import atexit
import contextvars
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from time import monotonic
from typing import Any, Generic, TypeVar

from resnet_infer.utils.lifetime import in_child, in_one_process
from resnet_infer.utils.parallel import Quiet, stage

PATIENCE = 0.05
"""Seconds that an item waits for others to be answered with, where the others have not come."""
GRACE = 0.2
"""Seconds that closing waits for items that are being read: nothing can interrupt their source."""
LIMIT = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


class Arriving(Generic[Item]):
    """An iterator over `items`, read in a thread of its own, with `QUIET` where they keep their reader waiting.

    `QUIET` comes once, `PATIENCE` seconds after the first item since the last one, if by then there is no next item.
    It does not come while `items` are faster than their reader: the thread has read `limit` items ahead then, and
    waits. An error of `items` is raised after the items before it, an interrupt at once. The context variables of
    `items` are those of who begins to read. Close it in the end: what is being read from `items` then is dropped when
    it comes, and what has interrupted them is raised.
    """

    def __init__(self, items: Iterable[Item], limit: int = LIMIT) -> None:
        self._limit = max(limit, 1)
        self._arrived: deque[Item] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = self._full = self._reading = False
        self._error: BaseException | None = None
        self._since: float | None = None
        """When the first item was handed on that nothing has been waited for with."""
        read = contextvars.copy_context().run
        # A daemon: at the end of the program a source that waits for ever must not keep it.
        self._thread = threading.Thread(target=read, args=(self._read, items), name="arriving", daemon=True)
        self._begun = False

    def __iter__(self) -> Arriving[Item]:
        return self

    def __next__(self) -> Item | Quiet:
        if not self._arrived:
            self._begin()
            if self._wait():
                return Quiet.QUIET
            if not self._arrived:
                self._settle()
                raise StopIteration
        item = self._arrived.popleft()
        if self._since is None:
            self._since = monotonic()
        if self._full and len(self._arrived) <= self._limit // 2:
            with self._changed:
                self._changed.notify_all()
        return item

    def _settle(self) -> None:
        """Raise what ended the items, once."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame

    def _begin(self) -> None:
        if not self._begun:
            self._reading = True
            self._thread.start()
            self._begun = True
            _READ.add(self)

    def _wait(self) -> bool:
        """For an item or the end; whether neither has come in time."""
        with self._changed:
            while not self._arrived and not self._ended:
                left = None if self._since is None else self._since + PATIENCE - monotonic()
                if left is not None and left <= 0:
                    self._since = None
                    return True
                self._changed.wait(left)
        return False

    def _read(self, items: Iterable[Item]) -> None:
        try:
            iterator = iter(items)
            del items
            while self._may_read():
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                with self._changed:
                    self._reading = False
                    if not self._closed:
                        self._arrived.append(item)
                    self._changed.notify_all()
                del item
        except BaseException as error:  # raised where the items are taken
            self._error = error
            if not isinstance(error, Exception):
                self._arrived.clear()
        finally:
            with self._changed:
                self._ended, self._reading = True, False
                self._changed.notify_all()

    def _may_read(self) -> bool:
        """Wait until there is room for another item; whether it is still wanted."""
        with self._changed:
            if len(self._arrived) >= self._limit:
                self._since, self._full = None, True
                while not self._closed and len(self._arrived) > self._limit // 2:
                    self._changed.wait()
                self._full = False
            self._reading = not self._closed
            return self._reading

    def leave(self) -> None:
        """Want no more items, without waiting."""
        with self._changed:
            self._closed = True
            self._arrived.clear()
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the thread: to its end, or for `seconds` where the source does not let go of it."""
        if self._begun and self._thread is not threading.current_thread():
            with self._changed:
                reading = self._reading
            self._thread.join(seconds if reading else None)

    def close(self) -> None:
        """End the thread, or leave it where the source holds it."""
        self.leave()
        self.join(GRACE)
        if not isinstance(self._error, Exception):
            self._settle()


_READ: weakref.WeakSet[Arriving[Any]] = weakref.WeakSet()


def _end() -> None:
    """At the end of the program: let threads come back from their sources, as far as these let them."""
    reading = list(_READ)
    for one in reading:
        one.leave()
    until = monotonic() + GRACE
    for one in reading:
        one.join(max(until - monotonic(), 0.0))


atexit.register(_end)
in_child(_READ.clear)  # whose threads are not there, and whose locks may be held for ever


def arriving(items: Iterable[Item], limit: int = LIMIT) -> AbstractContextManager[Iterable[Item | Quiet]]:
    """`items` as `Arriving`, closed at the end of the block; as they are where they never keep anyone waiting."""
    return nullcontext(items) if isinstance(items, (list, tuple)) else closing(Arriving(items, limit))


@in_one_process
def live_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """`parallel_map` that gives out what there is while the next of `items` has not come."""
    with arriving(items) as source, closing(stage(function, source, workers=workers, ahead=ahead)) as results:
        for result in results:
            if not isinstance(result, Quiet):
                yield result


__all__ = ["Arriving", "arriving", "live_map"]
