"""Worker processes that find no shared memory, are killed, or hang; and runs that end although something hangs."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.popen_fork import Popen
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from torch.utils.data import DataLoader  # noqa: E402

from resnet_infer.errors import TrainingError  # noqa: E402
from resnet_infer.models.architectures import architecture  # noqa: E402
from resnet_infer.models.spec import InputSpec  # noqa: E402
from resnet_infer.training.input import sources, workers  # noqa: E402
from resnet_infer.training.input.augment import BatchSampler  # noqa: E402
from resnet_infer.training.input.sources import FromFiles  # noqa: E402
from resnet_infer.training.input.splits import open_splits  # noqa: E402
from resnet_infer.training.loop.options import Options  # noqa: E402
from resnet_infer.training.loop.signals import Stopped, StopSignals  # noqa: E402
from resnet_infer.training.loop.trainer import Trainer  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.training.processes import start  # noqa: E402
from tests.training.runs import recipe, trainer  # noqa: E402

FILES = Options(precision="fp32", data_in="files", workers=2)
GEOMETRY = InputSpec(16, 16, np.zeros(3), np.ones(3))


def source(folder: Path, processes: int, log: Callable[[str], None] = lambda line: None) -> FromFiles:
    one = recipe(augmentation="area")
    samples = open_splits(folder, validation=8).train.samples
    return FromFiles(samples, GEOMETRY, one, BatchSampler(len(samples), 16, 0), torch.device("cpu"), processes, log=log)


def seen(batches: Iterator[Any]) -> list[bytes]:
    return [images.numpy().tobytes() + labels.numpy().tobytes() for images, labels, _ in batches]


@pytest.mark.parametrize("room", [0, 16 * 16 * 16 * 3 * 3, 1 << 40])
def test_where_batches_are_made_changes_none_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    said: list[str] = []
    monkeypatch.setattr(workers, "free_shared_memory", lambda: room)
    one = source(folder, 2, said.append)
    whole = seen(source(folder, 0).batches(0, 9, 16))
    assert seen(one.batches(0, 6, 16)) + seen(one.batches(6, 9, 16)) == whole
    assert len(said) == (room < 1 << 40)
    assert all("/dev/shm has 0 MiB free" in line and "threads decode instead" in line for line in said)


def test_shared_memory_that_is_used_up_on_the_way_loses_no_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program has taken it."""
    given = multiprocessing.get_context("fork").Value("i", 0)

    def full(tensors: Any) -> Any:
        given.value += 1
        return workers.SharedMemoryFull("/dev/shm is full") if given.value > 3 else workers.shared(tensors)

    monkeypatch.setattr(sources, "shared", full)
    said: list[str] = []
    assert seen(source(folder, 1, said.append).batches(0, 8, 16)) == seen(source(folder, 0).batches(0, 8, 16))
    assert len(said) == 1
    assert given.value > 3


def test_no_more_is_under_way_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in range(0, 3000, 50):
        monkeypatch.setattr(workers, "free_shared_memory", lambda room=room: room)
        try:
            ahead = workers.prefetch(100, 4)
        except workers.NoWorkersError:
            assert room < 100 * 6
            continue
        assert 1 <= ahead <= workers.PREFETCH
        assert 100 * (4 * ahead + 2) <= room


@pytest.mark.parametrize("files", range(0, 400, 20))
def test_no_more_is_under_way_than_files_may_be_open(monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    monkeypatch.setattr(workers, "free_shared_memory", lambda: 1 << 40)
    monkeypatch.setattr(workers, "free_files", lambda: files)
    try:
        ahead = workers.prefetch(100, 8)
    except workers.NoWorkersError:
        assert files < workers.OTHER_FILES + 8 * 6 + workers.TENSORS * (8 + 2)
    else:
        assert workers.OTHER_FILES + 8 * 6 + workers.TENSORS * (8 * ahead + 2) <= files


@pytest.mark.parametrize(
    ("error", "way_out"),
    [
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "ulimit -u"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
    ],
    ids=["processes", "files"],
)
def test_threads_decode_where_no_more_processes_can_be_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, way_out: str
) -> None:
    """The first worker has started when the second cannot: it does not outlive the attempt."""
    fork, said, forked = Popen.__init__, list[str](), list[Any]()

    def limited(self: Any, process: Any) -> None:
        if forked:
            raise error
        forked.append(self)
        fork(self, process)

    monkeypatch.setattr(Popen, "__init__", limited)
    assert seen(source(folder, 2, said.append).batches(0, 4, 16)) == seen(source(folder, 0).batches(0, 4, 16))
    assert len(said) == 1
    assert "threads decode instead" in said[0]
    assert way_out in said[0]
    forked[0].wait(timeout=5)
    assert not multiprocessing.active_children()


