"""How much memory a process has used, and how much of a GPU's is in use."""

from __future__ import annotations

import os
import sys

from resnet_infer.runtimes.base import parse_device


def peak_resident() -> int | None:
    """The most bytes of memory that this process has held at a time; None where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            # `getrusage` would count the process that started this one.
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
    """How much more is used, never less than 0; None where it is not known."""
    return None if before is None or after is None else max(after - before, 0)


def device_in_use(device: str) -> int | None:
    """The bytes of memory that all programs together use on a GPU, "cuda:N"; None for a CPU, or without NVML."""
    kind, number = parse_device(device)
    if kind != "cuda":
        return None
    try:
        import pynvml
    except Exception:  # none, or one that does not load
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
