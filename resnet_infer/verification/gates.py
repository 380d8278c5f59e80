"""Judge whether a lower precision costs too much accuracy."""

from __future__ import annotations

from dataclasses import replace

from resnet_infer.errors import ParityError, UsageError
from resnet_infer.models.spec import Precision
from resnet_infer.verification.metrics import Cost, plain
from resnet_infer.verification.tolerances import (
    GATES,
    LARGEST_ERROR,
    Tolerance,
    Verdict,
    agreement_failure,
    error_failure,
)


def judge(cost: Cost, gate: Tolerance) -> Verdict[Cost]:
    """Judge the cost of a lower precision by the `error` and `agreement` of `gate`, or by its `max_drop`."""
    if gate.max_drop is None:
        failures = error_failure(cost.error, gate.error) + agreement_failure(cost.agreement, gate.agreement)
    else:
        failures = error_failure(cost.error, LARGEST_ERROR)
        if cost.difference is None:
            failures.append("the pictures have no labels to tell the top-1 error by")
        elif not cost.difference.top1 <= gate.max_drop:
            rise = f"{cost.difference.top1:+.2f} points"
            failures.append(f"the top-1 error changes by {rise}, {gate.max_drop:+.2f} are allowed")
    line = (
        f"logit error {100 * cost.error:.3g}% of the variance (worst picture {100 * cost.largest_error:.3g}%), "
        f"top-1 agreement {100 * cost.agreement:.2f}% on {cost.pictures} pictures"
        + (f"; {cost.difference}" if cost.difference else "")
    )
    values = {**plain(vars(cost)), "difference": cost.difference.to_json() if cost.difference else None}
    return Verdict(cost, tuple(failures), line, values)


def choose_gate(precision: Precision, max_drop: float | None, labelled: bool) -> Tolerance:
    """Return the precision's gate, with `max_drop` in points of top-1 error if that is given.

    Raises `UsageError` where `max_drop` cannot be measured, because the pictures are not `labelled`.
    """
    if max_drop is not None and not labelled:
        raise UsageError(
            "--max-drop needs pictures with their classes", hint="give a data set or class folders with --check-data"
        )
    return replace(GATES[precision], max_drop=max_drop)


def require(verdict: Verdict[Cost], gate: Tolerance, what: str) -> None:
    """Raise `ParityError` unless the cost passed the gate."""
    if verdict.passed:
        return
    asked = (
        f"a logit error of {100 * (gate.error or 0):g}% and an agreement of {100 * (gate.agreement or 0):.0f}%"
        if gate.max_drop is None
        else f"at most {gate.max_drop:+.2f} points of top-1 error and a logit error of {100 * LARGEST_ERROR:g}%"
    )
    raise ParityError(
        f"{what} costs too much accuracy, {asked} being asked for: {verdict}",
        hint="calibrate on more pictures like those it will see, or try another --calibration-method",
        source=what,
    )
