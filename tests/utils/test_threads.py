"""Wherever a number of threads, lanes, workers or connections is given, it is bounded, and the error says by what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_infer import Classifier, Picture, zoo
from resnet_infer.client import Client
from resnet_infer.errors import UsageError
from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.serving.settings import Settings
from resnet_infer.utils.parallel import parallel_map
from resnet_infer.utils.threads import MOST_THREADS, require_threads
from tests.conftest import PICTURES, Outcome

ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")


def _stream(number: Any) -> object:
    with Classifier() as classifier:
        return list(classifier.stream([Picture("a", b"")], workers=number))


def _train(number: Any) -> object:
    pytest.importorskip("torch", reason="needs the extra `train`")
    from resnet_infer.training.loop.options import Options

    return Options(workers=number)


def _torch(number: Any) -> object:
    pytest.importorskip("torch", reason="needs the extra `train`")
    from resnet_infer.models.checkpoint import load_checkpoint
    from resnet_infer.runtimes.pytorch import TorchRuntime

    return TorchRuntime(load_checkpoint(zoo.built_in(zoo.SMALL, ".safetensors")), threads=number)


def _openvino(number: Any) -> object:
    pytest.importorskip("openvino", reason="needs the extra `openvino`")
    from resnet_infer.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime(ARTIFACT, threads=number)


def _onnxruntime(number: Any) -> object:
    pytest.importorskip("onnxruntime", reason="needs the extra `cpu` or `gpu`")
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    return OnnxRuntime(ARTIFACT, threads=number)


def _benchmark(number: Any) -> object:
    from resnet_infer.benchmarking.latency.subjects import entries

    return entries([zoo.SMALL], [1], threads=[number])


PLACES: dict[str, Callable[[Any], object]] = {
    "Classifier": lambda number: Classifier(threads=number),
    "lanes": lambda number: Classifier(threads=number, throughput=True),
    "stream": _stream,
    "open_runtime": lambda number: open_runtime(ARTIFACT, threads=number),
    "OnnxRuntime": _onnxruntime,
    "OpenVinoRuntime": _openvino,
    "TorchRuntime": _torch,
    "parallel_map": lambda number: list(parallel_map(str, range(3), workers=number)),
    "Client": lambda number: Client("http://127.0.0.1:1", connections=number),
    "evaluate, threads": lambda number: evaluate([zoo.SMALL], PICTURES, EvaluationConfig(threads=number)),
    "evaluate, workers": lambda number: evaluate([zoo.SMALL], PICTURES, EvaluationConfig(workers=number)),
    "service, threads": lambda number: Settings(threads=number),
    "service, workers": lambda number: Settings(workers=number),
    "service, variable": lambda number: Settings.from_environment({"RESNET_INFER_SERVE_THREADS": str(number)}),
    "benchmark": _benchmark,
    "train": _train,
}


@pytest.mark.parametrize("number", [-1, MOST_THREADS + 1, 4096, 10**6, 10**30])
@pytest.mark.parametrize("place", PLACES)
def test_more_than_any_machine_has_is_refused_at_once(place: str, number: int) -> None:
    with pytest.raises(UsageError, match=rf"number of [a-z]+ .* to {MOST_THREADS}, not {number}"):
        PLACES[place](number)


@pytest.mark.parametrize("number", ["2", 2.0, True, float("nan"), [1]])
@pytest.mark.parametrize("place", [place for place in PLACES if place != "service, variable"])
def test_what_is_no_whole_number_is_refused(place: str, number: object) -> None:
    with pytest.raises(UsageError, match="number of"):
        PLACES[place](number)


@settings(deadline=None)
@given(st.integers() | st.none())
def test_the_bound(number: int | None) -> None:
    if number is None or 1 <= number <= MOST_THREADS:
        require_threads(number)
    else:
        with pytest.raises(UsageError):
            require_threads(number)


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify", str(PICTURES), "--threads"),
        ("evaluate", zoo.SMALL, str(PICTURES), "--threads"),
        ("evaluate", zoo.SMALL, str(PICTURES), "--workers"),
        ("benchmark", zoo.SMALL, "--threads"),
        ("benchmark", "--scenario", "offline", "--threads"),
        ("serve", "--threads"),
        ("serve", "--workers"),
        ("train", "resnet20", str(PICTURES), "--workers"),
    ],
    ids=" ".join,
)
def test_the_commands_name_the_bound(
    arguments: tuple[str, ...], cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments, "1000000")
    assert (done.code, done.out) == (2, "")
    assert str(MOST_THREADS) in done.err


def test_the_most_that_is_allowed_opens_and_answers(photos: Callable[..., Any]) -> None:
    with Classifier(threads=64, spin=False) as classifier:
        assert classifier.runtime(photos(1, 32)).shape == (1, 10)
