"""Timing in processes: what is measured, and what becomes of those that fail, crash, hang, print or are interrupted."""

from __future__ import annotations

import json
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
from resnet_infer.benchmarking.latency import side_by_side as module
from resnet_infer.benchmarking.latency.side_by_side import Job, Subject, Timing, measure
from resnet_infer.errors import UsageError

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


def test_a_call_is_timed_in_a_process_of_its_own() -> None:
    small = Subject(ARTIFACT, device="cpu", threads=1)
    done: list[int] = []
    alone = measure([small, small], 1, rounds=2, seconds=0.02, advance=done.append)
    (many,) = measure([small], 64, rounds=1, seconds=0.02)
    for timing in alone:
        assert timing.failure is None
        assert len(timing.rounds) == 2
        assert timing.spread[0] <= timing.ms <= timing.spread[1]
        assert timing.opened["threads"] == 1
        assert timing.pictures_per_second == pytest.approx(1000 / timing.ms)
    assert many.ms > 5 * min(timing.spread[0] for timing in alone)  # 64 pictures take longer than one
    assert sum(done) == 4
    shown = json.loads(json.dumps(many.to_json()))
    assert (shown["batch"], shown["threads"], shown["failure"]) == (64, 1, None)


def test_failures_are_named_and_leave_the_others_alone(tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"no graph")
    subjects = [
        Subject(tmp_path / "missing.onnx", device="cpu"),
        Subject(ARTIFACT, device="cpu", threads=1),
        Subject(tmp_path / "damaged.onnx", device="cpu"),
        Subject(ARTIFACT, device="cpu", options={"spun": False}),
    ]
    missing, good, damaged, wrong = measure(subjects, 1, rounds=1, seconds=0.01)
    assert good.failure is None
    assert good.rounds
    for timing, text in ((missing, "does not exist"), (damaged, "cannot load"), (wrong, "did you mean spin")):
        assert text in (timing.failure or "")
        assert not timing.rounds
        assert timing.ms == float("inf")
        assert "ms" not in json.loads(json.dumps(timing.to_json()))


def test_options_may_hold_paths(tmp_path: Path) -> None:
    options = {"provider": "tensorrt", "engine_cache": tmp_path / "engines"}
    (timing,) = measure([Subject(ARTIFACT, device="cpu", options=options)], 1, rounds=1)
    assert "runs on a GPU" in (timing.failure or "")
    assert json.loads(json.dumps(timing.to_json()))["options"]["engine_cache"] == str(tmp_path / "engines")


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
    first, second = measure([Subject(ARTIFACT)] * 2, 1, rounds=3)
    assert said in (first.failure or "")
    assert said in (second.failure or "")


def test_what_hangs_is_ended(impostor: Impostor) -> None:
    impostor("import time; time.sleep(600)")
    start = time.monotonic()
    (timing,) = measure([Subject(ARTIFACT)], 1, timeout=1.5)
    assert timing.failure == "no sample within 1.5 seconds"
    assert time.monotonic() - start < 30


def test_what_libraries_print_is_no_answer(impostor: Impostor) -> None:
    impostor(
        """
        import os, sys
        print("{}")
        os.write(1, b"a library says hello")
        sys.path.remove(os.path.dirname(__file__))
        del sys.modules["onnxruntime"]
        import onnxruntime
        """
    )
    (timing,) = measure([Subject(ARTIFACT, device="cpu", threads=1)], 1, rounds=1, seconds=0.01)
    assert timing.failure is None
    assert timing.rounds


def test_files_in_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (timing,) = measure([Subject(ARTIFACT, device="cpu", threads=1)], 1, rounds=1, seconds=0.01)
    assert timing.failure is None


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
        from resnet_infer.benchmarking.latency.side_by_side import Subject, measure
        measure([Subject(Path({str(ARTIFACT)!r}))], 1)
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


class Clock:
    """Samples as they are listed, in place of processes; `order` is what was asked for."""

    def __init__(self, samples: dict[str, list[float | str]]) -> None:
        self.samples = {name: iter(values) for name, values in samples.items()}
        self.order: list[str] = []

    def __call__(self, job: Job, timeout: float) -> dict[str, Any]:
        name = job.subject.model.name
        self.order.append(name)
        value = next(self.samples[name])
        return {"failure": value} if isinstance(value, str) else {"ms": value, "opened": {"of": name}}


def run(monkeypatch: pytest.MonkeyPatch, samples: dict[str, list[float | str]], **options: Any) -> Any:
    clock = Clock(samples)
    done: list[int] = []
    monkeypatch.setattr(module, "_sample", clock)
    timings = measure([Subject(Path(name)) for name in samples], 4, advance=done.append, **options)
    return timings, "".join(clock.order), sum(done)


def test_rounds_go_there_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    timings, order, done = run(monkeypatch, {"a": [3, 1, 2], "b": [6, 4, 2], "c": [1, 1, 1]})
    assert order == "abccbaabc"
    assert done == 9
    assert timings[0].rounds == (3, 1, 2)
    assert (timings[0].ms, timings[0].spread, timings[0].pictures_per_second) == (2, (1, 3), 2000)
    assert timings[1].ratio(timings[0]) == 2  # 6/3, 4/1, 2/2


def test_what_fails_or_is_far_behind_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    samples: dict[str, list[float | str]] = {"a": [2, 2, 2], "b": [5], "c": [4, "gone"], "d": ["never"]}
    timings, order, done = run(monkeypatch, samples, give_up=2.0)
    assert order == "abcdcaa"
    assert done == 12
    assert [timing.failure for timing in timings] == [None, None, "gone", "never"]
    assert [timing.rounds for timing in timings] == [(2, 2, 2), (5,), (4,), ()]
    assert timings[2].opened == {"of": "c"}


def test_nothing_to_measure_and_nonsense() -> None:
    assert measure([], 1) == []
    for batch, rounds in ((0, 1), (1, 0)):
        with pytest.raises(UsageError, match="at least 1"):
            measure([Subject(ARTIFACT)], batch, rounds=rounds)
    assert Timing(Subject(ARTIFACT), 1).pictures_per_second == 0
