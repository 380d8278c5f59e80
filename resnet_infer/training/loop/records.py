"""What a run shows besides its table: its curves as a picture, and its rows in TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from resnet_infer.errors import MissingExtraError, ResnetInferError
from resnet_infer.training.curves import draw, read_run
from resnet_infer.training.loop.state import COLUMNS
from resnet_infer.utils.extras import needs

PICTURE = "curves.png"


def leave_curves(folder: Path, log: Callable[[str], None]) -> None:
    """Draw the run into its folder. A run is done without its picture too: what stands in the way is only noted."""
    try:
        draw([read_run(folder)], folder / PICTURE)
    except MissingExtraError as error:
        log(f"no {PICTURE}: {error.message}; {error.hint}")
    except (ResnetInferError, ImportError, OSError) as error:
        log(f"no {PICTURE}: {error}")


def summary_writer() -> Any:
    """torch's class that writes for TensorBoard. Raises `MissingExtraError` without the package tensorboard."""
    with needs("train", "--tensorboard"):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "tensorboard":
                raise
            raise MissingExtraError(
                "--tensorboard needs the package tensorboard, which is not installed",
                hint="install it with: pip install tensorboard",
            ) from error
    return SummaryWriter


@contextlib.contextmanager
def scalars(folder: Path, iteration: int) -> Iterator[Callable[[Sequence[str]], None]]:
    """Takes rows of `COLUMNS` and writes them into `folder`, in place of earlier ones from after `iteration`."""
    with summary_writer()(str(folder), purge_step=iteration + 1) as writer:

        def add(row: Sequence[str]) -> None:
            named = dict(zip(COLUMNS, row, strict=True))
            step = int(named.pop("iteration"))
            for name, value in named.items():
                if value:
                    writer.add_scalar(name, float(value), step)
            writer.flush()

        yield add
