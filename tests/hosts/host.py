"""Run a host: another program that contains the package, from its start to its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT

PROGRAMS = Path(__file__).parent / "programs"
WATCH = Path(__file__).parent / "watch"
DEADLINE = 60
"""Seconds that a host has to end in, after its work or after SIGTERM; some of them kill a worker after 30 s."""

CLEAN = frozenset({0})


class Host:
    """A program in a process group of its own, whose children, output and end are looked at.

    `folder` is where it runs and what it writes is kept; `variables` are added to its environment.
    """

    def __init__(
        self, command: Iterable[str | Path], folder: Path, *, pass_fds: tuple[int, ...] = (), **variables: str
    ):
        self.folder = folder
        path = os.pathsep.join(map(str, (WATCH, ROOT, PROGRAMS)))
        own = {"PYTHONPATH": path, "HOST_CHILDREN": str(folder / "children"), "HOME": str(folder)}
        with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env={**os.environ, **own, "PYTHONFAULTHANDLER": "1", **variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=pass_fds,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text(encoding="utf-8")

    @property
    def children(self) -> list[int]:
        """The exit codes of the processes that it started, a signal's as a negative number."""
        written = self.folder / "children"
        lines = written.read_text(encoding="utf-8").splitlines() if written.exists() else []
        return [int(line.split()[1]) for line in lines]

    def wait_until(self, true: Callable[[], object], seconds: float = DEADLINE) -> None:
        """Wait for something that the host does."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"nothing after {seconds} s: {self.said()}"
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, as a supervisor does."""
        self.process.send_signal(number)

    def require_clean_end(
        self, harmless: str = "(?!)", *, code: int = 0, children: frozenset[int] = CLEAN, seconds: float = DEADLINE
    ) -> None:
        """Fail unless it ends in time with the exit code `code`, its children with theirs, and it leaves no process.

        On stderr there may only be lines that the pattern `harmless` matches from their start.
        """
        try:
            ended = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds} s: {self.said()}") from None
        assert ended == code, f"exit code {ended}: {self.said()}"
        assert children.issuperset(self.children), f"children ended with {self.children}: {self.said()}"
        bad = [line for line in self.err.splitlines() if line.strip() and not re.match(harmless, line)]
        assert not bad, f"on stderr: {bad}"
        end = time.monotonic() + seconds
        while self.members():
            assert time.monotonic() < end, f"it left processes: {self.members()}"
            time.sleep(0.05)

    def said(self) -> str:
        return f"{self.err[-4000:]}\n{self.out[-1000:]}"

    def members(self) -> list[str]:
        """The command lines of the processes of its group that have not ended."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                if int(fields[2]) == self.process.pid and fields[0] != "Z":
                    found.append((folder / "cmdline").read_text(encoding="utf-8").replace("\0", " "))
            except OSError:
                continue
        return found


@contextmanager
def host(
    command: Iterable[str | Path], folder: Path, *, pass_fds: tuple[int, ...] = (), **variables: str
) -> Iterator[Host]:
    """Start a host, and leave no process of it behind."""
    running = Host(command, folder, pass_fds=pass_fds, **variables)
    try:
        yield running
    finally:
        if running.members():
            os.killpg(running.process.pid, signal.SIGKILL)
            running.wait_until(lambda: not running.members())  # a signal is not delivered at once
        running.process.wait()


def python(program: str, *arguments: str | Path) -> list[str | Path]:
    """Return the command that runs one of `programs`."""
    return [sys.executable, PROGRAMS / program, *arguments]
