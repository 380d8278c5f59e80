"""Check that an artifact answers as the model that it was made from.

The reference is the source evaluated in float64. The error of the source itself in float32, run as literally as
possible, is measured too: the tolerance for an artifact is never below that error, and never far above it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ParityError
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.runtimes.base import Images, Logits, Runtime
from resnet_infer.utils.extras import needs
from resnet_infer.verification.metrics import Deviation, Logits64, against_float32, against_float64, relative_margins
from resnet_infer.verification.tolerances import (
    CEILING,
    CLEAR,
    PARITY,
    Tolerance,
    Verdict,
    agreement_failure,
    delta_failure,
)

Predict = Callable[[Images], Logits]
Predict64 = Callable[[Images], NDArray[np.float64]]

EXACT_PICTURES = 4
"""Fewest images evaluated in float64, which takes a few times as long as float32."""
EXACT_LOGITS = 64
"""Fewest logits evaluated in float64, if there are enough images. The maximum over fewer says little."""


class NotCoveredError(Exception):
    """Report a graph, or an operator in it, that cannot be evaluated in float64. The message says which."""


@dataclass(frozen=True)
class Reference:
    """Hold the model that artifacts are compared with: `source` in float32 and, if it can be had, `exact` in float64.

    `name` describes it in reports. `exact` raises `NotCoveredError` for a graph that cannot be evaluated in float64.
    """

    name: str
    source: Predict
    exact: Predict64 | None = None


@dataclass(frozen=True)
class Parity:
    """Hold the differences between a candidate's logits and its source's, over `pictures` images.

    `reference` names what ran the source. `agreement` is the fraction of images with the same top-1 class, 1 if there
    are none; where the tolerance says so, only the `clear` images with a clear answer of the source count. If the
    tolerance asks for full agreement, a class also counts as the same when its reference logit is so close to the
    highest that the allowed differences could exchange the two. `tolerance` states what passes.
    """

    reference: str
    pictures: int
    deviation: Deviation
    agreement: float
    tolerance: Tolerance
    clear: int | None = None

    @property
    def relative_delta(self) -> float:
        """The largest |difference of logits| divided by the standard deviation of the source's logits."""
        return self.deviation.relative_delta

    @property
    def largest_delta(self) -> float:
        """The largest `relative_delta` that passes."""
        return self.tolerance.largest_delta(self.deviation.own_error)


def judge(found: Parity) -> Verdict[Parity]:
    """Judge whether an artifact answers as its source does.

    Logits that are not finite, or the same for every image, fail: they allow no comparison.
    """
    deviation, allowed = found.deviation, found.largest_delta
    counted = "" if found.clear is None else f"{found.clear} clear answers"
    failures = [
        *delta_failure(deviation.relative_delta, allowed),
        *agreement_failure(found.agreement, found.tolerance.agreement, counted or "answers"),
    ]
    own = deviation.own_error
    beside = f"tolerance {allowed:.1e}" + ("" if own is None else f", the source's own in float32 {own:.1e}")
    line = (
        f"parity {'FAIL' if failures else 'PASS'} against {found.reference} on {found.pictures} pictures: "
        f"max |logit delta| {found.relative_delta:.1e} of the spread ({beside}), "
        f"top-1 agreement {100 * found.agreement:.1f}%" + (f" of {counted}" if counted else "")
    )
    values = {
        "reference": found.reference,
        "pictures": found.pictures,
        **vars(deviation),
        "relative_delta": found.relative_delta,
        "own_error": own,
        "tolerance": allowed,
        "agreement": found.agreement,
        **({} if found.clear is None else {"clear": found.clear}),
        "least_agreement": found.tolerance.agreement,
        "passed": not failures,
    }
    return Verdict(found, tuple(failures), line, values)


