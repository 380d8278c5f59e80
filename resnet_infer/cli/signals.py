"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is begun is put in order, and what is answered is kept."""

from __future__ import annotations

import signal
import threading
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What service managers, schedulers and closed terminals send."""
_caught: list[int] = []


def end_like_ctrl_c() -> None:
    """Have the signals in `ENDING` raise `KeyboardInterrupt` in the main thread.

    One that is ignored, as under nohup, or that the program around handles, is left as it is.
    """
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _interrupt)


def exit_code() -> int:
    """The exit code after `KeyboardInterrupt`, as shells have it: 128 and the number of the signal."""
    return 128 + (_caught[-1] if _caught else signal.SIGINT)


def ended_by() -> str:
    """What the user is told after `KeyboardInterrupt`."""
    return f"ended by {signal.Signals(_caught[-1]).name}" if _caught else "interrupted"


def _interrupt(number: int, frame: FrameType | None) -> None:
    _caught.append(number)
    raise KeyboardInterrupt
