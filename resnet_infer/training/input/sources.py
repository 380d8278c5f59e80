"""Provide batches to train on.

Either the whole set is in memory and is augmented on the device, or worker processes decode files.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from resnet_infer.data.datasets import Sample
from resnet_infer.errors import PictureError, TrainingError
from resnet_infer.models.spec import InputSpec
from resnet_infer.training.input.augment import MIRROR, BatchSampler, Draws, SampledBatch, boxes, crop_boxes, mirrored
from resnet_infer.training.input.views import served_view
from resnet_infer.training.input.workers import PREFETCH, FailedBatch, NoWorkersError, from_processes, prefetch, shared
from resnet_infer.training.recipes import Recipe
from resnet_infer.utils.console import note
from resnet_infer.utils.host_memory import free_memory
from resnet_infer.utils.parallel import parallel_map

DataIn = Literal["auto", "memory", "files"]
"""Where pictures are kept, see `open_batches`."""
MEMORY_LIMIT = 4 << 30
"""Most bytes of decoded pictures that auto keeps in memory."""
WHOLE = ("scale", "area")
"""Augmentations whose crops come out of the whole picture."""

Batch = tuple[Tensor, Tensor, Draws]
"""Crops NHWC (uint8, or float32 in levels of 0 to 255), labels (int64), and the draws they were made with."""


def _never() -> bool:
    """Return False: nobody stops the batches."""
    return False


class BatchSource(Protocol):
    """Provide the batches to train on."""

    def batches(self, start: int, stop: int, crop: int, stopping: Callable[[], bool] = _never) -> Iterator[Batch]:
        """Yield the batches of the steps from `start` up to `stop`, with crops of `crop` pixels on the device.

        Ends early if `stopping` returns true while a batch is waited for.
        """


def open_batches(
    samples: Sequence[Sample],
    geometry: InputSpec,
    recipe: Recipe,
    sampler: BatchSampler,
    device: torch.device,
    data_in: DataIn,
    workers: int,
    log: Callable[[str], None] = note,
) -> BatchSource:
    """Open the batches of a run.

    Where the pictures are kept changes how fast they come, and nothing else: the crops of a step are the same.
    Augmentations in `WHOLE` keep the whole picture; others keep the view of `geometry`, which is the largest of the
    run. `data_in` auto keeps pictures in memory if they are small and of one size, memory keeps all pictures, and files
    decodes them at every use. Raises `TrainingError` if memory is demanded and too small.
    """
    whole = recipe.augmentation in WHOLE
    if data_in != "files":
        threads = max(1, workers)
        limit = min(MEMORY_LIMIT, free_memory()) if data_in == "auto" else free_memory()
        kept = _decode(samples, geometry, whole, limit, data_in == "auto", threads)
        if isinstance(kept, np.ndarray):
            return InMemory(kept, samples, geometry, recipe, sampler, device)
        if kept is not None:
            return FromFiles(kept, geometry, recipe, sampler, device, threads, decoded=True, log=log)
        if data_in == "memory":
            raise TrainingError(
                f"the {len(samples)} pictures do not fit into the {limit / 2**30:.1f} GiB of memory that are free",
                hint="leave them in their files with --data-in files",
                reason="memory",
            )
    files = FromFiles(samples, geometry, recipe, sampler, device, workers, log=log)
    if files.without_processes:
        log("this process may have no processes of its own, so threads decode the pictures")
    return files


def _decode(
    samples: Sequence[Sample], geometry: InputSpec, whole: bool, limit: int, alike: bool, threads: int
) -> NDArray[np.uint8] | list[Sample] | None:
    """Decode every picture, `whole` or as its view of `geometry`; return None if they take more than `limit` bytes.

    Returns (N, H, W, 3) if all have one size. Otherwise returns None if they must be `alike`, or else samples that hold
    their pixels.
    """

    def pixels(sample: Sample) -> NDArray[np.uint8]:
        return np.asarray(sample.image(exif=geometry.exif)) if whole else served_view(sample, geometry)

    if not whole and len(samples) * geometry.crop**2 * 3 > limit:
        return None
    images: NDArray[np.uint8] | None = None
    others: list[Sample] = []
    taken = 0
    with contextlib.closing(parallel_map(pixels, samples, workers=threads)) as decoded:
        for index, picture in enumerate(decoded):
            if images is None and not others:
                if alike and picture.nbytes * len(samples) > limit:
                    return None
                if picture.nbytes * len(samples) <= limit:
                    images = np.empty((len(samples), *picture.shape), np.uint8)
            if images is not None and picture.shape == images.shape[1:]:
                images[index] = picture
                continue
            if alike:
                return None
            if images is not None:
                before = images[:index]
                others = [_with_pixels(sample, own.copy()) for sample, own in zip(samples, before, strict=False)]
                images, taken = None, before.nbytes
            taken += picture.nbytes
            if taken > limit:
                return None
            others.append(_with_pixels(samples[index], picture))
    return others if images is None else images


def _with_pixels(sample: Sample, pixels: NDArray[np.uint8]) -> Sample:
    """Return the sample with pixels in memory in place of its file."""
    return replace(sample, read=lambda: pixels)


class InMemory:
    """Keep a whole training set on the device, uint8 pictures of one size, and augment it there."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        samples: Sequence[Sample],
        geometry: InputSpec,
        recipe: Recipe,
        sampler: BatchSampler,
        device: torch.device,
    ) -> None:
        self.geometry, self.recipe, self.sampler, self.device = geometry, recipe, sampler, device
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.tensor([sample.label for sample in samples]).to(device)

    def batches(self, start: int, stop: int, crop: int, stopping: Callable[[], bool] = _never) -> Iterator[Batch]:
        """Yield batches, see `BatchSource`."""
        height, width = self.images.shape[1:3]
        for step in range(start, stop):
            indices, draws = self.sampler.sample(step)
            places = torch.from_numpy(indices).to(self.device)
            images = self.images[places]
            if self.recipe.augmentation in WHOLE:
                sizes = np.tile(np.array([width, height], np.int64), (len(images), 1))
                mirror = mirrored(draws, self.device) if self.recipe.flip else None
                windows = boxes(self.recipe, crop, sizes, draws)
                images = crop_boxes(images, windows, crop, self.geometry.interpolation, mirror)
            yield images, self.labels[places], draws


