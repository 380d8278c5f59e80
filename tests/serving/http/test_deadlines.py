"""Time is up when it is up, whatever the threads do; and nobody works for a client that has left."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

httpx = pytest.importorskip("httpx", reason="the client of these tests")

from resnet_infer.zoo import SMALL  # noqa: E402
from tests.conftest import PICTURES  # noqa: E402
from tests.serving.conftest import Service  # noqa: E402

Make = Callable[..., Service]
CAT = (PICTURES / "cat.jpg").read_bytes()
TENSOR = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": np.zeros(3072, np.uint8).tolist()}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/classify", {"content": CAT}),
    ("/classify?crops=10", {"content": CAT}),
    ("/classify", {"files": [("images", CAT)] * 3}),
    ("/classify", {"json": {"image": base64.b64encode(CAT).decode()}}),
    (f"/v2/models/{SMALL}/infer", {"json": {"inputs": [TENSOR]}}),
]


class Stuck:
    """A runtime that answers when it may."""

    def __init__(self, runtime: Any) -> None:
        self.runtime, self.gate = runtime, threading.Event()
        self.rows = 0

    def __call__(self, images: Any) -> Any:
        self.rows += len(images)
        self.gate.wait(30)
        return self.runtime(images)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)


def stick(service: Service) -> Stuck:
    deployment = service.manager.current
    stuck = Stuck(deployment._one_thread)
    deployment.runtime = deployment._one_thread = stuck  # type: ignore[assignment]
    STUCK.append(stuck)
    return stuck


STUCK: list[Stuck] = []


@pytest.fixture(autouse=True)
def free() -> Iterator[None]:
    """Let all go on after each test."""
    yield
    while STUCK:
        STUCK.pop().gate.set()


@pytest.fixture
def stuck(make_service: Make) -> tuple[Service, str, Stuck]:
    """A service that allows a second, whose inference waits for a gate."""
    service = make_service(timeout=1)
    url, stuck = service.listen(), stick(service)
    service.manager.current.batcher.stall_seconds = 0.5
    return service, url, stuck


def ready(url: str) -> tuple[int, int]:
    codes = [httpx.get(url + path).status_code for path in ("/readyz", "/v2/health/ready")]
    return codes[0], codes[1]


def wait_for(what: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_every_request_ends_in_time_though_all_threads_are_stuck(stuck: tuple[Service, str, Stuck]) -> None:
    service, url, runtime = stuck

    async def ask(client: Any, path: str, options: dict[str, Any]) -> tuple[int, float, Any]:
        begin = time.monotonic()
        done = await client.post(url + path, **options)
        return done.status_code, time.monotonic() - begin, done

    async def together() -> list[tuple[int, float, Any]]:
        async with httpx.AsyncClient(timeout=30) as client:
            return await asyncio.gather(*(ask(client, *request) for request in REQUESTS * 4))

    assert ready(url) == (200, 200)
    for _ in range(2):
        for status, seconds, done in asyncio.run(together()):
            assert (status, list(done.json())) == (503, ["error"])
            assert int(done.headers["retry-after"]) >= 1
            assert seconds < 1.5
    assert ready(url) == (503, 503)
    assert "stuck" in httpx.get(url + "/readyz").json()["error"]
    assert httpx.get(url + "/livez").status_code == 200
    runtime.gate.set()
    wait_for(lambda: ready(url) == (200, 200))
    assert httpx.post(url + "/classify", content=CAT).status_code == 200
    assert service.manager.current.batcher.waiting_rows == 0


def test_a_request_may_have_less_time(stuck: tuple[Service, str, Stuck]) -> None:
    _, url, _ = stuck
    timed = {"inputs": [TENSOR], "parameters": {"timeout": 200_000}}
    for path, options in (
        ("/classify?timeout_ms=200", {"content": CAT}),
        (f"/v2/models/{SMALL}/infer", {"json": timed}),
    ):
        begin = time.monotonic()
        assert httpx.post(url + path, timeout=30, **options).status_code == 503  # type: ignore[arg-type]
        assert 0.15 < time.monotonic() - begin < 0.6


def test_one_thread_that_is_stuck_leaves_the_service_ready(stuck: tuple[Service, str, Stuck]) -> None:
    service, url, _ = stuck
    batcher = service.manager.current.batcher
    if len(batcher._threads) < 2 or batcher._lanes < 2:
        pytest.skip("one core has one thread")
    assert httpx.post(url + "/classify", content=CAT).status_code == 503
    assert ready(url) == (200, 200)


def send_and_leave(url: str, content: bytes = CAT, seconds: float = 0) -> None:
    where = urlsplit(url)
    with closing(socket.create_connection((where.hostname, where.port))) as connection:
        head = f"POST /classify?crops=10 HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        connection.sendall(head + content)
        time.sleep(seconds)


def test_nobody_works_for_clients_that_left(make_service: Make) -> None:
    """Large pictures as well as small ones; those that are being inferred already are finished."""
    service = make_service()
    url, runtime = service.listen(), stick(service)
    large = CAT + bytes(300_000)
    for number in range(25):
        send_and_leave(url, large if number % 2 else CAT, 0.02 * (number % 3))

    def left() -> int:
        found = re.search(r'requests_total{route="/classify",status="499"} (\d+)', httpx.get(url + "/metrics").text)
        return int(found[1]) if found else 0

    wait_for(lambda: left() == 25)
    runtime.gate.set()
    begin = time.monotonic()
    assert httpx.post(url + "/classify", content=CAT, timeout=30).status_code == 200
    assert time.monotonic() - begin < 1
    batcher = service.manager.current.batcher
    assert runtime.rows <= 10 * batcher._lanes + 1
    assert batcher.waiting_rows == 0


def test_clients_that_left_do_not_fill_the_queue(make_service: Make) -> None:
    service = make_service(max_queue=30)
    url, runtime = service.listen(), stick(service)
    threads = len(service.manager.current.batcher._threads)
    for _ in range(threads + 3):
        send_and_leave(url, seconds=0.1)
    wait_for(lambda: not service.app.traffic.requests)  # type: ignore[attr-defined]
    threading.Timer(0.3, runtime.gate.set).start()
    done = httpx.post(url + "/classify?crops=10", content=CAT, timeout=30)
    assert done.status_code == 200, done.text


def test_a_reload_ends_though_its_client_has_left(make_service: Make) -> None:
    service = make_service(admin=("k",))
    url, old = service.listen(), service.manager.current
    where = urlsplit(url)
    with closing(socket.create_connection((where.hostname, where.port))) as connection:
        connection.sendall(b"POST /admin/reload HTTP/1.1\r\nHost: a\r\nX-API-Key: k\r\nContent-Length: 0\r\n\r\n")
    wait_for(lambda: service.manager.current is not old)
