"""List the runtimes by name, and choose the one that opens a model."""

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
"""Suffix of an artifact -> name of the runtime that opens it by default."""

_OPENS = {".onnx": ("onnxruntime", "openvino"), ".engine": ("tensorrt",), CHECKPOINT: ("torch",)}
"""Suffix of a file -> names of the runtimes that open it, the default first."""
_CLASSES = {
    "onnxruntime": ("resnet_infer.runtimes.onnxruntime", "OnnxRuntime"),
    "openvino": ("resnet_infer.runtimes.openvino", "OpenVinoRuntime"),
    "tensorrt": ("resnet_infer.runtimes.tensorrt.runtime", "TensorRTRuntime"),
    "torch": ("resnet_infer.runtimes.pytorch", "TorchRuntime"),
}
"""Name of a runtime -> module and class. The module is imported when a model is opened."""
_NULL = {"null": ("resnet_infer.runtimes.null", "NullRuntime")}
"""Runtime for benchmarks, which opens every file and computes nothing. Not offered in messages."""

NAMES = tuple(sorted(_CLASSES))
"""Names of the runtimes that compute, without `null`."""


def split_runtime(argument: str | None) -> tuple[str | None, str | None]:
    """Split `RUNTIME:MODEL` into both. A MODEL alone, or the path of an existing file, has None as its runtime.

    >>> split_runtime("torch:resnet50")
    ('torch', 'resnet50')
    """
    named, _, model = (argument or "").partition(":")
    if model and (named in NAMES or named in _NULL) and not Path(argument or "").exists():
        return named, model
    return None, argument


def open_runtime(
    model: Path | Checkpoint, *, runtime: str = "auto", device: str = "auto", threads: int | None = None, **options: Any
) -> Runtime:
    """Open `model` with a runtime, by default the first for its suffix.

    - `model`: path of an `.onnx` or `.engine` artifact or a `.safetensors` checkpoint, or a loaded checkpoint.
    - `runtime`: `auto` or one of `NAMES`. `auto` opens `.onnx` with ONNX Runtime, `.engine` with TensorRT and
      checkpoints with torch.
    - `device`: `auto`, `cpu`, `cuda` or `cuda:N`. A device that is named is used, or opening fails.
    - `threads`: number of CPU threads. Runtimes without CPU threads ignore it.
    - `options`: further keyword arguments of the runtime's class.

    Raises `UsageError` for an unknown runtime or option or an invalid number of threads, `ModelError` for a file that
    the runtime does not open, and what the runtime's class raises.

    Example:
        with open_runtime(Path("resnet50.onnx"), device="cpu", threads=4) as runtime:
            logits = runtime(images)  # uint8 (N, 224, 224, 3) -> float32 (N, 1000)
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
    """Return the class that opens `model`, and import it with its library.

    Raises as `open_runtime` does, and `MissingExtraError` if the library is not installed.
    """
    module, name = {**_CLASSES, **_NULL}[_runtime_of(model, runtime)]
    opener: Callable[..., Runtime] = getattr(import_module(module), name)
    return opener


def _runtime_of(model: Path | Checkpoint, runtime: str) -> str:
    """Return the name of the runtime that opens `model`. Raises `UsageError` or `ModelError`."""
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
