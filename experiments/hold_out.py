"""How far the error of held out pictures can be trusted: small data sets, each with thousands of fresh pictures beside.

    python -m experiments.hold_out [--sets 20] [--per-class 40] [--fresh 3000] [-o runs/hold-out]

Each set has five classes of generated textures, a fifth of it held out. A small network learns from the rest as `train`
does it, and the error that the run reports, with its 95% interval, is held against the error on fresh pictures.
`results.md` is written at the end. The exit code is 1 if less than nine tenths of the intervals hold it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.datasets import Dataset, Sample
from resnet_infer.models.architectures import architecture
from resnet_infer.models.checkpoint import SUFFIX, load_checkpoint
from resnet_infer.models.spec import Measured
from resnet_infer.training.input.splits import Splits, hold_out
from resnet_infer.training.input.views import Views
from resnet_infer.training.recipes import get_recipe
from resnet_infer.utils.files import atomic_path

CLASSES = ("0 degrees", "36 degrees", "72 degrees", "108 degrees", "144 degrees")
SIDE = 16
"""Pixels of a picture."""
NOISE = 75.0
"""Levels of the noise; the stripes have 20. It makes some of the pictures hard to tell for any network."""
EPOCHS = 25


@dataclass(frozen=True)
class Trial:
    """What a run reports, and its error on fresh pictures, in percent."""

    reported: Measured
    fresh: float

    @property
    def holds(self) -> bool:
        low, high = self.reported.top1_interval
        return low <= self.fresh <= high


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", metavar="N", type=int, default=20)
    parser.add_argument("--per-class", metavar="N", type=int, default=40)
    parser.add_argument("--fresh", metavar="N", type=int, default=3000)
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, default=Path("runs/hold-out"))
    options = parser.parse_args()
    trials = [trial(seed, options.per_class, options.fresh) for seed in range(options.sets)]
    text = "\n".join(lines(trials, options.per_class, options.fresh))
    with atomic_path(options.output / "results.md") as path:
        path.write_text(f"{text}\n", encoding="utf-8")
    print(text)
    return int(sum(trial.holds for trial in trials) < 0.9 * len(trials))


def trial(seed: int, per_class: int, fresh: int) -> Trial:
    """Train on a new set and measure what came of it."""
    import torch

    from resnet_infer.models.network import ResNet
    from resnet_infer.training.distributed import World
    from resnet_infer.training.error_rates import count_errors
    from resnet_infer.training.loop.options import Options
    from resnet_infer.training.loop.state import load_weights
    from resnet_infer.training.loop.trainer import Trainer

    generator = np.random.default_rng(seed)
    data = textures(generator, per_class)
    rest, held = hold_out(data, len(data.samples) // 5, seed)
    recipe = get_recipe(
        "cifar10-short", epochs=EPOCHS, batch_size=32, peak_rate=0.1, resize=SIDE, crop=SIDE, flip=False, seed=seed
    )
    world = World(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            *(architecture("resnet8", len(CLASSES)), recipe, Splits(rest, held, None), Path(folder)),
            options=Options(precision="fp32"),
            world=world,
            log=lambda line: None,
        )
        (reported,) = trainer.run().measured
        best = load_checkpoint(Path(folder) / f"best{SUFFIX}")
    network = ResNet(architecture("resnet8", len(CLASSES)))
    load_weights(network, best)
    found = count_errors(network, Views(textures(generator, fresh // len(CLASSES)).samples), best.spec.input, world)
    return Trial(reported, found.top1)


def textures(generator: np.random.Generator, per_class: int) -> Dataset:
    """Stripes in noise, of a direction for each class and of any phase."""
    samples = []
    for label in range(len(CLASSES)):
        for index in range(per_class):
            samples.append(_sample(f"{label}/{index}", label, stripes(generator, np.pi * label / len(CLASSES))))
    return Dataset("textures", CLASSES, samples, "string")


def stripes(generator: np.random.Generator, direction: float) -> NDArray[np.uint8]:
    """(SIDE, SIDE, 3)."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    phase, turn = generator.uniform(0, 2 * np.pi), direction + generator.normal(0, 0.1)
    wave = 20 * np.sin(2 * np.pi * (columns * np.cos(turn) + rows * np.sin(turn)) / 5 + phase)
    pixels: NDArray[np.uint8] = np.clip(
        128 + wave[:, :, None] + generator.normal(0, NOISE, (SIDE, SIDE, 3)), 0, 255
    ).astype(np.uint8)
    return pixels


def _sample(name: str, label: int, pixels: NDArray[np.uint8]) -> Sample:
    return Sample(name, label, lambda: pixels)


def lines(trials: list[Trial], per_class: int, fresh: int) -> Iterator[str]:
    """Markdown."""
    widths = [high - low for low, high in (trial.reported.top1_interval for trial in trials)]
    holding = sum(trial.holds for trial in trials)
    yield f"{len(trials)} sets of {len(CLASSES)} classes of {per_class} generated images, a fifth of each held out:"
    yield f"{holding} of the {len(trials)} intervals contain the error on {fresh:,} fresh images; they are"
    yield f"{statistics.mean(widths):.1f} points wide on average. The mean of the reported errors is"
    yield f"{statistics.mean(trial.reported.top1_error for trial in trials):.1f}%, that of the errors on fresh images"
    yield f"{statistics.mean(trial.fresh for trial in trials):.1f}%.\n"
    yield "| set | reported error, % | 95% | on fresh pictures, % |"
    yield "|---:|---:|---|---:|"
    for seed, trial in enumerate(trials):
        low, high = trial.reported.top1_interval
        missed = "" if trial.holds else " (outside)"
        yield f"| {seed} | {trial.reported.top1_error:.2f} | {low:.2f}-{high:.2f} | {trial.fresh:.2f}{missed} |"


if __name__ == "__main__":
    sys.exit(main())
