"""Measure mean, deviation and principal components of the colours of a training set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_SAMPLE = 50_000
"""Most pictures that are measured; of a larger set so many are drawn by the seed."""


@dataclass(frozen=True)
class Statistics:
    """Hold the statistics of pixels, in units of the full range.

    `picture` (H, W, 3) is the mean picture, and `covariance` (3, 3) that of a pixel's colours.
    """

    picture: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def normalisation(self, kind: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return mean and standard deviation, float32: "pixel" (H, W, 3) and ones, "channel" (3,) and (3,)."""
        if kind == "pixel":
            return self.picture.astype(np.float32), np.ones(3, np.float32)
        mean = self.picture.mean((0, 1))
        return mean.astype(np.float32), np.maximum(np.sqrt(np.diag(self.covariance)), 1 / 255).astype(np.float32)

    def colours(self) -> NDArray[np.float64]:
        """Return the principal components of the colours in columns, each times its eigenvalue, (3, 3)."""
        values, vectors = np.linalg.eigh(self.covariance)
        scaled: NDArray[np.float64] = vectors * np.maximum(values, 0)
        return scaled


def measure(batches: Iterable[NDArray[np.uint8]]) -> Statistics:
    """Measure uint8 NHWC batches, all of one size."""
    count, total, products = 0, np.zeros(()), np.zeros((3, 3))
    for batch in batches:
        scaled = batch.astype(np.float64) / 255
        count, total = count + len(batch), total + scaled.sum(axis=0)
        pixels = scaled.reshape(-1, 3)
        products += pixels.T @ pixels
    picture = total / count
    mean = picture.mean((0, 1))
    return Statistics(picture, products / (count * picture.shape[0] * picture.shape[1]) - np.outer(mean, mean))
