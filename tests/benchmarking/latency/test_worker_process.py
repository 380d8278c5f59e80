"""Processes that hold subjects: what becomes of those that crash, hang, print or are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

from resnet_infer import zoo
from resnet_infer.benchmarking.latency.paired_run import Measured, Settings, measure
from resnet_infer.benchmarking.latency.subjects import Entry, Subject, synthetic
from tests.conftest import ROOT

ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")
Impostor = Callable[[str], Path]


@pytest.fixture
def impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Impostor:
    """Something else in the place of onnxruntime, for processes to come."""

    def install(code: str) -> Path:
        folder = tmp_path / "impostor"
        folder.mkdir()
        (folder / "onnxruntime.py").write_text(textwrap.dedent(code), encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        return folder

    return install


def alone(**settings: Any) -> Measured:
    entry = Entry("it", Subject(ARTIFACT, device="cpu", threads=1), 1)
    (item,) = measure([entry], synthetic(), Settings(**{"rounds": 2, "seconds": 0.01, **settings}))
    return item


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL, as when memory runs out"),
        ("import os; os.write(2, b'out of luck'); os._exit(3)", "ended with code 3: out of luck"),
        ("raise OSError('libcuda.so is too old')", "OSError: libcuda.so is too old"),
    ],
)
def test_a_crash_is_a_failure(impostor: Impostor, code: str, said: str) -> None:
    impostor(code)
    assert said in (alone().failure or "")


def test_what_hangs_is_ended(impostor: Impostor) -> None:
    impostor("import time; time.sleep(600)")
    start = time.monotonic()
    assert alone(timeout=1.5).failure == "no answer within 1.5 seconds"
    assert time.monotonic() - start < 30


def test_what_libraries_print_is_no_answer(impostor: Impostor) -> None:
    impostor(
        """
        import os, sys
        print("hello")
        os.write(1, b"a library says hello")
        sys.path.remove(os.path.dirname(__file__))
        del sys.modules["onnxruntime"]
        import onnxruntime
        """
    )
    item = alone()
    assert item.failure is None
    assert len(item.rounds["inference"]) == 2


def test_files_in_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert alone().failure is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupt_ends_the_process_that_measures(impostor: Impostor, tmp_path: Path) -> None:
    pulse = tmp_path / "pulse"
    folder = impostor(
        f"""
        import time
        while True:
            with open({str(pulse)!r}, "a") as file:
                file.write(".")
            time.sleep(0.05)
        """
    )
    code = f"""
        import sys
        sys.path.insert(0, {str(folder)!r})
        from pathlib import Path
        from resnet_infer.benchmarking.latency.paired_run import measure
        from resnet_infer.benchmarking.latency.subjects import Entry, Subject, synthetic
        measure([Entry("it", Subject(Path({str(ARTIFACT)!r})), 1)], synthetic())
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not pulse.exists():
            assert time.monotonic() < deadline
            assert parent.poll() is None
            time.sleep(0.02)
        parent.send_signal(signal.SIGINT)
        _, said = parent.communicate(timeout=30)
    finally:
        parent.kill()
        parent.wait()
    assert b"KeyboardInterrupt" in said
    while True:
        beats = pulse.stat().st_size
        time.sleep(1)
        if pulse.stat().st_size == beats:
            break
        assert time.monotonic() < deadline, "the process still runs"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_command(number: signal.Signals) -> None:
    """Neither Ctrl-C nor a kill of the command alone."""
    marker = f"RESNET_INFER_TEST_MARK={os.getpid()}-{number}"
    environment = {**os.environ, "RESNET_INFER_TEST_MARK": marker.partition("=")[2]}
    command = [sys.executable, "-m", "resnet_infer", "benchmark", "--rounds", "1000", "--null"]
    parent = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def marked() -> int:
        count = 0
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    count += marker.encode() in (folder / "environ").read_bytes()
                except OSError:
                    continue
        return count

    try:
        deadline = time.monotonic() + 60
        while marked() < 3:
            assert time.monotonic() < deadline
            assert parent.poll() is None
            time.sleep(0.02)
        parent.send_signal(number)
        _, said = parent.communicate(timeout=60)
    finally:
        parent.kill()
        parent.communicate()
    if number == signal.SIGINT:
        assert parent.returncode == 130
        assert said.decode().endswith("interrupted\n")
    while marked():
        assert time.monotonic() < deadline + 60, "a process still runs"
        time.sleep(0.05)
