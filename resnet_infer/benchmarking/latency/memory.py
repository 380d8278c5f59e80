"""Measure the memory of this process, and of a GPU."""

from __future__ import annotations

import os
import sys

from resnet_infer.runtimes.base import parse_device


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
    """Return the bytes that all programs use on the GPU "cuda:N", or None for a CPU and without NVML."""
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
            # CUDA counts the GPUs that this variable leaves, NVML all.
            visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
            name = visible[number] if visible else str(number)
            if name.isdecimal():
                handle = pynvml.nvmlDeviceGetHandleByIndex(int(name))
            else:
                handle = pynvml.nvmlDeviceGetHandleByUUID(name.encode())
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        finally:
            pynvml.nvmlShutdown()
    except (pynvml.NVMLError, IndexError):
        return None
