"""Describe the machine that a measurement is made on, and warn of what makes its figures doubtful."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from resnet_infer._version import __version__
from resnet_infer.utils import cpu
from resnet_infer.utils.cgroups import cpu_quota, memory_limit
from resnet_infer.utils.extras import DISTRIBUTIONS, all_installed
from resnet_infer.utils.host_memory import physical_memory

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "OPENBLAS_NUM_THREADS",
)
"""Environment variables that change how libraries compute."""
PACKAGES = (("numpy",), ("pillow",), *DISTRIBUTIONS.values())
"""Distributions whose versions are recorded; of those in one tuple, all that are installed."""
GPU_FIELDS = (
    "name",
    "driver_version",
    "memory.total",
    "power.limit",
    "clocks.max.sm",
    "persistence_mode",
    "mig.mode.current",
)
"""Fields that nvidia-smi is queried for."""


def environment() -> dict[str, Any]:
    """Return the machine, system, versions and current load as JSON. Call it before measuring begins."""
    packages = [found for names in PACKAGES for found in all_installed(names)]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "resnet-infer": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": cpu.processor(),
        "flags": sorted(cpu.flags() & cpu.COMPUTE_FLAGS),
        "cores": cpu.machine_cores(),
        "usable_cores": cpu.usable_cores(),
        "cpu_quota": cpu_quota(),
        "governor": cpu.governor(),
        "mhz": cpu.megahertz(),
        "memory_gb": _gigabytes(physical_memory()),
        "memory_limit_gb": _gigabytes(memory_limit()),
        "load_average": _load(),
        "gpus": gpus(),
        "packages": dict(found.split(" ", 1) for found in packages),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def warnings(found: Mapping[str, Any]) -> list[str]:
    """Return what in the result of `environment` makes figures doubtful, as sentences."""
    lines = []
    load = found["load_average"]
    if load is not None and load[0] > found["usable_cores"] / 2:
        lines.append(
            f"the machine is not quiet: its load average is {load[0]:.1f} on {found['usable_cores']} cores; "
            "end other programs for figures that hold"
        )
    if found["governor"] == "powersave":
        lines.append("the governor is powersave: the frequency may follow the load; set it to performance")
    return lines


def gpus() -> list[dict[str, str]]:
    """Return what nvidia-smi says of every GPU, or nothing without nvidia-smi."""
    query = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line.split(", ") for line in done.stdout.splitlines() if line]
    return [dict(zip(GPU_FIELDS, (item.strip() for item in line), strict=False)) for line in lines]


def _gigabytes(size: int | None) -> float | None:
    return None if size is None else round(size / 1e9, 1)


def _load() -> list[float] | None:
    if sys.platform == "win32":
        return None
    return [round(value, 2) for value in os.getloadavg()]
