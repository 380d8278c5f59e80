"""The training loop: data in memory, one process, a checkpoint after every epoch, and resume."""

from __future__ import annotations

import contextlib
import csv
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import resnet_infer
from resnet_infer.data.datasets import Dataset
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.errors import DataError, TrainingError
from resnet_infer.files import atomic_path
from resnet_infer.models.architectures import Architecture
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.models.network import ResNet
from resnet_infer.models.spec import InputSpec, Measured, ModelSpec
from resnet_infer.training.augment import crop_and_flip, step_generator
from resnet_infer.training.recipes import Recipe

ORDER, AUGMENT, SPLIT = 0, 1, 2
"""Streams of random numbers."""
STATE_NOTE = "resnet_infer.training"
COLUMNS = ("epoch", "iteration", "rate", "train_loss", "train_error", "val_error", "pictures_per_s")


@dataclass(frozen=True)
class Arrays:
    """Decoded pictures in memory: `images` uint8 NHWC, `labels` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Arrays:
        return Arrays(self.images[index], self.labels[index])


def decode(dataset: Dataset, size: int) -> Arrays:
    """Decode and fit every picture to `size` x `size` pixels."""
    geometry = InputSpec(resize=size, crop=size, mean=np.zeros(3), std=np.ones(3), exif=False)
    images = np.empty((len(dataset.samples), size, size, 3), np.uint8)
    for index, sample in enumerate(dataset.samples):
        images[index] = centre_crop(sample.image(), geometry)[0]
    labels = np.array([sample.label for sample in dataset.samples])
    return Arrays(torch.from_numpy(images), torch.from_numpy(labels))


def normalisation(images: Tensor, kind: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Mean and standard deviation of uint8 NHWC pictures in units of the full range, per `pixel` or `channel`."""
    mean = torch.zeros(images.shape[1:], dtype=torch.float64)
    square = torch.zeros(3, dtype=torch.float64)
    for part in torch.split(images, 4096):
        scaled = part.double() / 255
        mean += scaled.sum(0)
        square += scaled.square().sum((0, 1, 2))
    mean /= len(images)
    if kind == "pixel":
        return mean.numpy().astype(np.float32), np.ones(3, np.float32)
    channel = mean.mean((0, 1))
    std = (square / (len(images) * images.shape[1] * images.shape[2]) - channel.square()).sqrt()
    return channel.numpy().astype(np.float32), std.numpy().astype(np.float32)


