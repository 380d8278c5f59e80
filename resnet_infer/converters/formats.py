"""The formats that `export` makes, as one table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from resnet_infer.errors import UsageError, did_you_mean
from resnet_infer.models.spec import Precision
from resnet_infer.runtimes.registry import RUNTIMES


@dataclass(frozen=True)
class Format:
    """A kind of artifact: what makes it, what runs it, and which options of `export` it knows."""

    name: str
    suffix: str
    extra: str
    devices: tuple[str, ...]
    precisions: tuple[Precision, ...]
    targets: tuple[str, ...]
    options: tuple[str, ...]

    @property
    def runtime(self) -> str:
        return RUNTIMES[self.suffix]


_ALL = get_args(Precision)
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        item.name: item
        for item in (
            Format("onnx", ".onnx", "export", ("cpu", "cuda"), _ALL, ("cpu", "tensorrt"), ("dynamic_size",)),
            Format(
                "tensorrt",
                ".engine",
                "gpu",
                ("cuda",),
                _ALL,
                ("tensorrt",),
                (
                    *("min_batch", "opt_batch", "max_batch", "workspace", "optimization_level"),
                    *("version_compatible", "hardware_compatible", "timing_cache"),
                ),
            ),
        )
    }
)
MISSPELT: Mapping[str, str] = MappingProxyType({"trensorrt": "tensorrt"})
"""What people write, and what they mean. Taken, with a note; every other typo is an error."""


def get_format(name: str) -> Format:
    """The format called `name`. Raises `UsageError` with the one that was probably meant."""
    if name not in FORMATS:
        raise UsageError(
            f"unknown format {name!r}" + did_you_mean(name, FORMATS), hint=f"known are {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def check_options(chosen: Format, given: Collection[str]) -> None:
    """Raise `UsageError` for an option that belongs to another format. `given` are names as in `Format.options`."""
    for item in FORMATS.values():
        for name in sorted(set(given) & set(item.options) - set(chosen.options)):
            raise UsageError(f"--{name.replace('_', '-')} is an option of --format {item.name}, not of {chosen.name}")
