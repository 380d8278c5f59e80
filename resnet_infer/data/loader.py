"""Decoding in threads beside the consumer, in order, with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from itertools import chain, islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None, ahead: int = 64
) -> Generator[Result, None, None]:
    """`map(function, items)` in threads: results in order, at most `ahead` items taken that are not yet given out.

    An exception of `function` is raised when its turn comes. `items` may be endless; it is read as results are taken,
    two at first whatever `ahead` is. Closing the generator ends the threads.
    """
    iterator = iter(items)
    first = list(islice(iterator, 2))
    if len(first) < 2:  # a thread would bring nothing
        yield from map(function, first)
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    whole = chain(iter(first), iterator)  # an iterator of a list lets go of it at its end
    del first
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers or usable_cores(), thread_name_prefix="decode") as pool:
        try:
            for item in whole:
                pending.append(pool.submit(function, item))
                while pending and (len(pending) >= ahead or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
