"""Models are told apart by as much of their paths as is needed, and none is evaluated twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resnet_infer import zoo
from resnet_infer.evaluation.targets.names import distinct_models, distinct_protocols, is_model, shown_names


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models of equal names, which is the current one."""
    for name in ("a/model.onnx", "b/model.onnx", "b/c/model.onnx", "x/c/model.onnx", "model.onnx", "other.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["a/model.onnx"], ["model.onnx"]),
        (["a/model.onnx", "other.onnx"], ["model.onnx", "other.onnx"]),
        (["a/model.onnx", "b/model.onnx", "other.onnx"], ["a/model.onnx", "b/model.onnx", "other.onnx"]),
        (["a/model.onnx", "b/c/model.onnx", "x/c/model.onnx"], ["a/model.onnx", "b/c/model.onnx", "x/c/model.onnx"]),
        (["model.onnx", "a/model.onnx"], ["model.onnx", "a/model.onnx"]),
        (["torch:a/model.onnx", "b/model.onnx"], ["torch:a/model.onnx", "b/model.onnx"]),
        (["torch:a/model.onnx", "a/model.onnx"], ["torch:model.onnx", "model.onnx"]),
        (["./a/model.onnx", "a/model.onnx"], ["model.onnx", "model.onnx"]),
        ([None, zoo.SMALL, "resnet50.v1"], [None, zoo.SMALL, "resnet50.v1"]),
    ],
)
def test_as_much_of_the_path_as_is_needed(place: Path, arguments: list[str | None], names: list[str | None]) -> None:
    assert shown_names(arguments) == names


def test_whole_paths_where_nothing_less_will_do(place: Path) -> None:
    (place / "c").mkdir()
    (place / "c" / "model.onnx").touch()
    os.chdir(place / "b")
    names = shown_names(["c/model.onnx", str(place / "c" / "model.onnx")])
    assert len(set(names)) == 2


def test_what_is_named_twice_is_taken_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = ["a/model.onnx", "./a/model.onnx", "b/model.onnx", "torch:b/model.onnx", str(place / "b" / "model.onnx")]
    kept, dropped = distinct_models(twice, "auto")
    assert kept == ["a/model.onnx", "b/model.onnx", "torch:b/model.onnx"]
    assert [sentence.split()[2] for sentence in dropped] == ["./a/model.onnx", str(place / "b" / "model.onnx")]
    assert distinct_models(["torch:other.onnx", "other.onnx"], "torch")[0] == ["torch:other.onnx"]
    assert distinct_models([None, zoo.SMALL], "auto")[0] == [None]
    monkeypatch.setenv(zoo.VARIABLE, "other.onnx")
    assert distinct_models([None, zoo.SMALL], "auto")[0] == [None, zoo.SMALL]
    assert distinct_protocols(["native", "10-crop", "native"])[0] == ["native", "10-crop"]
    assert distinct_protocols(["native", "10-crop"]) == (["native", "10-crop"], [])


def test_what_reads_like_a_model(place: Path) -> None:
    for argument in (zoo.SMALL, "resnet50", "ResNet-50", "torch:anything", "gone.onnx", "a/model.onnx", "w.pth"):
        assert is_model(argument), argument
    for argument in ("cifar10/test", "album", "list.csv", "set.tar.gz", "a"):
        assert not is_model(argument), argument