def exact_indices(pictures: int, classes: int) -> NDArray[np.int64]:
    """Return the indices of the images that are evaluated in float64: evenly spaced, the first image included."""
    count = min(pictures, max(EXACT_PICTURES, -(-EXACT_LOGITS // classes)))
    found: NDArray[np.int64] = np.linspace(0, pictures - 1, count).round().astype(np.int64)
    return found


def compare(
    reference: Reference,
    candidate: Predict,
    images: Images,
    *,
    tolerance: Tolerance = PARITY,
) -> Verdict[Parity]:
    """Run both on `images` (uint8 NHWC, at least two) and judge: the first image alone, the others in batches of 8."""
    parts = [images[:1], *(images[i : i + 8] for i in range(1, len(images), 8))]
    expected = np.concatenate([reference.source(part) for part in parts])
    actual = np.concatenate([candidate(part) for part in parts])
    indices = exact_indices(*expected.shape)
    exact, reason = evaluate_exactly(reference, images[indices])
    found = against_float64(expected, actual, exact, indices) if exact is not None else None
    if exact is not None and found is None:
        exact, reason = None, f"float64 is more than {CEILING:g} of the spread away"
    found = found or against_float32(expected, actual)
    judged = expected.astype(np.float64)
    if exact is not None:
        judged[indices] = exact
    name = f"{reference.name} in float{32 if exact is None else 64}" + (f" ({reason})" if reason else "")
    slack = 0.0
    if tolerance.agreement == 1:
        slack = 2 * (tolerance.largest_delta(found.own_error) * found.spread + (found.own_delta or 0.0))
    clear = None
    if tolerance.clear:
        counted = relative_margins(judged, found.spread) >= CLEAR
        judged, actual, clear = judged[counted], actual[counted], int(counted.sum())
    return judge(Parity(name, len(images), found, _agreement(judged, actual, slack), tolerance, clear))


def evaluate_exactly(reference: Reference, images: Images) -> tuple[Logits64 | None, str]:
    """Return the reference's logits of `images` in float64, or None and the reason why there are none."""
    if reference.exact is None:
        return None, ""
    try:
        # One at a time, to spare memory.
        return np.concatenate([reference.exact(images[index : index + 1]) for index in range(len(images))]), ""
    except NotCoveredError as error:
        return None, str(error)


def _agreement(expected: Logits64, actual: Logits, slack: float) -> float:
    """Return the fraction of rows whose predicted class has a reference logit at most `slack` below the highest.

    It is 1 if there are no rows.
    """
    if not len(expected):
        return 1.0
    chosen = expected[np.arange(len(expected)), actual.argmax(axis=1)]
    return float((chosen >= expected.max(axis=1) - slack).mean())


def require(parity: Verdict[Parity], what: str) -> None:
    """Raise `ParityError` unless the comparison passed."""
    if parity.passed:
        return
    spread = parity.measured.deviation.spread
    if not np.isfinite(spread) or spread == 0:
        reason = "the source's own logits are not finite, or the same for every picture, so nothing can be compared"
        raise ParityError(
            f"{what}: {reason}",
            hint="train the network, or set its batch-norm statistics, before exporting it",
            source=what,
        )
    raise ParityError(f"{what} does not answer as its source does: {parity}", source=what)


@contextmanager
def open_reference(checkpoint: Checkpoint, *, dynamic_size: bool = False) -> Iterator[Reference]:
    """Open the reference of a checkpoint: the torch module if torch is installed, else the unfused graph."""
    runtime, name = reference_runtime(checkpoint, dynamic_size=dynamic_size)
    with runtime:
        yield Reference(name, runtime, exact_network(checkpoint))


def exact_network(checkpoint: Checkpoint) -> Predict64:
    """Return a checkpoint in float64: the torch module if torch is installed, else the unfused graph in numpy."""
    if find_spec("torch") is not None:
        from resnet_infer.runtimes.pytorch import Float64Network

        return Float64Network(checkpoint)
    from resnet_infer.models.graph import build_graph
    from resnet_infer.verification.float64 import Float64Graph

    return Float64Graph(build_graph(checkpoint, fused=False))


def exact_graph(model: Path | bytes) -> Predict64:
    """Return an FP32 artifact as a function that evaluates it in float64 with numpy.

    The function raises `NotCoveredError` if the graph cannot be evaluated in float64.
    """

    def predict(images: Images) -> Logits64:
        if not graphs:
            if find_spec("onnx") is None:
                raise NotCoveredError("it needs the extra `export`")
            with needs("export", "comparing with float64"):
                import onnx

            from resnet_infer.verification.float64 import Float64Graph

            loaded = onnx.load(model) if isinstance(model, Path) else onnx.ModelProto.FromString(model)
            graphs.append(Float64Graph(loaded))
        return graphs[0](images)

    graphs: list[Predict64] = []
    return predict


def reference_runtime(checkpoint: Checkpoint, *, dynamic_size: bool = False) -> tuple[Runtime, str]:
    """Open a checkpoint to be run in float32 as literally as possible. Return it and its name for reports.

    It is the torch module if torch is installed, else the unfused graph in ONNX Runtime without optimisations.
    """
    if find_spec("torch") is not None:
        from resnet_infer.runtimes.pytorch import TorchRuntime

        return TorchRuntime(checkpoint, device="cpu"), "the torch module"
    from resnet_infer.models.graph import build_graph
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    model = build_graph(checkpoint, fused=False, dynamic_size=dynamic_size).SerializeToString()
    return OnnxRuntime(model, device="cpu", optimize=False), "the unfused graph"
