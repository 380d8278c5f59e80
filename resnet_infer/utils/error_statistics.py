"""Compute error rates, their confidence intervals, and the significance of a difference."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution, for two-sided 95% intervals."""


def ranks(scores: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for every row how many classes score above the label, int64 (N,).

    `scores` are logits or probabilities (N, classes), `labels` class indices (N,). Rank 0 is a correct top-1 answer, a
    rank below 5 a correct top-5 answer. Of equal scores the one with the lower index counts as higher. A label whose
    score is not finite ranks below all classes.
    """
    own = scores[np.arange(len(scores)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    above: NDArray[np.int64] = ((scores > own) | ((scores == own) & earlier) | ~np.isfinite(own)).sum(axis=1)
    return above


def interval(wrong: int, total: int) -> tuple[float, float]:
    """Return the 95% interval of the share of wrong answers, in percent (Wilson 1927, score interval).

    >>> interval(5, 100)
    (2.154..., 11.175...)
    """
    if not total:
        return 0.0, 100.0
    share, spread = wrong / total, Z95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (McNemar 1947, in its binomial form).

    Two models answered the same images. Only the first was wrong on `only_first` of them, only the second on
    `only_second`. A small p-value means that the difference of their error rates is not due to chance.
    """
    count, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(fewer + 1)]
    tail = math.fsum(math.exp(value - count * math.log(2)) for value in logs)
    return min(1.0, 2 * tail)


@dataclass(frozen=True)
class Errors:
    """Hold top-1 and top-5 error in percent. `top5` is None for models of at most five classes."""

    top1: float
    top5: float | None


@dataclass(frozen=True)
class Difference:
    """Compare the errors of a model with those of a reference on the same images.

    `only_reference_wrong` and `only_model_wrong` count the images that only one of the two classifies wrongly.
    """

    pictures: int
    reference: Errors
    model: Errors
    only_reference_wrong: int
    only_model_wrong: int

    @property
    def top1(self) -> float:
        """Return the model's top-1 error minus the reference's, in percentage points."""
        return self.model.top1 - self.reference.top1

    @property
    def p(self) -> float:
        """Return the p-value of McNemar's test on the top-1 answers."""
        return mcnemar(self.only_reference_wrong, self.only_model_wrong)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form: the fields, and `top1` and `p`."""
        return {**asdict(self), "top1": self.top1, "p": self.p}

    def __str__(self) -> str:
        text = f"top-1 error {self.reference.top1:.2f} -> {self.model.top1:.2f}% ({self.top1:+.2f})"
        if self.model.top5 is not None and self.reference.top5 is not None:
            text += f", top-5 {self.reference.top5:.2f} -> {self.model.top5:.2f}%"
        return f"{text}, McNemar's p {self.p:.2g}"


def errors(found: NDArray[np.int64], classes: int) -> Errors:
    """Return the error rates for the `ranks` of the labels, in a model of `classes` classes."""
    return Errors(100 * float((found >= 1).mean()), 100 * float((found >= 5).mean()) if classes > 5 else None)


def difference(reference: NDArray[np.int64], model: NDArray[np.int64], classes: int) -> Difference:
    """Return the comparison for the `ranks` of the labels by a reference and by a model, both int64 (N,)."""
    right, own = reference == 0, model == 0
    return Difference(
        pictures=len(reference),
        reference=errors(reference, classes),
        model=errors(model, classes),
        only_reference_wrong=int((own & ~right).sum()),
        only_model_wrong=int((right & ~own).sum()),
    )
