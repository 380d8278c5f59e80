"""Scenarios from end to end: LoadGen in its process, the loops, services that fail, and the way out."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("mlperf_loadgen", reason="needs the extra `benchmark`")
pytest.importorskip("onnxruntime", reason="the built-in model needs onnxruntime")

from resnet_infer.benchmarking.scenarios import SCENARIOS, Scenario, run_scenario
from resnet_infer.errors import ModelError, ResnetInferError, ServiceError, UsageError
from resnet_infer.evaluation.evaluate import evaluate
from tests.benchmarking.stub import GOOD, stub


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops in this process warm up for a moment, and a sweep's runs are as long as they are asked to be."""
    monkeypatch.setattr("resnet_infer.benchmarking.scenarios.WARM_SECONDS", 0.2)
    monkeypatch.setattr("resnet_infer.benchmarking.load.rate_sweep.LEAST_QUERIES", 20)


def test_single_stream_is_valid_and_says_that_it_is_shortened(tmp_path: Path) -> None:
    outcome = run_scenario(Scenario("single-stream", seconds=0.5, output=tmp_path / "logs"))
    assert outcome.valid
    assert (outcome.official, outcome.reasons) == (False, ())
    assert any("not an official result" in note for note in outcome.notes)
    found = json.loads(json.dumps(outcome.to_json()))
    assert found["figures"]["early_stopping_p90_ms"] > 0
    assert found["settings"]["min_duration_ms"] == 500
    assert found["settings"]["loadgen"].startswith("6")
    table = outcome.table()
    assert "VALID" in table
    assert "shortened: not an official result" in table
    assert "resnet20-cifar10" in table
    names = {path.name for path in (tmp_path / "logs").iterdir()}
    assert {"mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json", "user.conf"} <= names


def test_offline_measures_what_it_tells_loadgen(tmp_path: Path) -> None:
    outcome = run_scenario(Scenario("offline", seconds=0.5, output=tmp_path))
    assert outcome.figures["samples_per_second"] > 0
    assert outcome.figures["expected_rate"] > 0
    assert outcome.figures["samples"] >= 0.5 * outcome.figures["expected_rate"]


NOWHERE = "http://127.0.0.1:9"


def test_a_bound_that_cannot_be_met(tmp_path: Path) -> None:
    outcome = run_scenario(Scenario("server", seconds=0.5, rates=(400.0,), bound_ms=0.01, output=tmp_path))
    assert outcome.valid is False
    assert "the latency is not within its bound" in outcome.reasons
    assert any("the official one is 15 ms" in note for note in outcome.notes)
    assert "INVALID" in outcome.table()


def labelled(folder: Path, photos: Callable[..., NDArray[np.uint8]]) -> Path:
    """Class folders by the built-in model's names, of pictures with right and wrong labels."""
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    for number, pixels in enumerate(photos(300, 48)):
        place = folder / names[number % 10]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.{'png' if number % 2 else 'jpg'}")
    return folder


def test_the_accuracy_is_that_of_an_evaluation(tmp_path: Path, photos: Callable[..., NDArray[np.uint8]]) -> None:
    data = labelled(tmp_path / "data", photos)
    outcome = run_scenario(Scenario("offline", data=data, accuracy=True, output=tmp_path / "logs"))
    (result,) = evaluate([None], data).results
    assert outcome.valid
    assert outcome.figures["wrong"] == int((result.answered.ranks > 0).sum())
    assert outcome.figures["right"] + outcome.figures["wrong"] == 300
    assert 0 < outcome.figures["right"] < 300
    assert outcome.figures["top1_error"] == pytest.approx(result.top1.error, abs=1e-3)


def test_loops_in_process() -> None:
    closed = run_scenario(Scenario("closed-loop", seconds=0.5, clients=3))
    assert closed.figures["errors"] == 0
    assert closed.figures["queries"] > 0
    assert closed.valid is None
    opened = run_scenario(Scenario("open-loop", seconds=0.5, rates=(20.0, 40.0)))
    assert [line["rate"] for line in opened.rates] == [20, 40]
    assert all(line["errors"] == 0 and line["p99_ms"] is None for line in opened.rates)
    bounded = run_scenario(Scenario("open-loop", seconds=0.5, rates=(20.0,), bound_ms=0.001))
    assert bounded.valid is False
    assert bounded.reasons == ("the 99th percentile is above 0.001 ms at 20/s",)
    open_still = run_scenario(Scenario("open-loop", seconds=0.5, rates=(20.0,), bound_ms=1e4))
    assert open_still.valid is False
    assert "too few queries to be sure" in open_still.reasons[0]
    assert "undecided" in open_still.table()
    assert open_still.rates[0]["within"] is None


