"""What the operating system says about the processor."""

from __future__ import annotations

import platform
import sys
from functools import cache


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
