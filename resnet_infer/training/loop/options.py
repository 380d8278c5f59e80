"""Hold the options of a run that do not change what is learned."""

from __future__ import annotations

from dataclasses import dataclass

from resnet_infer.training.input.sources import DataIn
from resnet_infer.utils.threads import require_threads


@dataclass(frozen=True)
class Options:
    """Say how fast, how safely and how visibly a run trains. What it learns follows from its recipe and data.

    - `precision`: auto, fp32, bf16 or fp16, see `choose_precision`.
    - `compile`: whether the network is compiled; None compiles it on a GPU, in a single process.
    - `data_in`: where the pictures are kept, see `open_batches`.
    - `workers`: processes that decode pictures; None takes one for each usable core, 16 at most; 0 decodes between
      the steps.
    - `save_every`: seconds between checkpoints within an epoch.
    - `tensorboard`: whether the rows of the table are written for TensorBoard too.

    Raises `UsageError` for a number of workers that is too large or negative.
    """

    precision: str = "auto"
    compile: bool | None = None
    data_in: DataIn = "auto"
    workers: int | None = None
    save_every: float = 300.0
    tensorboard: bool = False
    stop_within: float | None = None
    """Seconds after which the process of a run that was told to stop is ended, whatever hangs; None: never."""
    announcement: str | None = None
    """Line for the log when the folder of a new run is there, or None."""

    def __post_init__(self) -> None:
        require_threads(self.workers, "workers", least=0)
