"""Does an artifact still answer as its source does?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from resnet_infer.errors import ParityError
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.spec import Precision
from resnet_infer.runtimes.base import Images, Logits, Runtime

Predict = Callable[[Images], Logits]

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4}
"""Largest |difference of logits| allowed, as a fraction of the logits' spread over the pictures."""


@dataclass(frozen=True)
class Parity:
    """The outcome of a comparison over `pictures` pictures.

    `spread` is the standard deviation of the reference's logits over the pictures, each class about its own mean;
    `agreement` the fraction of pictures with the same top-1 class.
    """

    reference: str
    pictures: int
    max_delta: float
    spread: float
    agreement: float
    tolerance: float
    least_agreement: float = 1.0

    @property
    def relative_delta(self) -> float:
        return self.max_delta / self.spread if self.spread > 0 else float("inf")

    @property
    def passed(self) -> bool:
        """False also where nothing can be told: logits that are not finite, or the same for every picture."""
        return self.relative_delta <= self.tolerance and self.agreement >= self.least_agreement

    def __str__(self) -> str:
        return (
            f"parity {'PASS' if self.passed else 'FAIL'} against {self.reference} on {self.pictures} pictures: "
            f"max |logit delta| {self.relative_delta:.1e} of the spread (tolerance {self.tolerance:.0e}), "
            f"top-1 agreement {100 * self.agreement:.1f}%"
        )


def compare(
    reference: Predict,
    candidate: Predict,
    images: Images,
    *,
    name: str,
    tolerance: float,
    least_agreement: float = 1.0,
) -> Parity:
    """Run both on `images` (uint8 NHWC, at least two): the first picture alone, the others in batches of 8."""
    parts = [images[:1], *(images[i : i + 8] for i in range(1, len(images), 8))]
    expected = np.concatenate([reference(part) for part in parts]).astype(np.float64)
    actual = np.concatenate([candidate(part) for part in parts]).astype(np.float64)
    spread = float(np.std(expected - expected.mean(axis=0)))
    return Parity(
        reference=name,
        pictures=len(images),
        # NaN compares as false everywhere below, so it can only fail.
        max_delta=float(np.abs(actual - expected).max()),
        spread=spread,
        agreement=float((actual.argmax(1) == expected.argmax(1)).mean()),
        tolerance=tolerance,
        least_agreement=least_agreement,
    )


def require(parity: Parity, what: str) -> None:
    """Raise `ParityError` unless the comparison passed."""
    if parity.passed:
        return
    if not np.isfinite(parity.spread) or parity.spread == 0:
        reason = "the source's own logits are not finite, or the same for every picture, so nothing can be compared"
        raise ParityError(
            f"{what}: {reason}", hint="train the network, or set its batch-norm statistics, before exporting it"
        )
    raise ParityError(f"{what} does not answer as its source does: {parity}")


def reference_runtime(checkpoint: Checkpoint, *, dynamic_size: bool = False) -> tuple[Runtime, str]:
    """What a checkpoint means, run as literally as possible, and its name for the report.

    The torch module where torch is installed, else the unfused graph without optimisations in ONNX Runtime.
    """
    if find_spec("torch") is not None:
        from resnet_infer.runtimes.pytorch import TorchRuntime

        return TorchRuntime(checkpoint, device="cpu"), "the torch module"
    from resnet_infer.models.graph import build_graph
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    model = build_graph(checkpoint, fused=False, dynamic_size=dynamic_size).SerializeToString()
    return OnnxRuntime(model, device="cpu", optimize=False), "the unfused graph"
