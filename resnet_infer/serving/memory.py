"""One bound for what requests hold in memory: their bodies, and the pictures that are being decoded."""

from __future__ import annotations

import threading
import time
from collections import deque

from resnet_infer.data.formats.kinds import UnusableError
from resnet_infer.serving.inference.jobs import RefusedError
from resnet_infer.utils.heap import give_back

JSON_FACTOR, TENSOR_FACTOR = 8, 13
"""Memory that a body of JSON takes at most while it is read, in bodies: with pictures in base64, with numbers."""


LARGE = 1 << 25
"""Bytes that are given back to the system at once: the C library would keep them for its next one."""


class Memory:
    """`limit` bytes. Bodies may take half of them, so that there is always room to decode.

    Bodies belong to the event loop; the rest may be used from any thread.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bodies = 0
        self.decoding = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @property
    def for_bodies(self) -> int:
        return self.limit // 2

    def hold(self, size: int) -> bool:
        """Count bytes of bodies, and whether they fit."""
        self.bodies += size
        return self.bodies <= self.for_bodies

    def release(self, size: int) -> None:
        """Count bytes of bodies that are no longer there."""
        self.bodies -= size
        if size >= LARGE:
            give_back()
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def share(self, deadline: float) -> Share:
        """A part for one picture, given back in the end of its context; `due` is by the monotonic clock."""
        return Share(self, deadline)


class Share:
    """What one picture takes of a `Memory`. It belongs to one thread."""

    def __init__(self, memory: Memory, deadline: float) -> None:
        self._memory, self._deadline = memory, deadline
        self.size = 0

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *error: object) -> None:
        if self.size >= LARGE:
            give_back()
        self.take(0)

    def take(self, size: int) -> None:
        """Have `size` bytes instead of those before; wait for more in the order of those who come.

        Raises `UnusableError` for more than there can be, and `RefusedError` when the time is over.
        """
        memory = self._memory
        if size > memory.limit:
            needed, limit = size / 1e6, memory.limit / 1e6
            raise UnusableError(f"reading it takes {needed:.0f} MB, more than the service may use ({limit:.0f} MB)")
        with memory._changed:
            if size > self.size and (memory._waiting or not self._fits(size)):
                memory._waiting.append(self)
                try:
                    while memory._waiting[0] is not self or not self._fits(size):
                        left = self._deadline - time.monotonic()
                        if left <= 0:
                            raise RefusedError("memory")
                        memory._changed.wait(min(left, threading.TIMEOUT_MAX))
                finally:
                    memory._waiting.remove(self)
                    memory._changed.notify_all()
            memory.decoding += size - self.size
            if size < self.size and memory._waiting:
                memory._changed.notify_all()
            self.size = size

    def _fits(self, size: int) -> bool:
        memory = self._memory
        return memory.bodies + memory.decoding - self.size + size <= memory.limit
