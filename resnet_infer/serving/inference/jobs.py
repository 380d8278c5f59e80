"""Define a job of the batcher, its result, and the reasons for refusing it."""

from __future__ import annotations

import math
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import Reason, ResnetInferError

Item = TypeVar("Item")
"""An item that a caller submits."""
Result = TypeVar("Result")
Rows = NDArray[Any]
"""Rows of an item, prepared or inferred: an array (rows, ...)."""


class RefusedError(ResnetInferError):
    """Report a job that is not done, and why.

    The reasons: `full`, the queue is full; `late`, the deadline would be or was missed; `closed`, no more is accepted;
    `unready`, the model is not open yet; `memory`, no memory became free in time. `retry_after` is in whole seconds,
    from 1 to 60.
    """

    reason: Reason

    def __init__(self, reason: Literal["full", "late", "closed", "unready", "memory"], retry_after: float = 1) -> None:
        super().__init__(
            {
                "full": "the queue is full",
                "late": "there is more to do than can be done in time",
                "closed": "nothing more is taken",
                "unready": "the model is not ready",
                "memory": "there is no memory for it",
            }[reason],
            reason=reason,
        )
        self.retry_after = min(max(math.ceil(retry_after), 1), 60)


@dataclass(frozen=True)
class Timings:
    """Hold the seconds of an item's stages: queue, preparation, wait for its batch, and inference of the batch."""

    queue: float
    prepare: float
    wait: float
    infer: float


@dataclass(frozen=True)
class Done(Generic[Result]):
    """Hold a result with its timings; `batch` is the number of rows that were inferred together."""

    result: Result
    timings: Timings
    batch: int


class Job(Generic[Item, Result]):
    """Hold an item, the state of its processing, and the future of its result. Times are by the monotonic clock."""

    __slots__ = ("deadline", "future", "item", "prepared", "rows", "shape", "started", "submitted", "views")

    def __init__(self, item: Item, rows: int, submitted: float, deadline: float) -> None:
        self.item, self.rows = item, rows
        self.submitted, self.deadline = submitted, deadline
        self.started = self.prepared = submitted
        self.future: Future[Done[Result]] = Future()
        self.views: Rows = np.empty(0)

    def succeed(self, done: Done[Result]) -> None:
        """Set the result, unless the future is done or cancelled."""
        try:  # noqa: SIM105  # `suppress` would double the cost
            self.future.set_result(done)
        except InvalidStateError:
            pass

    def fail(self, error: BaseException) -> None:
        """Set the error, unless the future is done or cancelled.

        The future may be cancelled at any moment, so testing it first would not be safe.
        """
        with suppress(InvalidStateError):
            self.future.set_exception(error)
