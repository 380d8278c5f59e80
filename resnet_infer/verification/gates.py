"""What a lower precision costs, and whether that is too much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ParityError, UsageError
from resnet_infer.models.spec import Precision
from resnet_infer.runtimes.base import Logits
from resnet_infer.utils.metrics import Difference, difference, ranks

Labels = NDArray[np.int64]
LARGEST_ERROR = 0.25
"""The largest `Cost.error` whatever the top-1 error is: where FP32 only guesses, its top-1 error cannot rise."""


@dataclass(frozen=True)
class Gate:
    """What an artifact must reach against its FP32 source.

    `error` is the largest allowed, `agreement` the least, see `Cost`. `max_drop`, points of percent by which the top-1
    error may rise, takes their place where labels are there to measure it.
    """

    error: float
    agreement: float
    max_drop: float | None = None


GATES: Mapping[Precision, Gate] = MappingProxyType({"fp16": Gate(2e-4, 0.97), "int8": Gate(0.03, 0.90)})
"""Precision -> the gate unasked.

Measured on both built-in networks with all their classes, ten and two of them, and a thousand mixtures of them. Sound
INT8, by every method and for both targets, has an error of 0.0005 to 0.006, seldom more than 0.02 where as few as 16
pictures judge it. Where the range of a single activation is a tenth of the right one, the error is above 0.1 for half
of the activations and above 0.03 for nine in ten; the others change no more than 6% of the answers. Deep networks of
two classes reach 0.023 without a wrong answer. FP16 has an error of 1e-6 to 1e-5.
"""


@dataclass(frozen=True)
class Cost:
    """How far a candidate's answers are from its reference's, over `pictures` pictures.

    `error` is the mean squared change of the logits over their variance, both over all pictures and classes together;
    `largest_error` is that of the worst single picture. Two things count for nothing: what the reference's logits of
    a class have in common over the pictures, and what a picture's logits have in common over the classes, which no
    softmax sees. So neither the number of classes nor that of pictures moves it. `agreement` is the share of pictures
    with the same top-1 class. `difference` is there if the pictures have labels.
    """

    pictures: int
    error: float
    largest_error: float
    agreement: float
    difference: Difference | None = None

    def passes(self, gate: Gate) -> bool:
        if gate.max_drop is None:
            return self.error <= gate.error and self.agreement >= gate.agreement
        return self.error <= LARGEST_ERROR and self.difference is not None and self.difference.top1 <= gate.max_drop

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; None stands for what is not finite."""
        errors = {
            name: value if math.isfinite(value) else None
            for name, value in (("error", self.error), ("largest_error", self.largest_error))
        }
        return {**vars(self), **errors, "difference": self.difference.to_json() if self.difference else None}

    def __str__(self) -> str:
        shown = (
            f"logit error {100 * self.error:.3g}% of the variance (worst picture {100 * self.largest_error:.3g}%), "
            f"top-1 agreement {100 * self.agreement:.2f}% on {self.pictures} pictures"
        )
        return f"{shown}; {self.difference}" if self.difference else shown


def measure(reference: Logits, candidate: Logits, labels: Labels | None = None) -> Cost:
    """The cost of `candidate`'s logits, (N, classes), N >= 2; logits that are not finite have an infinite error."""
    if len(reference) < 2 or reference.shape != candidate.shape:
        raise UsageError(f"logits of {reference.shape} and {candidate.shape} cannot be compared")
    with np.errstate(all="ignore"):  # what is not finite gets its error below
        change = _between_classes(candidate.astype(np.float64) - reference)
        expected = _between_classes(reference.astype(np.float64))
        # N - 1: about their own mean few pictures vary less than many do.
        variance = np.square(expected - expected.mean(axis=0)).sum() / (len(expected) - 1)
        errors = np.square(change).sum(axis=1) / variance
    errors = np.where(np.isfinite(errors), errors, np.inf)
    finite = np.isfinite(candidate).all(axis=1)
    return Cost(
        pictures=len(reference),
        error=float(errors.mean()),
        largest_error=float(errors.max()),
        agreement=float(((reference.argmax(1) == candidate.argmax(1)) & finite).mean()),
        difference=None
        if labels is None
        else difference(ranks(reference, labels), ranks(candidate, labels), reference.shape[1]),
    )


def _between_classes(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row less its mean, which no softmax sees. A single class has nothing beside it, and stays as it is."""
    return logits - logits.mean(axis=1, keepdims=True) if logits.shape[1] > 1 else logits


def choose_gate(precision: Precision, max_drop: float | None, labelled: bool) -> Gate:
    """The precision's gate, or the one on the top-1 error. Raises `UsageError` if that cannot be measured."""
    if max_drop is None:
        return GATES[precision]
    if not labelled:
        raise UsageError(
            "--max-drop needs pictures with their classes", hint="give a data set or class folders with --check-data"
        )
    gate = GATES[precision]
    return Gate(gate.error, gate.agreement, max_drop)


def require(cost: Cost, gate: Gate, what: str) -> None:
    """Raise `ParityError` unless `cost` passes."""
    if cost.passes(gate):
        return
    asked = (
        f"a logit error of {100 * gate.error:g}% and an agreement of {100 * gate.agreement:.0f}%"
        if gate.max_drop is None
        else f"at most {gate.max_drop:+.2f} points of top-1 error and a logit error of {100 * LARGEST_ERROR:g}%"
    )
    raise ParityError(
        f"{what} costs too much accuracy, {asked} being asked for: {cost}",
        hint="calibrate on more pictures like those it will see, or try another --calibration-method",
    )
