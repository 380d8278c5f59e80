"""What is said of work: how it was done, or why it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from resnet_infer.errors import ResnetInferError

Result = TypeVar("Result")


class RefusedError(ResnetInferError):
    """Work that is not done, and why.

    `full`: the queue is; `late`: it would not be, or was not, done in time; `closed`: no more is taken; `unready`: not
    yet. `retry_after` is in seconds.
    """

    def __init__(self, reason: Literal["full", "late", "closed", "unready"], retry_after: float = 1) -> None:
        super().__init__(
            {
                "full": "the queue is full",
                "late": "there is more to do than can be done in time",
                "closed": "nothing more is taken",
                "unready": "the model is not ready",
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
