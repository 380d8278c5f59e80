"""Several runs on one page: what is alike in name stays apart, and each run has its own tables and environment."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from resnet_infer.benchmarking.report.page import page
from tests.benchmarking.report.test_page import results, row
from tests.evaluation.test_report import Page, drawings


def drawing(text: str, title: str) -> ElementTree.Element:
    (found,) = (item for item in drawings(text) if item.get("aria-label") == title)
    return found


def lines(text: str) -> list[str]:
    """The names of the lines in the picture of throughput."""
    return [item.findtext("title") or "" for item in drawing(text, "Throughput by batch size").iter("polyline")]


def pair(model: str = "model.onnx", **more: Any) -> list[dict[str, Any]]:
    return [row(model, 5, **more), row(model, 9, 2, **more)]


def errors(*models: str) -> dict[str, Any]:
    return {
        "results": [
            {
                "model": model,
                "runtime": {"runtime": "onnxruntime", "device": "cpu"},
                "precision": "fp32",
                "top1": {"error": 20.0 + place, "interval": [19, 30]},
            }
            for place, model in enumerate(models)
        ]
    }


OPENVINO = {"opened": {"runtime": "openvino", "device": "cpu"}}


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({}, OPENVINO, ["onnxruntime", "openvino"]),
        ({"threads": 1}, {"threads": 2}, ["1 thread", "2 threads"]),
        ({"threads": 2}, {"threads": 2}, ["run 1", "run 2"]),
        (
            {"opened": {"runtime": "tensorrt", "device": "cuda:0"}},
            {"opened": {"runtime": "tensorrt", "device": "cuda:1"}},
            ["cuda:0", "cuda:1"],
        ),
    ],
)
def test_a_legend_has_what_differs_and_no_more(one: dict[str, Any], other: dict[str, Any], said: list[str]) -> None:
    text = page([results(*pair(**one), *pair("b.onnx")), results(*pair(**other))])
    assert lines(text) == [f"model.onnx, {said[0]}", "b.onnx", f"model.onnx, {said[1]}"]
    assert f"</i>model.onnx, {said[1]}</span>" in text


def test_artifacts_of_one_name_in_one_run_are_two_lines() -> None:
    text = page([results(*pair(artifact="/old/model.onnx"), *pair(artifact="/new/model.onnx"))])
    assert lines(text) == ["model.onnx, /old/model.onnx", "model.onnx, /new/model.onnx"]


def test_errors_are_found_by_path_too() -> None:
    text = page(
        [
            results(*pair("old/model.onnx", artifact="/a/old/model.onnx")),
            results(*pair("model.onnx", artifact="/a/new/model.onnx"), *pair("openvino:model.onnx", **OPENVINO)),
        ],
        errors("old/model.onnx", "new/model.onnx"),
    )
    titles = [item.text or "" for item in drawing(text, "Error by latency").iter("title")]
    assert [title.partition(" (")[0] for title in titles] == [
        "old/model.onnx, by onnxruntime in fp32: 5 ms, 20.00%",
        "model.onnx, by onnxruntime in fp32: 5 ms, 21.00%",
    ]
    assert "Without an error: openvino:model.onnx." in text


@pytest.mark.parametrize("names", [("old/model.onnx", "new/model.onnx"), ("model.onnx", "model.onnx")])
def test_an_error_that_may_be_of_several_models_is_left_out(names: tuple[str, str]) -> None:
    rows = [
        *pair(names[0], artifact="/a/old/model.onnx"),
        *pair(names[1], artifact="/a/new/model.onnx"),
        *pair("b.onnx", artifact="/a/b.onnx"),
    ]
    text = page([results(*rows)], errors("model.onnx", "b.onnx"))
    (title,) = (item.text or "" for item in drawing(text, "Error by latency").iter("title"))
    assert title.startswith("b.onnx, by onnxruntime in fp32: 5 ms, 21.00%")
    assert "Left out, as the names in the evaluation fit several models:" in text


def test_a_model_that_was_made_ready_on_two_machines_has_one_error() -> None:
    """Its artifact lies anywhere; its file's name says what it is."""
    rows = [pair("resnet50", artifact=f"/{machine}/resnet50-0123.onnx") for machine in ("a", "b")]
    text = page([results(*rows[0]), results(*rows[1])], errors("resnet50"))
    assert len(list(drawing(text, "Error by latency").iter("circle"))) == 2


def test_labels_of_dots_lie_beside_each_other() -> None:
    models = [f"model-{number}.onnx" for number in range(6)]
    found = [results(*(row(model, 5 + number / 100) for number, model in enumerate(models)))]
    texts = [
        item
        for item in drawing(page(found, errors(*models)), "Error by latency").iter("text")
        if (item.text or "").startswith("model-")
    ]
    places = [(float(item.get("x", 0)), float(item.get("y", 0))) for item in texts]
    assert len(texts) == 6
    for number, (x, y) in enumerate(places):
        assert 0 < x < 470 - 80
        assert all(abs(x - left) > 70 or abs(y - line) > 11 for left, line in places[:number])


def test_every_run_has_its_own_tables_and_settings() -> None:
    one, other = results(*pair("a.onnx")), results(*pair("b.onnx"))
    other["settings"] |= {"rounds": 77, "pictures": {"source": "photos/", "count": 32, "mean_kb": 110.0}}
    text = page([one, other])
    Page(text)
    first, second = text.partition("Run 1:")[2].split("Run 2:")
    for part, model, rounds, pictures in ((first, "a.onnx", 6, "synthetic"), (second, "b.onnx", 77, "photos/")):
        assert part.count("Inference, ms a call") == 1
        assert f"<td>{model}</td>" in part
        assert f"Calls of {rounds} rounds" in part
        assert pictures in part
        assert "first row of this run" in part
    assert "<td>a.onnx</td>" not in second
    assert "Run 1" not in page([one])


def test_equal_environments_are_shown_once_and_others_each() -> None:
    one, other, third = (results(*pair()) for _ in range(3))
    one["environment"] |= {"date": "2026-01-01T10:00:00Z", "load_average": [0.1, 0.2, 0.3]}
    other["environment"] |= {"date": "2026-02-02T10:00:00Z", "load_average": [0.4, 0.5, 0.6]}
    text = page([one, other])
    assert text.count("<h2>Environment") == 1
    assert "run 1: 2026-01-01T10:00:00Z; run 2: 2026-02-02T10:00:00Z" in text
    third["environment"] = {"processor": "6502"}
    text = page([one, third, other])
    assert text.count("<h2>Environment of runs 1, 3</h2>") == text.count("<h2>Environment of run 2</h2>") == 1
    assert "6502" in text.partition("Run 2:")[2].partition("Run 3:")[0]
    assert "6502" not in text.partition("Run 2:")[0]


def test_warnings_are_shown_once() -> None:
    loud = "the machine is not quiet"
    scenario = {"scenario": "offline", "figures": {}, "warnings": [loud, "<b>other</b>"]}
    text = page([results(*pair()) | {"warnings": [loud]}, scenario])
    box = text.partition('<div class="box">')[2].partition("</div>")[0]
    assert box.split("<br>") == [f"runs 1, 2: {loud}", "run 2: &lt;b&gt;other&lt;/b&gt;"]
    assert text.count(loud) == 1
    assert page([scenario]).count(loud) == 1


def test_drawings_keep_their_size_on_a_narrow_screen() -> None:
    """In a part that scrolls, so that neither the text shrinks nor the page scrolls sideways."""
    text = page([results(*pair())])
    assert text.count("<svg") == text.count('<div class="scroll"><svg')
    assert ".scroll svg { max-width: none }" in text
