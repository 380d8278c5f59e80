"""uvicorn's HTTP/1.1, bounded: in the bytes of a head, and in the time for it.

Of itself uvicorn reads a head of any size, for as long as the client likes, and takes the body of a request that offers
to speak another protocol for the first bytes of that.
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
"""Bytes of request line and headers, and of what stands around the chunks of a body."""
MAX_HEADS = 1 << 24
"""Bytes of all heads that have come in part."""
HEAD_SECONDS = 10.0
"""For a head, from the connection or from its first byte on; and for a body that nobody reads any more."""
STALL_SECONDS = 30.0
"""How long a client may leave its answer unread before it is cut off."""
LINGER_SECONDS = 2.0
"""How long what a refused client still sends is read and dropped: closed on at once, it would not see the answer."""

_FRAMING = (b"content-length", b"transfer-encoding")


class _ResponseTransport:
    """The transport as a request sees it.

    The head of an answer is sent with the first piece of its body, as ASGI asks for (HTTP, "Response Start"): a call
    of the system for each would cost as much as reading the request. Closed within the request's body, the transport is
    closed when the client can see the answer.
    """

    def __init__(self, protocol: BoundedProtocol, transport: asyncio.Transport) -> None:
        self._protocol, self._transport = protocol, transport
        self.is_closing = transport.is_closing
        self._head = b""
        self._begun = False

    def write(self, data: bytes) -> None:
        if self._begun:
            if self._head:
                head, self._head = self._head, b""
                if len(data) > MAX_HEAD:  # to copy it would cost more
                    self._transport.write(head)
                else:
                    data = head + data
            self._transport.write(data)
        elif self._protocol.has_begun:
            self._begun, self._head = True, data
        else:  # 100 Continue
            self._transport.write(data)

    def flush(self) -> None:
        """Send a head that has no body, and be ready for the next answer."""
        self._begun = False
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        self.flush()
        self._protocol.end()


class BoundedProtocol(HttpToolsProtocol):
    """A connection. What is refused here never reaches the application.

    431: a head of more than `MAX_HEAD` bytes; 503: one beyond `MAX_HEADS`. 408: a head that is not there in
    `HEAD_SECONDS`; a connection that has sent nothing is closed without a word. An offer to change the protocol
    (h2c, WebSocket) is ignored, as RFC 9110, 7.8, allows, and the body is read. Trailers are dropped.
    """

    refused: Callable[[str, int | None], None] = staticmethod(lambda reason, status: None)
    """Called for each with `head`, where it is what came that is refused, or `idle`, where nothing came in time.

    The status is that of an answer to what the application never saw; None where it has seen the request, or there is
    no answer.
    """
    _heads = 0
    """Of all connections together."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = False
        self._head = 0  # bytes of this head and its trailers that the parser has told of
        self._is_parsing = False  # whether it told of anything in this piece
        self._unreported = 0  # bytes of whole pieces since it last did
        self._held = 0  # bytes of a head in parts that count in `_heads`
        self._is_upgrade_offered = False  # the head that was read last has an offer
        self._is_replaying = False  # the head that is read was read before
        self._dropping = False
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unanswered: deque[RequestResponseCycle] = deque()

    # The connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._response_transport = _ResponseTransport(self, transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._hold(0)
        super().connection_lost(exc)
        while self._unanswered:  # uvicorn tells only the last one
            self._disconnect(self._unanswered.popleft())

    def _disconnect(self, cycle: RequestResponseCycle) -> None:
        """Tell those who work on a request that nobody waits for its answer."""
        cycle.disconnected = True
        cycle.message_event.set()
        functions: list[Callable[[], None]] = cast(Any, cycle.scope)[ON_DISCONNECT]
        for function in functions:
            function()

    def data_received(self, data: bytes) -> None:
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
        self._unset_keepalive_if_required()
        self._is_parsing = False
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
        # Where nothing is told of a whole piece, it is within one name or value, or between messages.
        self._unreported = 0 if self._is_parsing else self._unreported + size
        if max(self._head, self._unreported) > MAX_HEAD:
            self._refuse(431, f"the head of a request has at most {MAX_HEAD} bytes", "head")

    def _ignore_upgrade(self) -> None:
        """Read on behind a head with an offer, which ends a parser: with one that has read the same head without."""
        self._is_upgrade_offered, self._is_replaying = False, True
        self.parser = httptools.HttpRequestParser(self)
        with suppress(AttributeError):  # httptools before 0.6.3
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        lines = [b"%s / HTTP/%s" % (self.scope["method"].encode(), self.scope["http_version"].encode())]
        lines += [name + b": " + value for name, value in self.headers if name in _FRAMING]
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    # What the parser tells

    def on_message_begin(self) -> None:
        self._is_parsing = True
        if not self._is_replaying:
            self._in_head, self._head = True, 0
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_replaying:
            self._is_parsing = True
            self._head += len(url)
            if self._head > MAX_HEAD:
                raise ValueError("too long a head")
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_replaying:
            return
        self._is_parsing = True
        self._head += len(name) + len(value) + 4
        if self._head > MAX_HEAD:
            raise ValueError("too long a head")
        if self._in_head:  # as uvicorn, whose own method would be called as often as there are headers
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._is_replaying:
            self._is_replaying = False
            return
        self._is_parsing, self._in_head = True, False
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
        self._is_parsing = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_upgrade_offered:  # of the head only: `_go_on` reads the body
            return
        super().on_message_complete()
        self.cycle.more_body = False
        self._head = 0
        if not self.pipeline:
            self.flow.resume_reading()  # or nobody would notice that the client leaves

    def _should_upgrade(self) -> bool:
        return False

    @property
    def has_begun(self) -> bool:
        """Whether the answer that is being written has a head already."""
        return bool(self._unanswered) and self._unanswered[0].response_started

    def on_response_complete(self) -> None:
        self._response_transport.flush()
        self._unanswered.popleft()
        super().on_response_complete()

    # What is refused

    def _hold(self, size: int) -> None:
        if size != self._held:
            BoundedProtocol._heads += size - self._held
            self._held = size

    def _head_is_late(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(408, f"the head did not come in {HEAD_SECONDS:g} s", "idle")
        elif not self._unanswered and not self.transport.is_closing():
            self.refused("idle", None)
            self.transport.close()

    def _refuse(self, status: int, message: str, reason: str) -> None:
        """Answer, unless other answers are due first, then read nothing more and end the connection."""
        self._dropping, self._in_head = True, False
        self._hold(0)
        last = self.cycle
        cut = last is not None and last.more_body  # it is the body that cannot be read
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
        """Close the connection; with `linger`, or within a body, not before the client has closed it or had time to.

        Closed while bytes come, it would be reset, and the answer lost that is on its way.
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
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


def bounded(refused: Callable[[str, int | None], None]) -> Any:
    """A `BoundedProtocol` that tells what it refuses."""
    return type("Protocol", (BoundedProtocol,), {"refused": staticmethod(refused)})


def install(refused: Callable[[str, int | None], None]) -> None:
    """Let servers of this process speak HTTP this way, unless they are told another by name."""
    HTTP_PROTOCOLS["auto"] = bounded(refused)
