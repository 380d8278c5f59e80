"""Entries timed in turn: what is found of each, what becomes of those that fail, and the order of the turns."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

from resnet_infer import zoo
from resnet_infer.benchmarking.latency import paired_run
from resnet_infer.benchmarking.latency.measured import Benchmark, tables
from resnet_infer.benchmarking.latency.paired_run import Measured, Settings, measure
from resnet_infer.benchmarking.latency.subjects import Entry, Pictures, Subject, entries, synthetic
from resnet_infer.benchmarking.latency.worker import RoundRequest, StartRequest, WarmUpRequest
from resnet_infer.benchmarking.latency.worker_process import FailedError
from resnet_infer.errors import UsageError
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.runtimes.tensorrt.engine_file import EngineInfo, sidecar_path

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
    settings = Settings(rounds=6, seconds=0.005)
    measured = measure(asked, pictures, settings, advance=done.append)
    assert sum(done) == settings.steps(len(asked)) == 5 * (3 + 1 + 6)
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
            assert len(values) == 3
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


def test_the_null_runtime_reads_an_engine_without_tensorrt(tmp_path: Path, pictures: Pictures) -> None:
    with open_runtime(ARTIFACT, runtime="null") as opened:
        spec = opened.spec
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"no engine")
    info = EngineInfo(spec, "10", "a GPU", (9, 0), (1, 1, 8), (32, 32), "images", "logits", False, False, {}, "", "")
    info.save(sidecar_path(engine))
    (found,) = measure(entries([f"null:{engine}"], [1]), pictures, Settings(rounds=1, seconds=0.01))
    assert found.failure is None


def test_an_artifact_of_one_batch_size_says_so_in_its_row(tmp_path: Path, pictures: Pictures) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra `export`")
    model = onnx.load(ARTIFACT)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "fixed.onnx")
    one, four = measure(
        entries([str(tmp_path / "fixed.onnx")], [1, 4], device="cpu"), pictures, Settings(rounds=1, seconds=0.01)
    )
    assert one.failure is None
    assert "takes batches of 1 only, not of 4" in (four.failure or "")


def test_settings_that_measure_nothing_are_usage_errors_and_no_entries_are_none(pictures: Pictures) -> None:
    for rounds, seconds in ((0, 0.1), (1, 0.0), (1, math.nan), (1, math.inf)):
        with pytest.raises(UsageError, match="at least one round"):
            Settings(rounds=rounds, seconds=seconds)
    with pytest.raises(UsageError, match="at least one start, not 0"):
        Settings(starts=0)
    with pytest.raises(UsageError, match="the stages are prepare, transfer, inference, end_to_end, not infer, warm"):
        Settings(stages=("prepare", "infer", "warm"))
    for settings in (Settings(), Settings(restart=True, give_up=2)):
        assert measure([], pictures, settings) == []


def test_a_restarted_entry_is_timed_in_a_process_of_its_own_each_round(pictures: Pictures) -> None:
    """Only the stage that was asked for, with the fewest calls that were asked for."""
    subject, done = Subject(ARTIFACT, device="cpu", threads=1), list[int]()
    settings = Settings(rounds=2, seconds=0.001, stages=("inference",), least_calls=5, warm_up_limit=0.05, restart=True)
    small, large = measure(
        [Entry("small", subject, 1), Entry("large", subject, 64)], pictures, settings, advance=done.append
    )
    assert sum(done) == settings.steps(2) == 4
    for item in (small, large):
        assert item.failure is None
        assert list(item.rounds) == ["inference"]
        assert [len(times) >= 5 for times in item.rounds["inference"]] == [True, True]
        assert len(item.starts["open"]) == 2  # a start for each round
        assert item.about["opened"]["threads"] == 1
    ours, theirs = small.stage("inference"), large.stage("inference")
    assert ours is not None
    assert theirs is not None
    assert theirs.median > 5 * ours.median  # 64 pictures take longer than one


@pytest.mark.parametrize("restart", [False, True])
def test_failures_are_named_and_leave_the_others_alone(tmp_path: Path, pictures: Pictures, restart: bool) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"no graph")
    subjects = [
        Subject(tmp_path / "missing.onnx", device="cpu"),
        Subject(ARTIFACT, device="cpu", threads=1),
        Subject(tmp_path / "damaged.onnx", device="cpu"),
        Subject(ARTIFACT, device="cpu", options={"spun": False}),
    ]
    settings = Settings(rounds=1, seconds=0.01, restart=restart)
    missing, good, damaged, wrong = measure([Entry("it", subject, 1) for subject in subjects], pictures, settings)
    assert good.failure is None
    assert good.rounds
    for item, text in ((missing, "does not exist"), (damaged, "cannot load"), (wrong, "did you mean spin")):
        assert text in (item.failure or "")
        assert not item.rounds


class FakeWorkers:
    """Rounds as they are listed, in place of processes; `order` has whose rounds were asked for, one after another."""

    def __init__(self, rounds: dict[str, list[float | str]]) -> None:
        self.rounds = {name: iter(values) for name, values in rounds.items()}
        self.order, self.open, self.most_open = "", set[str](), 0

    def __call__(self, request: StartRequest, timeout: float) -> FakeWorker:
        name = request.subject.model.name
        self.open.add(name)
        self.most_open = max(self.most_open, len(self.open))
        return FakeWorker(self, name)


class FakeWorker:
    def __init__(self, workers: FakeWorkers, name: str) -> None:
        self._workers, self._name = workers, name
        self.about = {"open": 1.0, "answer": 1.0, "first_answer": 2.0, "opened": {"of": name}}

    def send(self, request: WarmUpRequest | RoundRequest) -> dict[str, Any]:
        if isinstance(request, WarmUpRequest):
            return {}
        self._workers.order += self._name
        value = next(self._workers.rounds[self._name])
        if isinstance(value, str):
            raise FailedError(value)
        return {"stages": {"inference": np.array([value])}}

    def close(self) -> None:
        self._workers.open.discard(self._name)

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def run(
    monkeypatch: pytest.MonkeyPatch, rounds: dict[str, list[float | str]], **settings: Any
) -> tuple[list[Measured], FakeWorkers, int]:
    workers, done = FakeWorkers(rounds), list[int]()
    monkeypatch.setattr(paired_run, "Worker", workers)
    asked = [Entry(name, Subject(Path(name)), 4) for name in rounds]
    measured = measure(asked, Pictures("none", ()), Settings(rounds=3, **settings), advance=done.append)
    assert not workers.open
    return measured, workers, sum(done)


@pytest.mark.parametrize(("starts", "found"), [(1, 1), (2, 2), (5, 3)])
def test_there_are_no_more_starts_than_rounds(monkeypatch: pytest.MonkeyPatch, starts: int, found: int) -> None:
    (measured,), _, done = run(monkeypatch, {"a": [1, 1, 1]}, starts=starts)
    assert len(measured.starts["open"]) == found
    assert done == found + 1 + 3


def medians(item: Measured) -> list[float]:
    stage = item.stage("inference")
    return stage.medians if stage else []


@pytest.mark.parametrize(("restart", "most_open", "steps"), [(False, 3, 9 + 12), (True, 1, 9)])
def test_rounds_go_there_and_back(monkeypatch: pytest.MonkeyPatch, restart: bool, most_open: int, steps: int) -> None:
    measured, workers, done = run(monkeypatch, {"a": [3, 1, 2], "b": [6, 4, 2], "c": [1, 1, 1]}, restart=restart)
    assert workers.order == "abccbaabc"
    assert (workers.most_open, done) == (most_open, steps)
    assert medians(measured[0]) == [3, 1, 2]
    ratio = measured[1].ratio(measured[0], "inference")
    assert ratio is not None
    assert (ratio.value, ratio.pairs) == (2, 3)  # 6/3, 4/1, 2/2


@pytest.mark.parametrize(("restart", "steps"), [(False, 12 + 16), (True, 12)])
def test_what_fails_or_is_far_behind_is_left_out(monkeypatch: pytest.MonkeyPatch, restart: bool, steps: int) -> None:
    rounds: dict[str, list[float | str]] = {"a": [2, 2, 2], "b": [5], "c": [4, "gone"], "d": ["never"]}
    measured, workers, done = run(monkeypatch, rounds, restart=restart, give_up=2.0)
    assert workers.order == "abcdcaa"
    assert done == steps
    assert [item.failure for item in measured] == [None, None, "gone", "never"]
    assert [medians(item) for item in measured] == [[2, 2, 2], [5], [4], []]
    assert measured[2].about["opened"] == {"of": "c"}
