"""Make single views of pictures, which measure a network and from which the normalisation is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.damaged import in_one, unreadable
from resnet_infer.data.datasets import Sample
from resnet_infer.data.image import require_resizable
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.errors import PictureError
from resnet_infer.models.spec import InputSpec
from resnet_infer.training.input.splits import Splits
from resnet_infer.utils.parallel import parallel_map

VIEW_BATCH = 256
"""Views in a batch."""
LOOK_AT_MOST = 120.0
"""Seconds to look for further pictures that cannot be read."""
KEPT = 1 << 30
"""Most bytes of views that are kept in memory for the next time."""

ViewBatch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Views, uint8 NHWC, and labels, (N,)."""


def served_view(sample: Sample, geometry: InputSpec) -> NDArray[np.uint8]:
    """Return the single view of a picture, uint8 (crop, crop, 3), exactly as a service makes it.

    Raises `PictureError` if the picture cannot be read, or is so narrow that it would fill the memory when resized.
    """
    picture = sample.image(exif=geometry.exif)
    require_resizable(picture, geometry.resize, sample.name)
    pixels: NDArray[np.uint8] = centre_crop(picture, geometry)[0]
    return pixels


def views(samples: Sequence[Sample], geometry: InputSpec, workers: int | None = None) -> Iterator[ViewBatch]:
    """Yield the single view of every picture in batches, uint8 NHWC and labels, decoded by `workers` threads."""
    decoded = parallel_map(lambda sample: served_view(sample, geometry), samples, workers=workers)
    for start in range(0, len(samples), VIEW_BATCH):
        part = samples[start : start + VIEW_BATCH]
        images = np.empty((len(part), geometry.crop, geometry.crop, 3), np.uint8)
        for row in range(len(part)):
            images[row] = next(decoded)
        yield images, np.array([sample.label for sample in part], np.int64)


class Views:
    """Provide the views of pictures that are measured repeatedly; keep them decoded if they are small."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self._geometry: InputSpec | None = None
        self._kept: list[ViewBatch] = []

    def keeps(self, geometry: InputSpec) -> bool:
        """Return whether the views of this geometry are few and small enough to be kept."""
        return len(self.samples) * geometry.crop**2 * 3 <= KEPT

    def batches(self, geometry: InputSpec) -> Iterator[ViewBatch]:
        """Yield the views of `geometry` in batches. Raises `PictureError` for a picture that cannot be read."""
        if self._geometry == geometry:
            yield from self._kept
            return
        self._geometry, self._kept = None, []
        keep = self.keeps(geometry)
        kept = []
        for batch in views(self.samples, geometry):
            if keep:
                kept.append(batch)
            yield batch
        if keep:
            self._geometry, self._kept = geometry, kept


def all_damaged(
    data: Splits, geometry: InputSpec, first: PictureError, kept: str, log: Callable[[str], None]
) -> PictureError:
    """Return one error that names all pictures of a run that cannot be read.

    `first` is the one that was raised, and `kept` says what the run has saved. Threads look for others, for
    `LOOK_AT_MOST` seconds.
    """
    samples = [sample for part in (data.train, data.validation, data.test) if part for sample in part.samples]
    log(f"a picture cannot be read; looking for others among the {len(samples)}")
    end = monotonic() + LOOK_AT_MOST
    in_time = takewhile(lambda _: monotonic() < end, samples)
    errors = list(unreadable(lambda sample: served_view(sample, geometry), in_time))
    if not errors:
        return first
    note = "" if monotonic() < end else f" (those that {LOOK_AT_MOST:.0f} seconds have shown)"
    return in_one(errors, data.train.name, len(samples), f"repair or remove them{note}; {kept}")
