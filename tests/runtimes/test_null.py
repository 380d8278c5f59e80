"""The runtime that does nothing takes what the real one takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.errors import ModelError, UsageError
from resnet_infer.models.checkpoint import load_checkpoint
from resnet_infer.runtimes.registry import open_runtime, split_runtime

ARTIFACT, CHECKPOINT = zoo.built_in(zoo.SMALL, ".onnx"), zoo.built_in(zoo.SMALL, ".safetensors")


@pytest.mark.parametrize("model", [ARTIFACT, CHECKPOINT, load_checkpoint(CHECKPOINT)], ids=["onnx", "file", "open"])
def test_it_answers_zeros(model: Any, photos: Callable[..., NDArray[np.uint8]]) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")
    with open_runtime(model, runtime="null", device="cpu", threads=2) as runtime:
        logits = runtime(photos(3, 32))
        assert (logits.shape, logits.dtype) == ((3, 10), np.dtype(np.float32))
        assert not logits.any()
        assert runtime.spec.name == zoo.SMALL
        assert runtime.describe() == {"runtime": "null", "device": "cpu"}
        with pytest.raises(UsageError, match="uint8"):
            runtime(np.zeros((1, 32, 32, 3), np.float32))


def test_it_keeps_to_the_artifact_s_size() -> None:
    pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")
    with open_runtime(ARTIFACT, runtime="null") as runtime, pytest.raises(UsageError, match="takes pictures of"):
        runtime(np.zeros((1, 31, 32, 3), np.uint8))


def test_what_is_no_model_is_none_here_either() -> None:
    with pytest.raises(ModelError, match="does not exist"):
        open_runtime(ARTIFACT.with_name("gone.onnx"), runtime="null")


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        (None, (None, None)),
        ("resnet50", (None, "resnet50")),
        ("torch:resnet50", ("torch", "resnet50")),
        ("null:a:b.onnx", ("null", "a:b.onnx")),
        ("torch:", (None, "torch:")),
        ("C:\\model.onnx", (None, "C:\\model.onnx")),
    ],
)
def test_a_runtime_may_stand_before_a_model(argument: str | None, parts: tuple[str | None, str | None]) -> None:
    assert split_runtime(argument) == parts
