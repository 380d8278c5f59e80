"""What is said of work: how it was done, or why it is not."""

from __future__ import annotations

import math
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ResnetInferError

Item = TypeVar("Item")
Result = TypeVar("Result")
Rows = NDArray[Any]
"""What an item is prepared to, and what is inferred of it: (rows, ...)."""


class RefusedError(ResnetInferError):
    """Work that is not done, and why.

    `full`: the queue is; `late`: it would not be, or was not, done in time; `closed`: no more is taken; `unready`: not
    yet; `memory`: others had it for as long as could be waited. `retry_after` is in seconds.
    """

    def __init__(self, reason: Literal["full", "late", "closed", "unready", "memory"], retry_after: float = 1) -> None:
        super().__init__(
            {
                "full": "the queue is full",
                "late": "there is more to do than can be done in time",
                "closed": "nothing more is taken",
                "unready": "the model is not ready",
                "memory": "there is no memory for it",
            }[reason]
        )
        self.reason = reason
        self.retry_after = min(max(math.ceil(retry_after), 1), 60)


@dataclass(frozen=True)
class Timings:
    """Seconds that an item waited in the queue, was prepared, waited for its batch, and was inferred with it."""

    queue: float
    prepare: float
    wait: float
    infer: float


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A result, and how it came about; `batch` is the number of rows that were inferred together."""

    result: Result
    timings: Timings
    batch: int


class Job(Generic[Item, Result]):
    """An item on its way, with the future of its result; times are by the monotonic clock."""

    __slots__ = ("deadline", "future", "item", "prepared", "rows", "shape", "started", "submitted", "views")

    def __init__(self, item: Item, rows: int, submitted: float, deadline: float) -> None:
        self.item, self.rows = item, rows
        self.submitted, self.deadline = submitted, deadline
        self.started = self.prepared = submitted
        self.future: Future[Done[Result]] = Future()
        self.views: Rows = np.empty(0)

    def succeed(self, done: Done[Result]) -> None:
        """Nothing, if the future has its result or was cancelled."""
        try:  # noqa: SIM105  # `suppress` costs as much as the rest
            self.future.set_result(done)
        except InvalidStateError:
            pass

    def fail(self, error: BaseException) -> None:
        """As `succeed`. To ask first would not do: whoever waits may cancel in between."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)
