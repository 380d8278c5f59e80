"""What the user says about a foreign model's input, and what has to be assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from resnet_infer.models.spec import InputSpec, Interpolation


@dataclass(frozen=True)
class InputOptions:
    """The fields of an `InputSpec`, None where nothing was said.

    `mean` and `std` hold one number or one per channel, for pictures whose full range is `scale` (1 or 255).
    """

    resize: int | None = None
    crop: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    interpolation: Interpolation | None = None
    exif: bool | None = None
    scale: int = 1

    @property
    def given(self) -> dict[str, Any]:
        """The fields that were said, in an `InputSpec`'s units."""
        values: dict[str, Any] = {
            "resize": self.resize,
            "crop": self.crop,
            "mean": self._per_channel(self.mean),
            "std": self._per_channel(self.std),
            "interpolation": self.interpolation,
            "exif": self.exif,
        }
        return {name: value for name, value in values.items() if value is not None}

    def over(self, assumed: InputSpec) -> InputSpec:
        """`assumed`, with what was said in place of it. Raises `UsageError` if the outcome makes no sense."""
        return replace(assumed, **self.given)

    def _per_channel(self, values: Sequence[float] | None) -> Any:
        if values is None:
            return None
        numbers = np.array(values, np.float64) / self.scale
        return np.repeat(numbers, 3) if len(numbers) == 1 else numbers


def describe(spec: InputSpec, fields: Sequence[str]) -> str:
    """Some fields of `spec` as text, e.g. `resize 256, mean 0.485,0.456,0.406`."""
    texts = []
    for name in fields:
        value = getattr(spec, name)
        numbers = ",".join(f"{x:.4g}" for x in value) if isinstance(value, np.ndarray) else str(value)
        texts.append(f"{name} {numbers}")
    return ", ".join(texts)
