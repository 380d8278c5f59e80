"""The model that answers where none is named, by every command that takes one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer import zoo
from tests.conftest import DEMO, Outcome

Cli = Callable[..., Outcome]
CAT = DEMO / "cat.jpg"
WORDS = f"{zoo.DEFAULT}, which is built in, knows 200 of ImageNet's 1,000 classes. For all of them: "
FIRST = 'pip install "resnet-infer[export]", then '
"""Where that is not installed."""


@pytest.fixture
def unnamed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line where nothing names a model."""
    monkeypatch.delenv(zoo.VARIABLE)
    return cli


def introductions(done: Outcome) -> list[str]:
    assert done.code == 0, done.err
    return [line.removeprefix(WORDS).removeprefix(FIRST) for line in done.err.splitlines() if "built in" in line]


def test_classify(unnamed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    done = unnamed("classify", CAT)
    assert introductions(done) == ["-m resnet50 (downloads 102 MB)."]
    assert done.err.count("\n") == 1
    assert unnamed("classify", CAT, "-m", zoo.DEFAULT) == Outcome(0, done.out, "")
    monkeypatch.setenv(zoo.VARIABLE, zoo.DEFAULT)
    assert unnamed("classify", CAT) == Outcome(0, done.out, "")


def test_where_published_weights_cannot_be_exported_the_extra_is_named(
    unnamed: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx", reason="the extra `export`, which is then hidden")
    assert FIRST not in unnamed("classify", CAT).err
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert WORDS + FIRST in unnamed("classify", CAT).err


def test_export(unnamed: Cli, tmp_path: Path) -> None:
    """Its checkpoint is exported, not its artifact, which is INT8 already."""
    pytest.importorskip("onnx", reason="the extra `export`")
    made = tmp_path / "made.onnx"
    assert introductions(unnamed("export", "-o", made)) == ["resnet-infer export resnet50 (downloads 102 MB)."]
    assert introductions(unnamed("export", zoo.DEFAULT, "-o", made)) == []
    told = json.loads(unnamed("inspect", made, "--json").out)["spec"]
    assert (told["name"], told["precision"]) == (zoo.DEFAULT, "fp32")


def test_evaluate(unnamed: Cli, tmp_path: Path) -> None:
    for label, name in (("tabby", "cat.jpg"), ("espresso", "coffee.jpg")):
        (tmp_path / label).mkdir()
        (tmp_path / label / name).write_bytes((DEMO / name).read_bytes())
    done = unnamed("evaluate", tmp_path, "--json")
    assert introductions(done) == ["resnet-infer evaluate resnet50 (downloads 102 MB)."]
    (result,) = json.loads(done.out)["results"]
    assert (result["model"], result["precision"], result["pictures"]) == (zoo.DEFAULT, "int8", 2)
    assert introductions(unnamed("evaluate", zoo.DEFAULT, tmp_path)) == []


def test_benchmark(unnamed: Cli) -> None:
    quick = ("--rounds", 1, "--seconds", 0.005, "--json")
    done = unnamed("benchmark", *quick)
    assert introductions(done) == ["resnet-infer benchmark resnet50 (downloads 102 MB)."]
    assert [row["model"] for row in json.loads(done.out)["results"]] == [zoo.DEFAULT]
