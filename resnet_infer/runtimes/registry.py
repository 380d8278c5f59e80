"""The runtimes by name, and the one that opens a given artifact."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from resnet_infer.errors import ModelError, UsageError, did_you_mean
from resnet_infer.models.checkpoint import SUFFIX as CHECKPOINT
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.runtimes.base import Runtime
from resnet_infer.utils.threads import require_threads

RUNTIMES = {".onnx": "onnxruntime", ".engine": "tensorrt"}
"""Suffix of an artifact -> the runtime that opens it."""

_OPENS = {".onnx": ("onnxruntime", "openvino"), ".engine": ("tensorrt",), CHECKPOINT: ("torch",)}
"""Suffix -> the runtimes that open such a file, the one first that does it unasked."""
_CLASSES = {
    "onnxruntime": ("resnet_infer.runtimes.onnxruntime", "OnnxRuntime"),
    "openvino": ("resnet_infer.runtimes.openvino", "OpenVinoRuntime"),
    "tensorrt": ("resnet_infer.runtimes.tensorrt.runtime", "TensorRTRuntime"),
    "torch": ("resnet_infer.runtimes.pytorch", "TorchRuntime"),
}
"""Runtime -> the module that has its class; imported when it is opened."""
_NULL = {"null": ("resnet_infer.runtimes.null", "NullRuntime")}

NAMES = tuple(sorted(_CLASSES))
"""The runtimes that answer. `null` opens everything too, for what measures, and answers nothing."""


def split_runtime(argument: str | None) -> tuple[str | None, str | None]:
    """`RUNTIME:MODEL` as both; a MODEL alone, or the path of a file that is there, as None and itself."""
    named, _, model = (argument or "").partition(":")
    if model and (named in NAMES or named in _NULL) and not Path(argument or "").exists():
        return named, model
    return None, argument


def open_runtime(
    model: Path | Checkpoint, *, runtime: str = "auto", device: str = "auto", threads: int | None = None, **options: Any
) -> Runtime:
    """Load `model` with the runtime named, or with the one for its suffix: an artifact's own, torch for a checkpoint.

    `threads` are the CPU's: a runtime that uses none passes over them. `options` are the runtime's own, see its class.
    Raises `UsageError` for an unknown runtime or option, and for a number of threads that cannot be; `ModelError` for a
    file that the runtime does not open.
    """
    require_threads(threads)
    name = _runtime_of(model, runtime)
    opener = runtime_class(model, runtime)
    known = [item.name for item in signature(opener).parameters.values() if item.kind is item.KEYWORD_ONLY]
    own = sorted(set(known) - {"device", "threads"})
    for option in options:
        if option not in own:
            raise UsageError(
                f"the runtime {name} has no option {option!r}" + did_you_mean(option, own),
                hint=f"it has {', '.join(own)}" if own else "it has no options",
            )
    if "threads" in known:
        options["threads"] = threads
    return opener(model, device=device, **options)


def runtime_class(model: Path | Checkpoint, runtime: str = "auto") -> Callable[..., Runtime]:
    """The class that opens `model`, imported with the library behind it. Raises as `open_runtime` does."""
    module, name = {**_CLASSES, **_NULL}[_runtime_of(model, runtime)]
    opener: Callable[..., Runtime] = getattr(import_module(module), name)
    return opener


def _runtime_of(model: Path | Checkpoint, runtime: str) -> str:
    """The name of the runtime that opens `model`."""
    if runtime in _NULL:
        return runtime
    if runtime not in ("auto", *NAMES):
        raise UsageError(
            f"unknown runtime {runtime!r}" + did_you_mean(runtime, NAMES),
            hint=f"known are auto, {', '.join(NAMES)}",
        )
    names = ("torch",) if isinstance(model, Checkpoint) else _OPENS.get(model.suffix, ())
    if not names or runtime not in ("auto", *names):
        label = model.spec.name if isinstance(model, Checkpoint) else str(model)
        which = "no runtime opens it" if runtime == "auto" else f"the runtime {runtime} does not open it"
        suffixes = (suffix for suffix, openers in _OPENS.items() if runtime in ("auto", *openers))
        raise ModelError(f"{label}: {which}", hint=f"it would have to end in {' or '.join(suffixes)}")
    return names[0] if runtime == "auto" else runtime
