"""Which runtime opens which file."""

from __future__ import annotations

import sys
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resnet_infer import zoo
from resnet_infer.errors import ModelError, UsageError
from resnet_infer.models.checkpoint import SUFFIX, load_checkpoint
from resnet_infer.runtimes.artifacts import Reader
from resnet_infer.runtimes.registry import (
    DEFAULTS,
    NAMES,
    RUNTIMES,
    SUFFIXES,
    RuntimeInfo,
    get_runtime,
    is_offered,
    load,
    open_runtime,
)

ARTIFACT, CHECKPOINT = zoo.built_in(zoo.SMALL, ".onnx"), zoo.built_in(zoo.SMALL, ".safetensors")


def test_the_suffix_decides() -> None:
    for runtime in ("auto", "onnxruntime"):
        with open_runtime(ARTIFACT, runtime=runtime, device="cpu", threads=2) as opened:
            assert (opened.name, opened.device, opened.describe()["threads"]) == ("onnxruntime", "cpu", 2)


@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_a_checkpoint_is_opened_by_torch(runtime: str) -> None:
    pytest.importorskip("torch", reason="the extra `train`")
    for model in (CHECKPOINT, load_checkpoint(CHECKPOINT)):
        with open_runtime(model, runtime=runtime, device="cpu") as opened:
            assert (opened.name, opened.device) == ("torch", "cpu")


@pytest.mark.parametrize(
    ("path", "runtime", "suffix"), [(ARTIFACT, "torch", ".safetensors"), (CHECKPOINT, "onnxruntime", ".onnx")]
)
def test_a_runtime_that_is_named_is_never_replaced(path: Path, runtime: str, suffix: str) -> None:
    with pytest.raises(ModelError, match=f"the runtime {runtime} does not open it") as caught:
        open_runtime(path, runtime=runtime)
    assert str(path) in str(caught.value)
    assert suffix in str(caught.value.hint)


def test_a_file_of_another_kind_is_named_with_the_kinds_there_are(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.pth: no runtime opens it") as caught:
        open_runtime(tmp_path / "model.pth")
    for suffix in SUFFIXES:
        assert suffix in str(caught.value.hint)


def test_a_mistyped_runtime_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"unknown runtime 'onxruntime'; did you mean onnxruntime\?"):
        open_runtime(ARTIFACT, runtime="onxruntime")
    with pytest.raises(UsageError, match=r"^unknown runtime 'caffe'\n") as caught:
        open_runtime(ARTIFACT, runtime="caffe")
    assert str(caught.value.hint) == f"known are auto, {', '.join(NAMES)}"


# Options of a runtime


def test_options_are_handed_to_the_runtime_that_has_them() -> None:
    with open_runtime(ARTIFACT, device="cpu", threads=1, spin=False, optimize=False) as opened:
        about = opened.describe()
        assert (about["spin"], about["optimize"]) == (False, False)
    pytest.importorskip("torch", reason="the extra `train`")
    with open_runtime(CHECKPOINT, device="cpu", precision="bf16", fused=True) as opened:
        about = opened.describe()
        assert (about["precision"], about["fused"]) == ("bf16", True)


@pytest.mark.parametrize("model", [ARTIFACT, CHECKPOINT], ids=["onnxruntime", "torch"])
def test_an_option_of_another_runtime_is_a_usage_error(model: Path) -> None:
    if model is CHECKPOINT:
        pytest.importorskip("torch", reason="the extra `train`")
    wrong: dict[str, Any]
    wrong, name = ({"fused": True}, "onnxruntime") if model is ARTIFACT else ({"spin": False}, "torch")
    with pytest.raises(UsageError, match=f"the runtime {name} has no option") as caught:
        open_runtime(model, device="cpu", **wrong)
    known = str(caught.value.hint)
    assert "device" not in known
    assert known.startswith("it has channels_last, compile, " if name == "torch" else "it has engine_cache, optimize, ")


def test_a_mistyped_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"the runtime onnxruntime has no option 'optimise'; did you mean optimize\?"):
        open_runtime(ARTIFACT, optimise=False)


def test_an_engine_is_opened_by_tensorrt_with_its_own_options_and_without_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for TensorRT: what it is given."""
    given: dict[str, Any] = {}

    class Engine:
        def __init__(self, model: Path, *, device: str = "auto", cuda_graph: bool = True) -> None:
            given.update(model=model, device=device, cuda_graph=cuda_graph)
            self.device = device

    monkeypatch.setitem(sys.modules, "resnet_infer.runtimes.tensorrt.runtime", SimpleNamespace(TensorRTRuntime=Engine))
    for runtime in ("auto", "tensorrt"):
        opened: Any = open_runtime(
            tmp_path / "model.engine", runtime=runtime, device="cuda:1", threads=3, cuda_graph=False
        )
        assert isinstance(opened, Engine)
        assert given == {"model": tmp_path / "model.engine", "device": "cuda:1", "cuda_graph": False}
    with pytest.raises(UsageError, match="the runtime tensorrt has no option 'spin'"):
        open_runtime(tmp_path / "model.engine", spin=False)
    with pytest.raises(ModelError, match="the runtime tensorrt does not open it") as caught:
        open_runtime(ARTIFACT, runtime="tensorrt")
    assert str(caught.value.hint).startswith("TensorRT runs .engine files only; make one: resnet-infer export")


# The table


@pytest.mark.parametrize("row", [row for row in RUNTIMES if row.is_installed], ids=lambda row: row.name)
def test_a_row_says_what_its_class_has(row: RuntimeInfo) -> None:
    opener = load(row.opener)
    keywords = {item.name for item in signature(opener).parameters.values() if item.kind is item.KEYWORD_ONLY}
    assert keywords == {"device", *row.options, *(["threads"] if row.threads else [])}
    assert opener.name == row.name


def test_each_suffix_has_a_reader_and_belongs_to_the_first_runtime_with_it() -> None:
    known = {".onnx": "onnxruntime", ".xml": "openvino", ".engine": "tensorrt", SUFFIX: "torch"}
    assert known.items() <= {suffix: row.name for suffix, row in DEFAULTS.items()}.items()
    for suffix, row in DEFAULTS.items():
        assert isinstance(load(row.reader or ""), Reader), suffix


def test_the_runtime_for_benchmarks_is_opened_and_not_offered() -> None:
    assert "null" not in NAMES
    assert set(NAMES) == {row.name for row in RUNTIMES} - {"null"}
    assert [is_offered(name) for name in ("null", "torch", "of a newer version")] == [False, True, True]
    assert all(get_runtime("null").opens(suffix) for suffix in SUFFIXES)


def test_an_unknown_option_is_found_before_the_library_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resnet_infer.runtimes.pytorch", None)  # importing it fails
    with pytest.raises(UsageError, match="the runtime torch has no option 'spin'"):
        open_runtime(CHECKPOINT, spin=False)
    with pytest.raises(ImportError):
        open_runtime(CHECKPOINT)
