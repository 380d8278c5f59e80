"""Which runtime opens which file."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_infer import zoo
from resnet_infer.errors import ModelError, UsageError
from resnet_infer.models.checkpoint import load_checkpoint
from resnet_infer.runtimes.registry import RUNTIMES, open_runtime

ARTIFACT, CHECKPOINT = zoo.built_in(zoo.DEFAULT, ".onnx"), zoo.built_in(zoo.DEFAULT, ".safetensors")


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
    assert str(caught.value.hint).endswith(suffix)


def test_a_file_of_another_kind_is_named_with_the_kinds_there_are(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.pth: no runtime opens it") as caught:
        open_runtime(tmp_path / "model.pth")
    for suffix in (*RUNTIMES, ".safetensors"):
        assert suffix in str(caught.value.hint)


def test_a_mistyped_runtime_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"unknown runtime 'onxruntime'; did you mean onnxruntime\?"):
        open_runtime(ARTIFACT, runtime="onxruntime")
    with pytest.raises(UsageError, match=r"^unknown runtime 'caffe'\n") as caught:
        open_runtime(ARTIFACT, runtime="caffe")
    assert str(caught.value.hint) == "known are auto, onnxruntime, torch"
