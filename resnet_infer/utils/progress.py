"""A progress bar on stderr, where stderr is a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from resnet_infer.utils.console import is_terminal, printable

if TYPE_CHECKING:
    from rich.progress import Progress

REDRAW_SECONDS = 0.1


class Advance(Protocol):
    """Takes the number of units just finished, and a new title if there is one."""

    def __call__(self, count: int, title: str | None = None) -> None: ...


@contextlib.contextmanager
def progress(title: str, total: int | None, unit: str, *, done: int = 0) -> Iterator[Advance]:
    """A bar with rate and time left, around the work; call what it yields with the number of units just finished.

    `total` is None where it is unknown. Unit "B" shows bytes as MB and MB/s, any other, e.g. "images", as counts and
    images/s. `done` units were finished before, by an earlier run. A call costs well under a microsecond and belongs
    to one thread. Where stderr is no terminal nothing is drawn and nothing imported.
    """
    if not is_terminal(sys.stderr):
        yield _ignore
        return
    bar = _bar(unit)
    task = bar.add_task(printable(title), total=total, completed=done)
    redraw_at = 0.0

    def advance(count: int, title: str | None = None) -> None:
        nonlocal done, redraw_at
        if title is not None:
            bar.update(task, description=printable(title))
        done += count
        now = time.monotonic()
        if now >= redraw_at:
            redraw_at = now + REDRAW_SECONDS
            bar.update(task, completed=done)

    with bar:
        try:
            yield advance
        finally:
            bar.update(task, completed=done)


def _ignore(count: int, title: str | None = None) -> None:
    pass


def _bar(unit: str) -> Progress:
    from rich import progress as rich
    from rich.console import Console
    from rich.text import Text

    class RateColumn(rich.ProgressColumn):
        def render(self, task: rich.Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.1f} {unit}/s", style="progress.data.speed")

    counts = (
        (rich.DownloadColumn(), rich.TransferSpeedColumn())
        if unit == "B"
        else (rich.MofNCompleteColumn(), RateColumn())
    )
    # Results go to stdout while a bar is drawn, so stdout must stay what it is.
    return rich.Progress(
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        *counts,
        rich.TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,
    )
