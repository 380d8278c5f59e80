"""Start worker processes, and explain how they failed.

This module holds what a parent and its workers share. What the workers do is left to their own modules.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import BinaryIO

from resnet_infer.errors import ResnetInferError, RuntimeUnavailableError, first_line
from resnet_infer.utils.console import is_shown

_PYTHON = re.compile(r"[^/\\]*(python|pypy|graalpy)[^/\\]*\Z", re.IGNORECASE)
"""Pattern of the file name of a Python interpreter: python3.12, pythonw.exe, Python, pypy3."""


def interpreter() -> str:
    """Return the path of the Python interpreter that runs this program, to start another process with it.

    Raises `RuntimeUnavailableError` in a frozen program (PyInstaller) and in one that embeds Python (uWSGI). There
    `sys.executable` is the program itself, and starting it would start the program again.
    """
    from multiprocessing.spawn import get_executable

    if getattr(sys, "frozen", False):
        raise RuntimeUnavailableError(
            f"this program is frozen, so {sys.executable or 'it'} cannot start a Python of its own to measure or serve",
            hint="measure and serve with an installed resnet-infer; classifying needs no process",
            source=sys.executable,
        )
    path = os.fsdecode(get_executable() or "")  # by default `sys.executable`
    if not _PYTHON.search(path):
        raise RuntimeUnavailableError(
            f"{path or 'the program around this one'} is no Python, and measuring and serving start one",
            hint="name one with multiprocessing.set_executable, or use the command resnet-infer",
            source=path,
        )
    return path


def command(module: str) -> list[str]:
    """Return the command line of a process that calls `main()` of `module`. Raises as `interpreter` does.

    Its notes are written to stderr if those of this process are.
    """
    # Copy this process's search path: `-c` alone would put the working directory in front of it.
    notes = (
        "from resnet_infer.utils.console import on_stderr; notes = on_stderr(); notes.__enter__(); "
        if is_shown()
        else ""
    )
    code = f"import sys; sys.path[:] = {sys.path!r}; {notes}from {module} import main; main()"
    return [interpreter(), "-c", code]


def answer_channel() -> BinaryIO:
    """Return the process's stdout as a binary stream, and redirect what libraries print to stdout to stderr."""
    channel = os.fdopen(os.dup(1), "wb")
    try:
        os.dup2(2, 1)
    except OSError:  # stderr is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return channel


def reason(error: Exception) -> str:
    """Describe an exception of a runtime or its libraries in one line."""
    if isinstance(error, ResnetInferError):
        return error.message
    return f"{type(error).__name__}: {first_line(error)}"


def ending(code: int, stderr: bytes) -> str:
    """Describe how a process ended that has sent no answer.

    `code` is the return code of `subprocess`, negative for a signal.
    """
    if code < 0:
        name = signal.Signals(-code).name
        often = ", as when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{often}"
    last = (stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    return f"its process ended with code {code}: {last[:300]}"
