"""Turn Ctrl-C, SIGTERM and SIGHUP into a request that the training loop reads between two steps."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from resnet_infer.errors import TrainingError

ALWAYS = (signal.SIGINT, signal.SIGTERM)
SIGNALS = ALWAYS + tuple(getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name))
"""Signals that stop a run. A terminal sends SIGHUP when it is closed."""
WITHIN = 60.0
"""Seconds within which `resnet-infer train` ends after the first signal, whatever hangs."""


class Stopped(TrainingError):  # noqa: N818 (not a failure)
    """Report that a run was stopped by a signal and is saved.

    The exit code is 128 plus the number of the signal, as in a shell.
    """

    default_reason = "stopped"

    def __init__(self, message: str, number: int, folder: Path) -> None:
        super().__init__(message, hint=f"the same command with -o {folder} goes on from there", source=folder)
        self.exit_code = 128 + number


class StopSignals:
    """Remember the first signal in `caught`; a second one has its usual effect at once.

    With `within` the process ends that many seconds after the first signal, even if something hangs, such as a read
    from storage that is gone. It prints what `kept` returns, and kills its own child processes. Instances are context
    managers.
    """

    def __init__(self, within: float | None = None, kept: Callable[[], str] = str) -> None:
        self.caught = 0
        self.within, self.kept = within, kept
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number in ALWAYS or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it
                    self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal, restore the handlers from before, and start the thread that ends the process in time."""
        self.caught = number
        self._restore()
        if self.within is not None:
            # Not cancelled when the run has stopped, because the end of the process may hang too.
            end = threading.Thread(target=self._end, args=(number, self.within), daemon=True, name="end")
            with contextlib.suppress(RuntimeError):  # no more threads can be started: the run still stops
                end.start()

    def _end(self, number: int, within: float) -> None:
        """End the process after `within` seconds."""
        time.sleep(within)
        with contextlib.suppress(Exception):  # no error may prevent the exit
            for child in multiprocessing.active_children():
                child.kill()
            text = f"error: the run did not stop within {within:g} seconds and is ended; {self.kept()}\n"
            os.write(2, text.encode("utf-8", "backslashreplace"))
        os._exit(128 + number)

    def _restore(self) -> None:
        """Restore the handlers from before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
