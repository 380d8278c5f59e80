"""Query the processor from the operating system, and how many of its cores this process may use.

Only this module reads the number of cores. Other libraries count all cores of the machine, even where a process may use
only some of them.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from functools import cache
from pathlib import Path

from resnet_infer.utils.cgroups import cpu_quota

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""Instruction set extensions for bfloat16, by Linux's names: two of x86, two of ARM."""
_CORES = Path("/sys/devices/system/cpu")
"""Folder of Linux with a folder for every core."""
_FREQUENCY = _CORES / "cpu0/cpufreq"
"""Folder of Linux with the frequency settings of the first core."""
COMPUTE_FLAGS = frozenset(
    ("avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
     "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
     "asimd", "asimddp", "asimdhp", "fphp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16")
)  # fmt: skip
"""Instruction sets, as Linux names them, that decide how fast networks run."""


def machine_cores() -> int:
    """Return the number of logical cores of the machine, whether this process may use them or not."""
    return os.cpu_count() or 1


def usable_cores() -> int:
    """Return the number of cores that this process can keep busy, at least 1.

    It is the least of three: the cores of the CPU affinity mask, the CPU time that the control groups allow
    (`cgroups.cpu_quota`, rounded up), and PYTHON_CPU_COUNT or `-X cpu_count` (Python 3.13). Additional threads would
    only be throttled.
    """
    counts = [len(_affinity()) or machine_cores()]
    if (quota := cpu_quota()) is not None:
        counts.append(math.ceil(quota))
    # By default it counts the affinity mask too; it differs only where the user sets another number.
    if stated := getattr(os, "process_cpu_count", lambda: None)():
        counts.append(stated)
    return max(min(counts), 1)


def affinity_cores() -> int | None:
    """Return the number of cores in the CPU affinity mask (taskset, cpusets of containers); None without a mask."""
    return len(_affinity()) or None


def compute_threads() -> int:
    """Return the number of threads for one computation: at most one per physical core, and `usable_cores` at most.

    Inference libraries count the same way, but over the whole machine: the two threads of a core share its arithmetic
    units.
    """
    shared = {_line(_CORES / f"cpu{number}/topology/thread_siblings_list") or str(number) for number in _affinity()}
    return min(usable_cores(), len(shared) or machine_cores())


def limit_libraries() -> None:
    """Limit the thread pools of numpy and torch to the cores that this process may use.

    Call it before they are imported, in a process of this package only: by default they start a thread for every core
    of the machine. Environment variables that are already set keep their values. Nothing changes where all cores may be
    used.
    """
    if (usable := usable_cores()) < machine_cores():
        for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ.setdefault(name, str(usable))


def _affinity() -> set[int]:
    """Return the numbers of the cores in the CPU affinity mask; none where the system has no mask."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def processor() -> str:
    """Return the processor's name."""
    return _field("model name") or platform.processor() or platform.machine()


def flags() -> frozenset[str]:
    """Return the processor's instruction set extensions by Linux's names, such as `avx2`; none if unknown."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return frozenset({"asimddp"})  # all ARM processors of Apple have it
    # The line is called "flags" on x86 and "Features" on ARM.
    return frozenset((_field("flags") or _field("Features")).split())


@cache
def _field(name: str) -> str:
    """Return the first value with this name in /proc/cpuinfo, or an empty text."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.partition(":")[0].strip() == name), "")
    except OSError:
        return ""


def governor() -> str | None:
    """Return Linux's frequency governor of the first core, such as `performance`; None where it is unknown."""
    return _line(_FREQUENCY / "scaling_governor")


def megahertz() -> float | None:
    """Return the current frequency of the first core in MHz; None where it is unknown."""
    text = _line(_FREQUENCY / "scaling_cur_freq")
    if text is not None:
        return float(text) / 1000
    shown = _field("cpu MHz")
    return float(shown) if shown else None


def _line(path: Path) -> str | None:
    """Return the text of a one-line file, or None if it is empty or cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