def test_open_files_that_are_used_up_on_the_way_lose_no_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another part of the program has taken them."""

    def two_of(batches: Iterator[Any]) -> Any:
        yield next(batches)
        yield next(batches)
        raise RuntimeError("Too many open files. Communication with the workers is no longer possible.")

    class Used(DataLoader[Any]):
        def __iter__(self) -> Any:
            return two_of(super().__iter__())

    monkeypatch.setattr(workers, "DataLoader", Used)
    said: list[str] = []
    assert seen(source(folder, 2, said.append).batches(0, 6, 16)) == seen(source(folder, 0).batches(0, 6, 16))
    assert len(said) == 1
    assert "ulimit -n" in said[0]


def in_a_small_shared_memory(*command: object) -> subprocess.CompletedProcess[str]:
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    return subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "bash", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_a_run_in_a_container_with_little_shared_memory(folder: Path, tmp_path: Path) -> None:
    if not shutil.which("unshare") or in_a_small_shared_memory("true").returncode:
        pytest.skip("needs the right to mount a file system")
    done = in_a_small_shared_memory(
        *(sys.executable, "-m", "resnet_infer", "train", folder, "--arch", "resnet8", "--recipe", "cifar10-short"),
        *("--augmentation", "area", "--mean", "channel", "--crop", 100, "--resize", 100, "-b", 16),
        *("--iterations", 6, "--data-in", "files", "--workers", 2, "-o", tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("threads decode instead") == 1
    assert "Traceback" not in done.stderr


def stuck(folder: Path, run: Path, action: Callable[[], object], options: Options = FILES) -> Trainer:
    """A run of which the twentieth picture makes whoever decodes it do something."""
    splits = open_splits(folder, validation=8)
    samples = [*splits.train.samples]
    read = samples[20].read

    def instead() -> Any:
        action()
        return read()

    samples[20] = replace(samples[20], read=instead)
    data = replace(splits, train=replace(splits.train, samples=samples))
    one = recipe(augmentation="area", mean="channel", iterations=400)
    return Trainer(architecture("resnet8", 3), one, data, run, options=options, log=lambda line: None)


def in_a_worker(action: Callable[[], object]) -> Callable[[], object]:
    here = os.getpid()
    return lambda: action() if os.getpid() != here else None


def hang() -> None:
    time.sleep(1000)


@pytest.mark.parametrize(
    ("number", "why"),
    [(signal.SIGKILL, r"was killed \(SIGKILL\), as the system does when memory runs out"), (signal.SIGSEGV, "SIGSEGV")],
)
def test_a_worker_that_dies_ends_the_run_and_says_what_is_kept(
    folder: Path, tmp_path: Path, number: signal.Signals, why: str
) -> None:
    one = stuck(folder, tmp_path, in_a_worker(lambda: os.kill(os.getpid(), number)))
    begun = time.monotonic()
    with pytest.raises(TrainingError, match=f"{why}.*; (nothing is saved yet|.* keeps iteration)"):
        one.run()
    assert time.monotonic() - begun < 20
    assert not multiprocessing.active_children()


def test_workers_that_give_nothing_end_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 2.0)
    with pytest.raises(TrainingError, match="no batch has come from the 2 worker processes for 2 seconds"):
        stuck(folder, tmp_path, in_a_worker(hang)).run()
    assert not multiprocessing.active_children()


@pytest.fixture
def hangups() -> Iterator[None]:
    """SIGHUP is heard, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("action", [hang, lambda: os.kill(os.getpid(), signal.SIGSTOP)], ids=["hangs", "halted"])
def test_a_signal_ends_a_run_whose_workers_hang(
    folder: Path, tmp_path: Path, number: signal.Signals, action: Callable[[], object]
) -> None:
    one = stuck(folder, tmp_path, in_a_worker(action))
    threading.Timer(3, lambda: os.kill(os.getpid(), number)).start()
    begun = time.monotonic()
    with pytest.raises(Stopped) as error:
        one.run()
    assert error.value.exit_code == 128 + number
    assert time.monotonic() - begun < 15
    del error
    assert not multiprocessing.active_children()
    assert (tmp_path / "last.safetensors").exists()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGHUP)
            caught = [signals.caught]
            signal.raise_signal(signal.SIGTERM)
            assert [*caught, signals.caught] == [0, signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_is_remembered_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with StopSignals(within=60) as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.caught == signal.SIGTERM


def hangs_itself(folder: str, run: str) -> None:
    """As storage that is gone does to whoever reads from it."""
    mark = Path(run).with_name("hangs")

    def action() -> None:
        if mark.with_name("armed").exists():
            mark.touch()
            while True:  # what is interrupted by a signal begins anew
                time.sleep(1000)

    options = Options(precision="fp32", data_in="files", workers=0, stop_within=1.0)
    one = stuck(Path(folder), Path(run), action, options)
    enter = one._enter

    def armed(phase: Any) -> None:
        enter(phase)
        mark.with_name("armed").touch()

    one._enter = armed  # type: ignore[method-assign]
    one.run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_ends_in_time_whatever_hangs(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start(hangs_itself, str(folder), str(tmp_path / "run"), outputs=tmp_path / "outputs", patience=20)
    process.until((tmp_path / "hangs").exists)
    os.kill(process.processes[0].pid, number)
    assert process.wait() == 128 + number, process.err()
    assert "did not stop within 1 seconds and is ended" in process.err()


def test_a_run_stopped_while_it_measures_goes_on_with_the_measurement(folder: Path, tmp_path: Path) -> None:
    """A signal in the middle of the first epoch's measurement; table and weights are those of a run without it."""
    trainer(folder, tmp_path / "whole").run()
    one = trainer(folder, tmp_path / "parts")
    count = one.held_out.count

    def interrupted(*views: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return count(*views)

    one.held_out.count = interrupted  # type: ignore[assignment,method-assign]
    with pytest.raises(Stopped, match=r"stopped at iteration 4; .* keeps iteration 4"):
        one.run()
    assert not (tmp_path / "parts" / "best.safetensors").exists()
    trainer(folder, tmp_path / "parts").run()
    tables = [(tmp_path / place / "metrics.csv").read_text().splitlines() for place in ("whole", "parts")]
    whole, parts = ([line.split(",")[:8] for line in table] for table in tables)
    assert whole == parts
