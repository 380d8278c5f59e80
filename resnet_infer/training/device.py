"""Adapt a run to its device: precision, compilation, threads, and the error when memory runs out."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from resnet_infer.errors import TrainingError, UsageError
from resnet_infer.runtimes.pytorch import float32_products
from resnet_infer.utils import cpu
from resnet_infer.utils.host_memory import out_of_memory

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
"""Values of `--precision`; auto is resolved by `choose_precision`."""
_FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16"})
"""CPU flags of instructions that compute in bfloat16."""


def choose_precision(precision: str, device: torch.device) -> str:
    """Resolve auto, and check the others.

    auto is bf16 where the device has instructions for it (on a CPU: AVX-512 BF16 or AMX); else fp16 on a GPU, and fp32
    on a CPU. Raises `UsageError` for a precision that is not among `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"the precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _FAST_BF16 & cpu.flags() else "fp32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context of the forward pass: operations that profit run in half precision. fp32 changes nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def compiled(network: nn.Module, device: torch.device, wanted: bool | None, processes: int = 1) -> nn.Module:
    """Return the network compiled if `wanted`; None compiles on GPUs with Triton, where CUDA graphs are captured too.

    A CPU is left alone by default: measured in bf16, eager mode is faster there. A network that several processes train
    together is never compiled: torch does not capture the communication of `DistributedDataParallel` and
    `SyncBatchNorm` reliably (pytorch issues 107372, 128218, 161302). Raises `UsageError` if it is `wanted` there.
    """
    if processes > 1:
        if wanted:
            raise UsageError(
                f"torch cannot compile a network that {processes} processes train together", hint="leave out --compile"
            )
        return network
    if wanted is None:
        wanted = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    if not wanted:
        return network
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    module: nn.Module = torch.compile(network, mode=mode, dynamic=False)  # type: ignore[assignment]
    return module


@contextlib.contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Compute float32 products in IEEE float32 inside the block, on a GPU too, where torch uses TF32 for convolutions.

    So fp32 means the same on every device, in training and in the measurement of the error. What `autocast` computes in
    bf16 or fp16 stays as it is. Other precisions that the program has set return at the end. torch.compile's advice to
    use TF32 is not shown.
    """
    with warnings.catch_warnings() if device.type == "cuda" else contextlib.nullcontext():
        if device.type == "cuda":
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        with float32_products("fp32", device.type):
            yield


@contextlib.contextmanager
def memory_errors(batch_size: int, kept: Callable[[], str]) -> Iterator[None]:
    """Turn an exhausted memory, of the device or of the machine, into a `TrainingError` that says what to lower.

    `kept` returns a sentence about what is saved of the run.
    """
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
            reason="memory",
        ) from error


@contextlib.contextmanager
def bounded_threads() -> Iterator[None]:
    """Limit torch to the cores that this process may use, inside the block.

    By default torch counts the cores of the machine, which may be more than a container may use.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, cpu.usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe(device: torch.device) -> str:
    """Return the name of the machine, for a model's provenance: the GPU, or the CPU and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu.processor()}, {min(torch.get_num_threads(), cpu.usable_cores())} threads"
