"""Single views of pictures: what a network is measured by, and what its normalisation is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.datasets import Sample
from resnet_infer.data.image import MAX_PIXELS
from resnet_infer.data.loader import parallel_map
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.errors import PictureError
from resnet_infer.models.spec import InputSpec

VIEW_BATCH = 256
KEPT = 1 << 30
"""Bytes of views that are kept for the next time."""

ViewBatch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Views, NHWC, and labels."""


def served_view(sample: Sample, geometry: InputSpec) -> NDArray[np.uint8]:
    """The single view of a picture, (crop, crop, 3), as a service makes it.

    Raises `PictureError` if the picture cannot be read, or is so narrow that it would fill the memory when resized.
    """
    picture = sample.image(exif=geometry.exif)
    shorter, longer = sorted(picture.size)
    if geometry.resize**2 * longer > MAX_PIXELS * shorter:
        raise PictureError(f"{sample.name}: {picture.width}x{picture.height} pixels are too narrow to resize")
    pixels: NDArray[np.uint8] = centre_crop(picture, geometry)[0]
    return pixels


def views(samples: Sequence[Sample], geometry: InputSpec, workers: int | None = None) -> Iterator[ViewBatch]:
    """The single view of every picture, decoded by `workers` threads, in batches: uint8 NHWC and labels."""
    decoded = parallel_map(lambda sample: served_view(sample, geometry), samples, workers=workers)
    for start in range(0, len(samples), VIEW_BATCH):
        part = samples[start : start + VIEW_BATCH]
        images = np.empty((len(part), geometry.crop, geometry.crop, 3), np.uint8)
        for row in range(len(part)):
            images[row] = next(decoded)
        yield images, np.array([sample.label for sample in part], np.int64)


class Views:
    """The views of pictures that are measured again and again, kept decoded where they are small."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self._geometry: InputSpec | None = None
        self._kept: list[ViewBatch] = []

    def batches(self, geometry: InputSpec) -> Iterator[ViewBatch]:
        if self._geometry == geometry:
            yield from self._kept
            return
        self._geometry, self._kept = None, []
        keep = len(self.samples) * geometry.crop**2 * 3 <= KEPT
        kept = []
        for batch in views(self.samples, geometry):
            if keep:
                kept.append(batch)
            yield batch
        if keep:
            self._geometry, self._kept = geometry, kept
