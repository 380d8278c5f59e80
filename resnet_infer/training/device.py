"""What a run makes of its device: precision, compilation, and what to say when memory runs out."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from resnet_infer.errors import TrainingError, UsageError
from resnet_infer.utils import cpu
from resnet_infer.utils.host_memory import out_of_memory

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16"})


def choose_precision(precision: str, device: torch.device) -> str:
    """For auto bf16 where the device computes in it (on a CPU: AVX-512 BF16 or AMX), else fp32."""
    if precision not in PRECISIONS:
        raise UsageError(f"the precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _FAST_BF16 & cpu.flags() else "fp32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Around the forward pass: what gains by it is computed in half precision."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def compiled(network: nn.Module, device: torch.device, wanted: bool | None) -> nn.Module:
    """Compiled if `wanted`; None means on GPUs, where the passes are also captured as CUDA graphs.

    A CPU is left alone because in bf16, measured, eager is faster there.
    """
    if wanted is None:
        wanted = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    if not wanted:
        return network
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    module: nn.Module = torch.compile(network, mode=mode, dynamic=False)  # type: ignore[assignment]
    return module


@contextlib.contextmanager
def memory_errors(batch_size: int, kept: Callable[[], str]) -> Iterator[None]:
    """Say what to lower when memory runs out, of the device or of the machine, and what is `kept`."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        text = str(error)
        if "out of memory" not in text and out_of_memory(error) is None:
            raise
        raise TrainingError(
            f"out of memory: {text.splitlines()[0] if text else 'the pictures do not fit'}; {kept()}",
            hint=f"lower --batch-size (now {batch_size}) or --crop, take --precision bf16, or leave the pictures in"
            " their files with --data-in files",
        ) from error


@contextlib.contextmanager
def bounded_threads() -> Iterator[None]:
    """Let torch have no more threads than this process has cores: by itself it counts those of the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, cpu.usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe(device: torch.device) -> str:
    """The machine, for a model's provenance."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu.processor()}, {min(torch.get_num_threads(), cpu.usable_cores())} threads"
