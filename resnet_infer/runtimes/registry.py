"""The runtimes by name, and the one that opens a given artifact."""

from __future__ import annotations

from pathlib import Path

from resnet_infer.errors import ModelError, UsageError, did_you_mean
from resnet_infer.models.checkpoint import SUFFIX as CHECKPOINT
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.runtimes.base import Runtime

RUNTIMES = {".onnx": "onnxruntime"}
"""Suffix of an artifact -> the runtime that opens it."""


def open_runtime(
    model: Path | Checkpoint, *, runtime: str = "auto", device: str = "auto", threads: int | None = None
) -> Runtime:
    """Load `model` with the runtime named, or with the one for its suffix: an artifact's own, torch for a checkpoint.

    Raises `UsageError` for an unknown runtime and `ModelError` for a file that the runtime does not open.
    """
    opens = {**RUNTIMES, CHECKPOINT: "torch"}
    names = sorted(set(opens.values()))
    if runtime not in ("auto", *names):
        raise UsageError(
            f"unknown runtime {runtime!r}" + did_you_mean(runtime, names),
            hint=f"known are auto, {', '.join(names)}",
        )
    name = "torch" if isinstance(model, Checkpoint) else opens.get(model.suffix)
    if name is None or runtime not in ("auto", name):
        label = model.spec.name if isinstance(model, Checkpoint) else str(model)
        which = "no runtime opens it" if runtime == "auto" else f"the runtime {runtime} does not open it"
        suffixes = (suffix for suffix, opener in opens.items() if runtime in ("auto", opener))
        raise ModelError(f"{label}: {which}", hint=f"it would have to end in {' or '.join(suffixes)}")
    if name == "torch":
        from resnet_infer.runtimes.pytorch import TorchRuntime

        return TorchRuntime(model, device=device, threads=threads)
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    assert isinstance(model, Path)
    return OnnxRuntime(model, device=device, threads=threads)
