"""Bound uvicorn's HTTP/1.1 protocol, in the bytes of a request head and in the time for it.

By itself uvicorn reads a head of any size for as long as the client likes. It also takes the body of a request that
offers another protocol for the first bytes of that protocol.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import httptools
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from resnet_infer.serving.http.middleware import ON_DISCONNECT, SERVER_STATUS
from resnet_infer.utils import strict_json

MAX_HEAD = 1 << 16
"""Most bytes in a request line with its headers, in trailers, and in what surrounds the chunks of a body."""
MAX_HEADS = 1 << 24
"""Most bytes in all heads that have come in part."""
HEAD_SECONDS = 10.0
"""Seconds for a head, from the connection or from its first byte on; also for a body that is no longer read."""
STALL_SECONDS = 30.0
"""Seconds that a client may leave its response unread before it is disconnected."""
LINGER_SECONDS = 2.0
"""Seconds in which the rest of a refused request is read and dropped: after an immediate close the client would not see
the response.
"""

_FRAMING = (b"content-length", b"transfer-encoding")
"""Headers that tell where a body ends."""


class _ResponseTransport:
    """Wrap the transport for the response of a request.

    The head of a response is sent together with the first part of its body, as ASGI requires (HTTP, "Response Start").
    A system call for each would cost as much as reading the request. If the response ends within the request's body,
    the transport is closed only when the client can have seen the response.
    """

    def __init__(self, protocol: BoundedProtocol, transport: asyncio.Transport) -> None:
        self._protocol, self._transport = protocol, transport
        self.is_closing = transport.is_closing
        self._head = b""
        self._begun = False

    def write(self, data: bytes) -> None:
        """Write a part of the response, or keep the head until there is a body."""
        if self._begun:
            if self._head:
                head, self._head = self._head, b""
                if len(data) > MAX_HEAD:  # a copy would cost more than a second call
                    self._transport.write(head)
                else:
                    data = head + data
            self._transport.write(data)
        elif self._protocol.has_begun:
            self._begun, self._head = True, data
        else:  # 100 Continue
            self._transport.write(data)

    def flush(self) -> None:
        """Send a head without a body, and prepare for the next response."""
        self._begun = False
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        """Send what is left, and end the connection."""
        self.flush()
        self._protocol.end()


class BoundedProtocol(HttpToolsProtocol):
    """Speak HTTP/1.1 on one connection, within bounds. Requests refused here do not reach the application.

    The response is 431 (RFC 6585) for a head of more than `MAX_HEAD` bytes, 503 where all heads exceed `MAX_HEADS`, and
    408 for a head that takes longer than `HEAD_SECONDS`. A connection that has sent nothing is closed without a
    response. An offer to upgrade the protocol (h2c, WebSocket) is ignored, as RFC 9110, section 7.8, allows, and the
    body is read. Trailers are dropped.
    """

    refused: Callable[[str, int | None], None] = staticmethod(lambda reason, status: None)
    """Callback for refusals. The first argument is "head" if received bytes are refused, "idle" if none came in time.

    The second is the response's status: None if there is no response, or if the application has seen the request.
    """
    _heads = 0
    """Bytes of incomplete heads in all connections together."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = False
        self._head = 0  # bytes that the parser has reported of this head and its trailers
        self._has_reported = False  # whether the parser reported anything in this piece
        self._unreported = 0  # bytes since the parser last reported anything
        self._held = 0  # bytes of an incomplete head that count in `_heads`
        self._is_upgrade_offered = False  # the last head offers an upgrade
        self._is_replaying = False  # the parser reads a head for the second time
        self._dropping = False
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unanswered: deque[RequestResponseCycle] = deque()

    # The connection

    def connection_made(self, transport: Any) -> None:
        """Begin to time the first head."""
        super().connection_made(transport)
        self._response_transport = _ResponseTransport(self, transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and notify all requests in progress."""
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._hold(0)
        super().connection_lost(exc)
        while self._unanswered:  # uvicorn notifies the last one only
            self._disconnect(self._unanswered.popleft())

    def _disconnect(self, cycle: RequestResponseCycle) -> None:
        """Notify a request in progress that its client has left."""
        cycle.disconnected = True
        cycle.message_event.set()
        functions: list[Callable[[], None]] = cast(Any, cycle.scope)[ON_DISCONNECT]
        for function in functions:
            function()

    def data_received(self, data: bytes) -> None:
        """Parse the received bytes, and refuse heads that are too large or too late."""
        if self._dropping:
            return
        self._feed(data)
        if self._in_head:
            self._hold(self._held + len(data))
            if BoundedProtocol._heads > MAX_HEADS:
                self._refuse(503, "too many large heads at a time", "head")
        elif self._unanswered:
            return
        if self._timer is None and not self._dropping:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _feed(self, piece: bytes | memoryview) -> None:
        """Parse a piece of data."""
        self._unset_keepalive_if_required()
        self._has_reported = False
        size = len(piece)
        try:
            while piece:
                try:
                    self.parser.feed_data(piece)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    piece = memoryview(piece)[upgrade.args[0] :]
                    self._ignore_upgrade()
        except httptools.HttpParserError:
            if self._head <= MAX_HEAD:
                self.logger.warning("Invalid HTTP request received.")
                self._refuse(400, "this is no HTTP request", "head")
                return
        # A piece without any report lies within one name or value, or between messages.
        self._unreported = 0 if self._has_reported else self._unreported + size
        if max(self._head, self._unreported) > MAX_HEAD:
            self._refuse(431, f"the head of a request has at most {MAX_HEAD} bytes", "head")

    def _ignore_upgrade(self) -> None:
        """Continue after a head with an upgrade offer, at which a parser ends: use a new one, without the offer."""
        self._is_upgrade_offered, self._is_replaying = False, True
        self.parser = httptools.HttpRequestParser(self)
        with suppress(AttributeError):  # httptools before 0.6.3
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        lines = [b"%s / HTTP/%s" % (self.scope["method"].encode(), self.scope["http_version"].encode())]
        lines += [name + b": " + value for name, value in self.headers if name in _FRAMING]
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._has_reported = True
        if not self._is_replaying:
            self._in_head, self._head = True, 0
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count and keep a part of the URL."""
        if not self._is_replaying:
            self._has_reported = True
            self._head += len(url)
            if self._head > MAX_HEAD:
                raise ValueError("too long a head")
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count and keep a header; drop a trailer."""
        if self._is_replaying:
            return
        self._has_reported = True
        self._head += len(name) + len(value) + 4
        if self._head > MAX_HEAD:
            raise ValueError("too long a head")
        if self._in_head:  # uvicorn's own code, without its call for every header
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start the application on the request."""
        if self._is_replaying:
            self._is_replaying = False
            return
        self._has_reported, self._in_head = True, False
        self._is_upgrade_offered = self.parser.should_upgrade()
        super().on_headers_complete()
        scope: Any = self.scope
        scope[ON_DISCONNECT] = []
        self.cycle.transport = cast(Any, self._response_transport)
        self._unanswered.append(self.cycle)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held:
            self._hold(0)

    def on_body(self, body: bytes) -> None:
        """Hand over a part of the body."""
        self._has_reported = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body, unless it is still to be read after an ignored upgrade offer."""
        if self._is_upgrade_offered:  # this is the end of the head only, and the body follows
            return
        super().on_message_complete()
        self.cycle.more_body = False
        self._head = 0
        if not self.pipeline:
            self.flow.resume_reading()  # otherwise a disconnect would go unnoticed

    def _should_upgrade(self) -> bool:
        """Return False: no other protocol is spoken."""
        return False

    @property
    def has_begun(self) -> bool:
        """Return whether the current response has sent its head."""
        return bool(self._unanswered) and self._unanswered[0].response_started

    def on_response_complete(self) -> None:
        """Send what is left of the response, and go on to the next request."""
        self._response_transport.flush()
        self._unanswered.popleft()
        super().on_response_complete()

    # Refusals

    def _hold(self, size: int) -> None:
        """Set the bytes of this connection's incomplete head."""
        if size != self._held:
            BoundedProtocol._heads += size - self._held
            self._held = size

    def _head_is_late(self) -> None:
        """Refuse a head that has not come in time, or close an idle connection."""
        self._timer = None
        if self._in_head:
            self._refuse(408, f"the head did not come in {HEAD_SECONDS:g} s", "idle")
        elif not self._unanswered and not self.transport.is_closing():
            self.refused("idle", None)
            self.transport.close()

    def _refuse(self, status: int, message: str, reason: str) -> None:
        """Respond, unless earlier responses are pending, then read no more and end the connection."""
        self._dropping, self._in_head = True, False
        self._hold(0)
        last = self.cycle
        cut = last is not None and last.more_body  # the error is in the body
        is_notified = cut and bool(self._unanswered)
        if is_notified:
            self._unanswered.pop()
            if self.pipeline:
                self.pipeline.popleft()
        is_answered = not self._unanswered and not (cut and last.response_started)
        self.refused(reason, status if is_answered and not is_notified else None)
        if is_notified:
            cast(Any, last.scope)[SERVER_STATUS] = status
            self._disconnect(last)
        if self._unanswered:
            self._unanswered[-1].keep_alive = False
            return
        if cut and last.response_started:
            self.transport.close()
            return
        body = strict_json.dumps({"error": message}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.end(linger=reason == "head")

    def end(self, linger: bool | None = None) -> None:
        """Close the connection; with `linger`, or within a body, only after the client closed it or had time to.

        Closed while data arrives, the connection would be reset, and the response on its way lost.
        """
        within_body = self.cycle is not None and self.cycle.more_body
        if not (within_body if linger is None else linger) or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.transport.is_closing():
            self._dropping = True
            self.flow.resume_reading()
            self.transport.write_eof()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """Begin to time a client that does not read."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop timing the client."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


def bounded(refused: Callable[[str, int | None], None]) -> Any:
    """Return a `BoundedProtocol` class that reports refusals to `refused`."""
    return type("Protocol", (BoundedProtocol,), {"refused": staticmethod(refused)})


def install(refused: Callable[[str, int | None], None]) -> None:
    """Make this the default HTTP protocol of uvicorn's servers in this process."""
    HTTP_PROTOCOLS["auto"] = bounded(refused)
