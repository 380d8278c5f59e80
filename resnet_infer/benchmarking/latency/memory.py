"""Measure the memory of this process, and of a GPU."""

from __future__ import annotations

import os
import sys

from resnet_infer.runtimes.base import parse_device
from resnet_infer.runtimes.nvidia.visible_gpus import visible_gpus


def peak_resident() -> int | None:
    """Return the peak of this process's resident memory in bytes, or None where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            # `getrusage` would include the peak of the process that forked this one.
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")), None)
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def growth(before: int | None, after: int | None) -> int | None:
    """Return the growth from `before` to `after`, at least 0, or None if either is unknown."""
    return None if before is None or after is None else max(after - before, 0)


def device_in_use(device: str) -> int | None:
    """Return the bytes that all programs use on the GPU "cuda:N", or None for a CPU, without NVML and if it is unclear.

    NVML counts GPUs in the order of the PCI bus, CUDA the fastest first unless CUDA_DEVICE_ORDER is PCI_BUS_ID. A
    number therefore means the same to both only where all GPUs are of one kind, or with that variable.
    """
    kind, number = parse_device(device)
    if kind != "cuda":
        return None
    try:
        import pynvml
    except Exception:  # not installed, or it does not load
        return None
    try:
        pynvml.nvmlInit()
        try:
            # CUDA counts the GPUs that CUDA_VISIBLE_DEVICES leaves, NVML all.
            visible = visible_gpus()
            name = str(number) if visible is None else visible[number]
            if name.isdecimal():
                every = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
                kinds = {pynvml.nvmlDeviceGetName(handle) for handle in every}
                if len(kinds) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
                    return None
                handle = pynvml.nvmlDeviceGetHandleByIndex(int(name))
            else:
                handle = pynvml.nvmlDeviceGetHandleByUUID(name.encode())
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        finally:
            pynvml.nvmlShutdown()
    except (pynvml.NVMLError, IndexError):
        return None
