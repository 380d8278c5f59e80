"""Optional dependencies: import them where they are needed, or say which extra to install."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from resnet_infer.errors import MissingExtraError

EXTRAS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cpu": ("onnxruntime",),
        "gpu": ("onnxruntime", "tensorrt", "cuda"),
        "openvino": ("openvino",),
        "export": ("onnx",),
        "train": ("torch",),
        "report": ("matplotlib",),
        "serve": ("bentoml",),
        "benchmark": ("mlperf_loadgen",),
    }
)
"""Extra -> the modules it brings. `cpu` and `gpu` both bring `onnxruntime` and exclude each other."""

DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
        "tensorrt": ("tensorrt",),
        "cuda": ("cuda-bindings",),
        "openvino": ("openvino",),
        "onnx": ("onnx",),
        "torch": ("torch",),
        "matplotlib": ("matplotlib",),
        "bentoml": ("bentoml",),
        "mlperf_loadgen": ("mlcommons-loadgen",),
    }
)
"""Module -> the distributions that may bring it."""


def installed(distributions: tuple[str, ...]) -> str | None:
    """Name and version of the first of these that is installed; it is not imported."""
    from importlib.metadata import PackageNotFoundError, version

    for name in distributions:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None


def install_command(extra: str) -> str:
    """The command that installs an extra."""
    return f'pip install "resnet-infer[{extra}]"'


@contextlib.contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Around an import: a missing package becomes a `MissingExtraError` with the command that installs it.

    `purpose` completes "... needs the package x", e.g. "export to ONNX".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS[extra]:
            raise
        raise MissingExtraError(
            f"{purpose} needs the package {missing}, which is not installed",
            hint=f"install it with: {install_command(extra)}",
        ) from error
