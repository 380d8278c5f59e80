"""Describe this machine and a model as far as they decide which runtime is fastest, and as keys of what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.registry import get_runtime
from resnet_infer.utils import cpu
from resnet_infer.utils.extras import DISTRIBUTIONS, EXTRAS, all_installed


@dataclass(frozen=True)
class Machine:
    """Describe the processor: its name, the instruction sets that decide how fast networks run, and usable cores."""

    processor: str
    flags: tuple[str, ...]
    cores: int

    @classmethod
    def here(cls) -> Machine:
        """Return the description of this machine."""
        return cls(cpu.processor(), tuple(sorted(cpu.flags() & cpu.COMPUTE_FLAGS)), cpu.usable_cores())

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"processor": self.processor, "flags": list(self.flags), "cores": self.cores}


class Model:
    """Describe the artifact at `path`: what its spec says, and its digest, which is computed when it is needed.

    Raises `ModelError` for a file that is missing or damaged or has no spec.
    """

    def __init__(self, path: Path) -> None:
        from resnet_infer.runtimes.artifacts import read_spec

        self.path = path
        self.spec: ModelSpec = read_spec(path)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the artifact, in hexadecimal."""
        from resnet_infer.runtimes.artifacts import digest

        return digest(self.path)

    @property
    def stem(self) -> str | None:
        """The kind of the network's first layers, `imagenet` or `cifar`; None for a graph of another program."""
        return self.spec.architecture.family.stem if self.spec.architecture else None

    @property
    def kind(self) -> dict[str, Any]:
        """What decides how fast the artifact is, whatever its weights are, as JSON values."""
        architecture = self.spec.architecture
        return {
            "architecture": architecture.to_json() if architecture else None,
            "precision": self.spec.precision,
            "crop": self.spec.input.crop,
        }


def versions(runtimes: Iterable[str]) -> dict[str, str]:
    """Return the installed distributions of each runtime's first module, with their versions. None is imported.

    >>> versions(["openvino"])  # doctest: +SKIP
    {'openvino': 'openvino 2026.4.1'}
    """
    return {name: ", ".join(all_installed(_distributions(name))) for name in runtimes}


def may_use_gpu() -> bool:
    """Return whether an installed build of ONNX Runtime computes on more than the CPU."""
    return all_installed(DISTRIBUTIONS["onnxruntime"][1:]) != []


def exact(compute: str) -> str:
    """Return what float layers compute in: `auto` is `fp32`."""
    return "fp32" if compute == "auto" else compute


def _distributions(runtime: str) -> tuple[str, ...]:
    """Return the distributions that may provide a runtime's own module."""
    extra = get_runtime(runtime).extra
    modules: tuple[str, ...] = EXTRAS[extra] if extra else ()
    own: Mapping[str, tuple[str, ...]] = DISTRIBUTIONS
    named = runtime if runtime in modules else next(iter(modules), "")
    return own.get(named, ())
