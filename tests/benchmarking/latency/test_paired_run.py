"""Subjects in processes of their own: what is found of them, and what becomes of those that fail, crash or hang."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

from resnet_infer import zoo
from resnet_infer.benchmarking.latency.measured import Benchmark, tables
from resnet_infer.benchmarking.latency.paired_run import STARTS, Measured, measure, steps
from resnet_infer.benchmarking.latency.side_by_side import Subject
from resnet_infer.benchmarking.latency.subjects import Entry, Pictures, entries, synthetic
from resnet_infer.errors import UsageError
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.runtimes.tensorrt.engine_file import EngineInfo, sidecar_path
from tests.conftest import ROOT

ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return synthetic()


@pytest.fixture(scope="module")
def found(pictures: Pictures) -> Benchmark:
    """The built-in with two batch sizes, a runtime that does nothing, and a model that is not there."""
    asked = entries([str(ARTIFACT), f"null:{ARTIFACT}"], [1, 4], device="cpu", threads=[1])
    asked.insert(1, Entry("gone.onnx", Subject(Path("gone.onnx"), device="cpu"), 1))
    done: list[int] = []
    measured = measure(asked, pictures, rounds=6, seconds=0.005, advance=done.append)
    assert sum(done) == steps(len(asked), 6)
    return Benchmark(measured, pictures, 6, 0.005, {}, [])


def test_every_stage_is_measured_in_every_round(found: Benchmark) -> None:
    for item in found.measured:
        if item.entry.name == "gone.onnx":
            continue
        assert item.failure is None
        assert {name: len(rounds) for name, rounds in item.rounds.items()} == dict.fromkeys(
            ("prepare", "inference", "end_to_end"), 6
        )
        assert item.stage("transfer") is None  # a CPU needs none
        assert item.warm["warm_up"]["calls"] > 0
        for values in item.starts.values():
            assert len(values) == STARTS
            assert all(value > 0 for value in values)
        for whole, part in zip(item.starts["first_answer"], item.starts["answer"], strict=True):
            assert whole > part


def test_what_it_says_of_a_subject(found: Benchmark) -> None:
    real = found.measured[0]
    assert real.about["opened"]["threads"] == 1
    assert real.about["spec"]["name"] == zoo.SMALL
    memory = real.memory()
    if sys.platform == "linux":
        assert memory["host"] is not None
        assert 1e6 < memory["host"] < 500e6
        assert memory["host_before"] is not None
        assert memory["host_peak"] == memory["host_before"] + memory["host"]
    assert memory["device"] is None


def test_the_null_runtime_costs_next_to_nothing(found: Benchmark) -> None:
    """Not an assertion on speed: a network of 0.3 GFLOP for four pictures takes longer than none."""
    real, null = (
        next(item for item in found.measured if item.entry.name == name and item.entry.batch == 4)
        for name in (ARTIFACT.name, f"null:{ARTIFACT.name}")
    )
    ours, theirs = real.stage("inference"), null.stage("inference")
    assert ours is not None
    assert theirs is not None
    assert ours.calls.min() > 3 * theirs.calls.min()
    ratio = null.ratio(real, "inference")
    assert ratio is not None
    assert ratio.pairs == 6
    assert ratio.interval is not None
    assert ratio.interval[1] < 1


def test_a_failure_is_in_its_row_and_the_others_go_on(found: Benchmark) -> None:
    (failed,) = found.failed
    assert "gone.onnx does not exist" in (failed.failure or "")
    assert not failed.rounds
    shown = json.loads(json.dumps(found.to_json()))
    row = shown["results"][1]
    assert (row["model"], row["stages"], row["ratios"]) == ("gone.onnx", {}, {})
    text = tables(shown)
    assert "failed: gone.onnx, batch 1: gone.onnx does not exist" in text


def test_ratios_are_to_the_first_of_the_same_batch(found: Benchmark) -> None:
    rows = found.to_json()["results"]
    for row in (rows[0], rows[2]):
        assert row["ratios"] == {}
    for row, first in ((rows[3], rows[0]), (rows[4], rows[2])):
        assert row["batch"] == first["batch"]
        quotients = sorted(
            a / b
            for a, b in zip(
                row["stages"]["inference"]["rounds_ms"], first["stages"]["inference"]["rounds_ms"], strict=True
            )
        )
        low, high = row["ratios"]["inference"]["interval"]
        assert (low, high) == (pytest.approx(quotients[0]), pytest.approx(quotients[-1]))


@pytest.fixture
def impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Something else in the place of onnxruntime, for processes to come."""

    def install(code: str) -> Path:
        folder = tmp_path / "impostor"
        folder.mkdir()
        (folder / "onnxruntime.py").write_text(textwrap.dedent(code), encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        return folder

    return install


def alone(pictures: Pictures, **options: float) -> Measured:
    (item,) = measure([Entry("it", Subject(ARTIFACT, device="cpu"), 1)], pictures, rounds=2, seconds=0.01, **options)  # type: ignore[arg-type]
    return item


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("import os; os.write(2, b'out of luck'); os._exit(3)", "ended with code 3: out of luck"),
        ("raise OSError('libcuda.so is too old')", "OSError: libcuda.so is too old"),
    ],
)
def test_a_crash_is_a_failure(impostor: Callable[[str], Path], pictures: Pictures, code: str, said: str) -> None:
    impostor(code)
    assert said in (alone(pictures).failure or "")


def test_what_hangs_is_ended(impostor: Callable[[str], Path], pictures: Pictures) -> None:
    impostor("import time; time.sleep(600)")
    assert alone(pictures, timeout=1.5).failure == "no answer within 1.5 seconds"


def test_what_libraries_print_is_no_answer(impostor: Callable[[str], Path], pictures: Pictures) -> None:
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
    item = alone(pictures)
    assert item.failure is None
    assert len(item.rounds["inference"]) == 2


def test_the_null_runtime_reads_an_engine_without_tensorrt(tmp_path: Path, pictures: Pictures) -> None:
    with open_runtime(ARTIFACT, runtime="null") as opened:
        spec = opened.spec
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"no engine")
    info = EngineInfo(spec, "10", "a GPU", (9, 0), (1, 1, 8), (32, 32), "images", "logits", False, False, {}, "", "")
    info.save(sidecar_path(engine))
    (found,) = measure(entries([f"null:{engine}"], [1]), pictures, rounds=1, seconds=0.01)
    assert found.failure is None


def test_an_artifact_of_one_batch_size_says_so_in_its_row(tmp_path: Path, pictures: Pictures) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra `export`")
    model = onnx.load(ARTIFACT)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "fixed.onnx")
    one, four = measure(entries([str(tmp_path / "fixed.onnx")], [1, 4], device="cpu"), pictures, rounds=1, seconds=0.01)
    assert one.failure is None
    assert "takes batches of 1 only, not of 4" in (four.failure or "")


def test_no_rounds_and_no_time_are_usage_errors(pictures: Pictures) -> None:
    for rounds, seconds in ((0, 0.1), (1, 0.0), (1, math.nan), (1, math.inf)):
        with pytest.raises(UsageError, match="at least one round"):
            measure([], pictures, rounds=rounds, seconds=seconds)
    assert measure([], pictures, rounds=1) == []


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
