"""MLPerf LoadGen itself drives a system, with its own settings, logs and verdict."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

pytest.importorskip("mlperf_loadgen", reason="needs the extra `benchmark`")
pytest.importorskip("onnxruntime", reason="the built-in model needs onnxruntime")

from resnet_infer.benchmarking.load.loadgen import Plan, module, read_answers, read_log
from resnet_infer.benchmarking.load.scenario import Scenario
from resnet_infer.benchmarking.scenarios import run_scenario
from resnet_infer.errors import MissingExtraError, ResnetInferError
from resnet_infer.zoo import SMALL
from tests.benchmarking.driven import (
    alone,
    made_settings,
    settings_twice,
    with_a_broken_library,
    with_halves,
    with_numbers,
    with_the_model,
)

SEEDS = {
    "qsl_rng_seed": 2085463073848966840,
    "sample_index_rng_seed": 2747215439041700203,
    "schedule_rng_seed": 16159082839903944936,
}
"""Of MLPerf Inference v6.1, which LoadGen 6.0.17 has."""


@lru_cache
def official(scenario: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return alone(made_settings, Plan(scenario, official=True, rate=77.0), Path(folder), 50_000)


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("single-stream", {"single_stream_target_latency_percentile": 0.9, "min_query_count": 100}),
        (
            "multi-stream",
            {
                "multi_stream_samples_per_query": 8,
                "multi_stream_target_latency_percentile": 0.99,
                "min_query_count": 662,
            },
        ),
        ("server", {"server_target_latency_ns": 15_000_000, "server_target_latency_percentile": 0.99}),
        ("offline", {"min_query_count": 24_576, "offline_expected_qps": 77.0}),
    ],
)
def test_the_official_settings_of_resnet50(scenario: str, expected: dict[str, Any]) -> None:
    made = official(scenario)
    always = {"min_duration_ms": 600_000, "performance_sample_count_override": 1024, "mode": "TestMode.PerformanceOnly"}
    seeds = SEEDS if version("mlcommons-loadgen") == "6.0.17" else {}
    assert {name: made[name] for name in (*expected, *always, *seeds)} == {**expected, **always, **seeds}
    if scenario == "server":
        assert made["server_target_qps"] == 77.0


def test_shortened_settings_keep_all_but_the_length(tmp_path: Path) -> None:
    short = alone(made_settings, Plan("server", rate=77.0, seconds=3, bound_ms=40), tmp_path, 50)
    before = official("server")
    assert {name: short[name] for name in short if short[name] != before[name]} == {
        "min_duration_ms": 3000,
        "min_query_count": 662,
        "server_target_latency_ns": 40_000_000,
        "performance_sample_count_override": 50,
    }


def test_settings_that_loadgen_did_not_read_are_an_error(tmp_path: Path) -> None:
    """As it reads them once in a process, a second run there would go without the seeds and the official length."""
    with pytest.raises(ResnetInferError, match="did not read its own settings"):
        alone(settings_twice, tmp_path)


def test_a_run_is_valid(tmp_path: Path) -> None:
    log, failures, loaded = alone(with_the_model, Plan("single-stream", seconds=0.3, latency=0.001), tmp_path)
    assert log.valid is True
    assert (log.reasons, failures, loaded) == ((), {}, 0)
    assert log.entries["result_query_count"] >= 64
    assert log.entries["effective_min_duration_ms"] == 300
    assert 0 < (log.latency_ms("50.00") or 0) <= (log.latency_ms("99.00") or 0)
    assert "Result is : VALID" in (tmp_path / "mlperf_log_summary.txt").read_text()


def summary(folder: Path) -> dict[str, str]:
    """Every `name : value` of the summary that LoadGen writes for people, and its count of queries."""
    text = (folder / "mlperf_log_summary.txt").read_text()
    found = dict(re.findall(r"^[ *]*(.+?) *: *(\S.*?) *$", text, re.MULTILINE))
    counted = re.search(r"Processed (?:at least \d+ queries \((\d+)\)|(\d+) queries)", text)
    return {**found, "queries": (counted[1] or counted[2]) if counted else ""}


PERCENTILES = {"p50": "50.00", "p90": "90.00", "p95": "95.00", "p99": "99.00", "p99_9": "99.90"}
SUMMARY = {
    **{f"{name}_ms": f"{text} percentile latency (ns)" for name, text in PERCENTILES.items()},
    "early_stopping_p90_ms": "Early stopping 90.0th percentile estimate",
    "early_stopping_p99_ms": "Early stopping 99.0th percentile estimate",
    "queries_per_second": "QPS w/ loadgen overhead",
    "completed_per_second": "Completed samples per second",
    "scheduled_per_second": "Scheduled samples per second",
    "samples_per_second": "Samples per second",
    "samples": "samples_per_query",
    "target_rate": "target_qps",
    "queries": "queries",
}
"""What each figure is called in LoadGen's summary."""
ELSEWHERE = {"late_queries", "expected_ms", "expected_rate"}
"""Figures that it has not: the first is in its detailed log alone, the others are measured before it runs."""


