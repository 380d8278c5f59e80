"""A load of ready-made requests on an HTTP service: the loops of the package, with what any server understands.

`closed_loop` keeps so many requests in progress; `open_loop` sends so many a second, whatever becomes of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

from resnet_infer.benchmarking.load import loops
from resnet_infer.benchmarking.load.http_client import HttpClient, post
from resnet_infer.benchmarking.load.loops import Load
from resnet_infer.benchmarking.load.system import OnResponse, Response

__all__ = ["Load", "closed_loop", "open_loop", "post", "steady_rate"]


class _Requests(HttpClient):
    """A system whose pictures are requests, and whose answers are not read."""

    at_once = 32

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        super().__init__(url, timeout=timeout)
        self.answered: list[float] = []

    @property
    def spec(self) -> Any:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {}

    def submit(self, pictures: Sequence[bytes], on_response: OnResponse) -> None:
        for index, request in enumerate(pictures):
            self.send(request, partial(self._receive, on_response, index))

    def _receive(self, on_response: OnResponse, index: int, status: int, body: bytes) -> None:
        self.answered.append(time.perf_counter())
        on_response(index, Response(status))


def closed_loop(
    url: str, requests: Sequence[bytes], *, connections: int, seconds: float | None = None, count: int | None = None
) -> Load:
    """`connections` requests in progress all the time, for so many seconds, or so many in all."""
    with closing(_Requests(url)) as system:
        return loops.closed_loop(system, requests, clients=connections, seconds=seconds, count=count)


def steady_rate(url: str, requests: Sequence[bytes], *, connections: int, seconds: float, settle: float) -> float:
    """Answers a second with `connections` requests in progress, after `settle` seconds. All must be successes."""
    with closing(_Requests(url)) as system:
        begin = time.perf_counter() + settle
        found = loops.closed_loop(system, requests, clients=connections, seconds=settle + seconds)
        if set(found.statuses) != {200}:
            raise RuntimeError(f"{url} answered {dict(found.statuses)} to {connections} connections")
        return sum(begin <= moment <= begin + seconds for moment in system.answered) / seconds


def open_loop(url: str, requests: Sequence[bytes], *, rate: float, seconds: float, patience: float) -> Load:
    """`rate` requests a second, evenly, for so many seconds; then `patience` seconds for the last answers.

    What is not answered until then counts as status 0. The rate of the result is that of the seconds asked for.
    """
    with closing(_Requests(url, timeout=seconds + patience)) as system:
        found = loops.open_loop(system, requests, rate=rate, seconds=seconds, poisson=False, patience=patience)
    found.seconds = seconds
    return found
