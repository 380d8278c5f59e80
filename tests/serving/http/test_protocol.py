"""Connections that send too much, too little, nothing, or offers: by bytes on a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

uvicorn = pytest.importorskip("uvicorn", reason="a service needs the extra `serve`")
pytest.importorskip("httptools", reason="a service needs the extra `serve`")

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: E402

from resnet_infer.serving.http import protocol  # noqa: E402
from resnet_infer.serving.http.protocol import MAX_HEAD, BoundedProtocol  # noqa: E402

LARGE = 50_000_000


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what was understood; `/large` with much, `/early` before the body has come, `/last` also closes."""
    body, more = b"", scope["path"] not in ("/early", "/last")
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    said = f"{scope['method']} {scope['path']} {scope['query_string'].decode()} ".encode() + body
    if scope["path"] == "/large":
        said = bytes(LARGE)
    elif scope["path"] == "/headers":
        said = json.dumps([name.decode() for name, _ in scope["headers"]]).encode()
    headers = [(b"content-length", str(len(said)).encode())]
    headers += [(b"connection", b"close")] if scope["path"] == "/last" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


class Server:
    """uvicorn with a protocol, in a thread."""

    def __init__(self, protocol: Any) -> None:
        self.loop = asyncio.new_event_loop()
        config = uvicorn.Config(echo, port=0, lifespan="off", log_config=None, loop="asyncio", http=protocol)
        self.server: Any = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self.server.serve(),))
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.address = self.server.servers[0].sockets[0].getsockname()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def bounded() -> Iterator[Server]:
    with closing(Server(BoundedProtocol)) as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    """uvicorn as it comes."""
    with closing(Server(HttpToolsProtocol)) as server:
        yield server


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes; reset is closed, too."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(1 << 20):
            received += piece
    return received


def answers(received: bytes) -> list[tuple[bytes, bytes]]:
    """Status and body of each answer."""
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        (size,) = (int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        found.append((head.split(b" ")[1], received[:size]))
        received = received[size:]
    return found


OFFERS = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n",
    b"Upgrade: TLS/1.0\r\nConnection: keep-alive, Upgrade\r\n",
]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
bodies = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([SMUGGLED, b"\r\n" * 5 + SMUGGLED, bytes(200_000), b"\r\n" * 50_000 + SMUGGLED]),
)
requests = st.lists(
    st.tuples(st.sampled_from([b"GET", b"POST", b"PUT"]), bodies, st.booleans(), st.sampled_from([b"", *OFFERS])),
    min_size=1,
    max_size=4,
)


