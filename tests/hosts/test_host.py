"""What a host may not do is noticed, in programs that do it."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer import zoo
from tests.hosts.conftest import Expected
from tests.hosts.host import host

FORK = "import os, signal, time\npid = os.fork()\n"


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        pytest.param("raise SystemExit(3)", "exit code 3", id="exit code"),
        pytest.param("import sys; print('Traceback', file=sys.stderr)", r"on stderr: \['Traceback'\]", id="stderr"),
        pytest.param("import time; time.sleep(60)", "still there", id="late"),
        pytest.param(FORK + "if not pid: time.sleep(60)", "it left processes", id="child left"),
        pytest.param(FORK + "if not pid: os._exit(5)\nos.waitpid(pid, 0)", r"children ended with \[5\]", id="child"),
        pytest.param(FORK + "if not pid: os.abort()\nos.waitpid(pid, 0)", r"children ended with \[-6\]", id="abort"),
    ],
)
def test_a_bad_end_is_noticed(program: str, problem: str, tmp_path: Path) -> None:
    with host([sys.executable, "-c", program], tmp_path) as running, pytest.raises(AssertionError, match=problem):
        running.require_clean_end(seconds=2)
    assert running.members() == []


def test_a_program_that_ignores_sigterm_is_noticed(tmp_path: Path) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    with host([sys.executable, "-c", program], tmp_path) as running:
        running.wait_until(lambda: running.out == "up\n")
        running.stop()
        with pytest.raises(AssertionError, match="still there"):
            running.require_clean_end(seconds=1)


def test_another_answer_is_noticed(expected: Callable[[str], Expected]) -> None:
    command = expected(zoo.SMALL)
    command.require_same(copy.deepcopy(command.answers))
    with pytest.raises(AssertionError):
        command.require_same(command.answers[1:])
    other = copy.deepcopy(command.answers)
    best = other[-1]["predictions"][0]
    best["probability"] = math.nextafter(best["probability"], 0)
    with pytest.raises(AssertionError):
        command.require_same(other)


def test_a_clean_end_is_clean(tmp_path: Path) -> None:
    program = FORK + "if not pid: os._exit(0)\nos.waitpid(pid, 0)\nimport sys; print('INFO: bye', file=sys.stderr)"
    with host([sys.executable, "-c", program], tmp_path) as running:
        running.require_clean_end(harmless="INFO: ")
    assert running.children == [0]
