"""Provide the pictures of a load as encoded files, which are what a query sends."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.class_map import map_classes
from resnet_infer.data.datasets import Sample
from resnet_infer.data.datasets.archive import open_tree
from resnet_infer.data.datasets.tree import pictures
from resnet_infer.data.feed import spread
from resnet_infer.data.labelled import open_labelled
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import DataError, UsageError
from resnet_infer.models.spec import ModelSpec
from resnet_infer.utils.parallel import parallel_map

SYNTHETIC = 64
"""Number of synthetic pictures by default."""
JPEG_QUALITY = 90
"""JPEG quality of synthetic pictures."""


class ImageLibrary:
    """Hold pictures by number; their files are in memory from `load` to `unload`.

    `labels` are classes of the model, int64, (N,), or None if the pictures have none.
    """

    def __init__(self, name: str, samples: Sequence[Sample], labels: NDArray[np.int64] | None = None) -> None:
        self.name, self.labels = name, labels
        self._samples = samples
        self._loaded: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> bytes:
        """Return the file of a picture that is loaded."""
        return self._loaded[number]

    def load(self, numbers: Sequence[int]) -> None:
        """Read files into memory. Raises `PictureError` for one that cannot be read."""
        self._loaded.update(zip(numbers, parallel_map(self._file, numbers), strict=True))

    def unload(self, numbers: Sequence[int]) -> None:
        """Drop files from memory; numbers that are not loaded are ignored."""
        for number in numbers:
            self._loaded.pop(number, None)

    def some(self, count: int) -> list[bytes]:
        """Return the files of `count` pictures in mixed order, spread over all; all of them if there are fewer."""
        chosen = np.random.default_rng(0).permutation(spread(len(self), count, seed=0)).tolist()
        return list(parallel_map(self._file, chosen))

    def _file(self, number: int) -> bytes:
        """Return the file of a picture, or its pixels as PNG, which is lossless, if the data set stores pixels."""
        content = self._samples[number].read()
        if isinstance(content, bytes):
            return content
        buffer = io.BytesIO()
        Image.fromarray(content).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def open_image_library(
    source: Path | None, spec: ModelSpec, *, labelled: bool = False, synthetic: int = SYNTHETIC
) -> ImageLibrary:
    """Open the pictures of a data set, a folder or an archive, or make `synthetic` JPEGs for None.

    With `labelled`, labels are mapped to classes of the model, as in an evaluation. Raises `DataError`, and
    `UsageError` for `labelled` without a data set.
    """
    if source is None:
        if labelled:
            raise UsageError("accuracy is measured on a labelled data set", hint="name one with --data")
        height, width = spec.input.resize * 3 // 2, spec.input.resize * 2
        samples = [Sample(f"synthetic {seed}", 0, partial(_jpeg, height, width, seed)) for seed in range(synthetic)]
        return ImageLibrary(f"{synthetic:,} synthetic JPEGs of {width}x{height}", samples)
    try:
        dataset = open_labelled(source, None)
    except DataError:
        tree = open_tree(source)
        samples = [] if labelled else [Sample(name, 0, tree.reader(name)) for name in pictures(tree)]
        if not samples:
            raise
        return ImageLibrary(f"{source.name}, {len(samples):,} pictures", samples)
    labels = None
    if labelled:
        own = np.array([sample.label for sample in dataset.samples], np.int64)
        labels = map_classes(dataset, spec).indices[own]
    return ImageLibrary(f"{dataset.name}, {len(dataset.samples):,} pictures", dataset.samples, labels)


def _jpeg(height: int, width: int, seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(natural_noise(1, height, width, seed=seed)[0]).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
