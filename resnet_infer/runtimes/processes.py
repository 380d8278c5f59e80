"""Processes that measure: how one is started, how it answers, and how it ended if it did not."""

from __future__ import annotations

import os
import signal
import sys
from typing import BinaryIO

from resnet_infer.errors import ResnetInferError, first_line


def command(module: str) -> list[str]:
    """What starts a process that calls `main` of a module."""
    # The search path is this process's, not one with the working directory in front.
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main()"
    return [sys.executable, "-c", code]


def answer_channel() -> BinaryIO:
    """This process's stdout, for answers alone: what libraries print there goes to stderr from here on."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return channel


def reason(error: Exception) -> str:
    """Why there is no measurement, in a line, whatever a runtime or its libraries raise."""
    if isinstance(error, ResnetInferError):
        return error.message
    return f"{type(error).__name__}: {first_line(error)}"


def ending(code: int, stderr: bytes) -> str:
    """How a process ended that has not answered."""
    if code < 0:
        name = signal.Signals(-code).name
        often = ", as when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{often}"
    last = (stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    return f"its process ended with code {code}: {last[:300]}"
