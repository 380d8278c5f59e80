"""Define the tolerances of every check of answers, and the verdict that each check returns.

The checks themselves are `parity` (an export or import against its source), `gates` (what a lower precision costs),
`comparison` (any two models), `layers` (two graphs, layer by layer) and `converters.importers.weights_check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from resnet_infer.models.spec import Precision

Measured = TypeVar("Measured", covariant=True)

FP32_DELTA = 1e-4
"""Largest |difference of logits| that always passes in FP32, divided by the logits' standard deviation over the images.
The built-in ResNet-20 reaches 3e-6, on photos and on noise."""
MARGIN = 3.0
"""Multiple of the source's own float32 error that passes too. The same sums in another order may have a larger error,
but not ten times as large."""
CEILING = 1e-2
"""Largest float32 error of the source, in standard deviations of its logits, for which float64 is the reference. Beyond
it float32 hardly distinguishes the images, and `MARGIN` times that error would let faults pass. The artifact must then
answer as the source does in float32."""
LARGEST_ERROR = 0.25
"""Largest logit error that passes with `Tolerance.max_drop`. A model that only guesses cannot get a worse error."""
CLEAR = 0.5
"""Smallest lead of the highest logit over the next, in standard deviations, of a clear answer, which rounding does not
change."""
BATCHED = 1e-3
"""Largest difference between an imported graph's logits of an image alone and in a batch, relative to the logit and to
the standard deviation. Sums in another order differ by far less, a graph that mixes the images of a batch by more."""
PROBABILITIES = 1e-3
"""Largest distance from 1 of the sum of an imported graph's outputs that are taken for probabilities. FP16 rounds each
of a thousand by up to 5e-4 of itself."""


@dataclass(frozen=True)
class Tolerance:
    """Hold the limits of a check; None is no limit.

    `delta` is the largest |difference of logits|, in standard deviations of the reference's logits. With
    `own_error` up to `MARGIN` times the reference's own float32 error passes too. `error` is the largest mean squared
    change of the logits over their variance (`metrics.Cost`). `agreement` is the least share of pictures with the same
    top-1 class; `comparison`, and `parity` with `clear`, count only images with a clear answer (`CLEAR`). `max_drop`,
    points of percent by which the top-1 error may rise, takes the place of `error` and `agreement`; `LARGEST_ERROR`
    remains.
    """

    delta: float | None = None
    error: float | None = None
    agreement: float | None = None
    own_error: bool = False
    clear: bool = False
    max_drop: float | None = None

    def largest_delta(self, own_error: float | None) -> float:
        """Return the largest `delta` that passes, given the reference's own float32 error in standard deviations."""
        own = MARGIN * own_error if self.own_error and own_error is not None else 0.0
        return max(self.delta or 0.0, own)

    def to_json(self, *names: str) -> dict[str, Any]:
        """Return the named fields, in the order given."""
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Verdict(Generic[Measured]):
    """Hold what a check measured, and the reasons why it failed.

    `measured` is of the check's own type. `str()` gives one line for people, `to_json()` plain JSON.

        verdict = compare(reference, candidate, images)
        print(verdict, verdict.passed, verdict.failures)
    """

    measured: Measured
    failures: tuple[str, ...]
    line: str = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether the check passed."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON. Its keys are those of the check."""
        return dict(self.values)

    def __str__(self) -> str:
        return self.line


PARITY = Tolerance(delta=FP32_DELTA, agreement=1.0, own_error=True)
"""Limits for an FP32 graph against the checkpoint or the foreign graph that it was made from."""

ENGINES: Mapping[Precision, Tolerance] = MappingProxyType(
    {
        # The same graph in another program: only the order of rounding differs.
        "fp32": Tolerance(delta=1e-3, agreement=1.0, own_error=True, clear=True),
        # As above, in half precision.
        "fp16": Tolerance(delta=5e-2, agreement=0.9, own_error=True, clear=True),
        # A value on the border between two integers may be rounded either way. ONNX Runtime with and without graph
        # optimisations differs by 0.1 to 0.2, and on noise one in six times more than 10% of all answers change.
        "int8": Tolerance(delta=5e-1, agreement=0.9, own_error=True, clear=True),
    }
)
"""Precision of an artifact that another program computes, such as a TensorRT engine -> limits against ONNX Runtime on
the graph that it was made from.
"""

