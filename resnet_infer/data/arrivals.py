"""Read slow items in a thread of their own, so that those that have arrived are processed meanwhile."""

from __future__ import annotations

import atexit
import contextvars
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from time import monotonic
from typing import Any, Generic, TypeVar

from resnet_infer.utils.lifetime import in_child, in_one_process
from resnet_infer.utils.parallel import Quiet, stage

PATIENCE = 0.05
"""Seconds that an item waits for others to share its batch while no other arrives."""
GRACE = 0.2
"""Seconds that closing waits for an item that is being read. Nothing can interrupt its source."""
LIMIT = 16
"""Most items that the thread reads ahead."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Arriving(Generic[Item]):
    """Iterate over `items`, which a thread of its own reads, and yield `QUIET` when the next item is late.

    `QUIET` comes `PATIENCE` seconds after the first item since the last `QUIET`, if there is no next item by then. It
    does not come while `items` are faster than their consumer: the thread has read `limit` items ahead then, and waits.

    An error of `items` is raised after the items before it, an interrupt (`BaseException`) at once. `items` run with
    the context variables of the code that creates this object.

    Close it at the end. An item that is being read then is dropped, and an interrupt of `items` is raised.
    """

    def __init__(self, items: Iterable[Item], limit: int = LIMIT) -> None:
        self._limit = max(limit, 1)
        self._arrived: deque[Item] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = self._full = self._reading = False
        self._error: BaseException | None = None
        self._since: float | None = None
        """Time (`monotonic`, seconds) of the first item handed out since the last `QUIET`; None if there is none."""
        read = contextvars.copy_context().run
        # A daemon thread: a source that waits for ever must not keep the program from ending.
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
        """Raise the error that ended the items, once."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # the traceback of the error holds this frame

    def _begin(self) -> None:
        """Start the thread, once."""
        if not self._begun:
            self._reading = True
            self._thread.start()
            self._begun = True
            _READ.add(self)

    def _wait(self) -> bool:
        """Wait for an item or the end. Return True if neither has come in time."""
        with self._changed:
            while not self._arrived and not self._ended:
                left = None if self._since is None else self._since + PATIENCE - monotonic()
                if left is not None and left <= 0:
                    self._since = None
                    return True
                self._changed.wait(left)
        return False

    def _read(self, items: Iterable[Item]) -> None:
        """Read the items to their end. This is the body of the thread."""
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
        except BaseException as error:  # raised in the consumer's thread
            self._error = error
            if not isinstance(error, Exception):
                self._arrived.clear()
        finally:
            with self._changed:
                self._ended, self._reading = True, False
                self._changed.notify_all()

    def _may_read(self) -> bool:
        """Wait until there is room for another item, and return whether it is still wanted."""
        with self._changed:
            if len(self._arrived) >= self._limit:
                self._since, self._full = None, True
                while not self._closed and len(self._arrived) > self._limit // 2:
                    self._changed.wait()
                self._full = False
            self._reading = not self._closed
            return self._reading

    def leave(self) -> None:
        """Stop reading further items, without waiting."""
        with self._changed:
            self._closed = True
            self._arrived.clear()
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end, but no more than `seconds` while its source is blocked."""
        if self._begun and self._thread is not threading.current_thread():
            with self._changed:
                reading = self._reading
            self._thread.join(seconds if reading else None)

    def close(self) -> None:
        """Stop the thread, or abandon it if its source is blocked. Raises an interrupt of `items`."""
        self.leave()
        self.join(GRACE)
        if not isinstance(self._error, Exception):
            self._settle()


_READ: weakref.WeakSet[Arriving[Any]] = weakref.WeakSet()


def _end() -> None:
    """Stop all threads at the end of the program, and wait up to `GRACE` seconds for them."""
    reading = list(_READ)
    for one in reading:
        one.leave()
    until = monotonic() + GRACE
    for one in reading:
        one.join(max(until - monotonic(), 0.0))


atexit.register(_end)
in_child(_READ.clear)  # a child process has none of the threads, and their locks may be held for ever


class Ready(Generic[Item]):
    """Iterate over items that are there already: converting one takes no waiting, so no thread reads them ahead."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)

    def __iter__(self) -> Iterator[Item]:
        return self._items


def arriving(items: Iterable[Item], limit: int = LIMIT) -> AbstractContextManager[Iterable[Item | Quiet]]:
    """Return a context manager that gives `items` as `Arriving`, and closes it at the end of the block.

    Lists, tuples and `Ready` items never keep their consumer waiting, and are given as they are.
    """
    return nullcontext(items) if isinstance(items, (list, tuple, Ready)) else closing(Arriving(items, limit))


@in_one_process
def live_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """Map `function` over `items` as `parallel_map` does, but yield finished results while the next item is late.

    The results keep the order of `items`. `workers` is the number of threads, `ahead` the most items read ahead.
    """
    with arriving(items) as source, closing(stage(function, source, workers=workers, ahead=ahead)) as results:
        for result in results:
            if not isinstance(result, Quiet):
                yield result


__all__ = ["Arriving", "Ready", "arriving", "live_map"]
