"""Keep many HTTP requests in progress from one thread, with prepared bytes over kept-alive connections (RFC 9112)."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from resnet_infer.connections import parts_of
from resnet_infer.errors import UsageError

KEEP_ALIVE = 3.0
"""Seconds for which an idle connection is used again; servers close theirs after five."""
MOST_CONNECTIONS = 512
"""Most connections; further requests wait for one. A process may often open no more than 1024 files."""

OnHttpResponse = Callable[[int, bytes], None]
"""Called in the client's thread with status and body. Status 0 is no response, and the body says why."""


def post(url: str, path: str, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return the bytes of a POST request; `path` is its target, and `headers` follow Host and Content-Length."""
    fields = [("Host", urlsplit(url).netloc), ("Content-Length", str(len(body))), *headers]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


@dataclass(slots=True)
class _Exchange:
    """Hold a request, what to call with its response, and the moment by which that must be there."""

    request: bytes
    on_response: OnHttpResponse
    deadline: float
    tries: int = 0


class _Connection(asyncio.Protocol):
    """Carry one exchange at a time."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._received = bytearray()
        self.exchange: _Exchange | None = None
        self.used = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._client.connected.add(self)

    def send(self, exchange: _Exchange) -> None:
        """Send the request of an exchange."""
        assert self.transport is not None
        self.exchange = exchange
        exchange.tries += 1
        self._received.clear()
        self.transport.write(exchange.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        index = head.find(b"\r\ncontent-length:")
        try:
            status = int(head[9:12])
            length = int(head[index + 17 :].split(b"\r\n", 1)[0]) if index >= 0 else 0
        except ValueError:
            self.abandon("the answer is no HTTP")
            return
        if b"\r\ntransfer-encoding:" in head:
            self.abandon("answers without Content-Length are not read")
            return
        if len(self._received) < end + 4 + length:
            return
        body = bytes(self._received[end + 4 : end + 4 + length])
        if b"\r\nconnection: close" in head:
            self.close()
        self.used = time.monotonic()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._client.release(self)
            exchange.on_response(status, body)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._client.connected.discard(self)
        # A server may close an idle connection at the moment it is used again.
        again = self.used > 0 and not self._received and self.exchange is not None and self.exchange.tries == 1
        self._end(str(error or "the connection was closed"), again)

    def abandon(self, reason: str) -> None:
        """Close the connection, and end its exchange with status 0 and a reason."""
        self.close()
        self._end(reason, again=False)

    def close(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()
            self.transport = None

    def _end(self, reason: str, again: bool) -> None:
        """End the exchange: `again` sends it over another connection, else its status is 0."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._client.release(self)
            if again:
                self._client.start(exchange)
            else:
                exchange.on_response(0, reason.encode())


class HttpClient:
    """Send requests to the host of a URL, up to `connections` at a time, and end each within `timeout` seconds.

    Methods may be called from any thread; responses are handed over in the client's own. Raises `UsageError` for what
    is not a URL.

        client = HttpClient("http://127.0.0.1:3000")
        client.send(post("http://127.0.0.1:3000", "/classify", body), lambda status, body: print(status))
        client.close()
    """

    def __init__(self, url: str, *, timeout: float = 30.0, connections: int = MOST_CONNECTIONS) -> None:
        parts = parts_of(url)
        if "://" not in url:
            raise UsageError(f"{url} is no URL of a service", hint="it looks like http://127.0.0.1:3000")
        self._host, self._port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._timeout, self._limit = timeout, connections
        self.connected: set[_Connection] = set()
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._waiting: deque[_Exchange] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._thread.start()
        self._loop.call_soon_threadsafe(self._watch)

    def send(self, request: bytes, on_response: OnHttpResponse) -> None:
        """Send what `post` made. `on_response` is called once, and never before this returns to the client's thread."""
        exchange = _Exchange(request, on_response, time.monotonic() + self._timeout)
        if threading.current_thread() is self._thread:
            self.start(exchange)
        else:
            self._loop.call_soon_threadsafe(self.start, exchange)

    def drop(self) -> None:
        """End all requests in progress without a response."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result()

    def close(self) -> None:
        """End all requests in progress as `drop` does, and the thread."""
        self._closed = True
        self.drop()
        self._loop.call_soon_threadsafe(self._watching.cancel)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # In the client's thread

    def start(self, exchange: _Exchange) -> None:
        """Send an exchange over an idle connection or a new one, or let it wait. Called in the client's thread."""
        if self._closed:
            return
        now = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is None:
                continue
            if now - connection.used > KEEP_ALIVE:
                connection.close()
                continue
            self._busy.add(connection)
            connection.send(exchange)
            return
        if len(self._busy) + len(self._opening) >= self._limit:
            self._waiting.append(exchange)
            return
        task = self._loop.create_task(self._open(exchange))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def release(self, connection: _Connection) -> None:
        """Take back a connection, and start the next exchange. Called in the client's thread."""
        self._busy.discard(connection)
        if connection.transport is not None:
            self._idle.append(connection)
        if self._waiting:
            self.start(self._waiting.popleft())

    async def _open(self, exchange: _Exchange) -> None:
        try:
            opened = self._loop.create_connection(lambda: _Connection(self), self._host, self._port, ssl=self._ssl)
            _, connection = await asyncio.wait_for(opened, max(exchange.deadline - time.monotonic(), 0.001))
        except asyncio.TimeoutError:
            self._loop.call_soon(exchange.on_response, 0, b"no connection in time")
        except OSError as error:
            self._loop.call_soon(exchange.on_response, 0, (error.strerror or str(error)).encode())
        else:
            if asyncio.current_task() in self._opening:  # else it was dropped after the connection was made
                self._busy.add(connection)
                connection.send(exchange)
            return
        if self._waiting:
            self._loop.call_soon(self.start, self._waiting.popleft())

    def _watch(self) -> None:
        """End exchanges whose deadline has passed, ten times a second."""
        now, reason = time.monotonic(), f"no answer in {self._timeout:g} s"
        for connection in [item for item in self._busy if item.exchange and item.exchange.deadline <= now]:
            connection.abandon(reason)
        while self._waiting and self._waiting[0].deadline <= now:
            self._waiting.popleft().on_response(0, reason.encode())
        self._watching = self._loop.call_later(0.1, self._watch)

    async def _drop(self) -> None:
        self._waiting.clear()
        opening = list(self._opening)
        self._opening.clear()
        for task in opening:
            task.cancel()
        for connection in self.connected:
            connection.exchange = None
        # A cancelled task may still have made its connection.
        await asyncio.gather(*opening, return_exceptions=True)
        for connection in list(self.connected):
            connection.close()
        self._busy.clear()
        self._idle.clear()
        while self.connected:
            await asyncio.sleep(0)  # until they are closed
