"""A scenario's part of the page: what was asked of what, its verdict, its rates, and where it failed."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_infer.benchmarking.load.loops import Load
from resnet_infer.benchmarking.load.rate_sweep import judge
from resnet_infer.benchmarking.load.scenario import Outcome
from resnet_infer.benchmarking.report.page import page
from tests.evaluation.test_report import Page, drawings

SYSTEM = {
    "name": "resnet20 fp32, http://127.0.0.1:1, openvino on cpu",
    "url": "http://127.0.0.1:1",
    "model": "resnet20",
    "precision": "fp32",
    "crops": 1,
    "runtime": {"runtime": "openvino", "device": "cpu", "version": "1.2"},
}
DATA = {"name": "64 synthetic JPEGs of 64x48", "pictures": 64}


def trial(rate: float, ms: float, failed: int = 0) -> dict[str, Any]:
    load = Load(seconds=1.0, offered=100)
    for number in range(100):
        load.add(503 if number < failed else 200, ms / 1000, "full")
    return judge(rate, load, 0.015).to_json()


def run(*rates: dict[str, Any], **figures: Any) -> dict[str, Any]:
    return Outcome("open-loop", SYSTEM, DATA, {"seconds": 2.0, **figures}, rates=rates).to_json()


def loadgen(scenario: str = "server", figures: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    outcome = Outcome(
        scenario,
        SYSTEM,
        DATA,
        figures or {"p99_ms": 12.5, "p99_9_ms": 14.5, "target_rate": 300.0},
        **{
            "valid": True,
            "official": False,
            "notes": ("shortened: not an official result",),
            "settings": {"loadgen": "6.0.17 @ abc", "min_duration_ms": 2000},
            "logs": "/logs/one",
            **more,
        },
    )
    return outcome.to_json()


def test_rates_at_which_queries_failed_have_a_cross_and_a_row() -> None:
    text = page([run(trial(20, 5), trial(60, 4), trial(3000, 9, failed=70), trial(5000, 9, failed=90), bound_ms=15)])
    Page(text)
    (drawing,) = drawings(text)
    titles = [item.findtext("title") for item in drawing.iter("g")]
    assert titles == ["5,000 queries a second: failed", "3,000 queries a second: failed"]
    texts = [item.text for item in drawing.iter("text")]
    assert "failed" in texts
    assert "bound 15 ms" in texts
    right = max(float(item.get("cx", 0)) for item in drawing.iter("circle"))
    for cross in (item for item in drawing.iter("path") if item.get("class") == "cross"):
        assert float(str(cross.get("d"))[1:].split()[0]) > right
    assert "Queries failed (a cross) at 3,000, 5,000 a second." in text
    table = text.partition("<tr><th class=n>queries/s</th>")[2].partition("</table>")[0]
    assert table.count("<tr>") == 4
    for cell in ("3,000", "30.0", "100", "30", "70", "5.00", "no"):
        assert f">{cell}</td>" in table


def test_percentiles_of_few_queries_are_neither_drawn_nor_listed() -> None:
    """Nor those of results that were written with them."""
    few = {"rate": 20.0, "queries": 10, "errors": 0, "p50_ms": 4.0, "p90_ms": 5.0, "p99_ms": 77.0, "p99_9_ms": 77.0}
    text = page([run(few, {**few, "rate": 40.0})])
    assert "77" not in text
    (drawing,) = drawings(text)
    titles = [str(item.findtext("title")) for item in drawing.iter("circle")]
    assert [title.split(":")[0] for title in titles] == ["p50", "p50", "p90", "p90"]
    assert not [item for item in drawing.iter("path") if item.get("class") == "cross"]
    assert "14.5" not in page([loadgen(figures={"queries": 662, "p99_ms": 12.5, "p99_9_ms": 14.5})])


def test_a_system_that_failed_at_every_rate_has_a_picture_too() -> None:
    (drawing,) = drawings(page([run(trial(60, 5, failed=100))]))
    assert len([item for item in drawing.iter("path") if item.get("class") == "cross"]) == 1
    assert not list(drawing.iter("polyline"))


def test_a_rate_that_failed_once_of_three_times_is_marked_and_drawn() -> None:
    (drawing,) = drawings(page([run(trial(50, 3), trial(60, 5, failed=100), trial(60, 5), trial(60, 7))]))
    titles = [item.findtext("title") for item in drawing.iter("circle")]
    assert titles == [f"{name}: {rate}, {ms}" for name in ("p50", "p90", "p99") for rate, ms in ((50, 3), (60, 7))]
    assert [item.findtext("title") for item in drawing.iter("g")] == ["60 queries a second: failed"]


def test_a_run_without_failures_has_no_cross() -> None:
    text = page([run(trial(20, 5), trial(60, 4))])
    assert "failed" not in "".join(drawings(text)[0].itertext())
    assert "a cross" not in text


def test_refusals_and_what_was_offered_are_in_the_table_where_they_are_known() -> None:
    text = page([run({**trial(60, 5, failed=2), "offered": 58.5, "statuses": {"answered": 98, "refused": 2}})])
    assert "<th class=n>offered</th>" in text
    assert "<th class=n>refused</th>" in text
    older = trial(60, 5)
    del older["refused"]
    assert "refused" not in page([run(older)])


def test_a_scenario_says_what_was_measured() -> None:
    text = page([loadgen()])
    for part in (
        "<h2>server, 300 queries a second: resnet20 fp32, http://127.0.0.1:1, openvino on cpu</h2>",
        "<td>http://127.0.0.1:1</td>",
        "runtime openvino, device cpu, version 1.2",
        "<td>64 synthetic JPEGs of 64x48</td>",
        "<td>p99.9, ms</td><td>14.5</td>",
        "<td>6.0.17 @ abc</td>",
        "<td>not official</td>",
        "<td>min duration ms</td><td>2,000</td>",
        "<td>/logs/one</td>",
        "shortened: not an official result",
    ):
        assert part in text
    assert "<td>seconds</td><td>2</td>" in page([run()])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"valid": True}, "LoadGen: <b>VALID</b>"),
        ({"valid": False, "reasons": ("the run was too short",)}, "LoadGen: <b>INVALID</b>"),
        ({"valid": False, "official": None, "reasons": ("the run was too short",)}, "Result: <b>failed</b>"),
    ],
)
def test_the_verdict_is_loadgen_s_with_its_reason(more: dict[str, Any], said: str) -> None:
    text = page([loadgen(**more)])
    assert said in text
    assert ("the run was too short" in text) == ("reasons" in more)


def test_two_runs_of_loadgen_are_told_apart() -> None:
    text = page([loadgen(), loadgen(logs="/logs/two", valid=False)])
    first, second = text.partition("Run 1: server")[2].split("Run 2: server")
    assert "/logs/one" in first
    assert "/logs/two" in second
    assert "<b>VALID" in first
    assert "<b>INVALID" in second


def test_an_accuracy_run_says_so() -> None:
    found = loadgen("offline", accuracy=True) | {
        "figures": {"right": 9, "top1_error": 10.0, "top1_error_95": "2 to 40"}
    }
    text = page([found])
    assert "<h2>offline, accuracy: " in text
    assert "<td>top-1 error, %</td><td>10</td>" in text
    assert "<td>its 95% interval</td><td>2 to 40</td>" in text


@pytest.mark.parametrize("absent", [None, {}, []])
def test_what_a_document_lacks_is_left_out(absent: Any) -> None:
    fields = ("system", "data", "figures", "reasons", "notes", "rates", "settings", "logs", "warnings", "environment")
    Page(page([{"scenario": "offline", **dict.fromkeys(fields, absent)}]))
    Page(page([{"scenario": "sweep", "rates": [{"rate": 5.0}, {}]}, {"scenario": "offline"}]))
