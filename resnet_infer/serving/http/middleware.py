"""Wrap every request: its id, keys, limits of body and time, errors as JSON, the access log and the metrics."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from datetime import datetime, timezone
from typing import Any

from starlette.requests import ClientDisconnect

from resnet_infer.serving.http.routing import MATCH, TABLE, Match, RouteTable
from resnet_infer.serving.memory import JSON_FACTOR, TENSOR_FACTOR, Memory
from resnet_infer.serving.metrics import Metrics
from resnet_infer.serving.settings import ApiKeys, Settings
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import logger, write

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENT_CLOSED_REQUEST = 499
"""Status of a request whose client left before the response, in the log and the metrics (as in nginx)."""
RECORD = "resnet_infer.record"
"""Key in a scope: fields of the request for the access log."""
ON_DISCONNECT = "resnet_infer.left"
"""Key in a scope: functions that the server calls when the client leaves before the response."""
SERVER_STATUS = "resnet_infer.left_with"
"""Key in a scope: status with which the server itself has answered a request that it cannot read to the end."""
SET_DEADLINE = "resnet_infer.limit"
"""Key in a scope: function that sets the seconds until the request is ended with a 503."""
TICK = 0.1
"""Seconds between two checks for overdue requests."""
_ID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
"""Characters that a client's request id may have."""


