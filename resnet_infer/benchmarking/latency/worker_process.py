"""The processes that hold the subjects: started, told what to do, and ended whatever happens."""

from __future__ import annotations

import pickle
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from resnet_infer.benchmarking.latency.subjects import Entry, Pictures
from resnet_infer.benchmarking.latency.worker import Task
from resnet_infer.runtimes.processes import command, ending

TIMEOUT = 600.0
"""Seconds for one answer; TensorRT may build an engine in it."""


class FailedError(Exception):
    """Why a subject can no longer be measured."""


class Worker:
    """A subject in a process of its own. `about` is its first answer, see `open_bench`. A context manager.

    While nobody asks it blocks on a pipe, and uses no core. Raises `FailedError` for whatever the process could not
    do, and where it crashed; `RuntimeUnavailableError` where none can be started, see `interpreter`.
    """

    def __init__(self, entry: Entry, pictures: Pictures, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        start = command("resnet_infer.benchmarking.latency.worker")
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        started = time.monotonic()
        try:
            self._process = subprocess.Popen(
                start,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
            )
        except OSError as error:
            self._stderr.close()
            raise FailedError(f"its process could not be started ({error.strerror or error})") from error
        try:
            self.about = self._ask(pickle.dumps(Task(entry.subject, entry.batch, pictures.contents, started)))
        except BaseException:
            self.close()
            raise

    def warm(self) -> dict[str, Any]:
        """See `Bench.warm`."""
        return self._ask(b"warm\n")

    def turn(self, seconds: float) -> dict[str, Any]:
        """See `Bench.turn`."""
        return self._ask(f"{seconds}\n".encode())

    def _ask(self, order: bytes) -> dict[str, Any]:
        process, late = self._process, threading.Event()
        assert process.stdin is not None
        assert process.stdout is not None

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._timeout, end)
        timer.daemon = True  # an interrupt before `try` leaves it running, and the interpreter would wait for it
        timer.start()
        try:
            process.stdin.write(order)
            process.stdin.flush()
            answer: dict[str, Any] = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            code = process.wait()
            raise FailedError(
                f"no answer within {self._timeout:g} seconds" if late.is_set() else ending(code, self._said())
            ) from error
        finally:
            timer.cancel()
        if "failure" in answer:
            raise FailedError(answer["failure"])
        return answer

    def _said(self) -> bytes:
        self._stderr.seek(0)
        return self._stderr.read()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with suppress(OSError), self._process:  # closes its pipes, and waits
            pass
        self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
