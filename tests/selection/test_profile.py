"""The machine profile: what is remembered is used here alone, and nothing about its file makes a command fail."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from resnet_infer import zoo
from resnet_infer.selection import machine, profile
from resnet_infer.selection.machine import Model
from resnet_infer.selection.profile import STORE, Best, Timing, best_known, remember
from resnet_infer.selection.store import Store
from resnet_infer.utils import cpu

pytestmark = pytest.mark.usefixtures("notes_on_stderr")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own, and two runtimes that are installed."""
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(profile, "versions", lambda names: {name: f"{name} 1.0" for name in names})
    return tmp_path / "cache" / "machine" / "profile.json"


@pytest.fixture
def model() -> Model:
    return Model(zoo.built_in(zoo.DEFAULT, ".onnx"))


def timings(onnxruntime: float = 20.0, openvino: float = 10.0, threads: int | None = 1) -> list[Timing]:
    streams = 2 if threads else 1
    return [Timing("onnxruntime", threads, streams, onnxruntime), Timing("openvino", threads, streams, openvino)]


def known(model: Model, batch: int = 8, **options: Any) -> str | None:
    found = best_known(model, batch, **options)
    return found.timing.runtime if found else None


def test_what_was_measured_is_remembered(model: Model, here: Path) -> None:
    assert best_known(model, 8) is None
    assert remember(model, 8, timings(), source="a test")
    assert best_known(model, 8) == Best(Timing("openvino", 1, 2, 10.0), 8, 2.0, 0.5 * 0.02 / 8 / 2)
    document = json.loads(here.read_text())
    assert document["format"] == 1
    (entry,) = document["entries"]
    assert (entry["runtime"], entry["threads"], entry["streams"], entry["ms"]) == ("openvino", 1, 2, 10.0)
    assert entry["digest"] == model.digest


def test_a_later_measurement_replaces_an_earlier_one(model: Model) -> None:
    remember(model, 8, timings(), source="a test")
    remember(model, 8, timings(10.0, 20.0), source="a test")
    assert known(model) == "onnxruntime"
    assert len(STORE.entries()) == 1


def test_a_difference_within_the_noise_is_none(model: Model) -> None:
    remember(model, 8, timings(10.3, 10.0), source="a test")
    assert known(model) == "onnxruntime"


def rounds(*pairs: tuple[float, float]) -> list[Timing]:
    """The times of both runtimes in rounds."""
    return [
        Timing(name, 1, 2, 1.0, tuple(pair[place] for pair in pairs))
        for place, name in enumerate(("onnxruntime", "openvino"))
    ]


@pytest.mark.parametrize(
    ("pairs", "runtime"),
    [
        ([(20, 10), (40, 20), (10, 5), (8, 8)], "openvino"),
        ([(20, 10), (40, 20), (10, 11), (8, 9)], "onnxruntime"),  # by chance, in half of the rounds
        ([(10, 20), (20, 40)], "onnxruntime"),
    ],
)
def test_it_is_faster_in_most_rounds(model: Model, pairs: list[tuple[float, float]], runtime: str) -> None:
    remember(model, 8, rounds(*pairs), source="a test")
    assert known(model) == runtime


def test_the_closest_batch_counts(model: Model) -> None:
    remember(model, 1, timings(10.0, 20.0), source="a test")
    remember(model, 32, timings(), source="a test")
    assert [known(model, batch) for batch in (1, 4, 8, 16, 64)] == ["onnxruntime", "onnxruntime", *["openvino"] * 3]


def test_many_are_compared_side_by_side_and_one_on_all_cores(model: Model) -> None:
    remember(model, 8, [*timings(20.0, 10.0), *timings(5.0, 8.0, threads=None)], source="a test")
    assert known(model, use="many") == known(model, use="service") == "openvino"
    assert known(model, use="single") == "onnxruntime"


def test_one_runtime_alone_says_nothing(model: Model) -> None:
    remember(model, 8, timings()[1:], source="a test")
    assert known(model) is None