class HttpError(Exception):
    """Report an error response: status, message, headers, and the reason under which the metrics count it."""

    def __init__(self, status: int, message: str, *, headers: Iterable[tuple[str, str]] = (), reason: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.headers, self.reason = status, message, tuple(headers), reason

    def to_json(self) -> dict[str, str]:
        """Return the body. A failure of the service (500) has its reason in it, too, which programs can test."""
        body = {"error": self.message}
        return {**body, "reason": self.reason} if self.status == 500 and self.reason else body


class Traffic:
    """Hold the requests in progress and their memory.

    With `draining`, new requests except health probes are refused; those in progress go on.
    """

    def __init__(self, memory: Memory) -> None:
        self.draining = False
        self.requests: set[_Request] = set()
        self.memory = memory


class Middleware:
    """Wrap the whole service as ASGI middleware.

    It refuses requests without a key (401), with a body that is too large (413) or does not come in time (408), and
    bodies beyond the memory for all of them (503). It ends a request that is not answered within `timeout` seconds
    after its body came, or whose client has left. `HttpError` becomes JSON. Other errors are logged, and answered with
    a 500 without details. The request id is the client's `X-Request-ID`, if that is a plain word, or a random one.
    """

    def __init__(
        self, app: App, settings: Settings, keys: ApiKeys, metrics: Metrics, traffic: Traffic, table: RouteTable = TABLE
    ) -> None:
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self.traffic, self.table = traffic, table
        self._watching: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a request, then log and measure it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # not supported: the server answers with a 403
                await send({"type": "websocket.close"})
            else:
                await self.app(scope, receive, send)
            return
        begin = time.monotonic()
        headers = dict(scope["headers"])
        request = _Request(self, scope, receive, send, headers)
        self.traffic.requests.add(request)
        self.metrics.active(1)
        if self._watching is not request.loop:
            self._watch()
        try:
            await request.run(headers)
        finally:
            self.traffic.requests.discard(request)
            self.metrics.active(-1)
            request.release()
            request.forget()
            seconds = time.monotonic() - begin
            record = scope[RECORD]
            status = request.status or CLIENT_CLOSED_REQUEST
            self.metrics.request(record.get("route", "other"), status, seconds)
            if self.settings.access_log and not request.match.is_probe:
                log(record, scope, status, seconds)

    def _watch(self) -> None:
        """End overdue requests periodically while there are any; a timer for each request would cost more."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for request in list(self.traffic.requests):
            if request.deadline <= now:
                request.time_out()
        self._watching = loop if self.traffic.requests else None
        if self._watching:
            loop.call_later(TICK, self._watch)


class _Request:
    """Run one request through the middleware."""

    def __init__(
        self, middleware: Middleware, scope: Scope, receive: Receive, send: Send, headers: MutableMapping[bytes, bytes]
    ) -> None:
        self.middleware, self.scope, self._receive, self._send = middleware, scope, receive, send
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        # `os.urandom` would release the interpreter lock, and wait for a decoding thread to give it back.
        self.id = given if 0 < len(given) <= 64 and _ID.issuperset(given) else f"{random.getrandbits(64):016x}"
        scope[RECORD] = {"id": self.id}
        self.status = 0
        self._size = 0
        self.match = scope[MATCH] = middleware.table.find(scope)
        self._weight = _weight(self.match, headers)
        scope[SET_DEADLINE] = self.set_deadline
        if ON_DISCONNECT in scope:
            scope[ON_DISCONNECT].append(self._disconnect)
        self.loop = asyncio.get_running_loop()
        self.deadline = math.inf
        """Loop time at which the body, or else the response, must be there."""
        self._task = asyncio.current_task()
        self._is_body_requested = self._has_body = False
        self._end: Exception | None = None

    async def run(self, headers: MutableMapping[bytes, bytes]) -> None:
        """Check the request, call the application, and answer errors."""
        try:
            try:
                self._check_key()
                if self.middleware.traffic.draining and not self.match.is_probe:
                    ending = [("Retry-After", "5"), ("Connection", "close")]
                    raise HttpError(503, "not now: the service is ending", headers=ending, reason="closed")
                await self._check_length(headers)
                await self.middleware.app(self.scope, self.receive, self.send)
            except asyncio.CancelledError:
                if self._end is None:
                    raise
                raise self._end from None
            finally:
                self.deadline = math.inf
        except HttpError as error:
            await self.answer(error)
        except ClientDisconnect:
            if not self.status:
                self.status = self.scope.get(SERVER_STATUS, CLIENT_CLOSED_REQUEST)
                if self.status == CLIENT_CLOSED_REQUEST:  # the server counts other statuses itself
                    self.middleware.metrics.rejected("left")
        except Exception:
            logger().exception("request %s failed", self.id)
            await self.answer(HttpError(500, "something went wrong; the server's log says more"))

    def _check_key(self) -> None:
        """Raise `HttpError`, 401, 403 or 405, unless the request has the key that its route needs."""
        keys, match = self.middleware.keys, self.match
        is_admin = match.is_admin
        if is_admin and self.scope["method"] not in match.methods:
            allowed = ", ".join(match.methods)
            raise HttpError(405, f"this needs the method {allowed}", headers=[("Allow", allowed)])
        if is_admin and not keys.has_admin:
            raise HttpError(403, "this needs an admin key, and the service has none", reason="key")
        if not is_admin and not (keys and match.needs_key):
            return
        given = list(_keys(self.scope["headers"]))
        if any(keys.match(key, admin=is_admin) for key in given):
            return
        if is_admin and any(keys.match(key) for key in given):
            raise HttpError(403, "this needs an admin key; the one given opens the rest of the API", reason="key")
        raise HttpError(
            401,
            f"this {'' if is_admin else 'service '}needs its {'admin' if is_admin else 'API'} key, "
            "as `Authorization: Bearer KEY`",
            headers=[("WWW-Authenticate", "Bearer")],
            reason="key",
        )

    async def _check_length(self, headers: MutableMapping[bytes, bytes]) -> None:
        """Raise `HttpError`, 413, for a body whose declared length is over the limit."""
        length, limit = headers.get(b"content-length", b""), self.middleware.settings.max_body
        if not length.isdigit() or int(length) <= limit:
            return
        close = [("Connection", "close")]
        if int(length) <= 2 * limit:
            # A client that is still sending would not see the response if the connection were closed.
            while (await self.receive()).get("more_body"):
                self.release()
            close = []
        raise too_large(limit, close)

    async def receive(self) -> Message:
        """Return the next message from the client, counting its bytes. Raises `HttpError`."""
        if not self._is_body_requested:
            self._is_body_requested = True
            self.deadline = self.loop.time() + self.middleware.settings.timeout
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        size = len(message.get("body", b""))
        self._size += size
        memory = self.middleware.traffic.memory
        fits = memory.hold(size * self._weight)
        if self._size > self.middleware.settings.max_body:
            raise too_large(self.middleware.settings.max_body, [("Connection", "close")])
        if self._size * self._weight > memory.for_bodies:
            limit = memory.for_bodies // self._weight
            raise HttpError(
                413,
                f"JSON of more than {limit / 1e6:.3g} MB takes too much memory; send the bytes as they are",
                headers=[("Connection", "close")],
                reason="size",
            )
        if not fits:
            raise HttpError(
                503,
                "too many large requests at a time",
                headers=[("Retry-After", "1"), ("Connection", "close")],
                reason="memory",
            )
        if not message.get("more_body"):
            self._has_body = True
            self.deadline = self.loop.time() + self.middleware.settings.timeout
        return message

    def release(self) -> None:
        """Count the body as freed."""
        self.middleware.traffic.memory.release(self._size * self._weight)
        self._size = 0

    def forget(self) -> None:
        """Break reference cycles, which would stay in memory, and in the CPU's caches, until a garbage collection."""
        del self.scope[SET_DEADLINE]
        if ON_DISCONNECT in self.scope:
            self.scope[ON_DISCONNECT].clear()
        self._end = None

    def set_deadline(self, seconds: float) -> None:
        """End the request with a 503 if it is not answered in so many seconds."""
        self.deadline = self.loop.time() + seconds

    def time_out(self) -> None:
        """End the request with a 503, or with a 408 if its body has not come."""
        if self._has_body:
            again = [("Retry-After", "1")]
            self._stop(HttpError(503, "not now: it could not be done in time", headers=again, reason="late"))
        else:
            close = [("Connection", "close")]
            self._stop(HttpError(408, "the body did not come in time", headers=close, reason="idle"))

    def _disconnect(self) -> None:
        """End the request of a client that has left."""
        if not self.status:
            self._stop(ClientDisconnect())

    def _stop(self, end: Exception) -> None:
        """Cancel the request's task, and keep the reason."""
        self.deadline = math.inf
        if self._end is None and self._task is not None:
            self._end = end
            self._task.cancel()

    async def send(self, message: Message) -> None:
        """Send a message to the client, with the request id in the response's headers."""
        if message["type"] == "http.response.start":
            self.deadline = math.inf
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
        await self._send(message)

    async def answer(self, error: HttpError) -> None:
        """Send the error as JSON, unless the response has begun."""
        if error.reason and error.status != 500:
            self.middleware.metrics.rejected(error.reason)
        if self.status:
            return
        body = strict_json.dumps(error.to_json()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[bytes]:
    """Yield every key of a request; a gateway may have added one of its own."""
    for name, value in headers:
        if name == b"x-api-key":
            yield value
        elif name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                yield token.strip()


def _weight(match: Match, headers: MutableMapping[bytes, bytes]) -> int:
    """Return the peak memory for a body, in sizes of the body."""
    if match.route is not None and match.route.takes_tensors:
        json_size = headers.get(b"inference-header-content-length", b"")
        is_small = json_size.isdigit() and len(json_size) < 6
        return 1 if is_small else TENSOR_FACTOR
    return JSON_FACTOR if headers.get(b"content-type", b"").lstrip().lower().startswith(b"application/json") else 1


def too_large(limit: int, headers: Iterable[tuple[str, str]] = ()) -> HttpError:
    """Return the 413 for a body."""
    return HttpError(413, f"a request has at most {limit / 1e6:g} MB", headers=headers, reason="size")


def log(record: MutableMapping[str, Any], scope: Scope, status: int, seconds: float) -> None:
    """Write a line of JSON to stderr."""
    line = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "id": record["id"],
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": round(1000 * seconds, 1),
        **{name: value for name, value in record.items() if name not in ("id", "route")},
    }
    write(strict_json.dumps(line))
