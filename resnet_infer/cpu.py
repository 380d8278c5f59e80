"""What the operating system says about the processor."""

from __future__ import annotations

import platform
import sys
from functools import cache
from pathlib import Path

_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")


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
