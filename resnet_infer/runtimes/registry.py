"""List the runtimes, one row for each, and choose the one that opens a model.

Whatever depends on which runtimes there are is derived from `RUNTIMES` or asks a row of it. The module is imported for
`--help`, so rows name classes and readers as `module:Name`, and they are imported on use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from resnet_infer.errors import ModelError, RuntimeUnavailableError, UsageError, did_you_mean
from resnet_infer.utils.files import suffix_of
from resnet_infer.utils.threads import require_threads

if TYPE_CHECKING:
    from resnet_infer.models.checkpoint import Checkpoint
    from resnet_infer.runtimes.base import Runtime

CHECKPOINT = ".safetensors"
"""Suffix of checkpoints, as in `models.checkpoint`, whose import takes longer."""
COMPUTES = ("auto", "fp32", "bf16")
"""Values of `--compute`: what the float layers of an FP32 model compute in. `auto` is as the file says."""


@dataclass(frozen=True)
class RuntimeInfo:
    """Describe a runtime.

    - `name`: value of `--runtime`, and `name` of the class.
    - `opener`: class, as `module:Class`. It is called with a path, or with a loaded checkpoint if the runtime opens
      those, and with the keyword argument `device`.
    - `suffixes`: suffixes of the files that it opens. A file is by default opened by the first row with its suffix.
      None stands for every file that another runtime opens.
    - `reader`: functions that read the files which it opens by default, as `module:NAME` of an `artifacts.Reader`.
    - `extra`: optional dependency group that it needs.
    - `devices`: kinds of device that it computes on.
    - `threads`: whether it has the keyword argument `threads`, the number of CPU threads of a call.
    - `parallel`: whether calls from several threads are computed side by side, each on CPU threads of its own.
    - `options`: names of its further keyword arguments.
    - `computes`: what it can compute the float layers of an FP32 model in -> its keyword arguments for that, which
      take the place of the caller's.
    - `offered`: whether messages and choices name it.
    """

    name: str
    opener: str
    suffixes: tuple[str, ...] | None
    reader: str | None = None
    extra: str | None = None
    devices: tuple[str, ...] = ("cpu",)
    threads: bool = False
    parallel: bool = False
    options: tuple[str, ...] = ()
    computes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"fp32": {}})
    offered: bool = True

    def opens(self, suffix: str) -> bool:
        """Return whether the runtime opens files with this suffix.

        >>> get_runtime("torch").opens(".onnx")
        False
        """
        return self.suffixes is None or suffix in self.suffixes

    @property
    def is_installed(self) -> bool:
        """Whether the modules of its extra are there. None is imported."""
        from importlib.util import find_spec

        from resnet_infer.utils.extras import EXTRAS

        return all(find_spec(module) for module in (EXTRAS[self.extra] if self.extra else ()))


RUNTIMES: tuple[RuntimeInfo, ...] = (
    RuntimeInfo(
        "onnxruntime",
        "resnet_infer.runtimes.onnxruntime:OnnxRuntime",
        suffixes=(".onnx",),
        reader="resnet_infer.runtimes.artifacts:ONNX_READER",
        extra="cpu",
        devices=("cpu", "cuda"),
        threads=True,
        parallel=True,
        options=("engine_cache", "optimize", "provider", "spin", "tf32"),
        computes={"fp32": {"tf32": False}},
    ),
    RuntimeInfo(
        "openvino",
        "resnet_infer.runtimes.openvino:OpenVinoRuntime",
        suffixes=(".onnx", ".xml"),
        reader="resnet_infer.runtimes.openvino_ir:READER",
        extra="openvino",
        threads=True,
        parallel=True,
        options=("bf16",),
        computes={"fp32": {"bf16": False}, "bf16": {"bf16": True}},
    ),
    RuntimeInfo(
        "tensorrt",
        "resnet_infer.runtimes.tensorrt.runtime:TensorRTRuntime",
        suffixes=(".engine",),
        reader="resnet_infer.runtimes.tensorrt.engine_file:READER",
        extra="tensorrt",
        devices=("cuda",),
        options=("cuda_graph",),
    ),
    RuntimeInfo(
        "torch",
        "resnet_infer.runtimes.pytorch:TorchRuntime",
        suffixes=(CHECKPOINT,),
        reader="resnet_infer.runtimes.artifacts:CHECKPOINT_READER",
        extra="train",
        devices=("cpu", "cuda"),
        threads=True,
        options=("channels_last", "compile", "fused", "precision"),
        computes={"fp32": {"precision": "fp32"}, "bf16": {"precision": "bf16"}},
    ),
    # Computes nothing: benchmarks measure with it what measuring itself takes.
    RuntimeInfo("null", "resnet_infer.runtimes.null:NullRuntime", suffixes=None, offered=False),
)
"""All runtimes. The order decides which one opens a file by default."""

NAMES = tuple(sorted(row.name for row in RUNTIMES if row.offered))
"""Names of the runtimes that messages and choices name, in alphabetical order."""
DEFAULTS: Mapping[str, RuntimeInfo] = MappingProxyType(
    {suffix: row for row in reversed(RUNTIMES) for suffix in row.suffixes or ()}
)
"""Suffix of a file -> the runtime that opens it by default, which is the first with that suffix."""
SUFFIXES = tuple(dict.fromkeys(suffix for row in RUNTIMES for suffix in row.suffixes or ()))
"""Suffixes of the files that a runtime opens."""
ARTIFACTS = tuple(suffix for suffix in SUFFIXES if suffix != CHECKPOINT)
"""Suffixes of the artifacts that a runtime opens: of all files but checkpoints."""

_ONLY = {
    "tensorrt": "TensorRT runs .engine files only; make one: resnet-infer export ... --format tensorrt",
    "torch": f"torch runs checkpoints ({CHECKPOINT}) only",
}
"""Runtime -> hint for a file that it does not open, where more is to be said than the suffixes."""
_BY_NAME = {row.name: row for row in RUNTIMES}


def load(reference: str) -> Any:
    """Import a module, and return what `module:name` names in it.

    >>> load("resnet_infer.runtimes.artifacts:ONNX_READER").size(Path("resnet50.onnx"))
    (224, 224)
    """
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def get_runtime(name: str) -> RuntimeInfo:
    """Return the row of the runtime called `name`. Raises `UsageError`, which suggests a similar name."""
    if not isinstance(name, str) or name not in _BY_NAME:
        similar = did_you_mean(name, NAMES) if isinstance(name, str) else ""
        raise UsageError(f"unknown runtime {name!r:.40}{similar}", hint=f"known are auto, {', '.join(NAMES)}")
    return _BY_NAME[name]


def is_offered(name: str) -> bool:
    """Return whether messages and charts show the runtime called `name`. They show those of other versions too."""
    return name not in _BY_NAME or _BY_NAME[name].offered


def split_runtime(argument: str | None) -> tuple[str | None, str | None]:
    """Split `RUNTIME:MODEL` into both. A MODEL alone, or the path of an existing file, has None as its runtime.

    >>> split_runtime("torch:resnet50")
    ('torch', 'resnet50')
    """
    named, _, model = (argument or "").partition(":")
    if model and named in _BY_NAME and not Path(argument or "").exists():
        return named, model
    return None, argument


def open_runtime(
    model: Path | Checkpoint,
    *,
    runtime: str = "auto",
    device: str | int = "auto",
    threads: int | None = None,
    compute: str = "auto",
    **options: Any,
) -> Runtime:
    """Open `model` with a runtime, by default the first for its suffix.

    - `model`: path of an `.onnx`, `.xml` or `.engine` artifact or a `.safetensors` checkpoint, or a loaded
      checkpoint.
    - `runtime`: `auto` or one of `NAMES`. `auto` opens `.onnx` with ONNX Runtime, `.xml` with OpenVINO,
      `.engine` with TensorRT and checkpoints with torch.
    - `device`: `auto`, `cpu`, `cuda` or `cuda:N`, or the number of a GPU. A device that is named is used, or opening
      fails.
    - `threads`: number of CPU threads. Runtimes without CPU threads ignore it.
    - `compute`: one of `COMPUTES`. `auto` computes in the file's own precision; another is for FP32 models.
      `selection.bf16_guard` judges what it costs.
    - `options`: further keyword arguments of the runtime's class.

    Raises `UsageError` for an unknown runtime or option, for an invalid number of threads and for a `compute` that the
    model or the runtime does not have, `ModelError` for a file that the runtime does not open, and what the runtime's
    class raises.

    Example:
        with open_runtime(Path("resnet50.onnx"), device="cpu", threads=4) as runtime:
            logits = runtime(images)  # uint8 (N, 224, 224, 3) -> float32 (N, 1000)
    """
    require_threads(threads)
    chosen = select_runtime(model, runtime)
    if compute != "auto":
        require_fp32(model, compute)
        chosen = select_runtime(model, runtime, compute)
    for option in options:
        if option not in chosen.options:
            own = sorted(chosen.options)
            raise UsageError(
                f"the runtime {chosen.name} has no option {option!r}" + did_you_mean(option, own),
                hint=f"it has {', '.join(own)}" if own else "it has no options",
            )
    if chosen.threads:
        options["threads"] = threads
    if isinstance(device, int) and not isinstance(device, bool):
        device = str(device)
    if compute != "auto":
        options = {**options, **chosen.computes[compute]}
    opened: Runtime = load(chosen.opener)(model, device=device, **options)
    import logging  # which the libraries of runtimes have imported by now

    label = model if isinstance(model, Path) else model.spec.name
    logging.getLogger(__name__).debug("%s: opened by %s on %s", label, chosen.name, opened.device)
    return opened


def runtime_class(model: Path | Checkpoint, runtime: str = "auto", compute: str = "auto") -> Callable[..., Runtime]:
    """Return the class that opens `model`, and import it with its library.

    Raises as `open_runtime` does, and `MissingExtraError` if the library is not installed.
    """
    opener: Callable[..., Runtime] = load(select_runtime(model, runtime, compute).opener)
    return opener


def select_runtime(model: Path | Checkpoint, runtime: str = "auto", compute: str = "auto") -> RuntimeInfo:
    """Return the row of the runtime that opens `model`, by default the first for its suffix that has `compute`.

    Raises `UsageError` for an unknown runtime or compute, `ModelError` for a file that the runtime does not open, and
    `RuntimeUnavailableError` if the runtime does not have `compute`, or no installed runtime that opens the file has.

    >>> select_runtime(Path("resnet50.onnx")).name
    'onnxruntime'
    """
    chosen = _select_by_suffix(model, runtime)
    _require_known(compute)
    if compute == "auto" or compute in chosen.computes:
        return chosen
    suffix = suffix_of(model) if isinstance(model, Path) else CHECKPOINT
    able = [row for row in RUNTIMES if row.offered and compute in row.computes]
    fitting = [row for row in able if row.opens(suffix)]
    if runtime == "auto" and (there := [row for row in fitting if row.is_installed]):
        return there[0]
    from resnet_infer.utils.extras import install_command

    label = str(model) if isinstance(model, Path) else model.spec.name
    if runtime != "auto":
        problem = f"the runtime {chosen.name} does not compute in {compute}"
        ways = f"--runtime {' or '.join(row.name for row in able)}"
    elif fitting:
        problem = f"{label}: no installed runtime computes it in {compute}"
        ways = " or ".join(install_command(row.extra) for row in fitting if row.extra)
        ways += "".join(f", or --runtime {row.name}" for row in able if row not in fitting and row.is_installed)
    else:
        problem = f"{label}: no runtime that opens {suffix} computes in {compute}"
        ways = f"give the model as {' or '.join(dict.fromkeys(s for row in able for s in row.suffixes or ()))}"
    raise RuntimeUnavailableError(problem, hint=f"{ways}; or leave --compute out", source=label)


def require_fp32(model: Path | Checkpoint, compute: str) -> None:
    """Raise `UsageError` unless `compute` is one of `COMPUTES`, and the weights of `model` are FP32.

    What other models compute in is part of the file.

    OpenVINO would compute the float layers of an INT8 artifact in bf16 and the others in INT8, an answer of neither
    precision, which no check has judged.
    """
    _require_known(compute)
    spec = load(_select_by_suffix(model, "auto").reader or "").spec(model) if isinstance(model, Path) else model.spec
    if spec.precision != "fp32":
        raise UsageError(
            f"--compute {compute} is for FP32 models, and {spec.name} is {spec.precision}",
            hint="leave --compute out, or give the checkpoint, or the FP32 artifact that `resnet-infer export` makes "
            "of it",
            source=str(model) if isinstance(model, Path) else spec.name,
        )


def _require_known(compute: str) -> None:
    """Raise `UsageError` for a value that is not one of `COMPUTES`."""
    if compute not in COMPUTES:
        raise UsageError(
            f"no runtime computes in {compute!r:.40}" + did_you_mean(str(compute), COMPUTES),
            hint=f"known are {', '.join(COMPUTES)}",
        )


def _select_by_suffix(model: Path | Checkpoint, runtime: str) -> RuntimeInfo:
    """Return the row of the runtime that opens `model`, whatever it computes in."""
    suffix = suffix_of(model) if isinstance(model, Path) else CHECKPOINT
    chosen = DEFAULTS.get(suffix) if runtime == "auto" else get_runtime(runtime)
    if chosen is None or not chosen.opens(suffix):
        label = str(model) if isinstance(model, Path) else model.spec.name
        which = "no runtime opens it" if chosen is None else f"the runtime {runtime} does not open it"
        suffixes = chosen.suffixes if chosen and chosen.suffixes else SUFFIXES
        opened = f"it would have to end in {' or '.join(suffixes)}"
        raise ModelError(
            f"{label}: {which}",
            hint=_ONLY.get(chosen.name, opened) if chosen else opened,
            source=label,
            reason="unsupported",
        )
    return chosen
