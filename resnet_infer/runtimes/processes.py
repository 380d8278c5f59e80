"""Processes that measure: how one is started, how it answers, and how it ended if it did not."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import BinaryIO

from resnet_infer.errors import ResnetInferError, RuntimeUnavailableError, first_line

_PYTHON = re.compile(r"[^/\\]*(python|pypy|graalpy)[^/\\]*\Z", re.IGNORECASE)
"""The end of an interpreter's path: python3.12, pythonw.exe, Python, pypy3."""


def interpreter() -> str:
    """The path of the Python that this program is run by, to start another one.

    Raises `RuntimeUnavailableError` where there is none, in a frozen program (PyInstaller and the like) or in one that
    embeds Python (uWSGI): what is called the executable there is the program, which would start itself.
    """
    from multiprocessing.spawn import get_executable

    if getattr(sys, "frozen", False):
        raise RuntimeUnavailableError(
            f"this program is frozen, so {sys.executable or 'it'} cannot start a Python of its own to measure or serve",
            hint="measure and serve with an installed resnet-infer; classifying needs no process",
        )
    path = os.fsdecode(get_executable() or "")  # what `multiprocessing` starts, by default `sys.executable`
    if not _PYTHON.search(path):
        raise RuntimeUnavailableError(
            f"{path or 'the program around this one'} is no Python, and measuring and serving start one",
            hint="name one with multiprocessing.set_executable, or use the command resnet-infer",
        )
    return path


def command(module: str) -> list[str]:
    """What starts a process that calls `main` of a module. Raises what `interpreter` does."""
    # The search path is this process's, not one with the working directory in front.
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main()"
    return [interpreter(), "-c", code]


def answer_channel() -> BinaryIO:
    """This process's stdout, for answers alone: what libraries print there goes to stderr from here on."""
    channel = os.fdopen(os.dup(1), "wb")
    try:
        os.dup2(2, 1)
    except OSError:  # stderr is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
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
