"""Make SIGTERM and SIGHUP end a command as Ctrl-C does, so that it cleans up and keeps its results."""

from __future__ import annotations

import signal
import threading
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that service managers, schedulers and closing terminals send."""
_caught: list[int] = []
"""Numbers of the signals received, in order."""


def end_like_ctrl_c() -> None:
    """Let the signals in `ENDING` raise `KeyboardInterrupt` in the main thread.

    A signal that is ignored (nohup) or that the calling program handles is left as it is.
    """
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _interrupt)


def exit_code() -> int:
    """Return the exit code after `KeyboardInterrupt`: 128 plus the number of the signal, as in shells."""
    return 128 + (_caught[-1] if _caught else signal.SIGINT)


def ended_by() -> str:
    """Return the message for the user after `KeyboardInterrupt`."""
    return f"ended by {signal.Signals(_caught[-1]).name}" if _caught else "interrupted"


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal: record it and raise `KeyboardInterrupt`."""
    _caught.append(number)
    raise KeyboardInterrupt
