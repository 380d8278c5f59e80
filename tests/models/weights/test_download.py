from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_infer.errors import ModelError, ResnetInferError, UsageError
from resnet_infer.models.weights import download as module
from resnet_infer.models.weights.download import cache_folder, download

CONTENT = random.Random(0).randbytes(300_000)
PREFIX = hashlib.sha256(CONTENT).hexdigest()[:8]


class Server(ThreadingHTTPServer):
    """Serves `content` under every path, and misbehaves as its fields say."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/weights.pth"
        self.gate = threading.Event()
        self.reset()

    def reset(self) -> None:
        self.content = CONTENT
        self.ranges: list[str | None] = []
        """The Range header of every GET so far."""
        self.statuses: list[int] = []
        """Answers to give before behaving."""
        self.drops: list[int] = []
        """For each of the next answers, after how many bytes the connection breaks."""
        self.abort = False
        """Break it with a reset instead of an orderly end."""
        self.honours_range = True
        self.range_shift = 0
        self.tells_length = True
        self.gated = False
        """Hold every answer in the middle until the gate opens."""
        self.gate.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.honours_range else 0
        total = len(server.content)
        if begin and begin >= total:
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            begin += server.range_shift
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        if server.tells_length:
            self.send_header("Content-Length", str(total - begin))
        self.end_headers()
        body = server.content[begin:]
        if server.gated:
            self.wfile.write(body[: len(body) // 2])
            server.gate.wait(20)
            body = body[len(body) // 2 :]
        if server.drops:
            self.wfile.write(body[: server.drops.pop(0)])
            if server.abort:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def running_server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.gate.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def server(running_server: Server) -> Server:
    running_server.reset()
    return running_server


@pytest.fixture(autouse=True)
def direct_and_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSES", (0.001,) * 4)


def fetch(server: Server, target: Path, **options: Any) -> Path:
    return download(server.url, target, **{"sha256_prefix": PREFIX, "title": "weights", **options})


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_downloads_into_a_new_folder_and_asks_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "new" / "weights.pth"
    assert fetch(server, target) == target
    assert target.read_bytes() == CONTENT
    assert fetch(server, target) == target
    assert server.ranges == [None]
    assert left_in(target.parent) == ["weights.pth"]


def test_a_present_file_needs_no_host_and_no_writable_folder(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    target.write_bytes(CONTENT)
    fetch(server, target)
    assert server.ranges == []
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_a_wrong_file_in_place_is_replaced(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "weights.pth"
    target.write_bytes(b"something else")
    assert fetch(server, target).read_bytes() == CONTENT
    assert "is replaced" in caplog.text


@pytest.mark.parametrize("abort", [False, True], ids=["ends", "resets"])
def test_a_broken_download_is_resumed(server: Server, tmp_path: Path, abort: bool) -> None:
    server.drops, server.abort = [200_000], abort
    assert fetch(server, tmp_path / "weights.pth").read_bytes() == CONTENT
    first, *rest = server.ranges
    assert first is None
    assert len(rest) == 1
    if not abort:  # a reset may take with it what was under way
        assert rest == ["bytes=200000-"]


def test_a_download_that_keeps_breaking_gives_up_and_is_resumed_by_the_next_call(
    server: Server, tmp_path: Path
) -> None:
    target = tmp_path / "weights.pth"
    server.drops = [1000] * 5
    with pytest.raises(ModelError, match=r"failed 5 times in a row.*5,000 of 300,000 bytes"):
        fetch(server, target)
    assert left_in(tmp_path) == ["weights.pth.part"]
    assert fetch(server, target).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=5000-"


def test_tries_that_get_further_are_not_counted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROGRESS", 1000)
    server.drops = [20_000] * 12
    assert fetch(server, tmp_path / "weights.pth").read_bytes() == CONTENT
    assert len(server.ranges) == 13


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    left_over=st.one_of(
        st.integers(0, len(CONTENT)).map(lambda n: CONTENT[:n]),
        st.integers(1, len(CONTENT) + 5).map(lambda n: b"x" * n),
    ),
    drops=st.lists(st.integers(0, len(CONTENT)), max_size=2),
    abort=st.booleans(),
    honours_range=st.booleans(),
    statuses=st.lists(st.sampled_from([500, 503, 429]), max_size=1),
)
def test_whatever_was_left_and_wherever_it_breaks_the_bytes_are_right(
    running_server: Server,
    left_over: bytes,
    drops: list[int],
    abort: bool,
    honours_range: bool,
    statuses: list[int],
) -> None:
    running_server.reset()
    running_server.drops, running_server.abort, running_server.statuses = drops, abort, statuses
    running_server.honours_range = honours_range
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "weights.pth"
        part_of(target).write_bytes(left_over)
        fetch(running_server, target)
        assert target.read_bytes() == CONTENT
        assert left_in(target.parent) == ["weights.pth"]


def test_a_server_that_ignores_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.drops, server.honours_range = [200_000], False
    assert fetch(server, tmp_path / "weights.pth").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=200000-"]


def test_a_server_that_resumes_elsewhere_is_found_out(server: Server, tmp_path: Path) -> None:
    server.drops, server.range_shift = [200_000], -1
    assert fetch(server, tmp_path / "weights.pth").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=200000-", None]


def test_a_part_of_a_longer_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    part_of(target).write_bytes(CONTENT + b"more")
    assert fetch(server, target).read_bytes() == CONTENT
    assert server.ranges == ["bytes=300004-", None]


def test_a_whole_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    part_of(target).write_bytes(CONTENT)
    assert fetch(server, target).read_bytes() == CONTENT
    assert server.ranges == []


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_server_that_does_not_tell_the_length(server: Server, tmp_path: Path, size: int | None) -> None:
    server.tells_length = False
    if size:  # only then can a connection that ends early be told from the end of the file
        server.drops = [100_000]
    assert fetch(server, tmp_path / "weights.pth", size=size).read_bytes() == CONTENT


def test_wrong_content_is_refused_and_nothing_is_left(server: Server, tmp_path: Path) -> None:
    server.content = b"<html>log in to the guest network</html>"
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(ModelError, match=f"begins with {PREFIX}, got {found}"):
        fetch(server, tmp_path / "weights.pth")
    assert left_in(tmp_path) == []
    assert len(server.ranges) == 1


def test_a_refusal_is_clear_and_is_not_repeated(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(ModelError, match="answered 404 Not Found for http://127") as caught:
        fetch(server, tmp_path / "weights.pth")
    assert str(tmp_path / "weights.pth") in (caught.value.hint or "")
    assert server.ranges == [None]


def test_offline_says_what_to_do_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/weights.pth"
        with pytest.raises(ModelError, match=r"cannot reach 127\.0\.0\.1:\d+ .*refused") as caught:
            download(url, tmp_path / "weights.pth", sha256_prefix=PREFIX, title="weights")
    assert "trying again" not in caplog.text
    assert caught.value.hint
    assert url in caught.value.hint
    assert str(tmp_path / "weights.pth") in caught.value.hint


@pytest.mark.parametrize("url", ["file:///etc/hosts", "weights.pth", "http://", "http://host:port/a", "http://[::1/a"])
def test_only_http_addresses(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an http or https address"):
        download(url, tmp_path / "a", sha256_prefix=PREFIX, title="weights")


def test_silence_is_a_dropped_connection(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", ())
    server.gated = True
    with pytest.raises(ModelError, match="timed out"):
        fetch(server, tmp_path / "weights.pth", timeout=0.2)
    server.gated = False
    assert fetch(server, tmp_path / "weights.pth").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=150000-"]


def test_a_full_disk_keeps_what_arrived(server: Server, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on file size are a feature of Unix")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    target = tmp_path / "weights.pth"
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ModelError, match=r"cannot write .*weights\.pth") as caught:
            fetch(server, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "RESNET_INFER_CACHE" in (caught.value.hint or "")
    assert part_of(target).stat().st_size > 0
    assert fetch(server, target).read_bytes() == CONTENT
    assert (server.ranges[1] or "").startswith("bytes=")


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResnetInferError, match="cannot write"):
        fetch(server, tmp_path / "file" / "weights.pth")


SCRIPT = """
import sys
from pathlib import Path
from resnet_infer.models.weights.download import download
from resnet_infer.utils.console import on_stderr
with on_stderr():
    download(sys.argv[1], Path(sys.argv[2]), sha256_prefix=sys.argv[3], title="weights")
