"""What the public functions take: names, text, paths and checkpoints; and what they say to anything else."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import resnet_infer
from resnet_infer import UsageError, zoo
from resnet_infer.api import options
from resnet_infer.api.arguments import check_value, name_of, named
from resnet_infer.api.options import EvaluateOptions, ExportOptions, ScenarioOptions, TrainOptions
from resnet_infer.benchmarking.load.scenario import Scenario
from resnet_infer.converters.formats import known_options
from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.models.checkpoint import load_checkpoint
from resnet_infer.training.recipes import Recipe


class Place(os.PathLike[str]):
    """A path of another library."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __fspath__(self) -> str:
        return self.text


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (int, [1, np.int64(3)], [True, 1.5, "1", None]),
        (float, [1, 1.5, np.float32(1)], [True, "1"]),
        (bool, [True], [1, "yes"]),
        (str | None, ["a", None], [b"a", 1]),
        (Literal["a", 7], ["a", 7], ["b", True, None, []]),
        (Sequence[int], [[1, 2], (3,), []], ["12", [1, "2"], 1]),
        (tuple[int, int], [(1, 2), [1, 2]], [(1,), (1, "2"), "12"]),
        (str | os.PathLike[str], ["a", Path("a"), Place("a")], [b"a", 1]),
        (Callable[[str], None], [print], ["print"]),
    ],
)
def test_values_are_of_the_declared_type(kind: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_value("x", value, kind)
    for value in bad:
        with pytest.raises(UsageError, match=r"^x is .*, not "):
            check_value("x", value, kind)


def test_a_long_value_is_not_shown_whole() -> None:
    with pytest.raises(UsageError) as caught:
        check_value("x", b"a" * 10_000, int)
    assert len(caught.value.message) < 120


CALLS: dict[str, Callable[[], object]] = {
    "a model is a number": lambda: resnet_infer.evaluate([3], "x"),  # type: ignore[list-item]
    "a model is bytes": lambda: resnet_infer.open_runtime(b"x" * 3_000_000),  # type: ignore[arg-type]
    "a spec of a number": lambda: resnet_infer.read_spec(3),  # type: ignore[arg-type]
    "an empty name": lambda: resnet_infer.read_spec(""),
    "data is None": lambda: resnet_infer.evaluate("resnet20-cifar10", None),  # type: ignore[arg-type]
    "data is a list": lambda: resnet_infer.train(["a"], "run"),  # type: ignore[arg-type]
    "data is empty": lambda: resnet_infer.train("", "run"),
    "a path of bytes": lambda: resnet_infer.train(Place(b"x"), "run"),  # type: ignore[arg-type]
    "a runtime is None": lambda: resnet_infer.open_runtime(runtime=None),  # type: ignore[arg-type]
    "a device is None": lambda: resnet_infer.open_runtime(device=None),  # type: ignore[arg-type]
    "threads are text": lambda: resnet_infer.open_runtime(threads="2"),  # type: ignore[arg-type]
    "an unknown precision": lambda: resnet_infer.export(precision="int4"),  # type: ignore[arg-type]
    "an unknown format": lambda: resnet_infer.export(format="onxx"),
    "a format of another suffix": lambda: resnet_infer.export(None, "a.engine", format="onnx"),
    "a number as text": lambda: resnet_infer.export(calibration_pictures="9"),  # type: ignore[arg-type]
    "an unknown recipe": lambda: resnet_infer.train("x", "run", recipe="cifar"),
    "an unknown option of a recipe": lambda: resnet_infer.train("x", "run", epoch=3),  # type: ignore[call-arg]
    "workers below zero": lambda: resnet_infer.evaluate("resnet20-cifar10", "x", workers=-1),
    "a batch of text": lambda: resnet_infer.benchmark(batch_size="8"),  # type: ignore[arg-type]
    "an unknown scenario": lambda: resnet_infer.benchmark(scenario="loop"),
    "a rate alone": lambda: resnet_infer.benchmark(scenario="open-loop", rates=3.0),  # type: ignore[call-overload]
    "a split without data": lambda: resnet_infer.compare("resnet20-cifar10", "resnet20-cifar10", split="val"),
    "weights of a graph": lambda: resnet_infer.import_weights("x.onnx"),
    "a checkpoint of another suffix": lambda: resnet_infer.import_weights("x.pth", "x.onnx"),
}


@pytest.mark.parametrize("what", CALLS)
def test_wrong_arguments_are_usage_errors(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if what.startswith(("data", "an unknown", "a path")):
        pytest.importorskip("torch", reason="the extra `train`")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        CALLS[what]()
    assert len(str(caught.value)) < 700
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_option_is_answered_with_the_right_one() -> None:
    with pytest.raises(UsageError, match="did you mean calibration_data"):
        resnet_infer.export(calibration_dat="x")  # type: ignore[call-arg]


def test_models_are_names_text_paths_and_checkpoints(tmp_path: Path) -> None:
    path = zoo.built_in(zoo.SMALL, ".safetensors")
    loaded = load_checkpoint(path)
    assert [name_of(item) for item in (None, "a", Path("a"), Place("a"))] == [None, "a", "a", "a"]
    with named(zoo.SMALL, path, loaded, loaded, None) as (name, text, one, other, default):
        assert (name, text, default) == (zoo.SMALL, str(path), None)
        assert one != other
        for item in (one, other):
            assert load_checkpoint(Path(str(item))).spec == loaded.spec
    assert not Path(str(one)).exists()


@pytest.mark.parametrize("give", [str, Path, lambda path: Place(str(path)), load_checkpoint], ids=range(4))
def test_a_runtime_is_opened_of_any_of_them(give: Callable[[Path], Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra `export`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_INFER_CACHE", str(tmp_path))
        with resnet_infer.open_runtime(give(zoo.built_in(zoo.SMALL, ".safetensors")), threads=1) as runtime:
            assert runtime(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 10)


def test_the_declared_options_are_those_that_exist() -> None:
    """A field of a configuration or an option of a format that is added is declared for the public function too."""

    def names(kind: Any, *others: str) -> set[str]:
        return {field.name for field in dataclasses.fields(kind)} - set(others)

    # The function has `reference` as an argument of its own, and progress belongs to the command.
    assert names(EvaluationConfig, "reference", "started") == EvaluateOptions.__annotations__.keys()
    assert names(Scenario, "name", "model") == ScenarioOptions.__annotations__.keys()
    assert names(Recipe, "name") <= TrainOptions.__annotations__.keys()
    assert {option.name for option in known_options()} <= ExportOptions.__annotations__.keys()
    assert all(name.endswith("Options") for name, kind in vars(options).items() if hasattr(kind, "__total__"))
