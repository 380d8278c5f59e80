"""What a lower precision costs, and whether that is too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ParityError, UsageError
from resnet_infer.metrics import Difference, difference, ranks
from resnet_infer.models.spec import Precision
from resnet_infer.runtimes.base import Logits

Labels = NDArray[np.int64]
FLOOR = 0.9
"""The least cosine whatever the errors are: where FP32 only guesses, its top-1 error cannot rise."""


@dataclass(frozen=True)
class Gate:
    """What an artifact must reach against its FP32 source.

    `cosine` and `agreement` are the least allowed, see `Cost`. `max_drop`, points of percent by which the top-1 error
    may rise, takes their place where labels are there to measure it.
    """

    cosine: float
    agreement: float
    max_drop: float | None = None


GATES: Mapping[Precision, Gate] = MappingProxyType({"fp16": Gate(0.9999, 0.97), "int8": Gate(0.99, 0.90)})
"""Precision -> the gate unasked. A sound INT8 net is well above 0.99; one ruined range costs more than 0.01."""


@dataclass(frozen=True)
class Cost:
    """How far a candidate's answers are from its reference's, over `pictures` pictures.

    `cosine` is the mean over the pictures of the cosine between both logits, each class about the mean of the
    reference, so that what is common to all pictures counts for nothing; `lowest_cosine` its minimum. `agreement` is
    the share of pictures with the same top-1 class. `difference` is there if the pictures have labels.
    """

    pictures: int
    cosine: float
    lowest_cosine: float
    agreement: float
    difference: Difference | None = None

    def passes(self, gate: Gate) -> bool:
        if gate.max_drop is None:
            return self.cosine >= gate.cosine and self.agreement >= gate.agreement
        return self.cosine >= FLOOR and self.difference is not None and self.difference.top1 <= gate.max_drop

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "difference": self.difference.to_json() if self.difference else None}

    def __str__(self) -> str:
        shown = (
            f"logit cosine {self.cosine:.5f} (lowest {self.lowest_cosine:.3f}), "
            f"top-1 agreement {100 * self.agreement:.2f}% on {self.pictures} pictures"
        )
        return f"{shown}; {self.difference}" if self.difference else shown


def measure(reference: Logits, candidate: Logits, labels: Labels | None = None) -> Cost:
    """The cost of `candidate`'s logits, (N, classes), N >= 2; logits that are not finite give a cosine of -1."""
    if len(reference) < 2 or reference.shape != candidate.shape:
        raise UsageError(f"logits of {reference.shape} and {candidate.shape} cannot be compared")
    with np.errstate(all="ignore"):  # what is not finite gets its cosine below
        centre = reference.mean(axis=0, dtype=np.float64)
        first, second = reference - centre, candidate - centre
        norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosine = np.where(norms > 0, (first * second).sum(axis=1) / np.where(norms > 0, norms, 1), -1.0)
    cosine = np.where(np.isfinite(cosine), cosine, -1.0)
    finite = np.isfinite(candidate).all(axis=1)
    return Cost(
        pictures=len(reference),
        cosine=float(cosine.mean()),
        lowest_cosine=float(cosine.min()),
        agreement=float(((reference.argmax(1) == candidate.argmax(1)) & finite).mean()),
        difference=None
        if labels is None
        else difference(ranks(reference, labels), ranks(candidate, labels), reference.shape[1]),
    )


def choose_gate(precision: Precision, max_drop: float | None, labelled: bool) -> Gate:
    """The precision's gate, or the one on the top-1 error. Raises `UsageError` if that cannot be measured."""
    if max_drop is None:
        return GATES[precision]
    if not labelled:
        raise UsageError(
            "--max-drop needs pictures with their classes", hint="give a data set or class folders with --check-data"
        )
    gate = GATES[precision]
    return Gate(gate.cosine, gate.agreement, max_drop)


def require(cost: Cost, gate: Gate, what: str) -> None:
    """Raise `ParityError` unless `cost` passes."""
    if cost.passes(gate):
        return
    asked = (
        f"a cosine of {gate.cosine} and an agreement of {100 * gate.agreement:.0f}%"
        if gate.max_drop is None
        else f"at most {gate.max_drop:+.2f} points of top-1 error and a cosine of {FLOOR}"
    )
    raise ParityError(
        f"{what} costs too much accuracy, {asked} being asked for: {cost}",
        hint="calibrate on more pictures like those it will see, or try another --calibration-method",
    )