def may_have_children() -> bool:
    """Return whether this process may start others that load pictures.

    A daemonic one may not, as those of `multiprocessing.Pool` and Celery are. Nor may a frozen program, which would
    start itself again.
    """
    return not multiprocessing.current_process().daemon and not getattr(sys, "frozen", False)


class FromFiles:
    """Decode and crop pictures in worker processes, which run ahead of the steps, also past the end of an epoch.

    Threads do it instead if pictures are `decoded` already, if this process may have no children, and if there is too
    little shared memory or too few open files for processes.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        geometry: InputSpec,
        recipe: Recipe,
        sampler: BatchSampler,
        device: torch.device,
        workers: int,
        *,
        decoded: bool = False,
        log: Callable[[str], None] = note,
    ) -> None:
        self.samples, self.geometry, self.recipe, self.sampler = samples, geometry, recipe, sampler
        self.device, self.workers, self.log = device, workers, log
        self.without_processes = bool(workers) and not decoded and not may_have_children()
        self.decoded, self.processes = decoded, workers > 0 and not decoded and not self.without_processes

    def batches(self, start: int, stop: int, crop: int, stopping: Callable[[], bool] = _never) -> Iterator[Batch]:
        """Yield batches, see `BatchSource`. Raises `WorkersLostError` if worker processes die or hang."""
        if self.processes:
            try:
                for batch in self._arrived(self._from_processes(start, stop, crop, stopping)):
                    yield batch
                    start += 1
            except NoWorkersError as error:
                self.processes = False
                self.log(f"{error.message}: threads decode instead, which may be slower; {error.hint}")
            else:
                return
        cropping = _CropDataset(self.samples, self.geometry, self.recipe, crop)
        steps = _Steps(self.sampler, start, stop)
        if not self.workers:
            yield from self._arrived(map(cropping.__getitem__, steps))
            return
        ahead = PREFETCH * self.workers
        with contextlib.closing(parallel_map(cropping.__getitem__, steps, workers=self.workers, ahead=ahead)) as made:
            yield from self._arrived(made)

    def _from_processes(self, start: int, stop: int, crop: int, stopping: Callable[[], bool]) -> Iterator[Any]:
        """Yield what worker processes make. Raises `NoWorkersError` if they cannot work here."""
        cropping = _CropDataset(self.samples, self.geometry, self.recipe, crop, share=True)
        steps = _Steps(self.sampler, start, stop)
        side = crop if self.recipe.augmentation in WHOLE else self.geometry.crop
        ahead = prefetch(self.sampler.own_batch * side**2 * 3, self.workers)
        return from_processes(cropping, steps, self.workers, ahead, self.device.type == "cuda", stopping)

    def _arrived(self, batches: Iterable[Any]) -> Iterator[Batch]:
        """Move batches to the device. Raises `PictureError` for a `FailedBatch`."""
        for batch in batches:
            if isinstance(batch, FailedBatch):
                raise PictureError(batch, reason="unreadable")
            images, labels, uniform, normal = batch
            images, labels = (part.to(self.device, non_blocking=True) for part in (images, labels))
            yield images, labels, Draws(uniform.numpy(), normal.numpy())


class _Steps:
    """Sample the batches of the steps from `start` up to `stop`, in the form of torch's samplers."""

    def __init__(self, sampler: BatchSampler, start: int, stop: int) -> None:
        self.sampler, self.steps = sampler, range(start, stop)

    def __iter__(self) -> Iterator[SampledBatch]:
        return map(self.sampler.sample, self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class _CropDataset:
    """Turn a sampled batch into its crops and labels, in a thread or a worker process."""

    def __init__(
        self, samples: Sequence[Sample], geometry: InputSpec, recipe: Recipe, crop: int, *, share: bool = False
    ) -> None:
        """Put the tensors into shared memory if `share`."""
        self.samples, self.geometry, self.recipe, self.crop, self.share = samples, geometry, recipe, crop, share

    def __getitem__(self, batch: SampledBatch) -> tuple[Tensor, Tensor, Tensor, Tensor] | FailedBatch:
        """Return crops, labels and both arrays of random numbers; or why there are none."""
        indices, draws = batch
        try:
            rows = [self._crop(self.samples[index], row, draws) for row, index in enumerate(indices)]
        except PictureError as error:
            return FailedBatch(error.message)
        labels = torch.tensor([self.samples[index].label for index in indices])
        made = torch.from_numpy(np.stack(rows)), labels, torch.from_numpy(draws.uniform), torch.from_numpy(draws.normal)
        return shared(made) if self.share else made

    def _crop(self, sample: Sample, row: int, draws: Draws) -> NDArray[np.uint8]:
        """Return the crop of one picture, whose random numbers are in `row` of `draws`."""
        if self.recipe.augmentation not in WHOLE:
            return served_view(sample, self.geometry)
        picture = sample.image(exif=self.geometry.exif)
        own = Draws(draws.uniform[row : row + 1], draws.normal[row : row + 1])
        left, top, width, height = boxes(self.recipe, self.crop, np.array([picture.size]), own)[0]
        box = (left, top, min(left + width, picture.width), min(top + height, picture.height))
        filter_ = Image.Resampling[self.geometry.interpolation.upper()]
        pixels = np.asarray(picture.resize((self.crop, self.crop), filter_, box=box))
        return pixels[:, ::-1] if self.recipe.flip and own.uniform[0, MIRROR] < 0.5 else pixels
