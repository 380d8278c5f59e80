"""Does an artifact still answer as its source does?

The reference is the source in float64. What float32 makes of the source itself, as literally as it can be run, is
measured beside it: no artifact can be asked to be nearer to the truth than that, and no artifact is given much more.
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
from resnet_infer.verification.metrics import Deviation, Logits64, against_float32, against_float64
from resnet_infer.verification.tolerances import (
    CEILING,
    PARITY,
    Tolerance,
    Verdict,
    agreement_failure,
    delta_failure,
)

Predict = Callable[[Images], Logits]
Predict64 = Callable[[Images], NDArray[np.float64]]

EXACT_PICTURES = 4
"""Fewest pictures that are evaluated in float64, which takes a few times as long as float32."""
EXACT_LOGITS = 64
"""Fewest logits evaluated in float64, as far as there are pictures: of fewer the largest error says little."""


class NotCoveredError(Exception):
    """A graph, or an operator in it, that cannot be evaluated in float64. The message says which."""


@dataclass(frozen=True)
class Reference:
    """A source that artifacts are compared with: `source` in float32, `exact` in float64 where that can be had.

    `name` says for the report what it is. `exact` raises `NotCoveredError` for a graph that has no float64.
    """

    name: str
    source: Predict
    exact: Predict64 | None = None


@dataclass(frozen=True)
class Parity:
    """Hold how far a candidate's answers are from its source's, over `pictures` pictures.

    `reference` says what the source was run by. `agreement` is the fraction of pictures with the same top-1 class.
    Where all must agree, two classes count as the same that the reference holds nearer to each other than the tolerance
    allows two logits to move. `tolerance` is what passes.
    """

    reference: str
    pictures: int
    deviation: Deviation
    agreement: float
    tolerance: Tolerance

    @property
    def relative_delta(self) -> float:
        """The largest |difference of logits| as a fraction of the spread."""
        return self.deviation.relative_delta

    @property
    def largest_delta(self) -> float:
        """The largest `relative_delta` that passes."""
        return self.tolerance.largest_delta(self.deviation.own_error)


def judge(found: Parity) -> Verdict[Parity]:
    """Return whether an artifact answers as its source does.

    It does not where nothing can be told: for logits that are not finite, or the same for every picture.
    """
    deviation, allowed = found.deviation, found.largest_delta
    failures = [
        *delta_failure(deviation.relative_delta, allowed),
        *agreement_failure(found.agreement, found.tolerance.agreement),
    ]
    own = deviation.own_error
    beside = f"tolerance {allowed:.1e}" + ("" if own is None else f", the source's own in float32 {own:.1e}")
    line = (
        f"parity {'FAIL' if failures else 'PASS'} against {found.reference} on {found.pictures} pictures: "
        f"max |logit delta| {found.relative_delta:.1e} of the spread ({beside}), "
        f"top-1 agreement {100 * found.agreement:.1f}%"
    )
    values = {
        "reference": found.reference,
        "pictures": found.pictures,
        **vars(deviation),
        "relative_delta": found.relative_delta,
        "own_error": own,
        "tolerance": allowed,
        "agreement": found.agreement,
        "least_agreement": found.tolerance.agreement,
        "passed": not failures,
    }
    return Verdict(found, tuple(failures), line, values)


def exact_indices(pictures: int, classes: int) -> NDArray[np.int64]:
    """Which of so many pictures are evaluated in float64: evenly spread, the first among them."""
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
    """Run both on `images` (uint8 NHWC, at least two): the first picture alone, the others in batches of 8."""
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
    return judge(Parity(name, len(images), found, _agreement(judged, actual, slack), tolerance))


def evaluate_exactly(reference: Reference, images: Images) -> tuple[Logits64 | None, str]:
    """The reference's logits of `images` in float64, or None and the reason why there are none."""
    if reference.exact is None:
        return None, ""
    try:
        # One at a time, to spare memory.
        return np.concatenate([reference.exact(images[index : index + 1]) for index in range(len(images))]), ""
    except NotCoveredError as error:
        return None, str(error)


def _agreement(expected: Logits64, actual: Logits, slack: float) -> float:
    """The share of rows whose highest logit is the same, or is by the reference at most `slack` below its highest."""
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
            f"{what}: {reason}", hint="train the network, or set its batch-norm statistics, before exporting it"
        )
    raise ParityError(f"{what} does not answer as its source does: {parity}")


@contextmanager
def open_reference(checkpoint: Checkpoint, *, dynamic_size: bool = False) -> Iterator[Reference]:
    """What a checkpoint means: by the torch module where torch is installed, else by the unfused graph."""
    runtime, name = reference_runtime(checkpoint, dynamic_size=dynamic_size)
    with runtime:
        yield Reference(name, runtime, exact_network(checkpoint))


def exact_network(checkpoint: Checkpoint) -> Predict64:
    """A checkpoint in float64: the torch module where torch is installed, else the unfused graph by numpy."""
    if find_spec("torch") is not None:
        from resnet_infer.runtimes.pytorch import Float64Network

        return Float64Network(checkpoint)
    from resnet_infer.models.graph import build_graph
    from resnet_infer.verification.float64 import Float64Graph

    return Float64Graph(build_graph(checkpoint, fused=False))


def exact_graph(model: Path | bytes) -> Predict64:
    """An FP32 artifact in float64, by numpy. It raises `NotCoveredError` when it is called, if it has no float64."""

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
    """What a checkpoint means, run in float32 as literally as possible, and its name for the report.

    The torch module where torch is installed, else the unfused graph without optimisations in ONNX Runtime.
    """
    if find_spec("torch") is not None:
        from resnet_infer.runtimes.pytorch import TorchRuntime

        return TorchRuntime(checkpoint, device="cpu"), "the torch module"
    from resnet_infer.models.graph import build_graph
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    model = build_graph(checkpoint, fused=False, dynamic_size=dynamic_size).SerializeToString()
    return OnnxRuntime(model, device="cpu", optimize=False), "the unfused graph"
