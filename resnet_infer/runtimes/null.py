"""Provide a runtime that computes nothing, to measure the overhead of measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnet_infer.models.checkpoint import SUFFIX as CHECKPOINT
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime, parse_device
from resnet_infer.runtimes.tensorrt.engine_file import SUFFIX as ENGINE
from resnet_infer.runtimes.tensorrt.engine_file import EngineInfo, sidecar_path


class NullRuntime(Runtime):
    """Accept the images of a checkpoint or an artifact, and return zeros at once, whatever the device.

    Raises `UsageError` for an invalid device, and `ModelError` for a file without a spec.
    """

    name = "null"
    in_child = "as it is"

    def __init__(self, model: Path | Checkpoint, *, device: str = "auto") -> None:
        parse_device(device)
        spec, size = _spec(model)
        super().__init__(spec, "cpu", size)

    def _run(self, images: Images) -> Logits:
        return np.zeros((len(images), len(self.spec.classes)), np.float32)


def _spec(model: Path | Checkpoint) -> tuple[ModelSpec, tuple[int | None, int | None]]:
    if isinstance(model, Checkpoint):
        return model.spec, (None, None)
    if model.suffix == CHECKPOINT:
        return load_checkpoint(model).spec, (None, None)
    if model.suffix == ENGINE:
        info = EngineInfo.load(sidecar_path(model))
        return info.spec, info.size
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    with OnnxRuntime(model, device="cpu", threads=1, optimize=False) as opened:
        return opened.spec, opened.size
