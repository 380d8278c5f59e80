"""ONNX Runtime on a CPU, on CUDA, or on CUDA with TensorRT inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from resnet_infer.errors import (
    ModelError,
    ResnetInferError,
    RuntimeUnavailableError,
    UsageError,
    did_you_mean,
    first_line,
)
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.artifacts import read_onnx_spec
from resnet_infer.runtimes.base import Images, Logits, Runtime, parse_device
from resnet_infer.runtimes.signature import Tensor, require_signature
from resnet_infer.utils.console import note
from resnet_infer.utils.cpu import compute_threads
from resnet_infer.utils.extras import install_command, needs

with needs("cpu", "running an ONNX model"):
    from resnet_infer.runtimes import ort_session

Provider = Literal["auto", "cuda", "tensorrt"]

BUFFERS = 8
"""Shapes of batches that keep buffers on the device."""


class BoundBuffers:
    """Input and output of a session in memory of the device, for batches of one shape, at fixed addresses.

    Only the uint8 pictures travel to the device and only the logits back. One call at a time.
    """

    def __init__(
        self, session: Any, images: str, logits: str, shape: tuple[int, ...], classes: int, device: tuple[str, int]
    ) -> None:
        self._session = session
        self._images = ort_session.device_value(shape, np.uint8, device)
        self._logits = ort_session.device_value((shape[0], classes), np.float32, device)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(images, self._images)
        self._binding.bind_ortvalue_output(logits, self._logits)

    def upload(self, images: Images) -> None:
        self._images.update_inplace(images)

    def __call__(self, images: Images) -> Logits:
        self.upload(images)
        self._session.run_with_iobinding(self._binding)
        return np.array(self._logits.numpy())


class OnnxRuntime(Runtime):
    """An `.onnx` artifact of ours in an ONNX Runtime session.

    `model` is a path or a serialised model; `device` is `auto`, `cpu`, `cuda` or `cuda:N`. `auto` takes CUDA if it
    starts, but for INT8 that was placed for a CPU; a device that is named is used or `RuntimeUnavailableError` is
    raised. `threads` is the number of threads inside an operator, by default `cpu.compute_threads`. `optimize=False`
    runs the graph exactly as it is written.

    `spin=False` lets threads sleep as soon as they have nothing to do: several sessions in a process otherwise take
    each other's cores by waiting. `provider` names what runs on the GPU: `cuda`, or `tensorrt` with CUDA for what it
    does not take; it too is used or refused. `engine_cache` is a folder where TensorRT keeps the engines it builds.
    `tf32` lets float32 on CUDA be rounded to 10 bits of mantissa in products, which is faster and no longer FP32.
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
            raise ModelError(f"{model} does not exist")
        options = ort_session.session_options(threads=threads, optimize=optimize, spin=spin)
        source = str(model) if isinstance(model, Path) else model
        _check(device, provider, engine_cache)
        try:
            self.session, device, self.provider = _open(source, options, device, provider, engine_cache, tf32)
        except ResnetInferError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this
            raise ModelError(f"{label}: ONNX Runtime cannot load it ({first_line(error)})") from error
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
        self._buffers: dict[tuple[int, ...], BoundBuffers] = {}
        self.spin, self.optimize = spin, optimize
        # TensorRT's own default, which ONNX Runtime has no switch for.
        rounded = self.provider == "tensorrt" or (self.provider == "cuda" and tf32)
        self.precision = "tf32" if rounded and spec.precision == "fp32" else spec.precision
        super().__init__(spec, device, (height, width))

    def _run(self, images: Images) -> Logits:
        if self._batch is not None and len(images) != self._batch:
            raise UsageError(f"{self.spec.name} takes batches of {self._batch} only, not of {len(images)}")
        if self.device != "cpu":
            return self._bound(images.shape)(images)
        try:
            logits: Logits = self.session.run([self._output], {self._input: images})[0]
        except Exception as error:  # as above
            raise ModelError(
                f"{self.spec.name}: ONNX Runtime cannot run it on {images.shape[1]}x{images.shape[2]} pixels "
                f"({first_line(error)})"
            ) from error
        return logits

    def _transfer(self, images: Images) -> bool:
        if self.device == "cpu":
            return False
        self._bound(images.shape).upload(images)
        return True

    def _bound(self, shape: tuple[int, ...]) -> BoundBuffers:
        """The buffers for batches of this shape, made once; those of the shape used longest ago give way."""
        buffers = self._buffers.pop(shape, None)
        if buffers is None:
            device = (self.device.partition(":")[0], parse_device(self.device)[1])
            buffers = BoundBuffers(self.session, self._input, self._output, shape, len(self.spec.classes), device)
        self._buffers[shape] = buffers
        if len(self._buffers) > BUFFERS:
            del self._buffers[next(iter(self._buffers))]
        return buffers

    def _free(self) -> None:
        self._buffers.clear()
        self.session = None

    def describe(self) -> dict[str, Any]:
        """Besides version and threads: `provider`, `precision` as it is run, `spin`, `optimize`."""
        threads = self.session.get_session_options().intra_op_num_threads or compute_threads()
        return {
            **super().describe(),
            "version": ort_session.VERSION,
            "threads": threads,
            "provider": self.provider,
            "precision": self.precision,
            "spin": self.spin,
            "optimize": self.optimize,
        }


