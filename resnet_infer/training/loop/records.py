"""Show a run besides its table: as lines on the console, as curves, and as scalars in TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from resnet_infer.errors import MissingExtraError, ResnetInferError
from resnet_infer.training.curves import draw, read_run
from resnet_infer.training.error_rates import Counts
from resnet_infer.training.loop.state import COLUMNS, State
from resnet_infer.utils.extras import needs

PICTURE = "curves.png"
"""File name of the curves in the folder of a run."""


def epoch_row(state: State, steps_per_epoch: int, loss: float, wrong: float, whole: Counts | None) -> tuple[str, ...]:
    """Return the row of `COLUMNS` for the epoch that has ended.

    `state` includes the seconds of the epoch. `loss` is summed over its pictures, and `wrong` is the number of wrong
    answers. `whole` are the answers to the validation pictures, None without any.
    """
    return (
        f"{state.iteration / steps_per_epoch:.2f}",
        str(state.iteration),
        f"{state.rate:.6f}",
        f"{loss / state.seen:.5f}",
        f"{100 * wrong / state.seen:.2f}",
        *(map("{:.2f}".format, (whole.top1, *whole.interval)) if whole else ("", "", "")),
        f"{state.seen / state.epoch_seconds:.0f}",
        f"{state.seconds:.0f}",
    )


def console_line(row: Sequence[str]) -> str:
    """Return a row of `COLUMNS` as text for the console: names and values, the interval beside its error."""
    named = {name: value for name, value in zip(COLUMNS, row, strict=True) if value}
    if "val_error" in named:
        named["val_error"] += f" ({named.pop('val_error_low')}-{named.pop('val_error_high')})"
    return "  ".join(f"{name} {value}" for name, value in named.items())


def draw_curves(folder: Path, log: Callable[[str], None]) -> None:
    """Draw the curves of a run into its folder. An error is passed to `log`: the run is complete without them."""
    try:
        draw([read_run(folder)], folder / PICTURE)
    except MissingExtraError as error:
        log(f"no {PICTURE}: {error.message}; {error.hint}")
    except (ResnetInferError, ImportError, OSError) as error:
        log(f"no {PICTURE}: {error}")


def summary_writer() -> Any:
    """Return torch's class that writes for TensorBoard. Raises `MissingExtraError` without the package tensorboard."""
    with needs("train", "--tensorboard"):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "tensorboard":
                raise
            raise MissingExtraError(
                "--tensorboard needs the package tensorboard, which is not installed",
                hint="install it with: pip install tensorboard",
                source="tensorboard",
            ) from error
    return SummaryWriter


@contextlib.contextmanager
def scalars(folder: Path, iteration: int, enabled: bool = True) -> Iterator[Callable[[Sequence[str]], None]]:
    """Yield a function that writes a row of `COLUMNS` into `folder` as TensorBoard's scalars.

    Scalars of iterations after `iteration`, which a stopped run has left, are replaced. The function does nothing
    unless `enabled`.
    """
    if not enabled:
        yield lambda row: None
        return
    with summary_writer()(str(folder), purge_step=iteration + 1) as writer:

        def add(row: Sequence[str]) -> None:
            named = dict(zip(COLUMNS, row, strict=True))
            step = int(named.pop("iteration"))
            for name, value in named.items():
                if value:
                    writer.add_scalar(name, float(value), step)
            writer.flush()

        yield add
