"""Start the processes that hold the subjects, send them requests, and end them whatever happens."""

from __future__ import annotations

import pickle
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import IO, Any

from resnet_infer.benchmarking.latency.worker import RoundRequest, StartRequest, WarmUpRequest
from resnet_infer.runtimes.processes import command, ending

TIMEOUT = 600.0
"""Seconds for one response; TensorRT may build an engine in it."""


class FailedError(Exception):
    """Say why a subject can no longer be measured."""


class Worker:
    """Hold a subject in a process of its own; a context manager that ends the process.

    `about` is the response to the `StartRequest`, see `open_bench`. Between requests the process blocks on a pipe and
    uses no core. Raises `FailedError` for whatever the process could not do, and if it crashed;
    `RuntimeUnavailableError` where none can be started, see `interpreter`.
    """

    def __init__(self, request: StartRequest, timeout: float = TIMEOUT) -> None:
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
            self.about = self._exchange(replace(request, started=started))
        except BaseException:
            self.close()
            raise

    def send(self, request: WarmUpRequest | RoundRequest) -> dict[str, Any]:
        """Send a request and return the response, see `Bench.warm` and `Bench.round`."""
        return self._exchange(request)

    def _exchange(self, request: StartRequest | WarmUpRequest | RoundRequest) -> dict[str, Any]:
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
            process.stdin.write(pickle.dumps(request))
            process.stdin.flush()
            response: dict[str, Any] = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            code = process.wait()
            raise FailedError(
                f"no answer within {self._timeout:g} seconds" if late.is_set() else ending(code, self._stderr_text())
            ) from error
        finally:
            timer.cancel()
        if "failure" in response:
            raise FailedError(response["failure"])
        return response

    def _stderr_text(self) -> bytes:
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
