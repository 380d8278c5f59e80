"""A clock that tests pass by themselves, and a system that lives by it."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from resnet_infer.benchmarking.load.system import OnResponse, Response


class SimulatedClock:
    """Time jumps to whatever is waited for; what was `at` a time before is done on the way."""

    def __init__(self) -> None:
        self._now = 0.0
        self._number = count()
        self._planned: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> float:
        return self._now

    def at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._planned, (moment, next(self._number), action))

    def wait(self, until: float, event: threading.Event) -> bool:
        while not event.is_set() and self._planned and self._planned[0][0] <= until:
            moment, _, action = heapq.heappop(self._planned)
            self._now = max(self._now, moment)
            action()
        if not event.is_set():
            self._now = max(self._now, until)
        return event.is_set()

    def block(self, seconds: float) -> None:
        """As if a call took that long."""
        self.wait(self._now + seconds, threading.Event())


class Queue:
    """One after the other, `service` seconds each; nothing is done from `stall[0]` to `stall[1]`."""

    at_once = 8
    spec: Any = None

    def __init__(
        self, clock: SimulatedClock, service: float, *, stall: tuple[float, float] = (0.0, 0.0), status: int = 200
    ) -> None:
        self.clock, self.service, self.stall, self.status = clock, service, stall, status
        self.free = 0.0
        self.in_progress = self.most = 0
        self.dropped = False

    def submit(self, pictures: Sequence[bytes], on_response: OnResponse) -> None:
        for index in range(len(pictures)):
            start = max(self.free, self.clock.now())
            if self.stall[0] <= start < self.stall[1]:
                start = self.stall[1]
            self.free = start + self.service
            self.in_progress += 1
            self.most = max(self.most, self.in_progress)

            def answer(index: int = index) -> None:
                self.in_progress -= 1
                on_response(index, Response(self.status, (0,), "" if self.status == 200 else "not now"))

            self.clock.at(self.free, answer)

    def drop(self) -> None:
        self.dropped = True

    def describe(self) -> dict[str, Any]:
        return {"name": "a queue"}

    def close(self) -> None:
        pass
