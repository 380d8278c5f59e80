"""Measure how far a candidate's logits are from a reference's. The checks judge these figures by `tolerances`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import UsageError
from resnet_infer.runtimes.base import Logits
from resnet_infer.utils.error_statistics import Difference, difference, ranks
from resnet_infer.verification.tolerances import CEILING

Labels = NDArray[np.int64]
Logits64 = NDArray[np.float64]


@dataclass(frozen=True)
class Deviation:
    """Hold how far a candidate's logits are from the reference's, and how far the source's own float32 is.

    `max_delta` is the largest |difference|. On `exact_pictures` images it is measured from float64. On the others it is
    measured from the source in float32, less `own_delta`. `own_delta` is the largest |difference| between the source in
    float32 and in float64, None without float64. `spread` is the standard deviation of the source's logits.
    """

    max_delta: float
    own_delta: float | None
    exact_pictures: int
    spread: float

    @property
    def relative_delta(self) -> float:
        """`max_delta` divided by the standard deviation of the logits."""
        return of_spread(self.max_delta, self.spread)

    @property
    def own_error(self) -> float | None:
        """`own_delta` divided by the standard deviation of the logits."""
        return None if self.own_delta is None else of_spread(self.own_delta, self.spread)


@dataclass(frozen=True)
class Cost:
    """Hold how far a candidate's answers are from its reference's, over `pictures` images.

    `error` is the mean squared change of the logits divided by their variance, over all images and classes.
    `largest_error` is the same for the worst single image. The variance is taken about each class's mean over the
    images, and each image's logits are taken about their mean over the classes, which softmax ignores. So the figure
    does not depend on the number of classes or images. `agreement` is the fraction of images with the same top-1 class.
    `difference` is the change of the top-1 and top-5 errors, None without labels.
    """

    pictures: int
    error: float
    largest_error: float
    agreement: float
    difference: Difference | None = None


def spread(logits: Logits64) -> float:
    """Return the standard deviation of logits, (N, classes), over the pictures, each class about its own mean."""
    return float(np.std(logits - logits.mean(axis=0)))


def of_spread(delta: float, spread: float) -> float:
    """Return a difference of logits divided by their standard deviation, infinity if that is zero."""
    return delta / spread if spread > 0 else math.inf


def relative_margins(logits: Logits64, spread: float) -> NDArray[np.float64]:
    """Return the lead of the highest logit over the next, (N,), divided by `spread`; 0 if that is zero.

    It is infinity if there is only one class.
    """
    if not spread > 0:
        return np.zeros(len(logits))
    if logits.shape[1] < 2:
        return np.full(len(logits), np.inf)
    top = np.partition(logits, -2, axis=1)
    margins: NDArray[np.float64] = (top[:, -1] - top[:, -2]) / spread
    return margins


def same_answers(reference: Logits | Logits64, candidate: Logits | Logits64) -> NDArray[np.bool_]:
    """Return a mask, (N,), of the images with the same top-1 class in both, and finite logits in the candidate."""
    agree = reference.argmax(axis=1) == candidate.argmax(axis=1)
    same: NDArray[np.bool_] = agree & np.isfinite(candidate).all(axis=1)
    return same


def against_float64(
    source: Logits, candidate: Logits, exact: Logits64 | None, indices: NDArray[np.int64]
) -> Deviation | None:
    """Return the deviation of `candidate` from a reference: `source`, (N, classes), and `exact`, its rows at `indices`.

    None without `exact`, or if that is further than `CEILING` from `source`.
    """
    if exact is None:
        return None
    expected, actual = source.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore"):  # the tolerances fail NaN and infinity
        own = float(np.abs(expected[indices] - exact).max())
        deltas = np.maximum(np.abs(actual - expected) - own, 0)
        deltas[indices] = np.abs(actual[indices] - exact)
        found = Deviation(float(deltas.max()), own, len(indices), spread(expected))
    return found if (found.own_error or 0.0) <= CEILING else None


def against_float32(source: Logits, candidate: Logits) -> Deviation:
    """Return the deviation of `candidate` from `source`, (N, classes), without float64."""
    expected = source.astype(np.float64)
    with np.errstate(invalid="ignore"):  # as above
        return Deviation(float(np.abs(candidate - expected).max()), None, 0, spread(expected))


def measure(reference: Logits, candidate: Logits, labels: Labels | None = None) -> Cost:
    """Return the cost of `candidate`'s logits, (N, classes), N >= 2.

    Logits that are not finite have an infinite error. Raises `UsageError` for a single picture, and for logits of
    another shape than the reference's.
    """
    if len(reference) < 2 or reference.shape != candidate.shape:
        raise UsageError(f"logits of {reference.shape} and {candidate.shape} cannot be compared")
    with np.errstate(all="ignore"):  # values that are not finite get an infinite error below
        change = _between_classes(candidate.astype(np.float64) - reference)
        expected = _between_classes(reference.astype(np.float64))
        # N - 1: unbiased, because the variance is taken about the mean of these same images.
        variance = np.square(expected - expected.mean(axis=0)).sum() / (len(expected) - 1)
        errors = np.square(change).sum(axis=1) / variance
    errors = np.where(np.isfinite(errors), errors, np.inf)
    return Cost(
        pictures=len(reference),
        error=float(errors.mean()),
        largest_error=float(errors.max()),
        agreement=float(same_answers(reference, candidate).mean()),
        difference=None
        if labels is None
        else difference(ranks(reference, labels), ranks(candidate, labels), reference.shape[1]),
    )


def _between_classes(logits: Logits64) -> Logits64:
    """Return each row less its mean, which softmax ignores; a single class stays as it is."""
    return logits - logits.mean(axis=1, keepdims=True) if logits.shape[1] > 1 else logits


class TensorDelta:
    """Accumulate the difference of two tensors in float64, part by part."""

    def __init__(self) -> None:
        self._squares = np.zeros(3)
        self._largest = 0.0

    def add(self, expected: NDArray[np.float64], actual: NDArray[np.float64]) -> None:
        """Add a part of both tensors, of the same shape."""
        with np.errstate(invalid="ignore", over="ignore"):
            delta = actual - expected
            self._squares += [np.vdot(delta, delta), np.vdot(expected, expected), np.vdot(actual, actual)]
            self._largest = float(np.maximum(self._largest, np.abs(delta).max(initial=0.0)))

    @property
    def largest(self) -> float:
        """The largest |difference|."""
        return self._largest

    @property
    def relative(self) -> float:
        """The root of the mean square of the difference over that of the reference."""
        error, expected, _ = map(float, self._squares)
        return math.sqrt(error / expected) if expected > 0 else math.inf if error else 0.0

    @property
    def cosine(self) -> float:
        """The cosine similarity; of tensors that are zero, 1 if both are."""
        error, expected, actual = map(float, self._squares)
        product = (expected + actual - error) / 2
        norms = math.sqrt(expected * actual) if expected * actual > 0 else 0.0
        return product / norms if norms else float(error == 0)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with None for NaN and infinity, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
