"""The runtimes by name, and the one that opens a given artifact."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from resnet_infer.errors import ModelError, UsageError
from resnet_infer.runtimes.base import Runtime

RUNTIMES = {".onnx": "onnxruntime"}
"""Suffix of an artifact -> the runtime that opens it."""


def open_runtime(artifact: Path, *, runtime: str = "auto", device: str = "auto", threads: int | None = None) -> Runtime:
    """Load `artifact` with the runtime named, or with the one for its suffix.

    Raises `UsageError` for an unknown runtime and `ModelError` for a file that the runtime does not open.
    """
    names = sorted(set(RUNTIMES.values()))
    if runtime not in ("auto", *names):
        close = get_close_matches(runtime, names, n=1)
        raise UsageError(
            f"unknown runtime {runtime!r}" + (f"; did you mean {close[0]}?" if close else ""),
            hint=f"known are auto, {', '.join(names)}",
        )
    name = RUNTIMES.get(artifact.suffix)
    if name is None or runtime not in ("auto", name):
        raise ModelError(f"{artifact}: no runtime opens it", hint=f"artifacts end in {', '.join(RUNTIMES)}")
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    return OnnxRuntime(artifact, device=device, threads=threads)
