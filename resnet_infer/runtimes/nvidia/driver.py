"""Ask NVIDIA's driver which CUDA it supports and which GPUs it has, without any package.

The functions are those of the CUDA driver API, https://docs.nvidia.com/cuda/cuda-driver-api/. They are called in the
process itself: a process that is forked afterwards, without an exec, cannot use CUDA.
"""

from __future__ import annotations

import ctypes
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
"""The driver's library, which no package brings."""
NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE."""
MODULE = Path("/proc/driver/nvidia/version")
"""Where Linux's kernel module says its version."""


@dataclass(frozen=True)
class Driver:
    """Hold what the driver says.

    - `cuda`: newest version of CUDA that it supports, (major, minor); None without a driver that works.
    - `gpus`: names of the GPUs that a process may use, in CUDA's order. CUDA_VISIBLE_DEVICES may hide some.
    - `version`: version of the kernel module, such as 580.65.06; None where it is not known.
    - `error`: why there is none that works, or None.
    """

    cuda: tuple[int, int] | None = None
    gpus: tuple[str, ...] = ()
    version: str | None = None
    error: str | None = None


def ask_driver() -> Driver:
    """Return what the driver of this machine says. Never raises."""
    version = module_version()
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        return Driver(version=version, error=f"there is no NVIDIA driver here ({error})")
    code = library.cuInit(0)
    if code not in (0, NO_DEVICE):
        return Driver(version=version, error=f"NVIDIA's driver does not start ({_name(library, code)})")
    number = ctypes.c_int()
    code = library.cuDriverGetVersion(ctypes.byref(number))
    cuda = (number.value // 1000, number.value % 1000 // 10) if code == 0 else None
    count = ctypes.c_int()
    if library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        count.value = 0
    return Driver(cuda, tuple(_gpu(library, index) for index in range(count.value)), version)


def module_version(path: Path = MODULE) -> str | None:
    """Return the version of the driver's kernel module, or None where there is none or it does not say."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", path.read_text(errors="replace"))
    except OSError:
        return None
    return found[1] if found else None


def _gpu(library: Any, number: int) -> str:
    """Return the name of a GPU, or its number where the driver does not tell the name."""
    device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    if library.cuDeviceGet(ctypes.byref(device), number) or library.cuDeviceGetName(name, len(name), device):
        return str(number)
    return name.value.decode(errors="replace")


def _name(library: Any, code: int) -> str:
    """Return the name of an error code of the driver, such as CUDA_ERROR_SYSTEM_DRIVER_MISMATCH."""
    text = ctypes.c_char_p()
    with suppress(AttributeError):
        library.cuGetErrorName(code, ctypes.byref(text))
    return text.value.decode(errors="replace") if text.value else f"error {code} of cuInit"