def test_another_artifact_of_the_same_kind_is_as_fast(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(model, 8, timings(), source="a test")
    other = Model(model.path)
    other.__dict__["digest"] = "0" * 64
    assert known(other) == "openvino"
    remember(other, 8, timings()[:1], source="a test")  # which alone says nothing
    assert known(other) == "openvino"
    remember(other, 32, timings(10.0, 20.0), source="a test")
    assert known(other) == "onnxruntime"
    other.__dict__["digest"] = "1" * 64
    monkeypatch.setattr(Model, "kind", {**model.kind, "crop": 64})
    assert known(other) is None
    small = Model(zoo.built_in(zoo.SMALL, ".onnx"))
    monkeypatch.undo()
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    assert known(small) is None


@pytest.mark.parametrize("change", ["processor", "flags", "cores", "versions", "missing", "compute"])
def test_an_entry_of_another_machine_is_not_used(model: Model, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    remember(model, 8, timings(), source="a test")
    assert known(model) == "openvino"
    if change == "processor":
        monkeypatch.setattr(cpu, "processor", lambda: "another")
    elif change == "flags":
        monkeypatch.setattr(cpu, "flags", lambda: frozenset({"avx2", "amx_int8"}))
    elif change == "cores":
        monkeypatch.setattr(cpu, "usable_cores", lambda: 99)
    elif change == "compute":
        assert known(model, compute="bf16") is None
        assert known(model, compute="fp32") == "openvino"
        return
    else:
        number = "2.0" if change == "versions" else ""
        monkeypatch.setattr(profile, "versions", lambda names: dict.fromkeys(names, number))
    assert known(model) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "null",
        lambda text: '{"format": 1}',
        lambda text: '{"format": "one", "entries": []}',
        lambda text: '{"format": 1, "entries": [1]}',
        lambda text: text.replace('"ms": 10.0', '"ms": null'),
        lambda text: text.replace('"ms": 10.0', '"ms": NaN'),
        lambda text: text.replace('"batch": 8', '"batch": 0'),
        lambda text: text.replace('"rounds": []', '"rounds": [0]'),
        lambda text: text.replace('"streams": 2', '"streams": "two"'),
        lambda text: text.replace('"digest"', '"digests"'),
        lambda text: "[" * 100_000,
    ],
)
def test_a_damaged_file_is_ignored_with_a_note_and_replaced(
    model: Model, here: Path, damage: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    remember(model, 8, timings(), source="a test")
    here.write_text(damage(here.read_text()))
    capsys.readouterr()
    assert known(model) is None
    assert capsys.readouterr().err == (
        f"{here} is damaged, so it is not used; it is replaced when something is measured again\n"
    )
    assert remember(model, 8, timings(), source="a test")
    assert known(model) == "openvino"


def test_a_newer_file_is_left_alone(model: Model, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remember(model, 8, timings(), source="a test")
    text = json.dumps({**json.loads(here.read_text()), "format": 99})
    here.write_text(text)
    assert known(model) is None
    assert "is of format 99 of the machine profile; this resnet-infer reads up to 1" in capsys.readouterr().err
    assert not remember(model, 8, timings(), source="a test")
    assert here.read_text() == text


def test_unknown_fields_stay(model: Model, here: Path) -> None:
    remember(model, 8, timings(), source="a test")
    document = json.loads(here.read_text())
    document["entries"][0]["colour"] = "red"
    here.write_text(json.dumps({**document, "format": 2, "reads_from": 1, "shape": "round"}))
    assert remember(model, 1, timings(), source="a test")
    found = json.loads(here.read_text())
    assert (found["format"], found["reads_from"], found["shape"]) == (2, 1, "round")
    assert [item.get("colour") for item in found["entries"]] == ["red", None]


def test_a_folder_in_the_place_of_the_file_is_no_failure(model: Model, here: Path) -> None:
    here.mkdir(parents=True)
    assert known(model) is None
    assert not remember(model, 8, timings(), source="a test")


def test_a_cache_that_cannot_be_written_is_no_failure(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "file"))
    assert known(model) is None
    assert not remember(model, 8, timings(), source="a test")


def test_a_user_without_a_home_folder_is_no_failure(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_INFER_CACHE", "~nobody-of-this-name/cache")
    assert known(model) is None
    assert not remember(model, 8, timings(), source="a test")


def test_writers_at_once_lose_nothing(model: Model) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda batch: remember(model, batch, timings(), source="a test"), range(1, 13)))
    assert sorted(entry["batch"] for entry in STORE.entries()) == list(range(1, 13))


def test_the_oldest_entries_are_dropped(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Store("small.json", profile.PROFILE, profile._check, most=3)
    for batch in range(1, 6):
        remember(model, batch, timings(), source="a test", store=small)
    assert [entry["batch"] for entry in small.entries()] == [3, 4, 5]


def test_few_images_are_not_worth_a_longer_start() -> None:
    best = Best(Timing("openvino", 1, 2, 10.0), 8, 2.0, saved=0.001)
    assert [best.worthwhile(images) for images in (2, 400, 501, None)] == [False, False, True, True]


def test_versions_are_those_of_the_runtimes_own_packages() -> None:
    pytest.importorskip("onnxruntime", reason="looks up its version (the extra `cpu`)")
    found = machine.versions(("onnxruntime",))
    assert found["onnxruntime"].startswith("onnxruntime")
    assert machine.versions(("null",)) == {"null": ""}


def test_the_cache_lists_and_clears_it(model: Model, here: Path, cli: Callable[..., Any]) -> None:
    remember(model, 8, timings(), source="a test")
    assert "machine  profile.json" in cli("cache").out
    assert "good" in cli("cache", "verify").out
    for text in ("{", "[" * 100_000):
        here.write_text(text)
        assert "damaged" in cli("cache", "verify").out
    cli("cache", "clear")
    assert os.listdir(here.parents[1]) == []