print("rich" in sys.modules)
"""


def start(server: Server, target: Path, **options: Any) -> subprocess.Popen[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    arguments = [sys.executable, "-c", SCRIPT, server.url, str(target), PREFIX]
    return subprocess.Popen(arguments, text=True, **options)


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def test_two_processes_download_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    server.gated = True
    with start(server, target) as first:
        wait_until(lambda: server.ranges)
        with start(server, target) as second:
            assert second.stderr is not None
            assert "waiting" in second.stderr.readline()
            server.gate.set()
            assert (first.wait(15), second.wait(15)) == (0, 0)
    assert server.ranges == [None]
    assert target.read_bytes() == CONTENT


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_an_interrupted_download_is_resumed(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    server.gated = True
    with start(server, target) as process:
        wait_until(lambda: part_of(target).exists() and part_of(target).stat().st_size >= 100_000)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) != 0
    assert not target.exists()
    have = part_of(target).stat().st_size
    server.gated = False
    assert fetch(server, target).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={have}-"]


def test_without_a_terminal_no_bar_is_drawn(server: Server, tmp_path: Path) -> None:
    with start(server, tmp_path / "weights.pth") as process:
        assert process.communicate(timeout=15) == ("False\n", "")


def test_on_a_terminal_a_bar_is_drawn_on_stderr_only(server: Server, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="pseudo-terminals are a feature of Unix")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with (
        open(ours, "rb", buffering=0) as screen,
        start(server, tmp_path / "weights.pth", stderr=theirs, env=environment) as process,
    ):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux ends a pseudo-terminal by an error
            while piece := screen.read(4096):
                shown += piece
        assert process.communicate(timeout=15)[0] == "True\n"
    assert b"weights" in shown
    assert b"100%" in shown
    assert b"300.0/300.0 kB" in shown


def test_the_cache_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"
    monkeypatch.setenv("RESNET_INFER_CACHE", "")
    assert cache_folder().name.lower().startswith("resnet-infer")
    assert cache_folder().is_absolute()