def test_a_sweep_says_what_it_tried() -> None:
    outcome = run_scenario(Scenario("sweep", seconds=0.2, bound_ms=0.001))
    assert outcome.valid is False
    assert outcome.figures["rate"] is None
    assert "no rate keeps 99% within 0.001 ms" in outcome.reasons[0]
    assert {"rate", "achieved", "p50_ms", "p90_ms", "p99_ms", "errors"} <= set(outcome.rates[0])
    assert "failed" in outcome.table()
    assert "p99.9 ms" in outcome.table()


def test_a_service_that_refuses_is_counted() -> None:
    with stub(lambda *_: (503, {"error": "the queue is full"})) as service:
        outcome = run_scenario(Scenario("open-loop", url=service.url, seconds=0.3, rates=(50.0,)))
    assert outcome.valid is False
    assert outcome.figures["statuses"] == {"refused": outcome.rates[0]["queries"]}
    assert outcome.reasons == (f"{outcome.rates[0]['queries']} queries failed: the queue is full",)
    assert outcome.rates[0]["p99_ms"] is None


def dying(after: int) -> Callable[..., tuple[int, Any] | None]:
    answered: list[int] = []

    def answer(*_: Any) -> tuple[int, Any] | None:
        answered.append(1)
        return (200, GOOD) if len(answered) <= after else None

    return answer


def test_a_service_that_dies_ends_a_loop() -> None:
    with stub(dying(5)) as service:
        outcome = run_scenario(Scenario("closed-loop", url=service.url, seconds=600, clients=4))
    assert outcome.valid is False
    assert "the service stopped answering, which ended the run" in outcome.reasons


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_a_service_that_dies_ends_loadgen(scenario: str, tmp_path: Path) -> None:
    calls: list[int] = []

    def answer(*_: Any) -> tuple[int, Any] | None:
        # It answers while the speed is measured beforehand.
        calls.append(1)
        return (200, GOOD) if not list(tmp_path.glob("mlperf_log_detail.txt")) else None

    with stub(answer) as service, pytest.raises(ResnetInferError, match="stopped answering"):
        run_scenario(Scenario(scenario, url=service.url, seconds=600, output=tmp_path))
    assert len(calls) > 100


def test_nothing_runs_without_a_service(tmp_path: Path) -> None:
    for asked in (Scenario("closed-loop", url=NOWHERE), Scenario("single-stream", url=NOWHERE, output=tmp_path)):
        with pytest.raises(ServiceError, match="no service answers"):
            run_scenario(asked)


WAITING = """
import sys
from pathlib import Path
from resnet_infer.benchmarking.scenarios import Scenario, run_scenario
run_scenario(Scenario("single-stream", seconds=300, output=Path(sys.argv[1])))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process(number: int, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITING, str(tmp_path)], stderr=subprocess.DEVNULL)
    while not (tmp_path / "mlperf_log_detail.txt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    (child,) = children(process.pid)
    process.send_signal(number)
    assert process.wait(60) != 0
    until = time.monotonic() + 60
    while runs(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(child)


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"name": "of-line"}, "did you mean"),
        ({"name": "open-loop"}, "an open loop has a rate"),
        ({"name": "sweep", "rates": (1.0,)}, "no rate of its own"),
        ({"name": "closed-loop", "accuracy": True}, "LoadGen's"),
        ({"name": "closed-loop", "clients": 0}, "at least one client"),
        ({"name": "open-loop", "rates": (0.0,)}, "the rate is a number above 0, not 0"),
        ({"name": "open-loop", "rates": (math.inf,)}, "the rate is a number above 0, not inf"),
        ({"name": "open-loop", "rates": (1.0,), "clients": 4}, "open-loop has no clients"),
        ({"name": "sweep", "output": Path("logs")}, "sweep writes no logs"),
        ({"name": "offline", "accuracy": True, "seconds": 3.0}, "accuracy is of every picture once"),
        ({"name": "open-loop", "rates": (1.0,), "bound_ms": 0.0}, "bound"),
        ({"name": "offline", "seconds": -1.0}, "the length of a run is a number above 0, not -1"),
        ({"name": "offline", "seconds": math.nan}, "not nan"),
        ({"name": "offline", "bound_ms": 5.0}, "only the server"),
        ({"name": "offline", "official": True, "seconds": 5.0}, "its own length"),
        ({"name": "offline", "accuracy": True}, "labelled"),
    ],
)
def test_what_makes_no_sense(asked: dict[str, Any], says: str, tmp_path: Path) -> None:
    logs = {"output": tmp_path} if asked["name"] == "offline" else {}
    with pytest.raises(UsageError, match=says):
        run_scenario(Scenario(**{**logs, **asked}))


def test_errors_of_loadgens_process_are_raised_here(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        run_scenario(Scenario("offline", model=str(tmp_path / "missing.onnx")))


def test_every_scenario_has_its_line() -> None:
    assert list(SCENARIOS)[:4] == ["single-stream", "multi-stream", "server", "offline"]
    assert all(SCENARIOS.values())
