"""What the user says about a foreign model's input, and what has to be assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from resnet_infer.errors import UsageError
from resnet_infer.models.spec import InputSpec, Interpolation

Channels = Literal["rgb", "bgr"]


@dataclass(frozen=True)
class InputOptions:
    """The fields of an `InputSpec`, None where nothing was said.

    `mean` and `std` hold one number or one per channel, for pictures whose full range is `scale` (1 or 255).
    `channels` is the order in which the network takes the channels, which is also that of `mean` and `std`. Pictures
    and an `InputSpec` are always RGB: whoever imports a BGR network turns its input round.
    """

    resize: int | None = None
    crop: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    interpolation: Interpolation | None = None
    exif: bool | None = None
    scale: int = 1
    channels: Channels | None = None

    def __post_init__(self) -> None:
        numbers = [*(self.mean or ()), *(self.std or ())]
        if (self.mean is None) != (self.std is None):
            raise UsageError("mean and standard deviation belong together: give both, or neither")
        if self.scale == 1 and any(abs(value) > 2 for value in numbers):
            raise UsageError(
                f"mean and standard deviation are shares of the full range, and {max(numbers, key=abs):g} is not",
                hint="for values from 0 to 255 add --scale 255; or divide them by 255",
            )
        if self.scale != 1 and not numbers:
            raise UsageError(f"--scale {self.scale} is the unit of --mean and --std, which are not given")

    @property
    def reversed(self) -> bool:
        """Whether the network takes BGR."""
        return self.channels == "bgr"

    @property
    def given(self) -> dict[str, Any]:
        """The fields that were said, in an `InputSpec`'s units and order of channels."""
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
        if len(numbers) == 1:
            return np.repeat(numbers, 3)
        return numbers[::-1] if self.reversed else numbers


def describe(spec: InputSpec, fields: Sequence[str]) -> str:
    """Some fields of `spec` as text, e.g. `resize 256, mean 0.485,0.456,0.406`."""
    texts = []
    for name in fields:
        value = getattr(spec, name)
        numbers = ",".join(f"{x:.4g}" for x in value) if isinstance(value, np.ndarray) else str(value)
        texts.append(f"{name} {numbers}")
    return ", ".join(texts)