@pytest.mark.parametrize(
    ("scenario", "first", "options"),
    [
        ("single-stream", "early_stopping_p90_ms", {}),
        ("multi-stream", "early_stopping_p99_ms", {}),
        ("server", "completed_per_second", {"rates": (400.0,), "bound_ms": 3.0}),
        ("offline", "samples_per_second", {}),
    ],
)
def test_every_figure_is_that_of_loadgens_summary(
    scenario: str, first: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """What is printed and what is in the JSON; the first figure is the one that MLPerf publishes."""
    outcome = run_scenario(Scenario(scenario, model=SMALL, runtime="null", seconds=0.3, output=tmp_path, **options))
    says = summary(tmp_path)
    assert next(iter(outcome.figures)) == first
    printed = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in outcome.table().splitlines()}
    for name, value in outcome.figures.items():
        if name in ELSEWHERE:
            continue
        if name == "queries" and not says["queries"]:
            continue  # of a server that was good enough it gives no count
        expected = float(says[SUMMARY[name]]) / (1e6 if name.endswith("_ms") else 1)
        assert value == pytest.approx(expected, abs=0.005 if "_per_second" in name else 1e-9), name
        shown = float(printed[name.replace("p99_9", "p99.9").replace("_", " ")].replace(",", ""))
        assert shown == pytest.approx(value, abs=0.005), name
    assert ("VALID" if outcome.valid else "INVALID") == says["Result is"]
    percentiles = {name for name in outcome.figures if name in {f"{part}_ms" for part in PERCENTILES}}
    queries = outcome.figures.get("queries", 0)
    assert ("p99_9_ms" in percentiles) == (queries >= 1000)
    assert ("p99_ms" in percentiles) == (queries >= 100)
    for name in ("min_query_count", "qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed", "samples_per_query"):
        assert outcome.settings[name] == int(says[name]), name
    if scenario == "server":
        log = read_log(tmp_path)
        assert outcome.figures["late_queries"] == log.entries["result_overlatency_query_count"]


def test_a_query_of_several_pictures_is_late_with_its_last(tmp_path: Path) -> None:
    """Five of the eight pictures are answered at once, the others after 5 ms: no query is done before that."""
    log, _, _ = alone(with_halves, Plan("multi-stream", seconds=0.1, latency=0.005), tmp_path, 64)
    assert (log.latency_ms("50.00") or 0) >= 5
    assert log.entries["result_50.00_percentile_latency_ns"] < 5e6


def test_a_bound_that_cannot_be_met_is_invalid_with_the_reason(tmp_path: Path) -> None:
    log, _, _ = alone(with_the_model, Plan("server", seconds=0.5, rate=700, bound_ms=0.001), tmp_path)
    assert log.valid is False
    assert "the latency is not within its bound" in log.reasons
    assert any("Reduce target QPS" in reason for reason in log.reasons)
    assert "Result is : INVALID" in (tmp_path / "mlperf_log_summary.txt").read_text()


def test_an_offline_run_that_was_told_too_little_is_invalid(tmp_path: Path) -> None:
    log, _, _ = alone(with_numbers, Plan("offline", seconds=20, rate=1), tmp_path, 5)
    assert log.valid is False
    assert "it ended before the shortest duration" in log.reasons
    assert log.entries["generated_samples_per_query"] == 22


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_the_accuracy_log_has_every_answer_under_its_number(scenario: str, tmp_path: Path) -> None:
    log, failures, most = alone(with_numbers, Plan(scenario, accuracy=True, rate=1000), tmp_path, 37)
    assert read_answers(tmp_path) == {number: number for number in range(37)}
    assert (log.valid, log.reasons, failures) == (None, (), {})
    assert most <= 4


def test_failures_are_counted_though_loadgen_knows_none(tmp_path: Path) -> None:
    log, failures, _ = alone(with_numbers, Plan("offline", seconds=0.05, rate=300), tmp_path, 10, 503)
    assert failures == {"503: full": log.entries["generated_samples_per_query"]}


def test_a_picture_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResnetInferError, match="the disk is gone"):
        alone(with_a_broken_library, tmp_path)


def test_a_log_without_an_end_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "mlperf_log_detail.txt"
    path.write_text(':::MLLOG {"key": "result_validity", "value": "VALID", "metadata": {}}\n')
    with pytest.raises(ResnetInferError, match="did not finish"):
        read_log(tmp_path)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingExtraError) as raised:
        module()
    assert raised.value.hint == 'install it with: pip install "resnet-infer[benchmark]"'
