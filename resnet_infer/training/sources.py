"""Batches to train on: a whole set in memory, augmented on the device, or files decoded by worker processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from resnet_infer.data.datasets import Sample
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.errors import PictureError
from resnet_infer.models.spec import InputSpec
from resnet_infer.training.augment import MIRROR, Draws, Order, Picks, boxes, crop_boxes, mirrored
from resnet_infer.training.recipes import Recipe
from resnet_infer.training.views import views

DataIn = Literal["auto", "memory", "files"]
MEMORY_LIMIT = 4 << 30
"""Bytes of decoded pictures that are kept in memory unasked."""
PREFETCH = 4
"""Batches that each worker process is ahead."""
PROBES = 64
_HANDLER_SET = "_SIGCHLD_handler_set"
"""torch's note to itself that its handler of SIGCHLD is installed."""

Batch = tuple[Tensor, Tensor, Draws]
"""Crops NHWC (uint8, or float32 in levels of 0 to 255), labels (int64), and the draws they were made with."""


class Source(Protocol):
    """Where batches to train on come from."""

    def batches(self, start: int, stop: int, crop: int) -> Iterator[Batch]:
        """The batches of steps `start` to `stop`, crops on the device."""


def open_source(
    samples: Sequence[Sample],
    geometry: InputSpec,
    recipe: Recipe,
    order: Order,
    device: torch.device,
    data_in: DataIn,
    workers: int,
) -> Source:
    """In memory if asked for, or if the pictures are small; else in files. `geometry` is the largest view of the run.

    By default memory takes what fits in `MEMORY_LIMIT`, provided that nothing is lost: where crops come out of the
    whole picture, all of it must be square and of one size. When memory is asked for, larger pictures are reduced to
    the square of `geometry.resize` in their middle.
    """
    if recipe.augmentation in ("scale", "area"):
        side = _common_side(samples, geometry) or (geometry.resize if data_in == "memory" else None)
        stored = replace(geometry, resize=side, crop=side) if side else None
    else:
        stored = geometry
    fits = stored is not None and len(samples) * stored.crop**2 * 3 <= MEMORY_LIMIT
    if stored and (data_in == "memory" or (data_in == "auto" and fits)):
        return InMemory(samples, stored, recipe, order, device)
    return FromFiles(samples, geometry, recipe, order, device, workers)


def _common_side(samples: Sequence[Sample], geometry: InputSpec) -> int | None:
    """The side of the pictures if a few of them, evenly spread, are all square and alike."""
    probes = samples[:: max(1, len(samples) // PROBES)]
    sizes = {sample.image(exif=geometry.exif).size for sample in probes}
    width, height = sizes.pop()
    return width if not sizes and width == height else None


class InMemory:
    """A whole training set on the device, uint8 squares of one size, augmented there."""

    def __init__(
        self, samples: Sequence[Sample], geometry: InputSpec, recipe: Recipe, order: Order, device: torch.device
    ) -> None:
        self.recipe, self.order, self.device = recipe, order, device
        images = np.empty((len(samples), geometry.crop, geometry.crop, 3), np.uint8)
        start = 0
        for part, _ in views(samples, geometry):
            images[start : start + len(part)] = part
            start += len(part)
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.tensor([sample.label for sample in samples]).to(device)

    def batches(self, start: int, stop: int, crop: int) -> Iterator[Batch]:
        for step in range(start, stop):
            indices, draws = self.order.picks(step)
            places = torch.from_numpy(indices).to(self.device)
            images = self.images[places]
            if self.recipe.augmentation in ("scale", "area"):
                sizes = np.tile(np.array(images.shape[1:3], np.int64), (len(images), 1))
                mirror = mirrored(draws, self.device) if self.recipe.flip else None
                images = crop_boxes(images, boxes(self.recipe, crop, sizes, draws), crop, mirror)
            yield images, self.labels[places], draws


class FromFiles:
    """Pictures decoded and cropped by worker processes, which run ahead of the steps, also past the end of an epoch."""

    def __init__(
        self,
        samples: Sequence[Sample],
        geometry: InputSpec,
        recipe: Recipe,
        order: Order,
        device: torch.device,
        workers: int,
    ) -> None:
        self.samples, self.geometry, self.recipe, self.order = samples, geometry, recipe, order
        self.device, self.workers = device, workers

    def batches(self, start: int, stop: int, crop: int) -> Iterator[Batch]:
        loader: DataLoader[Any] = DataLoader(
            _Decoding(self.samples, self.geometry, self.recipe, crop),  # type: ignore[arg-type]
            sampler=_Steps(self.order, start, stop),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),
        )
        with _child_signal_put_back():
            for decoded, uniform, normal in loader:
                if isinstance(decoded, str):
                    raise PictureError(decoded)
                images, labels = (part.to(self.device, non_blocking=True) for part in decoded)
                yield images, labels, Draws(uniform.numpy(), normal.numpy())


class _Steps:
    """The picks of steps `start` to `stop`, as a sampler."""

    def __init__(self, order: Order, start: int, stop: int) -> None:
        self.order, self.steps = order, range(start, stop)

    def __iter__(self) -> Iterator[Picks]:
        return map(self.order.picks, self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class _Decoding:
    """A step's picks -> its crops and labels, in a worker process."""

    def __init__(self, samples: Sequence[Sample], geometry: InputSpec, recipe: Recipe, crop: int) -> None:
        self.samples, self.geometry, self.recipe, self.crop = samples, geometry, recipe, crop

    def __getitem__(self, picks: Picks) -> tuple[Any, Tensor, Tensor]:
        indices, draws = picks
        decoded: Any
        try:
            rows = [self._crop(self.samples[index], row, draws) for row, index in enumerate(indices)]
            labels = torch.tensor([self.samples[index].label for index in indices])
            decoded = torch.from_numpy(np.stack(rows)), labels
        except PictureError as error:
            decoded = error.message  # an exception would arrive with its traceback as the message
        return decoded, torch.from_numpy(draws.uniform), torch.from_numpy(draws.normal)

    def _crop(self, sample: Sample, row: int, draws: Draws) -> NDArray[np.uint8]:
        picture = sample.image(exif=self.geometry.exif)
        if self.recipe.augmentation not in ("scale", "area"):
            whole: NDArray[np.uint8] = centre_crop(picture, self.geometry)[0]
            return whole
        own = Draws(draws.uniform[row : row + 1], draws.normal[row : row + 1])
        left, top, width, height = boxes(self.recipe, self.crop, np.array([picture.size]), own)[0]
        box = (left, top, min(left + width, picture.width), min(top + height, picture.height))
        filter_ = Image.Resampling[self.geometry.interpolation.upper()]
        pixels = np.asarray(picture.resize((self.crop, self.crop), filter_, box=box))
        return pixels[:, ::-1] if self.recipe.flip and own.uniform[0, MIRROR] < 0.5 else pixels


@contextmanager
def _child_signal_put_back() -> Iterator[None]:
    """Give the program its handler of SIGCHLD back, in whose place a `DataLoader` puts one for ever.

    torch remembers that its handler is there; that is put back too, so that the program's own loaders install theirs.
    """
    place = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    handler, known = signal.getsignal(signal.SIGCHLD) if place else None, getattr(signal_handling, _HANDLER_SET, None)
    try:
        yield
    finally:
        if place and handler is not None and signal.getsignal(signal.SIGCHLD) is not handler:
            signal.signal(signal.SIGCHLD, handler)
            if known is not None:
                setattr(signal_handling, _HANDLER_SET, known)


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal, but the batches on the way are still wanted.

    A worker ends when it is told to or when its parent is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
