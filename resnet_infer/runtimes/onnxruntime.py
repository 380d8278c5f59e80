"""Run ONNX artifacts with ONNX Runtime: on a CPU, or on a GPU by its execution provider for CUDA or TensorRT."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from resnet_infer.errors import (
    ModelError,
    ResnetInferError,
    RuntimeUnavailableError,
    UsageError,
    did_you_mean,
    first_line,
)
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime, parse_device
from resnet_infer.runtimes.signature import Tensor, require_signature
from resnet_infer.utils.console import warn
from resnet_infer.utils.cpu import compute_threads
from resnet_infer.utils.extras import needs

with needs("cpu", "running an ONNX model"):
    from resnet_infer.runtimes import ort_session

if TYPE_CHECKING:
    from resnet_infer.runtimes.nvidia.bound import BoundSession

Provider = Literal["auto", "cuda", "tensorrt"]
"""Execution provider on a GPU."""
NO_TF32 = "NVIDIA_TF32_OVERRIDE"
"""Variable that switches TF32 off in CUDA's libraries if it is 0."""


class OnnxRuntime(Runtime):
    """Run an `.onnx` artifact in an ONNX Runtime session.

    - `model`: path of a file that has a model spec, or a serialised model.
    - `device`: `auto`, `cpu`, `cuda` or `cuda:N`. `auto` uses CUDA if it starts, except for INT8 exported for a CPU.
      A device that is named is used, or opening fails.
    - `threads`: threads inside an operator; default: `cpu.compute_threads`.
    - `optimize=False`: run the graph as written, without graph optimisations.
    - `spin=False`: let idle threads sleep. With several sessions in a process, spinning threads take cores from each
      other.
    - `provider`: execution provider on the GPU, `cuda` or `tensorrt` (with CUDA for operators that TensorRT does not
      support). A provider that is named is used, or opening fails.
    - `engine_cache`: folder in which the TensorRT provider keeps its engines.
    - `tf32`: let CUDA round the inputs of float32 products to TF32 (10 bits of mantissa), which is faster than FP32
      and less exact. False asks cuDNN for plans without it; where it has none, ONNX Runtime takes one with TF32. The
      variable NVIDIA_TF32_OVERRIDE=0, set before CUDA starts, switches it off for certain, for TensorRT too.

    On a GPU, batches are padded to 1, 2, 4, 8, 16 or 32 images, or a multiple of 32, so that few shapes are planned,
    and calls from several threads take turns.

    Raises `ModelError` for a file that is missing, damaged, without a spec or not fitting it; `UsageError` for options
    that are invalid together; `RuntimeUnavailableError` for a device or provider that does not start.

    The options are those of https://onnxruntime.ai/docs/execution-providers/.
    """

    name = "onnxruntime"
    on_calling_thread = True

    def __init__(
        self,
        model: Path | bytes,
        *,
        device: str = "auto",
        threads: int | None = None,
        optimize: bool = True,
        spin: bool = True,
        provider: Provider = "auto",
        engine_cache: Path | None = None,
        tf32: bool = False,
    ) -> None:
        label = str(model) if isinstance(model, Path) else "the model"
        if isinstance(model, Path) and not model.is_file():
            raise ModelError(f"{model} does not exist", source=model, reason="missing")
        options = partial(ort_session.session_options, threads=threads, optimize=optimize, spin=spin)
        source = str(model) if isinstance(model, Path) else model
        _check(device, provider, engine_cache)
        try:
            self.session, device, self.provider = _open(source, options, device, provider, engine_cache, tf32)
        except ResnetInferError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this
            raise ModelError(
                f"{label}: ONNX Runtime cannot load it ({first_line(error)})", source=label, reason="damaged"
            ) from error
        spec = _spec(self.session, label)
        try:
            inputs, outputs = (
                [_tensor(item) for item in found] for found in (self.session.get_inputs(), self.session.get_outputs())
            )
        except UnicodeDecodeError as error:
            raise _no_text(label, error) from error
        images, logits = require_signature(spec, inputs, outputs, label)
        self._batch, height, width = images.shape[:3]
        self._input, self._output = images.name, logits.name
        self._bound = None if device == "cpu" else self._bind(device, len(spec.classes))
        self._threads: int = self.session.get_session_options().intra_op_num_threads
        self.spin, self.optimize = spin, optimize
        # TensorRT uses TF32 by default, and ONNX Runtime has no option to switch it off.
        rounded = self.provider == "tensorrt" or (self.provider == "cuda" and tf32)
        rounded = rounded and os.environ.get(NO_TF32) != "0"
        precision = "tf32" if rounded and spec.precision == "fp32" else spec.precision
        super().__init__(spec, device, (height, width), precision)

    def _run(self, images: Images) -> Logits:
        if self._batch is not None and len(images) != self._batch:
            raise UsageError(f"{self.spec.name} takes batches of {self._batch} only, not of {len(images)}")
        if self._bound is not None:
            return self._bound(images)
        try:
            logits: Logits = self.session.run([self._output], {self._input: images})[0]
        except Exception as error:  # as above
            raise ModelError(
                f"{self.spec.name}: ONNX Runtime cannot run it on {images.shape[1]}x{images.shape[2]} pixels "
                f"({first_line(error)})",
                source=self.spec.name,
                reason="failed",
            ) from error
        return logits

    def _transfer(self, images: Images) -> bool:
        if self._bound is None:
            return False
        self._bound.upload(images)
        return True

    def _bind(self, device: str, classes: int) -> BoundSession:
        """Return the session with its input and output on the device."""
        from resnet_infer.runtimes.nvidia.bound import TENSORRT_LARGEST, BoundSession

        largest = TENSORRT_LARGEST if self.provider == "tensorrt" and self._batch is None else None
        names = (self._input, self._output)
        return BoundSession(self.session, names, classes, parse_device(device), batch=self._batch, largest=largest)

    def _free(self) -> None:
        if self._bound is not None:
            self._bound.close()
        self.session = None

    def describe(self) -> dict[str, Any]:
        """Return the base fields, `version`, `threads`, `provider`, `precision` in use, `spin` and `optimize`."""
        return {
            **super().describe(),
            "version": ort_session.VERSION,
            "threads": self._threads or compute_threads(),
            "provider": self.provider,
            "precision": self.precision,
            "spin": self.spin,
            "optimize": self.optimize,
        }