class Trainer:
    """One run in one folder: `last.safetensors`, `best.safetensors`, `recipe.json`, `metrics.csv`.

    Order, augmentation and split are functions of the seed and the step, so a run that was stopped and resumed sees
    what an uninterrupted one would have seen.
    """

    def __init__(
        self,
        arch: Architecture,
        recipe: Recipe,
        train: Dataset,
        folder: Path,
        *,
        size: int = 32,
        precision: str = "fp32",
        log: Callable[[str], None] = print,
    ) -> None:
        if arch.num_classes != len(train.classes):
            raise DataError(f"{train.name} has {len(train.classes)} classes, {arch.name} here has {arch.num_classes}")
        self.recipe, self.folder, self.log = recipe, folder, log
        self.amp = torch.bfloat16 if precision == "bf16" else None
        everything = decode(train, size)
        order = torch.randperm(len(everything), generator=step_generator(recipe.seed, SPLIT, 0))
        self.validation = everything[order[: recipe.validation]] if recipe.validation else None
        self.train = everything[order[recipe.validation :]]
        if len(self.train) < recipe.batch_size:
            raise DataError(f"{train.name} has {len(self.train)} pictures to train on, fewer than one batch")
        self.steps_per_epoch = len(self.train) // recipe.batch_size
        mean, std = normalisation(self.train.images, recipe.mean)
        self.mean, self.std = torch.from_numpy(mean), torch.from_numpy(std)
        self.spec = ModelSpec(
            name=f"{arch.name}-{train.name.partition('/')[0].partition('.')[0]}",
            architecture=arch,
            classes=train.classes,
            input=InputSpec(resize=size, crop=size, mean=mean, std=std),
            provenance={
                "trained_by": f"resnet-infer {resnet_infer.__version__}",
                "recipe": recipe.to_json(),
                "data": f"{train.name}, {len(self.train)} pictures",
                "training_precision": precision,
                "machine": f"{_processor()}, {torch.get_num_threads()} threads",
                "date": time.strftime("%Y-%m-%d", time.gmtime()),
            },
        )
        torch.manual_seed(recipe.seed)
        self.network = ResNet(arch)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.peak_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.iteration = 0
        self.seconds = 0.0
        self.best_error = float("inf")

    def run(self, resume: bool = False) -> None:
        """Train to the last iteration. Raises `TrainingError` if the loss stops being finite."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume and self.last.exists():
            self._restore()
        else:
            with atomic_path(self.folder / "recipe.json") as path:
                path.write_text(json.dumps(self.recipe.to_json(), indent=2) + "\n")
            with open(self.folder / "metrics.csv", "w", newline="") as file:
                csv.writer(file).writerow(COLUMNS)
        arch = self.spec.architecture
        assert arch is not None
        while self.iteration < self.recipe.iterations:
            start, loss_sum, wrong, seen = time.perf_counter(), 0.0, 0, 0
            self.network.train()
            for batch in self._epoch():
                rate = self.recipe.rate(self.iteration, arch.depth)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                loss, errors = self._step(batch)
                loss_sum, wrong, seen = loss_sum + loss * len(batch), wrong + errors, seen + len(batch)
                self.iteration += 1
            if not np.isfinite(loss_sum):
                raise TrainingError(
                    f"the loss is not finite after iteration {self.iteration}; {self.last} keeps the epoch before",
                    hint="lower the learning rate",
                )
            self.seconds += time.perf_counter() - start
            error = self.error(self.validation) if self.validation else None
            rate_seen = seen / (time.perf_counter() - start)
            self._record(loss_sum / seen, 100 * wrong / seen, error, rate_seen)

    def _epoch(self) -> Iterator[Arrays]:
        """The rest of the current epoch; pictures left over after whole batches wait for the next shuffle."""
        epoch, done = divmod(self.iteration, self.steps_per_epoch)
        order = torch.randperm(len(self.train), generator=step_generator(self.recipe.seed, ORDER, epoch))
        size = self.recipe.batch_size
        for step in range(done, min(self.steps_per_epoch, done + self.recipe.iterations - self.iteration)):
            yield self.train[order[step * size : (step + 1) * size]]

    def _step(self, batch: Arrays) -> tuple[float, int]:
        generator = step_generator(self.recipe.seed, AUGMENT, self.iteration)
        images = crop_and_flip(self._normalise(batch.images), self.recipe.pad, self.recipe.flip, generator)
        with self._autocast():
            logits = self.network(images.permute(0, 3, 1, 2)).float()
        loss = functional.cross_entropy(logits, batch.labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item(), int((logits.argmax(1) != batch.labels).sum())

    def _normalise(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self.mean) / self.std

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", self.amp) if self.amp else contextlib.nullcontext()

    @torch.no_grad()
    def error(self, arrays: Arrays) -> float:
        """Top-1 error in percent, single view, float32."""
        self.network.eval()
        wrong = 0
        for images, labels in zip(torch.split(arrays.images, 500), torch.split(arrays.labels, 500), strict=True):
            logits = self.network(self._normalise(images).permute(0, 3, 1, 2))
            wrong += int((logits.argmax(1) != labels).sum())
        return 100 * wrong / len(arrays)

    def finish(self, test: Dataset) -> ModelSpec:
        """Measure `best` on `test`, once, and write the figure into its spec."""
        best = load_checkpoint(self.best)
        self._load_weights(best)
        arrays = decode(test, self.spec.input.crop)
        measured = Measured(test.name, "native", len(arrays), round(self.error(arrays), 2))
        spec = best.spec.with_(measured=(measured,))
        save_checkpoint(Checkpoint(spec, best.weights), self.best)
        return spec

    @property
    def last(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"

    def _record(self, loss: float, train_error: float, val_error: float | None, pictures_per_s: float) -> None:
        epoch = self.iteration / self.steps_per_epoch
        rate = self.optimizer.param_groups[0]["lr"]
        shown = "" if val_error is None else f"{val_error:.2f}"
        row = (
            f"{epoch:.2f}",
            self.iteration,
            f"{rate:.6f}",
            f"{loss:.5f}",
            f"{train_error:.2f}",
            shown,
            f"{pictures_per_s:.0f}",
        )
        with open(self.folder / "metrics.csv", "a", newline="") as file:
            csv.writer(file).writerow(row)
        self.log("  ".join(f"{name} {value}" for name, value in zip(COLUMNS, row, strict=True) if value != ""))
        checkpoint = self._checkpoint()
        save_checkpoint(checkpoint, self.last)
        if val_error is None or val_error < self.best_error:
            self.best_error = float("inf") if val_error is None else val_error
            save_checkpoint(Checkpoint(checkpoint.spec, checkpoint.weights), self.best)

    def _checkpoint(self) -> Checkpoint:
        state = {name: value for name, value in self.network.state_dict().items() if value.ndim}
        weights = {name: value.numpy() for name, value in state.items()}
        names = [name for name, _ in self.network.named_parameters()]
        momenta = self.optimizer.state_dict()["state"]
        extra = {f"momentum.{names[i]}": value["momentum_buffer"].numpy() for i, value in momenta.items()}
        notes = {"iteration": self.iteration, "seconds": self.seconds, "best_error": self.best_error}
        provenance = {**self.spec.provenance, "iterations": self.iteration, "seconds": round(self.seconds)}
        return Checkpoint(self.spec.with_(provenance=provenance), weights, extra, {STATE_NOTE: json.dumps(notes)})

    def _restore(self) -> None:
        checkpoint = load_checkpoint(self.last)
        before = checkpoint.spec.provenance.get("recipe")
        if before != json.loads(json.dumps(self.recipe.to_json())):
            raise TrainingError(
                f"{self.last} was made with another recipe", hint="resume with the same values, or use another folder"
            )
        self._load_weights(checkpoint)
        state = self.optimizer.state_dict()
        for index, (name, _) in enumerate(self.network.named_parameters()):
            momentum = torch.from_numpy(checkpoint.extra[f"momentum.{name}"])
            state["state"][index] = {"momentum_buffer": momentum}
        self.optimizer.load_state_dict(state)
        notes = json.loads(checkpoint.notes[STATE_NOTE])
        self.iteration, self.seconds, self.best_error = notes["iteration"], notes["seconds"], notes["best_error"]
        self.log(f"resumed {self.last} at iteration {self.iteration}")

    def _load_weights(self, checkpoint: Checkpoint) -> None:
        tensors = {name: torch.from_numpy(value) for name, value in checkpoint.weights.items()}
        self.network.load_state_dict(tensors, strict=False)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
