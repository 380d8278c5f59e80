"""Hold the user's options for an imported model's input, and combine them with default values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from resnet_infer.errors import UsageError
from resnet_infer.models.spec import InputSpec, Interpolation

Channels = Literal["rgb", "bgr"]
"""Order of the colour channels."""


@dataclass(frozen=True)
class InputOptions:
    """Hold the options that describe the preprocessing of an imported model, None where the user gave none.

    - `resize`, `crop`: shorter side after resizing, and side of the central square, in pixels.
    - `mean`, `std`: one number, or one per channel, in units in which the largest pixel value is `scale` (1 or 255).
    - `interpolation`, `exif`: as in `InputSpec`.
    - `channels`: order of the network's input channels, of `mean` and of `std`; None is RGB. Images and `InputSpec` are
      always RGB, so the importer of a BGR network must reverse the channels of its input.

    Raises `UsageError` if only one of mean and standard deviation is given, or if they do not suit `scale`.

    >>> InputOptions(mean=(104, 117, 124), std=(1,), scale=255, channels="bgr").given["mean"] * 255
    array([124., 117., 104.])
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
        """Tell whether the network takes BGR."""
        return self.channels == "bgr"

    @property
    def given(self) -> dict[str, Any]:
        """Return the given fields of an `InputSpec` by name, with mean and standard deviation in its units, as RGB."""
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
        """Return `assumed` with the given fields replaced. Raises `UsageError` if the values do not fit together."""
        return replace(assumed, **self.given)

    def _per_channel(self, values: Sequence[float] | None) -> Any:
        """Convert `values` to float64 (3,) in units of the full range, as RGB. None stays None."""
        if values is None:
            return None
        numbers = np.array(values, np.float64) / self.scale
        if len(numbers) == 1:
            return np.repeat(numbers, 3)
        return numbers[::-1] if self.reversed else numbers


def describe(spec: InputSpec, fields: Sequence[str]) -> str:
    """Return the named fields of `spec` as text, e.g. `resize 256, mean 0.485,0.456,0.406`."""
    texts = []
    for name in fields:
        value = getattr(spec, name)
        numbers = ",".join(f"{x:.4g}" for x in value) if isinstance(value, np.ndarray) else str(value)
        texts.append(f"{name} {numbers}")
    return ", ".join(texts)
