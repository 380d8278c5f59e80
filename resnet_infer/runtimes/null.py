"""Provide a runtime that computes nothing, to measure the overhead of measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.runtimes.artifacts import read_size, read_spec
from resnet_infer.runtimes.base import Images, Logits, Runtime, parse_device


class NullRuntime(Runtime):
    """Accept the images of a checkpoint or an artifact, and return zeros at once, whatever the device.

    Raises `UsageError` for an invalid device, and `ModelError` for a file without a spec.
    """

    name = "null"
    in_child = "as it is"

    def __init__(self, model: Path | Checkpoint, *, device: str = "auto") -> None:
        parse_device(device)
        if isinstance(model, Checkpoint):
            super().__init__(model.spec, "cpu", (None, None))
        else:
            super().__init__(read_spec(model), "cpu", read_size(model))

    def _run(self, images: Images) -> Logits:
        return np.zeros((len(images), len(self.spec.classes)), np.float32)