def _no_text(label: str, error: UnicodeDecodeError) -> ModelError:
    return ModelError(f"{label} is damaged: a name or its metadata is no UTF-8 ({error.reason})")


def _spec(session: Any, label: str) -> ModelSpec:
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise _no_text(label, error) from error
    return ModelSpec.from_metadata(metadata, label)


def _tensor(found: Any) -> Tensor:
    """An input or output as ONNX Runtime describes it; what is no tensor has its own type and no sides."""
    kind = str(found.type)
    inner = kind.removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in found.shape or ())
    return Tensor(found.name, {"float": "float32"}.get(inner, inner) if kind.startswith("tensor(") else kind, shape)


def _check(device: str, provider: str, engine_cache: Path | None) -> None:
    """Raise `UsageError` for what makes no sense together."""
    kind, _ = parse_device(device)
    if provider not in get_args(Provider):
        raise UsageError(
            f"there is no provider {provider!r}" + did_you_mean(str(provider), get_args(Provider)),
            hint=f"a provider is one of {', '.join(get_args(Provider))}",
        )
    if kind == "cpu" and provider != "auto":
        raise UsageError(f"the provider {provider} runs on a GPU, not on the CPU", hint="use --device cuda")
    if engine_cache is not None and provider != "tensorrt":
        raise UsageError("a cache of engines belongs to the provider tensorrt, which was not asked for")


def _open(
    model: str | bytes, options: Any, device: str, provider: str, engine_cache: Path | None, tf32: bool
) -> tuple[Any, str, str]:
    """A session, the device that it runs on, and the provider."""
    kind, number = parse_device(device)
    asked = kind == "cuda" or provider != "auto"
    gpu = asked or (kind == "auto" and ort_session.CUDA in ort_session.available_providers())
    if gpu and not asked and _placed_for_cpu(model):
        note("INT8 that was made for a CPU stays there; for the GPU: resnet-infer export --precision fp16, or tensorrt")
        gpu = False
    if gpu:
        used = "tensorrt" if provider == "tensorrt" else "cuda"
        session, reason = _open_gpu(model, options, used, number, engine_cache, tf32)
        if session is not None:
            return session, f"cuda:{number}", used
        if asked:
            wanted = device if provider == "auto" else f"the provider {provider}"
            raise RuntimeUnavailableError(
                f"{wanted} was asked for, and {reason}",
                hint=f"check the driver with nvidia-smi; CUDA comes with: {install_command('gpu')}",
            )
        note(f"no CUDA, so the CPU is used: {reason}")
    return ort_session.open_session(model, options), "cpu", "cpu"


def _placed_for_cpu(model: str | bytes) -> bool:
    """Whether it is INT8 with uint8 activations, for which CUDA has no kernels: its layers would go to and fro."""
    quantization = _told(model).provenance.get("quantization")
    return isinstance(quantization, dict) and quantization.get("target") == "cpu"


def _told(model: str | bytes) -> ModelSpec:
    """Read the spec, without a session. Raises what ONNX Runtime raises for a file that is damaged."""
    try:
        return read_onnx_spec(Path(model) if isinstance(model, str) else model)
    except ModelError:
        ort_session.open_session(model, ort_session.session_options(threads=1, optimize=False))
        raise


def _open_gpu(
    model: str | bytes, options: Any, provider: str, number: int, engine_cache: Path | None, tf32: bool
) -> tuple[Any, str]:
    """A session on a GPU, by the provider asked for; or None, and why there is none."""
    wanted, called = (ort_session.CUDA, "CUDA") if provider == "cuda" else (ort_session.TENSORRT, "TensorRT")
    if wanted not in ort_session.available_providers():
        return None, f"this ONNX Runtime has no {called}"
    providers: list[Any] = [(ort_session.CUDA, {"device_id": number, "use_tf32": int(tf32)}), ort_session.CPU]
    if provider == "tensorrt":
        providers.insert(0, _tensorrt(model, number, engine_cache))
    try:
        # Without this, ONNX Runtime itself would go on with the CPU and say so on stdout.
        session = ort_session.open_session(model, options, providers=providers, fallback=False)
    except Exception as error:  # as above
        return None, f"ONNX Runtime could not start {called} ({first_line(error)})"
    if session.get_providers()[0] != wanted:
        return None, f"ONNX Runtime could not start {called}"
    return session, ""


def _tensorrt(model: str | bytes, number: int, engine_cache: Path | None) -> tuple[str, dict[str, Any]]:
    """The provider, allowed the precision of the artifact, which it does not read from the graph by itself."""
    precision = _told(model).precision
    settings: dict[str, Any] = {
        "device_id": number,
        "trt_fp16_enable": precision == "fp16",
        "trt_int8_enable": precision == "int8",
    }
    if engine_cache is not None:
        engine_cache.mkdir(parents=True, exist_ok=True)
        for kind in ("engine", "timing"):
            settings |= {f"trt_{kind}_cache_enable": True, f"trt_{kind}_cache_path": str(engine_cache)}
    return ort_session.TENSORRT, settings
