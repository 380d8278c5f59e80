"""Web servers with a classifier: every posted image is answered as the command does, and SIGTERM ends them cleanly."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from resnet_infer import zoo
from tests.hosts.conftest import Expected
from tests.hosts.host import Host, host

UVICORN = r"INFO: "
GUNICORN = r"\[[^]]+\] \[\d+\] \[INFO\] "
"""What a log line begins with that reports no problem."""
REQUESTS = 45
"""Requests after which a worker of gunicorn is replaced, in some tests."""
SETTINGS = "def post_worker_init(worker):\n    worker.log.info('Ready')\n"
"""Settings for gunicorn, which loses a SIGTERM that comes before a worker has got so far, and kills it 30 s later."""
WORKERS, CLIENTS = 2, 4


@contextmanager
def serving(command: list[str], folder: Path, **variables: str) -> Iterator[tuple[Host, int]]:
    """Start a server on a socket that listens already; give it and its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        number = listening.fileno()
        words = [sys.executable, "-m", *(word.format(fd=number) for word in command)]
        with host(words, folder, pass_fds=(number,), **variables) as running:
            yield running, listening.getsockname()[1]


def post(port: int, body: bytes) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/", body)
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def answers(port: int, paths: list[Path]) -> list[dict[str, Any]]:
    """What a server answers to images that several clients post."""

    def answer(path: Path) -> dict[str, Any]:
        status, predictions = post(port, path.read_bytes())
        assert status == 200, predictions
        return {"source": str(path), "predictions": predictions}

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(answer, paths))


@pytest.mark.parametrize("model", [zoo.DEFAULT, zoo.SMALL])
@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 0, id="SIGINT"),
        # uvicorn sends itself SIGTERM again when it has shut down, and so ends by it.
        pytest.param(signal.SIGTERM, -signal.SIGTERM, id="SIGTERM"),
    ],
)
def test_fastapi_under_uvicorn(
    number: signal.Signals, code: int, model: str, expected: Callable[[str], Expected], tmp_path: Path
) -> None:
    pytest.importorskip("fastapi", reason="needs FastAPI: make hosts")
    command = expected(model)
    words = ["uvicorn", "--fd", "{fd}", "fastapi_app:app"]
    with serving(words, tmp_path, RESNET_INFER_MODEL=model) as (running, port):
        assert post(port, b"no image")[0] == 422
        command.require_same(answers(port, command.paths))
        running.stop(number)
        running.require_clean_end(UVICORN, code=code)
    assert "Application shutdown complete." in running.err


def workers_are_ready(running: Host, replaced: bool) -> bool:
    """Return whether all workers of gunicorn are up, and those that were replaced have ended."""
    log = running.err
    leaving = log.count("Autorestarting")
    return log.count("Ready") == log.count("Booting") and leaving == len(running.children) and leaving >= replaced


@pytest.mark.parametrize("preload", [False, True], ids=["each opens it", "preload"])
@pytest.mark.parametrize("replaced", [False, True], ids=["kept", "max-requests"])
@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_flask_under_gunicorn(
    kind: str, replaced: bool, preload: bool, expected: Callable[[str], Expected], tmp_path: Path
) -> None:
    pytest.importorskip("flask", reason="needs Flask: make hosts")
    pytest.importorskip(kind if kind == "gevent" else "gunicorn", reason="needs gunicorn and gevent: make hosts")
    command = expected(zoo.DEFAULT)
    (tmp_path / "settings.py").write_text(SETTINGS, encoding="utf-8")
    words = ["gunicorn", "-c", "settings.py", "-b", "fd://{fd}", "--workers", str(WORKERS), "-k", kind, "flask_app:app"]
    words += ["--threads", "4"] if kind == "gthread" else []
    words += ["--preload"] if preload else []
    words += ["--max-requests", str(REQUESTS)] if replaced else []
    rounds = WORKERS * REQUESTS // len(command.paths) + 1
    with serving(words, tmp_path, RESNET_INFER_MODEL=zoo.DEFAULT) as (running, port):
        assert post(port, b"no image")[0] == 422
        for _ in range(rounds):
            command.require_same(answers(port, command.paths))
        running.wait_until(lambda: workers_are_ready(running, replaced))
        running.stop()
        running.require_clean_end(GUNICORN)
    # One that gunicorn has killed is not among the children whose end it has seen.
    assert len(running.children) == running.err.count("Booting worker") >= WORKERS + replaced
