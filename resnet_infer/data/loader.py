"""Decoding in threads beside the consumer, in order, with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None, ahead: int = 64
) -> Iterator[Result]:
    """`map(function, items)` in threads: results in order, at most `ahead` items taken that are not yet given out.

    An exception of `function` is raised when its turn comes. `items` may be endless; it is read as results are taken.
    """
    iterator = iter(items)
    first = next(iterator, None)
    if first is None:
        return
    second = next(iterator, None)
    if second is None:
        yield function(first)
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="decode") as pool:
        pending.append(pool.submit(function, first))
        pending.append(pool.submit(function, second))
        try:
            for item in iterator:
                pending.append(pool.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
