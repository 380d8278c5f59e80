"""Celery's workers, which get the names of files through a queue."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer import zoo
from tests.hosts.conftest import Expected
from tests.hosts.host import CLEAN, host

ROOT_IS_WARNED = (
    r".*SecurityWarning: You're running the worker with superuser|absolutely not recommended!"
    r"|Please specify a different user|User information: |  _warn_or_raise_security_error"
)
"""Lines that Celery writes where it is run by root, as in a container."""
RECYCLED = 155
"""Exit code of a process that Celery replaces."""
REPLACED = ("--pool", "prefork", "--max-tasks-per-child", "20")
POOLS = {"prefork": CLEAN, "prefork, replaced": CLEAN | {RECYCLED, -signal.SIGKILL}, "threads": CLEAN}
"""Kind of pool -> exit codes of its processes. Celery kills the last ones of a pool of which it has replaced any, also
where tasks do nothing.
"""


@pytest.mark.parametrize("pool", POOLS)
def test_workers(pool: str, expected: Callable[[str], Expected], tmp_path: Path) -> None:
    celery = pytest.importorskip("celery", reason="needs Celery: make hosts")
    command = expected(zoo.DEFAULT)
    words = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--concurrency", "2", "-l", "WARNING"]
    words += REPLACED if pool == "prefork, replaced" else ("--pool", pool)
    with host(words, tmp_path, RESNET_INFER_MODEL=zoo.DEFAULT) as running:
        running.wait_until(lambda: (tmp_path / "queue").is_dir() and (tmp_path / "results").is_dir())
        client = celery.Celery("client", broker="filesystem://localhost//", backend=f"file://{tmp_path / 'results'}")
        folders = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
        client.conf.broker_transport_options = {name: str(tmp_path / folder) for name, folder in folders.items()}
        sent = [client.send_task("classify", [str(path)]) for path in command.paths]
        command.require_same(result.get(timeout=120) for result in sent)
        client.close()
        running.stop()
        running.require_clean_end(ROOT_IS_WARNED, children=POOLS[pool])
    assert len(running.children) >= (1 if pool == "threads" else 2)
    assert running.children.count(-signal.SIGKILL) <= 2
