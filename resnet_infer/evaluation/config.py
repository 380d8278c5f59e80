"""Hold the options of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_infer.data.class_map import StatedOrder
from resnet_infer.data.datasets import Dataset


def _no_progress(dataset: Dataset, done: int) -> Callable[[int], None]:
    """Return a function that ignores progress."""
    return lambda count: None


@dataclass(frozen=True)
class EvaluationConfig:
    """Say how models are evaluated.

    - `protocols`: names in `data.protocols.PROTOCOLS`; by default the one that fits each model.
    - `scales`: shorter sides in pixels, for protocols that need several sizes; by default the paper's.
    - `ensemble`: also evaluate the mean of all models' probabilities.
    - `url`: also evaluate the model of the service that runs there.
    - `reference`: another model, a path or a name, which the others are compared with.
    - `max_drop`: points of top-1 error (percent) that a model may lose against `reference`.
    - `split`: name of the split; by default the first of `labelled.DEFAULT_SPLITS` that the data has.
    - `class_order`: for data whose class names say nothing to the models, see `map_classes`.
    - `runtime`, `device`, `threads`: as in `Classifier`.
    - `compute`: as in `Classifier`. `reference` computes in the precision of its file.
    - `batch_size`: most views in one call of a runtime.
    - `workers`: threads that decode pictures; by default one for each usable core.
    - `skip_unreadable`: leave out pictures that cannot be read, or that a CSV lists and that do not exist, instead of
      raising an error.
    - `answers`: file that keeps answers as they come.
    - `resume`: continue from the answers in that file, which must be of the same models, pictures and protocols.
      Without it a file that has answers is refused.
    - `started`: called with the data set and the number of pictures that are answered already. The function that it
      returns is called with the number of pictures answered since the last call.
    """

    protocols: Sequence[str] = ()
    scales: Sequence[int] | None = None
    ensemble: bool = False
    url: str | None = None
    reference: str | None = None
    max_drop: float | None = None
    split: str | None = None
    class_order: StatedOrder | None = None
    runtime: str = "auto"
    device: str = "auto"
    threads: int | None = None
    compute: str = "auto"
    batch_size: int = 32
    workers: int | None = None
    skip_unreadable: bool = False
    answers: Path | None = None
    resume: bool = False
    started: Callable[[Dataset, int], Callable[[int], None]] = _no_progress
