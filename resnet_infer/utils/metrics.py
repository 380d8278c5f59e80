"""What counts of right and wrong answers say, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
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
class Errors:
    """Top-1 and top-5 error in percent; `top5` is None where there are at most five classes."""

    top1: float
    top5: float | None


@dataclass(frozen=True)
class Difference:
    """The errors of a model and of a reference on the same pictures, and on how many only one of them is wrong."""

    pictures: int
    reference: Errors
    model: Errors
    only_reference_wrong: int
    only_model_wrong: int

    @property
    def top1(self) -> float:
        """Points of percent by which the model's top-1 error is above the reference's."""
        return self.model.top1 - self.reference.top1

    @property
    def p(self) -> float:
        """McNemar's, of the top-1 answers."""
        return mcnemar(self.only_reference_wrong, self.only_model_wrong)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "top1": self.top1, "p": self.p}

    def __str__(self) -> str:
        text = f"top-1 error {self.reference.top1:.2f} -> {self.model.top1:.2f}% ({self.top1:+.2f})"
        if self.model.top5 is not None and self.reference.top5 is not None:
            text += f", top-5 {self.reference.top5:.2f} -> {self.model.top5:.2f}%"
        return f"{text}, McNemar's p {self.p:.2g}"


def errors(found: NDArray[np.int64], classes: int) -> Errors:
    """Of the `ranks` of the right classes among so many."""
    return Errors(100 * float((found >= 1).mean()), 100 * float((found >= 5).mean()) if classes > 5 else None)


def difference(reference: NDArray[np.int64], model: NDArray[np.int64], classes: int) -> Difference:
    """Of the `ranks` of the right classes, by a reference and by a model."""
    right, own = reference == 0, model == 0
    return Difference(
        pictures=len(reference),
        reference=errors(reference, classes),
        model=errors(model, classes),
        only_reference_wrong=int((own & ~right).sum()),
        only_model_wrong=int((right & ~own).sum()),
    )
