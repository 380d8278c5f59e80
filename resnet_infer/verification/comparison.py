"""Two models on the same pictures: how far apart their answers are, and whether that is too far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.datasets.classes import some
from resnet_infer.data.feed import Feed
from resnet_infer.errors import UsageError
from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime
from resnet_infer.verification.gates import GATES, measure
from resnet_infer.verification.parity import (
    MARGIN,
    TOLERANCE,
    Deviation,
    Predict64,
    Reference,
    against_float64,
    evaluate_exactly,
    exact_indices,
)

CLEAR = 0.5
"""An answer is clear if its logit leads the next by this many spreads: rounding does not change it."""


@dataclass(frozen=True)
class Limits:
    """What passes: at most `delta` and `error`, at least `agreement`, as `Comparison` defines them; None: anything.

    `own_error` lets more than `delta` pass where float32 itself is no nearer: see `parity.Deviation.tolerance`.
    """

    delta: float | None = None
    error: float | None = None
    agreement: float | None = None
    own_error: bool = False

    def __str__(self) -> str:
        shown = (
            ("max |logit delta| at most {:.0e} of the spread", self.delta),
            ("logit error at most {:g} of the variance", self.error),
            ("clear agreement at least {:g}", self.agreement),
        )
        told = [text.format(value) for text, value in shown if value is not None]
        if self.own_error:
            told[0] += f" or {MARGIN:g} times the reference's own float32 error"
        return ", ".join(told)


LIMITS: Mapping[str, Limits] = MappingProxyType(
    {
        "fp32": Limits(delta=TOLERANCE, agreement=1.0, own_error=True),
        "tf32": Limits(error=GATES["fp16"].error, agreement=1.0),
        "fp16": Limits(error=GATES["fp16"].error, agreement=1.0),
        "bf16": Limits(error=2e-3, agreement=1.0),
        "int8": Limits(error=GATES["int8"].error, agreement=0.95),
    }
)
"""Precision, highest first -> the limits against a model of that precision or a higher one.

Measured with the built-in ResNet-20 on photos and on noise: fp32 reaches 3e-6 of the spread; fp16 an error of 4e-6 of
the variance and bf16 one of 2.4e-4, neither with a clear answer changed; what INT8 costs is in `guard`.
"""


@dataclass(frozen=True)
class Disagreement:
    """A picture with two answers. `margin` is the lead of the reference's answer over its next one, in spreads."""

    picture: str
    reference: str
    model: str
    margin: float


