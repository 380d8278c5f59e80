"""Bound the memory of requests: their bodies, and the images that are being decoded."""

from __future__ import annotations

import threading
import time
from collections import deque

from resnet_infer.data.formats.kinds import UnusableError
from resnet_infer.serving.inference.jobs import RefusedError
from resnet_infer.utils.heap import give_back

JSON_FACTOR, TENSOR_FACTOR = 8, 13
"""Peak memory while a JSON body is read, in sizes of the body: with images in base64, and with tensors of numbers."""


LARGE = 1 << 25
"""Bytes from which freed memory is returned to the system at once, instead of staying in the C library's heap."""


class Memory:
    """Share `limit` bytes between requests.

    Bodies may take half of them, so there is always room to decode. `hold` and `release` belong to the event loop; the
    shares of decoding images may be used from any thread.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bodies = 0
        self.decoding = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @property
    def for_bodies(self) -> int:
        """Return the bytes that bodies may take."""
        return self.limit // 2

    def hold(self, size: int) -> bool:
        """Add `size` bytes of bodies, and return whether all bodies fit. `release` must follow in either case."""
        self.bodies += size
        return self.bodies <= self.for_bodies

    def release(self, size: int) -> None:
        """Subtract `size` bytes of bodies that have been freed."""
        self.bodies -= size
        if size >= LARGE:
            give_back()
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def share(self, deadline: float) -> Share:
        """Return a share for one image, to be used as a context manager. `deadline` is by the monotonic clock."""
        return Share(self, deadline)


class Share:
    """Hold the memory of one image in one thread, until the end of its context."""

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
        """Reserve `size` bytes in place of the bytes reserved before, and wait for more in the order of arrival.

        Raises `UnusableError` for more than the limit, and `RefusedError` ("memory") at the deadline.
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
        """Return whether `size` bytes fit in place of those of this share."""
        memory = self._memory
        return memory.bodies + memory.decoding - self.size + size <= memory.limit