def written(method: bytes, body: bytes, chunked: bool, offer: bytes, last: bool) -> bytes:
    head = method + b" /path?query HTTP/1.1\r\nHost: x\r\n" + offer
    if last:
        head = head.replace(b"Connection: ", b"Connection: close, ") if offer else head + b"Connection: close\r\n"
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    halves = [part for part in (body[: len(body) // 2], body[len(body) // 2 :]) if part]
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in halves
    ) + b"0\r\n\r\n"  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(asked=requests, cuts=st.lists(st.integers(0, 2000), max_size=5))
def test_offers_and_packets_change_nothing(
    bounded: Server, plain: Server, asked: list[tuple[bytes, bytes, bool, bytes]], cuts: list[int]
) -> None:
    """The same answers as uvicorn's to the same requests without offers, in one piece."""
    last = len(asked) - 1
    with_offers = b"".join(written(*request, number == last) for number, request in enumerate(asked))
    without = b"".join(
        written(method, body, chunked, b"", number == last) for number, (method, body, chunked, _) in enumerate(asked)
    )
    with closing(plain.connect()) as connection:
        connection.sendall(without)
        expected = answers(read_all(connection))
    assert [body for _, body in expected] == [
        method + b" /path query " + body for method, body, _, _ in asked
    ]  # or uvicorn is no reference
    with closing(bounded.connect()) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        places = [0, *sorted(cut % len(with_offers) for cut in cuts), len(with_offers)]
        for start, end in pairwise(places):
            connection.sendall(with_offers[start:end])
            time.sleep(0.001)
        assert answers(read_all(connection)) == expected


HEAD = b"POST /classify HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "value": (HEAD + b"X: ", b"a" * 1000),
    "name": (HEAD, b"a" * 1000),
    "headers": (HEAD, b"X: a\r\n" * 100),
    "path": (b"GET /", b"a" * 1000),
    "nothing": (b"", b"\r\n" * 500),
    "trailer": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: " + b"a" * 900 + b"\r\n"),
    "trailer's value": (CHUNKED + b"0\r\nX: ", b"a" * 1000),
    "chunk's extension": (CHUNKED + b"1;x=", b"a" * 1000),
    "offer": (HEAD + b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"X: a\r\n" * 100),
}


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("packet", [1000, 100_000])
def test_a_head_without_end_is_refused(bounded: Server, what: str, packet: int) -> None:
    start, more = ENDLESS[what]
    more *= packet // 1000
    sent = 0
    with closing(bounded.connect()) as connection:
        connection.sendall(start)
        with suppress(ConnectionError):
            while sent < 5_000_000:
                connection.sendall(more)
                sent += len(more)
        connection.shutdown(socket.SHUT_WR)
        ((status, body),) = answers(read_all(connection))
    assert (status, list(json.loads(body))) == (b"431", ["error"])
    assert BoundedProtocol._heads == 0


def test_a_head_within_the_bound_is_read_whatever_its_packets(bounded: Server) -> None:
    """Also behind a long body, in the same piece."""
    long = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"a" * (MAX_HEAD - 200) + b"\r\n\r\n"
    before = HEAD + b"Content-Length: 130000\r\n\r\n" + bytes(130_000)
    for content in (long, before + long):
        for packet in (1 << 20, 10_000):
            with closing(bounded.connect()) as connection:
                for start in range(0, len(content), packet):
                    connection.sendall(content[start : start + packet])
                assert {status for status, _ in answers(read_all(connection))} == {b"200"}


def test_trailers_are_no_headers(bounded: Server) -> None:
    with closing(bounded.connect()) as connection:
        head = b"POST /headers HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"1\r\nx\r\n0\r\nX-Api-Key: k\r\n\r\n")
        ((_, body),) = answers(read_all(connection))
    assert json.loads(body) == ["connection", "transfer-encoding"]


def test_what_is_no_http_is_refused_after_what_was_asked_before(bounded: Server) -> None:
    for sent, expected in (
        (b"nonsense\r\n\r\n", [b"400"]),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", [b"400"]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [b"400"]),
        (SMUGGLED + b"nonsense\r\n\r\n", [b"200"]),
        (CHUNKED + b"nonsense\r\n", [b"400"]),
        (SMUGGLED + CHUNKED + b"nonsense\r\n", [b"200"]),
    ):
        with closing(bounded.connect()) as connection:
            connection.sendall(sent)
            assert [status for status, _ in answers(read_all(connection))] == expected, sent


def test_an_answer_within_the_body_is_seen_by_a_client_that_sends_all_first(bounded: Server) -> None:
    for size in (10_000, 30_000_000):
        with closing(bounded.connect()) as connection:
            connection.sendall(b"POST /last HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
            connection.sendall(bytes(size))
            assert [status for status, _ in answers(read_all(connection))] == [b"200"]


def test_head_and_body_of_an_answer_are_sent_in_one_piece(bounded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer without a body (to HEAD) is sent as well, and a large one is not copied."""
    pieces: list[bytes] = []
    make = protocol._ResponseTransport

    class Watched:
        def __init__(self, transport: Any) -> None:
            self._transport, self.is_closing = transport, transport.is_closing

        def write(self, data: bytes) -> None:
            pieces.append(data)
            self._transport.write(data)

    monkeypatch.setattr(protocol, "_ResponseTransport", lambda protocol, transport: make(protocol, Watched(transport)))
    last = b" HTTP/1.1\r\nHost: x\r\n%b\r\n"
    with closing(bounded.connect()) as connection:
        waits = b"Expect: 100-continue\r\nContent-Length: 1\r\n"
        connection.sendall(b"HEAD /a" + last % b"" + b"GET /b" + last % b"" + b"POST /c" + last % waits)
        while len(pieces) < 3:
            time.sleep(0.01)
        connection.sendall(b"x" + b"GET /large" + last % b"Connection: close\r\n")
        received = read_all(connection)
    assert received == b"".join(pieces)
    assert [piece.partition(b"\r\n\r\n")[2][:50] for piece in pieces] == [
        b"",
        b"GET /b  ",
        b"",
        b"POST /c  x",
        b"",
        b"",
    ]
    assert [piece[9:12] for piece in pieces[:5]] == [b"200", b"200", b"100", b"200", b"200"]
    assert len(pieces[5]) == LARGE


@contextmanager
def still_served(server: Server) -> Iterator[None]:
    yield
    with closing(server.connect()) as connection:
        connection.sendall(SMUGGLED.replace(b"Host", b"Connection: close\r\nHost"))
        assert answers(read_all(connection))[0][0] == b"200"


def dribble(start: bytes, more: bytes) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(start)
        with suppress(ConnectionError):
            for _ in range(40):
                time.sleep(0.05)
                connection.sendall(more)

    return send


@pytest.mark.parametrize(
    ("send", "expected"),
    [
        (lambda connection: None, []),
        (dribble(b"", b"\r\n"), []),
        (dribble(b"GET / HTTP/1.1\r\nX: ", b"a"), [b"408"]),
        (dribble(SMUGGLED, b"\r\n"), [b"200"]),
        (dribble(SMUGGLED + b"GET / HT", b""), [b"200", b"408"]),
        (dribble(b"POST /early HTTP/1.1\r\nContent-Length: 99999\r\n\r\n", b"a"), [b"200"]),
    ],
    ids=["silent", "line ends", "half a head", "line ends behind a request", "half a second head", "refused body"],
)
def test_who_does_not_finish_a_head_is_cut_off(
    bounded: Server, monkeypatch: pytest.MonkeyPatch, send: Callable[[socket.socket], None], expected: list[bytes]
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.4)
    begin = time.monotonic()
    with closing(bounded.connect()) as connection, still_served(bounded):
        sender = threading.Thread(target=send, args=(connection,))
        sender.start()
        received = read_all(connection)
        assert 0.3 < time.monotonic() - begin < 1.9
        sender.join()
    assert [status for status, _ in answers(received)] == expected


def test_heads_in_parts_are_bounded_together(bounded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_HEADS", 300_000)
    connections = [bounded.connect() for _ in range(10)]
    with still_served(bounded):
        for connection in connections:
            connection.sendall(HEAD + b"X: " + b"a" * 40_000)
        time.sleep(0.2)
        refused = 0
        for connection in connections:
            connection.settimeout(0.1)
            with suppress(TimeoutError):
                refused += b" 503 " in connection.recv(1000)
            connection.close()
    assert refused == 3
    time.sleep(0.2)
    assert BoundedProtocol._heads == 0


def test_who_does_not_read_the_answer_is_cut_off(bounded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALL_SECONDS", 0.3)
    with closing(bounded.connect()) as connection, still_served(bounded):
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1)
        assert len(read_all(connection)) < LARGE
