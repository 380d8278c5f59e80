"""One process makes a file and the others wait, but not for ever, and not where there are no locks."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_infer.models.weights.locks import locked
from tests.conftest import ROOT

HOLD = """
import sys, time
from pathlib import Path
from resnet_infer.models.weights.locks import locked
with locked(Path(sys.argv[1]), "making x"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("ended", ["killed", "hanging"])
def test_who_has_died_holds_nothing_and_who_hangs_not_for_ever(
    tmp_path: Path, ended: str, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "x.onnx"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"held\n"
        if ended == "killed":
            other.kill()
            other.wait()
        begin = time.monotonic()
        with caplog.at_level(logging.WARNING), locked(target, "making x\x1b", patience=1.0):
            waited = time.monotonic() - begin
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    if ended == "killed":
        assert not caplog.records
    else:
        assert 1.0 <= waited < 10
        assert caplog.messages[0] == "another process is making x\\x1b: waiting for it"
        assert "waiting no longer" in caplog.messages[1]


@pytest.mark.parametrize(
    "error",
    [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks"), OSError(errno.ENOSYS, "Not implemented")],
    ids=repr,
)
def test_where_there_are_no_locks_the_work_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with locked(tmp_path / "x.onnx", "making x"):
        pass


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"directory|exists"), locked(tmp_path / "file" / "x.onnx", "making x"):
        pass
