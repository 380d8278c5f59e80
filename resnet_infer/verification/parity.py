"""Does an artifact still answer as its source does?

The reference is the source in float64. What float32 makes of the source itself, as literally as it can be run, is
measured beside it: no artifact can be asked to be nearer to the truth than that, and no artifact is given much more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ParityError
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.runtimes.base import Images, Logits, Runtime
from resnet_infer.utils.extras import needs

Predict = Callable[[Images], Logits]
Predict64 = Callable[[Images], NDArray[np.float64]]
Logits64 = NDArray[np.float64]

TOLERANCE = 1e-4
"""Largest |difference of logits| that always passes, as a fraction of the logits' spread over the pictures."""
MARGIN = 3.0
"""How many times the source's own float32 error passes too: another order of the same sums may err more, not ten times
more."""
CEILING = 1e-2
"""Own float32 error, as a fraction of the spread, up to which float64 is the reference. Beyond it float32 hardly tells
the pictures apart, and `MARGIN` times as much would let faults pass: an artifact must then answer as the source's own
float32 does."""
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
class Deviation:
    """How far a candidate's logits are from the reference's, and how far the source's own float32 is.

    `max_delta` is the largest |difference|: from float64 on `exact_pictures` pictures; on the others, where only the
    source's float32 is known, from that, less `own_delta`. `own_delta` is the largest |difference| of the source's
    float32 from float64, None without float64. `spread` is the standard deviation of the source's logits over the
    pictures, each class about its own mean.
    """

    max_delta: float
    own_delta: float | None
    exact_pictures: int
    spread: float

    @property
    def relative_delta(self) -> float:
        return self.max_delta / self.spread if self.spread > 0 else float("inf")

    @property
    def own_error(self) -> float | None:
        """`own_delta` as a fraction of the spread."""
        if self.own_delta is None:
            return None
        return self.own_delta / self.spread if self.spread > 0 else float("inf")

    def tolerance(self, floor: float) -> float:
        """The largest `relative_delta` that passes: `floor`, or `MARGIN` times the source's own float32 error."""
        return max(floor, MARGIN * (self.own_error or 0.0))

    def passes(self, floor: float) -> bool:
        """False also where nothing can be told: logits that are not finite, or the same for every picture."""
        return self.relative_delta <= self.tolerance(floor)


@dataclass(frozen=True)
class Parity:
    """The outcome of a comparison over `pictures` pictures.

    `agreement` is the fraction of pictures with the same top-1 class. Where all must agree, two classes count as the
    same that the reference holds nearer to each other than the tolerance allows two logits to move.
    """

    reference: str
    pictures: int
    deviation: Deviation
    agreement: float
    floor: float
    least_agreement: float = 1.0

    @property
    def relative_delta(self) -> float:
        return self.deviation.relative_delta

    @property
    def tolerance(self) -> float:
        return self.deviation.tolerance(self.floor)

    @property
    def passed(self) -> bool:
        return self.deviation.passes(self.floor) and self.agreement >= self.least_agreement

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `tolerance`, `relative_delta` and `own_error` are fractions of the spread."""
        return {
            "reference": self.reference,
            "pictures": self.pictures,
            **asdict(self.deviation),
            "relative_delta": self.relative_delta,
            "own_error": self.deviation.own_error,
            "tolerance": self.tolerance,
            "agreement": self.agreement,
            "least_agreement": self.least_agreement,
            "passed": self.passed,
        }

    def __str__(self) -> str:
        own = self.deviation.own_error
        beside = f"tolerance {self.tolerance:.1e}" + ("" if own is None else f", the source's own in float32 {own:.1e}")
        return (
            f"parity {'PASS' if self.passed else 'FAIL'} against {self.reference} on {self.pictures} pictures: "
            f"max |logit delta| {self.relative_delta:.1e} of the spread ({beside}), "
            f"top-1 agreement {100 * self.agreement:.1f}%"
        )


def exact_indices(pictures: int, classes: int) -> NDArray[np.int64]:
    """Which of so many pictures are evaluated in float64: evenly spread, the first among them."""
    count = min(pictures, max(EXACT_PICTURES, -(-EXACT_LOGITS // classes)))
    found: NDArray[np.int64] = np.linspace(0, pictures - 1, count).round().astype(np.int64)
    return found


def against_float64(
    source: Logits, candidate: Logits, exact: Logits64 | None, indices: NDArray[np.int64]
) -> Deviation | None:
    """The deviation of `candidate` from a reference: `source`, (N, classes), and `exact`, its rows at `indices`.

    None without `exact`, or if that is further than `CEILING` from `source`.
    """
    if exact is None:
        return None
    expected, actual = source.astype(np.float64), candidate.astype(np.float64)
    with np.errstate(invalid="ignore"):  # what is not finite fails
        own = float(np.abs(expected[indices] - exact).max())
        deltas = np.maximum(np.abs(actual - expected) - own, 0)
        deltas[indices] = np.abs(actual[indices] - exact)
        found = Deviation(float(deltas.max()), own, len(indices), _spread(expected))
    return found if (found.own_error or 0.0) <= CEILING else None


def against_float32(source: Logits, candidate: Logits) -> Deviation:
    """The deviation of `candidate` from `source`, (N, classes), of which no more is known."""
    expected = source.astype(np.float64)
    with np.errstate(invalid="ignore"):  # as above
        return Deviation(float(np.abs(candidate - expected).max()), None, 0, _spread(expected))


def _spread(logits: Logits64) -> float:
    return float(np.std(logits - logits.mean(axis=0)))


def compare(
    reference: Reference,
    candidate: Predict,
    images: Images,
    *,
    floor: float = TOLERANCE,
    least_agreement: float = 1.0,
) -> Parity:
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
    slack = 2 * (found.tolerance(floor) * found.spread + (found.own_delta or 0.0)) if least_agreement == 1 else 0.0
    return Parity(name, len(images), found, _agreement(judged, actual, slack), floor, least_agreement)


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


def require(parity: Parity, what: str) -> None:
    """Raise `ParityError` unless the comparison passed."""
    if parity.passed:
        return
    spread = parity.deviation.spread
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