def _no_text(label: str, error: UnicodeDecodeError) -> ModelError:
    """Return the error of a model whose names or metadata are not UTF-8."""
    return ModelError(
        f"{label} is damaged: a name or its metadata is no UTF-8 ({error.reason})", source=label, reason="damaged"
    )


def _spec(session: Any, label: str) -> ModelSpec:
    """Read the spec from a session's metadata. Raises `ModelError`."""
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise _no_text(label, error) from error
    return ModelSpec.from_metadata(metadata, label)


def _tensor(found: Any) -> Tensor:
    """Describe an input or output. One that is not a tensor has ONNX Runtime's type as dtype and an empty shape."""
    kind = str(found.type)
    inner = kind.removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in found.shape or ())
    return Tensor(found.name, {"float": "float32"}.get(inner, inner) if kind.startswith("tensor(") else kind, shape)


def _check(device: str, provider: str, engine_cache: Path | None) -> None:
    """Raise `UsageError` for options that are invalid together."""
    kind, _ = parse_device(device)
    if provider not in get_args(Provider):
        raise UsageError(
            f"there is no provider {provider!r}" + did_you_mean(str(provider), get_args(Provider)),
            hint=f"a provider is one of {', '.join(get_args(Provider))}",
        )
    if kind == "cpu" and provider != "auto":
        raise UsageError(f"the provider {provider} runs on a GPU, not on the CPU", hint="use the device cuda")
    if engine_cache is not None and provider != "tensorrt":
        raise UsageError("a cache of engines belongs to the provider tensorrt, which was not asked for")


def _open(
    model: str | bytes,
    options: Callable[[], Any],
    device: str,
    provider: Provider,
    engine_cache: Path | None,
    tf32: bool,
) -> tuple[Any, str, str]:
    """Open a session. Return it, its device (`cpu`, `cuda:N`) and its provider (`cpu`, `cuda`, `tensorrt`)."""
    kind, number = parse_device(device)
    asked = kind == "cuda" or provider != "auto"
    gpu = asked or (kind == "auto" and ort_session.CUDA in ort_session.available_providers())
    if gpu and not asked and _placed_for_cpu(model):
        warn("INT8 that was made for a CPU stays there; for the GPU: resnet-infer export --precision fp16, or tensorrt")
        gpu = False
    if gpu:
        from resnet_infer.runtimes.nvidia.sessions import GpuOptions, open_gpu  # which only a build for GPUs needs

        _read_spec(model)
        used: Literal["cuda", "tensorrt"] = "tensorrt" if provider == "tensorrt" else "cuda"
        session, obstacle = open_gpu(model, options, GpuOptions(used, number, engine_cache, tf32))
        if obstacle is None:
            return session, f"cuda:{number}", used
        if asked:
            wanted = device if provider == "auto" else f"the provider {provider}"
            raise RuntimeUnavailableError(
                f"{wanted} was asked for, and {obstacle.reason}", hint=obstacle.hint, source=wanted
            )
        warn(f"no CUDA, so the CPU is used: {obstacle.reason}; {obstacle.hint}")
    return ort_session.open_session(model, options()), "cpu", "cpu"


def _placed_for_cpu(model: str | bytes) -> bool:
    """Tell whether the model is INT8 with uint8 activations. CUDA has no kernels for it and would copy to the CPU."""
    quantization = _read_spec(model).provenance.get("quantization")
    return isinstance(quantization, dict) and quantization.get("target") == "cpu"


def _read_spec(model: str | bytes) -> ModelSpec:
    """Read the spec, without a session. Raises what ONNX Runtime raises for a file that is damaged."""
    from resnet_infer.runtimes.artifacts import read_onnx_spec  # which only a machine with a GPU needs

    try:
        return read_onnx_spec(Path(model) if isinstance(model, str) else model)
    except ModelError:
        ort_session.open_session(model, ort_session.session_options(threads=1, optimize=False))
        raise
