"""Logits of a reference, and the same with noise, as a lower precision makes of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RANDOM = np.random.default_rng(0)
REFERENCE: NDArray[np.float32] = np.add(
    RANDOM.normal(size=(500, 10)).astype(np.float32), np.arange(10), dtype=np.float32
)
LABELS = REFERENCE.argmax(1)


def noisy(scale: float) -> NDArray[np.float32]:
    return (REFERENCE + RANDOM.normal(scale=scale, size=REFERENCE.shape)).astype(np.float32)
