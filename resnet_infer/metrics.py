"""What counts of right and wrong answers say, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""The normal distribution's 97.5% quantile."""


def ranks(scores: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes score above the right one, (N,); of equal scores the class with the lower index goes first.

    `scores` are logits or probabilities, (N, classes). Rank 0 is a right top-1 answer, below 5 a right top-5 answer.
    A score that is not finite never makes an answer right.
    """
    own = scores[np.arange(len(scores)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    above: NDArray[np.int64] = ((scores > own) | ((scores == own) & earlier) | ~np.isfinite(own)).sum(axis=1)
    return above


def interval(wrong: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of the share of wrong answers, in percent (Wilson 1927)."""
    if not total:
        return 0.0, 100.0
    share, spread = wrong / total, Z95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test.

    Two models answered the same pictures; `only_first` of them only the first got wrong, `only_second` only the
    second. Small p: the difference of their errors is no chance. (McNemar 1947, in its exact binomial form.)
    """
    count, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(fewer + 1)]
    tail = math.fsum(math.exp(value - count * math.log(2)) for value in logs)
    return min(1.0, 2 * tail)


@dataclass(frozen=True)
class Difference:
    """Errors of a model less those of a reference on the same pictures, in points of percent.

    `p` is McNemar's of the top-1 answers; `top5` is None where there are at most five classes.
    """

    pictures: int
    top1: float
    top5: float | None
    only_reference_wrong: int
    only_model_wrong: int

    @property
    def p(self) -> float:
        return mcnemar(self.only_reference_wrong, self.only_model_wrong)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "p": self.p}

    def __str__(self) -> str:
        top5 = "" if self.top5 is None else f", top-5 {self.top5:+.2f}"
        return f"error top-1 {self.top1:+.2f}{top5} points on {self.pictures} pictures (McNemar's p {self.p:.3g})"


def difference(reference: NDArray[np.int64], model: NDArray[np.int64], classes: int) -> Difference:
    """Of the `ranks` of the right classes, by a reference and by a model."""
    right, own = reference == 0, model == 0

    def points(limit: int) -> float:
        return 100 * float((model >= limit).mean() - (reference >= limit).mean())

    return Difference(
        pictures=len(reference),
        top1=points(1),
        top5=points(5) if classes > 5 else None,
        only_reference_wrong=int((own & ~right).sum()),
        only_model_wrong=int((right & ~own).sum()),
    )
