"""The page of a benchmark: whole, self-contained, escaped, and with the drawings that its results allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.benchmarking.report.figures import (
    ErrorAtLatency,
    Series,
    distribution,
    frontier,
    load,
    pareto,
    throughput,
)
from resnet_infer.benchmarking.report.page import page, write_report
from tests.evaluation.test_report import Page, drawings

TIMES = st.floats(1e-3, 1e5)


def summary(ms: float, batch: int = 1) -> dict[str, Any]:
    return {
        "calls": 200,
        "ms": {"p50": ms, "p90": 1.1 * ms, "p99": None, "mean": ms, "min": ms, "max": 9 * ms},
        "spread": 0.01,
        "pictures_per_second": 1000 * batch / ms,
        "rounds_ms": [ms] * 6,
        "quantiles_ms": [ms * (1 + number / 100) for number in range(101)],
    }


def row(model: str, ms: float, batch: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "threads": None,
        "batch": batch,
        "precision": "fp32",
        "opened": {"runtime": "onnxruntime", "device": "cpu"},
        "failure": None,
        "start_ms": {"open": [10.0], "answer": [20.0], "first_answer": [300.0]},
        "warm_up": {"seconds": 0.3, "calls": 9, "stable": True},
        "memory_mb": {"host_before": 50.0, "host_peak": 90.0, "host": 40.0, "device": None},
        "stages": {
            "prepare": summary(2),
            "inference": summary(ms, batch),
            "end_to_end": summary(ms + 2 * batch, batch),
        },
        "ratios": {"inference": {"value": 0.5, "interval": [0.4, 0.6], "pairs": 6}},
        **more,
    }


def results(*rows: dict[str, Any]) -> dict[str, Any]:
    settings = {"rounds": 6, "seconds": 0.2, "pictures": {"source": "synthetic", "count": 8, "mean_kb": 100.0}}
    return {
        "settings": settings,
        "results": list(rows),
        "environment": {"processor": "Z80", "cores": 1},
        "warnings": [],
    }


SWEEP = {
    "scenario": "sweep",
    "valid": True,
    "figures": {"bound_ms": 15.0},
    "rates": [
        {"rate": rate, "achieved": rate, "p50_ms": 2.0, "p90_ms": 4.0, "p99_ms": 1.1 ** (rate / 10)}
        for rate in (200, 50, 100)
    ],
}
ORT = {"runtime": {"runtime": "onnxruntime", "device": "cpu", "precision": "fp32"}, "precision": "fp32"}
ERRORS = {
    "data": {"name": "val"},
    "results": [
        {"model": "a.onnx", "protocol": "1-crop", **ORT, "top1": {"error": 24.0, "interval": [23, 25]}},
        {"model": "a.onnx", "protocol": "10-crop", **ORT, "top1": {"error": 22.0, "interval": [21, 23]}},
        {"model": "b.onnx", "protocol": "1-crop", **ORT, "top1": {"error": 30.0, "interval": [29, 31]}},
    ],
}


def test_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_report([results(row("a.onnx", 5), row("a.onnx", 30, 8), row("b.onnx", 9)), SWEEP], path, ERRORS)
    text = path.read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.addresses == []
    assert "script" not in parsed.seen
    assert "default-src 'none'" in text
    assert "url(" not in text
    titles = [drawing.get("aria-label") for drawing in drawings(text)]
    assert titles == [
        "Distribution of the latency",
        "Distribution of the latency",
        "Throughput by batch size",
        "Latency by rate",
        "Error by latency",
    ]
    for part in ("Z80", "0.400-0.600", "Start and memory", "bound 15 ms"):
        assert part in text


def test_what_was_not_measured_is_not_drawn() -> None:
    null = row("null:a.onnx", 0.001, opened={"runtime": "null", "device": "cpu"})
    text = page([results(row("a.onnx", 5), null)])
    assert [drawing.get("aria-label") for drawing in drawings(text)] == ["Distribution of the latency"]
    assert "null:a.onnx" in text.partition("<table>")[2]
    assert "null:a.onnx" not in text.partition("<table>")[0]
    assert "of the device" not in text
    Page(page([SWEEP]))
    Page(page([{"scenario": "offline", "valid": False, "reasons": ["too short"], "figures": {"rate": None}}]))


def test_what_it_is_told_is_escaped() -> None:
    evil = "<script>alert('&')</script>"
    failed = row(evil, 5, failure=evil, stages={}, ratios={})
    text = page([results(row(evil, 5), failed) | {"warnings": [evil]}])
    Page(text)
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") >= 4


def test_errors_are_found_by_name_and_the_first_protocol_counts() -> None:
    found = page([results(row("a.onnx", 5), row("b.onnx", 2), row("c.onnx", 9), row("a.onnx", 40, 8))], ERRORS)
    (drawing,) = (item for item in drawings(found) if item.get("aria-label") == "Error by latency")
    titles = [item.text or "" for item in drawing.iter("title")]
    assert titles == [
        "a.onnx, by onnxruntime in fp32: 5 ms, 24.00% (23.00 to 25.00)",
        "b.onnx, by onnxruntime in fp32: 2 ms, 30.00% (29.00 to 31.00)",
    ]
    assert "Without an error: c.onnx." in found


@pytest.mark.parametrize("evaluated", ["onnxruntime", "openvino", "torch", None])
@pytest.mark.parametrize("ran", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precisions", [("fp32", "fp32"), ("int8", "fp32"), ("fp32", "fp16"), ("int8", None)])
def test_an_error_of_another_runtime_or_precision_is_never_taken(
    evaluated: str | None, ran: str, precisions: tuple[str, str | None]
) -> None:
    latency, error = precisions
    result: dict[str, Any] = {"model": "a.onnx", "protocol": "1-crop", "top1": {"error": 24.0, "interval": [23, 25]}}
    if evaluated:
        result |= {"runtime": {"runtime": evaluated, "device": "cpu"}, "precision": error}
    text = page([results(row("a.onnx", 5, opened={"runtime": ran}, precision=latency))], {"results": [result]})
    taken = any(item.get("aria-label") == "Error by latency" for item in drawings(text))
    assert taken == ((evaluated, error) == (ran, latency))
    if not taken:
        assert f"a.onnx (runs by {ran} in {latency}, evaluated by {evaluated or 'an unknown runtime'} in " in text


def test_a_distribution_ends_where_calls_are_too_few_to_tell() -> None:
    """Of ten calls none lies beyond their 99th percentile, and it is their slowest."""
    few = row("few.onnx", 5)
    few["stages"]["inference"]["calls"] = 10
    text = page([results(row("many.onnx", 5), few)])
    (drawing,) = (item for item in drawings(text) if item.get("aria-label") == "Distribution of the latency")
    many, short = (str(item.get("points")).split() for item in drawing.iter("polyline"))
    assert (len(many), len(short)) == (99, 81)
    few["stages"]["inference"]["calls"] = 1
    assert "Too few calls for a distribution: few.onnx." in page([results(few)])


@given(st.lists(st.tuples(TIMES, st.floats(0, 100)), min_size=1, max_size=12))
def test_the_frontier_is_what_no_other_beats(pairs: list[tuple[float, float]]) -> None:
    dots = [ErrorAtLatency(str(number), ms, error, (error, error)) for number, (ms, error) in enumerate(pairs)]
    best = frontier(dots)
    for dot in dots:
        beaten = any(
            (other.ms, other.error) != (dot.ms, dot.error) and other.ms <= dot.ms and other.error <= dot.error
            for other in dots
        )
        assert beaten != any((item.ms, item.error) == (dot.ms, dot.error) for item in best)


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=6), st.integers(1, 20))
def test_drawings_keep_inside_their_frame(points: list[tuple[float, float]], count: int) -> None:
    series = [Series(f"series {number}", sorted(points)) for number in range(count)]
    shares = [Series(item.label, [(x, min(y, 100.0)) for x, y in item.points]) for item in series]
    dots = [ErrorAtLatency(str(number), ms, min(error, 100), (0, 100)) for number, (ms, error) in enumerate(points)]
    for text in (distribution(shares), throughput(series), load(series, 10.0), pareto(dots)):
        drawn = ElementTree.fromstring(text)
        _, _, width, height = map(float, str(drawn.get("viewBox")).split())
        for line in drawn.iter("polyline"):
            for pair in str(line.get("points")).split():
                x, y = map(float, pair.split(","))
                assert -0.1 <= x <= width + 0.1
                assert -0.1 <= y <= height + 0.1
