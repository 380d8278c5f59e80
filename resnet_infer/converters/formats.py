"""List the formats that `export` writes, and their options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from resnet_infer.errors import UsageError, did_you_mean
from resnet_infer.models.spec import Precision
from resnet_infer.runtimes.registry import DEFAULTS


@dataclass(frozen=True)
class Format:
    """Describe one format of artifacts.

    `name` is the value of `--format`, `suffix` that of the file, with its dot. `extra` is the optional dependency group
    that the export needs, and `devices` are the kinds of device that run the artifact. `targets` are the accepted
    values of `--target`, the first being the default. `options` are the names of those options of `export` that not
    every format has, with underscores.
    """

    name: str
    suffix: str
    extra: str
    devices: tuple[str, ...]
    precisions: tuple[Precision, ...]
    targets: tuple[str, ...]
    options: tuple[str, ...]

    @property
    def runtime(self) -> str:
        """Name of the runtime that runs the format."""
        return DEFAULTS[self.suffix].name


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
"""Format of each value of `--format`."""
MISSPELT: Mapping[str, str] = MappingProxyType({"trensorrt": "tensorrt"})
"""Common misspelling of a format -> the format. It is accepted with a note; any other unknown name is an error."""


def get_format(name: str) -> Format:
    """Return the format called `name`. Raises `UsageError`, which suggests a similar name, if there is none.

    >>> get_format("tensorrt").suffix
    '.engine'
    """
    if name not in FORMATS:
        raise UsageError(
            f"unknown format {name!r}" + did_you_mean(name, FORMATS), hint=f"known are {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def check_options(chosen: Format, given: Collection[str]) -> None:
    """Check that the format `chosen` has the options that were given, by names as in `Format.options`.

    Raises `UsageError` for an option that belongs to another format.
    """
    for item in FORMATS.values():
        for name in sorted(set(given) & set(item.options) - set(chosen.options)):
            raise UsageError(f"--{name.replace('_', '-')} is an option of --format {item.name}, not of {chosen.name}")
