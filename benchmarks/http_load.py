"""A load on an HTTP service out of one thread: ready-made requests over kept connections, a few microseconds each.

`closed_loop` keeps so many requests in progress; `open_loop` sends so many a second, whatever becomes of them.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlsplit

KEEP_ALIVE = 3.0
"""Seconds that a connection may rest before it is used again; servers close theirs after five."""


@dataclass
class Load:
    """What came of the requests: status (0: the connection broke) and seconds of each, in the order of the answers."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: dict[int, list[float]] = field(default_factory=dict)

    def add(self, status: int, latency: float) -> None:
        self.statuses[status] += 1
        self.latencies.setdefault(status, []).append(latency)

    @property
    def rate(self) -> float:
        """Successes a second."""
        return self.statuses[200] / self.seconds

    def quantile(self, share: float, status: int = 200) -> float:
        """Seconds that so many of the answers with that status stayed below."""
        ordered = sorted(self.latencies[status])
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    @property
    def median(self) -> float:
        return statistics.median(self.latencies[200])


def post(url: str, path: str, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """A request, ready to be sent."""
    fields = [("Host", urlsplit(url).netloc), ("Content-Length", str(len(body))), *headers]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class _Connection(asyncio.Protocol):
    """One request at a time. `answered(connection, status, seconds)` is called with each answer."""

    def __init__(self, answered: Callable[[_Connection, int, float], None]) -> None:
        self._answered = answered
        self._received = bytearray()
        self._begin: float | None = None
        self.used = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: bytes) -> None:
        assert self.transport is not None
        self._begin = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end].lower()
        place = head.find(b"content-length:")
        length = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(self._received) < end + 4 + length:
            return
        status = int(head[9:12])
        self._received.clear()
        if b"connection: close" in head and self.transport is not None:
            self.transport.close()
            self.transport = None
        self._finish(status)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._finish(0)

    def _finish(self, status: int) -> None:
        if self._begin is not None:
            self.used = time.perf_counter()
            seconds, self._begin = self.used - self._begin, None
            self._answered(self, status, seconds)


def closed_loop(
    url: str, requests: Sequence[bytes], *, connections: int, seconds: float | None = None, count: int | None = None
) -> Load:
    """`connections` requests in progress all the time, for so many seconds, or so many in all."""
    return asyncio.run(_closed_loop(url, requests, connections, seconds, count))


async def _closed_loop(
    url: str, requests: Sequence[bytes], connections: int, seconds: float | None, count: int | None
) -> Load:
    loop, load, bodies = asyncio.get_running_loop(), Load(), cycle(requests)
    left = count if count is not None else 1 << 60
    finished = loop.create_future()
    busy = connections
    begin = time.perf_counter()
    until = begin + seconds if seconds is not None else float("inf")
    broken: list[asyncio.Task[None]] = []

    def answered(connection: _Connection, status: int, latency: float) -> None:
        load.add(status, latency)
        follow(connection)

    def follow(connection: _Connection) -> None:
        nonlocal left, busy
        if left <= 0 or time.perf_counter() >= until:
            busy -= 1
            if not busy and not finished.done():
                finished.set_result(None)
            return
        if connection.transport is None:
            broken.append(loop.create_task(reconnect()))
            return
        left -= 1
        connection.send(next(bodies))

    async def reconnect() -> None:
        follow(await _connect(url, answered))

    opened = [await _connect(url, answered) for _ in range(connections)]
    begin = time.perf_counter()
    until = begin + seconds if seconds is not None else float("inf")
    for connection in opened:
        follow(connection)
    await finished
    load.seconds = time.perf_counter() - begin
    for connection in opened:
        if connection.transport is not None:
            connection.transport.close()
    return load


def open_loop(url: str, requests: Sequence[bytes], *, rate: float, seconds: float, patience: float) -> Load:
    """`rate` requests a second, evenly, for so many seconds; then `patience` seconds for the last answers.

    What is not answered until then counts as status 0.
    """
    return asyncio.run(_open_loop(url, requests, rate, seconds, patience))


async def _open_loop(url: str, requests: Sequence[bytes], rate: float, seconds: float, patience: float) -> Load:
    load, bodies = Load(), cycle(requests)
    idle: deque[_Connection] = deque()
    sending: set[asyncio.Task[None]] = set()
    open_requests = 0

    def answered(connection: _Connection, status: int, latency: float) -> None:
        nonlocal open_requests
        open_requests -= 1
        load.add(status, latency)
        if connection.transport is not None:
            idle.append(connection)

    async def send() -> None:
        connection = None
        while idle and connection is None:
            connection = idle.pop()
            if connection.transport is None or time.perf_counter() - connection.used > KEEP_ALIVE:
                if connection.transport is not None:
                    connection.transport.close()
                connection = None
        if connection is None:
            try:
                connection = await _connect(url, answered)
            except OSError:
                answered(_Connection(answered), 0, 0.0)
                return
        connection.send(next(bodies))

    begin = time.perf_counter()
    sent = 0
    while (now := time.perf_counter()) < begin + seconds:
        while sent < (now - begin) * rate:
            sent += 1
            open_requests += 1
            task = asyncio.ensure_future(send())
            sending.add(task)
            task.add_done_callback(sending.discard)
        await asyncio.sleep(0.002)
    load.seconds = time.perf_counter() - begin
    while open_requests and time.perf_counter() < begin + seconds + patience:
        await asyncio.sleep(0.01)
    load.statuses[0] += open_requests
    for connection in idle:
        if connection.transport is not None:
            connection.transport.close()
    return load


async def _connect(url: str, answered: Callable[[_Connection, int, float], None]) -> _Connection:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: _Connection(answered), parts.hostname, parts.port)
    return connection
