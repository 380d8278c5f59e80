"""A test that hangs fails, and says where."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest


@contextmanager
def within(seconds: int, what: str = "the block") -> Iterator[None]:
    """Fail where the block still works after so many seconds."""

    def late(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"{what} still works after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
