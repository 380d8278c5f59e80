"""Open sessions of ONNX Runtime on a GPU, with the provider for CUDA or for TensorRT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resnet_infer.runtimes.artifacts import read_onnx_signature, read_onnx_spec
from resnet_infer.runtimes.nvidia.obstacles import CALLED, Obstacle, cause, obstacle, remedy
from resnet_infer.runtimes.nvidia.sizes import SIZES
from resnet_infer.utils.console import warn
from resnet_infer.utils.extras import needs

with needs("gpu", "running on an NVIDIA GPU"):
    from resnet_infer.runtimes import ort_session

NO_CPU = "session.disable_cpu_ep_fallback"
"""Option of a session that refuses a graph of which operators would run on the CPU. Its list has no CPU provider."""
_REFUSED = "fallback to CPU EP has been explicitly disabled"
"""Words of ONNX Runtime's refusal for that option."""


@dataclass(frozen=True)
class GpuOptions:
    """Hold how a session is opened on a GPU.

    - `provider`: `cuda`, or `tensorrt` with CUDA for the operators that TensorRT does not support.
    - `number`: index of the GPU.
    - `engine_cache`: folder for the engines that the TensorRT provider builds.
    - `tf32`: let CUDA compute FP32 in TF32.
    """

    provider: Literal["cuda", "tensorrt"]
    number: int = 0
    engine_cache: Path | None = None
    tf32: bool = False


def open_gpu(model: str | bytes, make_options: Any, settings: GpuOptions) -> tuple[Any, Obstacle | None]:
    """Open a session on a GPU. Return it and None, or None and what keeps it from opening.

    `make_options` is called for the options of each session. Where operators have no kernel on the GPU they run on the
    CPU, and a warning says so.
    """
    if found := obstacle(settings.provider, settings.number):
        return None, found
    source = Path(model) if isinstance(model, str) else model
    providers = gpu_providers(source, settings)
    options = make_options()
    options.add_session_config_entry(NO_CPU, "1")
    try:
        session = _open(model, options, providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this
        if _REFUSED not in str(error):
            return None, _failed(settings.provider, cause(error))
        try:
            session = _open(model, make_options(), [*providers, ort_session.CPU])
        except Exception as second:  # as above
            return None, _failed(settings.provider, cause(second))
        label = model if isinstance(model, str) else "the model"
        warn(f"{label}: operators without a kernel for {CALLED[settings.provider]} run on the CPU, with copies between")
    if session.get_providers()[0] != ort_session.PROVIDERS[settings.provider]:
        return None, _failed(settings.provider, "it does not say why")
    return session, None


def _open(model: str | bytes, options: Any, providers: list[Any]) -> Any:
    """Open a session without a fallback: ONNX Runtime would continue on the CPU and print that to stdout."""
    with ort_session.silence():
        return ort_session.open_session(model, options, providers=providers, fallback=False)


def _failed(provider: str, reason: str) -> Obstacle:
    """Return the obstacle of a session that did not open."""
    return Obstacle(f"ONNX Runtime could not start {CALLED[provider]} ({reason})", remedy(reason))


def gpu_providers(model: Path | bytes, settings: GpuOptions) -> list[Any]:
    """Return the providers of a session with their options, without that for the CPU.

    Sources: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html and
    TensorRT-ExecutionProvider.html.
    """
    precision = read_onnx_spec(model).precision
    # Plans are made anew when the shape changes: HEURISTIC makes one in milliseconds, EXHAUSTIVE in hundreds of them.
    cuda: dict[str, Any] = {"device_id": settings.number, "cudnn_conv_algo_search": "HEURISTIC"}
    if precision == "fp32":  # with the option, cuDNN's plans lose the tensor cores in every precision
        cuda["use_tf32"] = int(settings.tf32)
    providers: list[Any] = [(ort_session.CUDA, cuda)]
    if settings.provider == "tensorrt":
        providers.insert(0, (ort_session.TENSORRT, _tensorrt(model, precision, settings)))
    return providers


def _tensorrt(model: Path | bytes, precision: str, settings: GpuOptions) -> dict[str, Any]:
    """Return the options of the TensorRT provider, which must be told the precision and the range of batch sizes.

    Without the range it builds another engine for each batch that is larger than those before.
    """
    found: dict[str, Any] = {
        "device_id": settings.number,
        "trt_fp16_enable": precision == "fp16",
        "trt_int8_enable": precision == "int8",
    }
    images, _ = read_onnx_signature(model)
    batch, *sides = images.shape
    if batch is None and None not in sides:
        for name, count in (("min", SIZES[0]), ("opt", 8), ("max", SIZES[-1])):
            found[f"trt_profile_{name}_shapes"] = f"{images.name}:{'x'.join(map(str, (count, *sides)))}"
    if settings.engine_cache is not None:
        settings.engine_cache.mkdir(parents=True, exist_ok=True)
        for kind in ("engine", "timing"):
            found |= {f"trt_{kind}_cache_enable": True, f"trt_{kind}_cache_path": str(settings.engine_cache)}
    return found