RUNTIMES: Mapping[str, Tolerance] = MappingProxyType(
    {
        # The same graph in another program: sums in another order have an error of 1e-11 to 1e-9.
        "fp32": Tolerance(error=1e-6, agreement=1.0),
        # The weights are the same numbers, and both compute in float32 or with ten bits of mantissa.
        "fp16": Tolerance(error=1e-4, agreement=1.0),
        # Seven bits of mantissa, as in `LIMITS`.
        "bf16": Tolerance(error=2e-3, agreement=0.9),
        # A value on the border between two integers may be rounded either way, and each layer adds to it. Of sixteen
        # clear answers one may be another.
        "int8": Tolerance(error=0.01, agreement=0.9),
    }
)
"""Precision that a runtime computes in -> limits against ONNX Runtime, on a few images, before it answers unasked.

`error` is pooled over the images, and `agreement` counts clear answers.
"""

GATES: Mapping[Precision, Tolerance] = MappingProxyType(
    {
        # Sound FP16 has an error of 1e-6 to 1e-5.
        "fp16": Tolerance(error=2e-4, agreement=0.97),
        # Sound INT8, by every method and for both targets, has an error of 0.0005 to 0.006, seldom more than 0.02 where
        # as few as 16 pictures judge it; deep networks of two classes reach 0.023 without a wrong answer. Where the
        # range of a single activation is a tenth of the right one, the error is above 0.1 for half of the activations
        # and above 0.03 for nine in ten; the others change no more than 6% of the answers.
        "int8": Tolerance(error=0.03, agreement=0.90),
    }
)
"""Precision -> limits against FP32 if no `--max-drop` is given.

Measured on both built-in networks with all their classes, ten and two of them, and a thousand mixtures of them.
"""

LIMITS: Mapping[str, Tolerance] = MappingProxyType(
    {
        "fp32": Tolerance(delta=FP32_DELTA, agreement=1.0, own_error=True),
        # Ten bits of mantissa, as FP16 has.
        "tf32": Tolerance(error=GATES["fp16"].error, agreement=1.0),
        # FP16 reaches an error of 4e-6 on the built-in ResNet-20, with no clear answer changed.
        "fp16": Tolerance(error=GATES["fp16"].error, agreement=1.0),
        # bfloat16 reaches an error of 2.4e-4, with no clear answer changed.
        "bf16": Tolerance(error=2e-3, agreement=1.0),
        # INT8 may change a few clear answers too: see `GATES`.
        "int8": Tolerance(error=GATES["int8"].error, agreement=0.95),
    }
)
"""Precision, highest first -> limits between a model of that precision and one of the same or a higher precision."""

LAYER_LIMITS: Mapping[str, float] = MappingProxyType(
    {
        "fp32": 1e-4,  # sums in another order
        "tf32": 1e-2,  # ten bits of mantissa
        "fp16": 1e-2,  # ten bits of mantissa
        "bf16": 5e-2,  # seven bits of mantissa
        "int8": 0.25,  # 255 steps over the range of a whole tensor
    }
)
"""Precision -> largest relative difference of a tensor before its layer is reported."""


def delta_failure(delta: float, allowed: float, beside: str = "") -> list[str]:
    """Return why a largest |logit delta|, in standard deviations, fails; an empty list if it passes. NaN fails."""
    if delta <= allowed:
        return []
    return [f"max |logit delta|{beside} is {delta:.1e} of the spread, {allowed:.0e} is allowed"]


def error_failure(error: float, allowed: float | None) -> list[str]:
    """Return why a logit error fails; an empty list if it passes. NaN fails."""
    if allowed is None or error <= allowed:
        return []
    return [f"the logit error is {error:.2g} of the variance, {allowed:g} is allowed"]


def agreement_failure(agreement: float, least: float | None, answers: str = "answers") -> list[str]:
    """Return why a fraction of `answers` that agree fails; an empty list if it passes. NaN fails."""
    if least is None or agreement >= least:
        return []
    return [f"{100 * agreement:.2f}% of the {answers} agree, {100 * least:g}% is asked for"]