@dataclass(frozen=True)
class Comparison:
    """A model's logits against a reference's, over `pictures` pictures.

    `max_delta` and `mean_delta` are of the absolute differences. `spread`, their unit, is the standard deviation of
    the reference's logits over the pictures, each class about its own mean. `error` and `largest_error` are those of
    `guard.Cost`. `agreement` is the share of pictures with the same top-1 class; `clear_agreement` that of the `clear`
    ones, which the reference answers with a margin of `CLEAR`, 1 if there are none. `deviation` is there where the
    reference is known in float64: it takes the place of `max_delta` in the verdict.
    """

    pictures: int
    max_delta: float
    mean_delta: float
    spread: float
    error: float
    largest_error: float
    agreement: float
    clear: int
    clear_agreement: float
    disagreements: tuple[Disagreement, ...]
    limits: Limits
    deviation: Deviation | None = None

    @property
    def relative_max(self) -> float:
        return self.max_delta / self.spread if self.spread > 0 else math.inf

    @property
    def relative_mean(self) -> float:
        return self.mean_delta / self.spread if self.spread > 0 else math.inf

    @property
    def failures(self) -> tuple[str, ...]:
        """Why it did not pass. NaN compares as false, so it can only fail."""
        if not 0 < self.spread < math.inf:
            return ("the reference's logits are not finite, or the same for every picture: nothing can be compared",)
        if not math.isfinite(self.max_delta):
            return ("the model's logits are not finite",)
        limits, found = self.limits, []
        if limits.delta is not None:
            judged, allowed = self.relative_max, limits.delta
            if self.deviation:
                judged, allowed = self.deviation.relative_delta, self.deviation.tolerance(limits.delta)
            if not judged <= allowed:
                beside = " from float64" if self.deviation else ""
                found.append(f"max |logit delta|{beside} is {judged:.1e} of the spread, {allowed:.0e} is allowed")
        if limits.error is not None and not self.error <= limits.error:
            found.append(f"the logit error is {self.error:.2g} of the variance, {limits.error:g} is allowed")
        if limits.agreement is not None and not self.clear_agreement >= limits.agreement:
            found.append(
                f"{100 * self.clear_agreement:.2f}% of the {self.clear} clear answers agree, "
                f"{100 * limits.agreement:g}% is asked for"
            )
        return tuple(found)

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; None stands for what is not finite."""
        values = {**vars(self), "relative_max": self.relative_max, "relative_mean": self.relative_mean}
        plain = _finite(values)
        plain["disagreements"] = [dict(vars(item)) for item in self.disagreements]
        plain["deviation"] = self.deviation and _finite(
            {
                **vars(self.deviation),
                "relative_delta": self.deviation.relative_delta,
                "own_error": self.deviation.own_error,
                "tolerance": self.deviation.tolerance(self.limits.delta or 0.0),
            }
        )
        return {**plain, "limits": dict(vars(self.limits)), "passed": self.passed, "failures": list(self.failures)}

    def __str__(self) -> str:
        return (
            f"{'PASS' if self.passed else 'FAIL'} on {self.pictures} pictures: max |logit delta| "
            f"{self.relative_max:.1e} of the spread, logit error {self.error:.2g} of the variance, top-1 agreement "
            f"{100 * self.agreement:.2f}%" + "".join(f"; {reason}" for reason in self.failures)
        )


def compare(
    model: Runtime,
    reference: Runtime,
    feed: Feed,
    *,
    limits: Limits | None = None,
    exact: Predict64 | None = None,
    batch_size: int = 8,
    advance: Callable[[int], None] = lambda count: None,
) -> Comparison:
    """Run both on every picture of `feed`, the same crops for both.

    `limits` are by default those of the lower precision of the two. `exact` is the reference in float64, for limits
    with `own_error`: it answers a few of the pictures. `advance` is called with the number of pictures just finished.
    Kept in memory are the logits of both. Raises `UsageError` if the two cannot be compared.
    """
    require_comparable(model.spec, reference.spec)
    if len(feed) < 2:
        raise UsageError("a comparison needs at least two pictures", hint="give more pictures")
    limits = limits or LIMITS[lower_precision(model, reference)]
    indices = exact_indices(len(feed), len(reference.spec.classes))
    expected: list[Logits] = []
    actual: list[Logits] = []
    kept: list[Images] = []
    done = 0
    for batch in feed.batches(batch_size):
        if exact and limits.own_error:
            kept.append(batch[indices[(indices >= done) & (indices < done + len(batch))] - done])
        expected.append(reference(batch))
        actual.append(model(batch))
        advance(len(batch))
        done += len(batch)
    logits, answers = np.concatenate(expected), np.concatenate(actual)
    found = None
    if kept:
        truth, _ = evaluate_exactly(Reference(reference.spec.name, reference, exact), np.concatenate(kept))
        found = against_float64(logits, answers, truth, indices)
    return judge(answers, logits, names=feed.names, classes=reference.spec.classes, limits=limits, deviation=found)


def judge(
    model: Logits,
    reference: Logits,
    *,
    names: Sequence[str],
    classes: Sequence[str],
    limits: Limits,
    deviation: Deviation | None = None,
) -> Comparison:
    """The comparison of logits, (N, classes), N >= 2, of the pictures called `names`."""
    expected, actual = reference.astype(np.float64), model.astype(np.float64)
    with np.errstate(invalid="ignore"):  # what is not finite fails
        cost = measure(reference, model)
        delta = np.abs(actual - expected)
        spread = float(np.std(expected - expected.mean(axis=0)))
        margins = _margins(expected) / spread if spread > 0 else np.zeros(len(expected))
    first, second = expected.argmax(axis=1), actual.argmax(axis=1)
    same = (first == second) & np.isfinite(actual).all(axis=1)
    clear = margins >= CLEAR
    return Comparison(
        pictures=len(expected),
        max_delta=float(delta.max()),
        mean_delta=float(delta.mean()),
        spread=spread,
        error=cost.error,
        largest_error=cost.largest_error,
        agreement=float(same.mean()),
        clear=int(clear.sum()),
        clear_agreement=float(same[clear].mean()) if clear.any() else 1.0,
        disagreements=tuple(
            Disagreement(names[i], classes[int(first[i])], classes[int(second[i])], float(margins[i]))
            for i in map(int, np.flatnonzero(~same))
        ),
        limits=limits,
        deviation=deviation,
    )


def precision_of(runtime: Runtime) -> str:
    """What the runtime computes in, which may be less than what its artifact holds: a key of `LIMITS`."""
    return str(runtime.describe().get("precision", runtime.spec.precision))


def lower_precision(first: Runtime, second: Runtime) -> str:
    """The lower of the two precisions."""
    order = list(LIMITS)
    return max(precision_of(first), precision_of(second), key=order.index)


def require_comparable(model: ModelSpec, reference: ModelSpec) -> None:
    """Raise `UsageError` unless both answer with the same classes and see the same part of a picture.

    Classes are told by their ids where both have such, else by name. What happens to the pixels afterwards, mean and
    standard deviation, is part of what is compared.
    """
    own, known = (
        (model.class_ids, reference.class_ids)
        if model.class_ids and reference.class_ids
        else (model.classes, reference.classes)
    )
    if own != known:
        extra, missing = [x for x in own if x not in known], [x for x in known if x not in own]
        parts = [f"only the first knows {some(extra)}"] if extra else []
        parts += [f"only the second knows {some(missing)}"] if missing else []
        raise UsageError(
            f"{model.name} and {reference.name} answer with different classes: "
            + ("; ".join(parts) or "they are the same, but in another order"),
            hint="compare models of the same classes",
        )
    if _geometry(model.input) != _geometry(reference.input):
        raise UsageError(
            f"{model.name} and {reference.name} see different parts of a picture: {_geometry(model.input)}, "
            f"and {_geometry(reference.input)}",
            hint="import or export one of them again with the geometry of the other",
        )


def _geometry(spec: InputSpec) -> str:
    exif = "obeyed" if spec.exif else "ignored"
    return f"shorter side to {spec.resize} ({spec.interpolation}), crop {spec.crop}x{spec.crop}, EXIF {exif}"


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, None for those that are not finite."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _margins(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lead of the highest logit over the next, (N,); infinite where there is one class."""
    if logits.shape[1] < 2:
        return np.full(len(logits), np.inf)
    top = np.partition(logits, -2, axis=1)
    margins: NDArray[np.float64] = top[:, -1] - top[:, -2]
    return margins
