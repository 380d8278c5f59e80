"""Compare the answers of two models to the same images, and judge whether they differ too much."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from resnet_infer.data.datasets.classes import some
from resnet_infer.data.feed import Feed
from resnet_infer.errors import UsageError
from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime
from resnet_infer.verification.metrics import (
    Deviation,
    against_float64,
    measure,
    of_spread,
    plain,
    relative_margins,
    same_answers,
    spread,
)
from resnet_infer.verification.parity import Predict64, Reference, evaluate_exactly, exact_indices
from resnet_infer.verification.tolerances import (
    CLEAR,
    LIMITS,
    MARGIN,
    Tolerance,
    Verdict,
    agreement_failure,
    delta_failure,
    error_failure,
)


@dataclass(frozen=True)
class Disagreement:
    """Hold an image to which the two models answer differently.

    `margin` is the lead of the reference's highest logit over its next, in standard deviations of the logits.
    """

    picture: str
    reference: str
    model: str
    margin: float


@dataclass(frozen=True)
class Comparison:
    """Hold how far a model's logits are from a reference's, over `pictures` images.

    `max_delta` and `mean_delta` are the maximum and mean of the absolute differences. `spread` is the standard
    deviation of the reference's logits. `error` and `largest_error` are those of `metrics.Cost`. `agreement` is the
    fraction of images with the same top-1 class. `clear` counts the images that the reference answers with a margin of
    at least `CLEAR`, and `clear_agreement` is the agreement on those, 1 if there are none. `deviation` is set if the
    reference is known in float64; the verdict then uses it instead of `max_delta`. `limits` states what passes.
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
    disagreements: tuple[Disagreement, ...] = field(repr=False)
    limits: Tolerance = field(repr=False)
    deviation: Deviation | None = field(default=None, repr=False)

    @property
    def relative_max(self) -> float:
        """`max_delta` divided by the standard deviation of the logits."""
        return of_spread(self.max_delta, self.spread)

    @property
    def relative_mean(self) -> float:
        """`mean_delta` divided by the standard deviation of the logits."""
        return of_spread(self.mean_delta, self.spread)


def judge(found: Comparison) -> Verdict[Comparison]:
    """Judge whether two models answer alike. In the verdict's JSON None stands for values that are not finite."""
    failures = _failures(found)
    line = (
        f"{'FAIL' if failures else 'PASS'} on {found.pictures} pictures: max |logit delta| "
        f"{found.relative_max:.1e} of the spread, logit error {found.error:.2g} of the variance, top-1 agreement "
        f"{100 * found.agreement:.2f}%" + "".join(f"; {reason}" for reason in failures)
    )
    values = plain({**vars(found), "relative_max": found.relative_max, "relative_mean": found.relative_mean})
    values["disagreements"] = [dict(vars(item)) for item in found.disagreements]
    values["deviation"] = found.deviation and plain(
        {
            **vars(found.deviation),
            "relative_delta": found.deviation.relative_delta,
            "own_error": found.deviation.own_error,
            "tolerance": found.limits.largest_delta(found.deviation.own_error),
        }
    )
    values["limits"] = found.limits.to_json("delta", "error", "agreement", "own_error")
    return Verdict(found, failures, line, {**values, "passed": not failures, "failures": list(failures)})


def _failures(found: Comparison) -> tuple[str, ...]:
    """Return the reasons why the comparison failed."""
    if not 0 < found.spread < math.inf:
        return ("the reference's logits are not finite, or the same for every picture: nothing can be compared",)
    if not math.isfinite(found.max_delta):
        return ("the model's logits are not finite",)
    limits, failures = found.limits, list[str]()
    if limits.delta is not None:
        deviation = found.deviation
        failures += (
            delta_failure(deviation.relative_delta, limits.largest_delta(deviation.own_error), " from float64")
            if deviation
            else delta_failure(found.relative_max, limits.delta)
        )
    failures += error_failure(found.error, limits.error)
    failures += agreement_failure(found.clear_agreement, limits.agreement, f"{found.clear} clear answers")
    return tuple(failures)


def describe_limits(limits: Tolerance) -> str:
    """Return the limits in words."""
    shown = (
        ("max |logit delta| at most {:.0e} of the spread", limits.delta),
        ("logit error at most {:g} of the variance", limits.error),
        ("clear agreement at least {:g}", limits.agreement),
    )
    told = [text.format(value) for text, value in shown if value is not None]
    if limits.own_error:
        told[0] += f" or {MARGIN:g} times the reference's own float32 error"
    return ", ".join(told)


def compare(
    model: Runtime,
    reference: Runtime,
    feed: Feed,
    *,
    limits: Tolerance | None = None,
    exact: Predict64 | None = None,
    batch_size: int = 8,
    advance: Callable[[int], None] = lambda count: None,
) -> Verdict[Comparison]:
    """Run both models on the same crop of every image of `feed`, and judge.

    `limits` are by default those of the lower precision of the two. `exact` is the reference in float64, for limits
    with `own_error`; it runs on a few of the images. `advance` is called with the number of images just finished. The
    logits of both models are kept in memory. Raises `UsageError` if the two cannot be compared.
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
    return judge_logits(
        answers, logits, names=feed.names, classes=reference.spec.classes, limits=limits, deviation=found
    )


def judge_logits(
    model: Logits,
    reference: Logits,
    *,
    names: Sequence[str],
    classes: Sequence[str],
    limits: Tolerance,
    deviation: Deviation | None = None,
) -> Verdict[Comparison]:
    """Judge logits, (N, classes), N >= 2, of the images called `names`."""
    expected, actual = reference.astype(np.float64), model.astype(np.float64)
    with np.errstate(invalid="ignore"):  # the limits fail NaN and infinity
        cost = measure(reference, model)
        delta = np.abs(actual - expected)
        unit = spread(expected)
        margins = relative_margins(expected, unit)
    first, second = expected.argmax(axis=1), actual.argmax(axis=1)
    same = same_answers(expected, actual)
    clear = margins >= CLEAR
    found = Comparison(
        pictures=len(expected),
        max_delta=float(delta.max()),
        mean_delta=float(delta.mean()),
        spread=unit,
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
    return judge(found)


def precision_of(runtime: Runtime) -> str:
    """Return the precision that the runtime computes in, a key of `LIMITS`. It may be lower than the artifact's."""
    return str(runtime.describe().get("precision", runtime.spec.precision))


def lower_precision(first: Runtime, second: Runtime) -> str:
    """Return the lower of the two runtimes' precisions."""
    order = list(LIMITS)
    return max(precision_of(first), precision_of(second), key=order.index)


def require_comparable(model: ModelSpec, reference: ModelSpec) -> None:
    """Raise `UsageError` unless both have the same classes and the same resize and crop.

    Classes are compared by id if both models have ids, else by name. Normalisation (mean and standard deviation) may
    differ: it is part of what is compared.
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
    """Describe the resize and the crop in one line, for messages and to compare."""
    exif = "obeyed" if spec.exif else "ignored"
    return f"shorter side to {spec.resize} ({spec.interpolation}), crop {spec.crop}x{spec.crop}, EXIF {exif}"
