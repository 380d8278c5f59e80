"""Ctrl-C and SIGTERM as a wish that the loop grants between two steps."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from resnet_infer.errors import TrainingError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(TrainingError):  # noqa: N818 (not a failure)
    """A run was asked to stop, and is saved. The exit code is 128 and the signal's number, as a shell has it."""

    def __init__(self, message: str, number: int, folder: Path) -> None:
        super().__init__(message, hint=f"the same command with -o {folder} goes on from there")
        self.exit_code = 128 + number


class StopSignals:
    """Remembers the first signal in `caught`; a second one acts at once, as it did before."""

    def __init__(self) -> None:
        self.caught = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.caught = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
