"""What the operating system says about the processor, and how much of it this process may use.

Only this module asks for a number of cores: libraries count those of the machine, whatever share of it is allowed.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from functools import cache
from pathlib import Path

from resnet_infer.utils.cgroups import cpu_quota

_CORES = Path("/sys/devices/system/cpu")
_FREQUENCY = _CORES / "cpu0/cpufreq"


def machine_cores() -> int:
    """Return the number of logical cores that the machine has, whether this process may use them or not."""
    return os.cpu_count() or 1


def usable_cores() -> int:
    """Return how many cores this process can keep busy, at least 1.

    The least of the cores that it may run on, of the time that its control groups allow (`cgroups.cpu_quota`, rounded
    up), and of PYTHON_CPU_COUNT or `-X cpu_count` (Python 3.13). More threads than these would only be stopped.
    """
    counts = [len(_affinity()) or machine_cores()]
    if (quota := cpu_quota()) is not None:
        counts.append(math.ceil(quota))
    # By itself it counts as above; it says something else where the user does.
    if stated := getattr(os, "process_cpu_count", lambda: None)():
        counts.append(stated)
    return max(min(counts), 1)


def compute_threads() -> int:
    """Return how many threads one computation should have: `usable_cores`, two of the same physical core counted once.

    Libraries for networks count like this, of the whole machine: the two halves of a core share what multiplies.
    """
    shared = {_line(_CORES / f"cpu{number}/topology/thread_siblings_list") or str(number) for number in _affinity()}
    return min(usable_cores(), len(shared) or machine_cores())


def limit_libraries() -> None:
    """Let numpy's and torch's libraries begin with no more threads than this process may use.

    For a process of our own, before they are imported: they start a thread for every core of the machine. Variables
    that are set already stay as they are, and so does everything where all cores may be used.
    """
    if (usable := usable_cores()) < machine_cores():
        for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ.setdefault(name, str(usable))


def _affinity() -> set[int]:
    """The numbers of the cores that this process may run on; none where the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def processor() -> str:
    """The processor's name."""
    return _field("model name") or platform.processor() or platform.machine()


def flags() -> frozenset[str]:
    """The processor's extensions by the names that Linux gives them; empty where they are not known."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return frozenset({"asimddp"})  # as all of Apple's have it
    # x86 calls the line "flags", ARM "Features".
    return frozenset((_field("flags") or _field("Features")).split())


@cache
def _field(name: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.partition(":")[0].strip() == name), "")
    except OSError:
        return ""


def governor() -> str | None:
    """What Linux chooses the first core's frequency by, `performance` or `powersave`; None where it is not told."""
    return _line(_FREQUENCY / "scaling_governor")


def megahertz() -> float | None:
    """The present frequency of the first core; None where it is not told."""
    text = _line(_FREQUENCY / "scaling_cur_freq")
    if text is not None:
        return float(text) / 1000
    shown = _field("cpu MHz")
    return float(shown) if shown else None


def _line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
