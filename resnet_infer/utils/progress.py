"""Draw a progress bar on stderr, in the command line and if stderr is a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from resnet_infer.utils.console import is_shown, is_terminal, printable

if TYPE_CHECKING:
    from rich.progress import Progress

REDRAW_SECONDS = 0.1
"""Seconds between two redraws."""


class Advance(Protocol):
    """Report progress: the number of units just finished, and a new title if there is one."""

    def __call__(self, count: int, title: str | None = None) -> None:
        """Report `count` more units, and from now on show `title` if there is one."""


@contextlib.contextmanager
def progress(title: str, total: int | None, unit: str, *, done: int = 0) -> Iterator[Advance]:
    """Show a bar with rate and remaining time during a `with` block, and give the function that advances it.

    Call that function with the number of units just finished; a call costs well under a microsecond, and only one
    thread may make calls. `total` is None where it is unknown. The unit "B" is shown as MB and MB/s, any other, such as
    "images", as a count and images/s. `done` units were finished before, by an earlier run. Nothing is drawn, and
    `rich` is not imported, where stderr is not a terminal, and outside of the command line (`console.on_stderr`).

    >>> with progress("decoding", 100, "images") as advance:
    ...     for _ in range(100):
    ...         advance(1)
    """
    if not (is_shown() and is_terminal(sys.stderr)):
        yield _ignore
        return
    bar = _bar(unit)
    task = bar.add_task(printable(title), total=total, completed=done)
    redraw_at = 0.0

    def advance(count: int, title: str | None = None) -> None:
        """Count finished units, and redraw the bar if it is time."""
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
    """Do nothing, where no bar is drawn."""


def _bar(unit: str) -> Progress:
    """Return the bar of `rich`, with the columns for this unit."""
    from rich import progress as rich
    from rich.console import Console
    from rich.text import Text

    class RateColumn(rich.ProgressColumn):
        """Show units per second, which `rich` itself shows for bytes only."""

        def render(self, task: rich.Task) -> Text:
            """Return the rate, empty until it is known."""
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.1f} {unit}/s", style="progress.data.speed")

    counts = (
        (rich.DownloadColumn(), rich.TransferSpeedColumn())
        if unit == "B"
        else (rich.MofNCompleteColumn(), RateColumn())
    )
    # Results are written to stdout while a bar is drawn, so `rich` must not redirect it.
    return rich.Progress(
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        *counts,
        rich.TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,
    )
