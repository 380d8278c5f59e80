"""Check optional dependencies where they are imported, and name the command that installs or repairs them."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, ModuleType

from resnet_infer.errors import BrokenPackageError, MissingExtraError, ResnetInferError, first_line

EXTRAS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cpu": ("onnxruntime",),
        "gpu": ("onnxruntime",),
        "gpu-cu12": ("onnxruntime",),
        "tensorrt": ("tensorrt", "cuda"),
        "tensorrt-cu12": ("tensorrt", "cuda"),
        "openvino": ("openvino",),
        "export": ("onnx",),
        "train": ("torch",),
        "report": ("matplotlib",),
        "serve": ("bentoml",),
        "benchmark": ("mlperf_loadgen",),
    }
)
"""Modules of every extra.

`cpu`, `gpu` (CUDA 13) and `gpu-cu12` all contain `onnxruntime` and exclude each other, as do `tensorrt` and
`tensorrt-cu12`.
"""
GPU_EXTRAS = ("gpu", "gpu-cu12")
"""Extras with the ONNX Runtime for GPUs, whose distribution is `onnxruntime-gpu`."""

DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "onnxruntime": (
            "onnxruntime",
            "onnxruntime-gpu",
            "onnxruntime-openvino",
            "onnxruntime-directml",
            "onnxruntime-qnn",
            "onnxruntime-rocm",
            "onnxruntime-migraphx",
            "onnxruntime-training",
            "onnxruntime-silicon",
            "ort-nightly",
            "ort-nightly-gpu",
        ),
        "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt"),
        "cuda": ("cuda-bindings",),
        "openvino": ("openvino",),
        "onnx": ("onnx",),
        "torch": ("torch",),
        "matplotlib": ("matplotlib",),
        "bentoml": ("bentoml",),
        "mlperf_loadgen": ("mlcommons-loadgen",),
    }
)
"""Distributions that may provide a module. Two that write into the same folder break each other."""
METAPACKAGES = ("tensorrt",)
"""Distributions that may be without files: from TensorRT 9 on, `tensorrt` only requires that of a version of CUDA."""
OTHERS: Mapping[str, str] = MappingProxyType(
    {
        "numpy": "numpy",
        "PIL": "pillow",
        "safetensors": "safetensors",
        "rich": "rich",
        "filelock": "filelock",
        "platformdirs": "platformdirs",
        "typer": "typer",
        "click": "click",
        "starlette": "starlette",
        "uvicorn": "uvicorn",
        "pydantic": "pydantic",
        "circus": "circus",
        "tensorboard": "tensorboard",
    }
)
"""Distributions of the modules that every installation has, and of those that extras depend on."""
_ABI = re.compile(r"numpy.*(multiarray|umath|failed to import|abi\b|size changed)|(compiled|built).*numpy", re.I)
"""Messages about a compiled module that was built for another version of numpy."""
_LIBRARY = re.compile(r"[\w.+-]+\.(?:so|dll|dylib)\b[\w.]*")
"""Names of shared libraries in a message."""


def all_installed(distributions: Sequence[str]) -> list[str]:
    """Return name and version of each of these distributions that is installed. None is imported."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in distributions:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def installed(distributions: tuple[str, ...]) -> str | None:
    """Return name and version of the first of these distributions that is installed, or None. It is not imported."""
    return next(iter(all_installed(distributions)), None)


def writers(module: str) -> list[str]:
    """Return name and version of each installed distribution that writes the files of a module."""
    found = all_installed(DISTRIBUTIONS[module])
    return [item for item in found if item.partition(" ")[0] not in METAPACKAGES] or found


def install_command(extra: str) -> str:
    """Return the command that installs an extra.

    Conflicting distributions are uninstalled first. Distributions of one module share files: uninstalling one of them
    removes files of the other, and pip would not install them again because the other's metadata is still there.
    """
    install = f'pip install "resnet-infer[{extra}]"'
    if "onnxruntime" not in EXTRAS[extra]:
        return install
    wheels = _names(DISTRIBUTIONS["onnxruntime"])
    wrong = wheels if len(wheels) > 1 or (extra in GPU_EXTRAS and wheels != ["onnxruntime-gpu"]) else []
    return f"pip uninstall -y {' '.join(wrong)} && {install}" if wrong else install


def conflict(module: str) -> str | None:
    """Return the problem and its solution if several distributions of one module are installed, or None."""
    names = [found.partition(" ")[0] for found in writers(module)]
    if len(names) < 2:
        return None
    commands = sorted(install_command(extra) for extra, modules in EXTRAS.items() if module in modules)
    return (
        f"{' and '.join(names)} write into the same folder, {module}, so that what is imported is a mixture: "
        f"uninstall all of them, then install one, with {' or '.join(commands)}"
    )


@contextlib.contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Turn the error of an import in the `with` block into one with the command that helps.

    `purpose` completes "... needs the package x", for example "export to ONNX". Raises `MissingExtraError` for a
    package of the extra that is not installed, and `BrokenPackageError` for any error of an installed one.

    >>> with needs("export", "export to ONNX"):
    ...     import onnx
    """
    try:
        yield
    except ResnetInferError:
        raise
    except Exception as error:  # a library that does not load may raise anything
        found = explain(error, purpose, extra)
        if found is None:
            raise
        raise found from error


def explain(error: Exception, purpose: str = "this", extra: str | None = None) -> ResnetInferError | None:
    """Return the error that explains why importing another package failed; None if no known package is the cause."""
    module = _culprit(error)
    if module is None:
        return None
    names = _names(DISTRIBUTIONS.get(module) or (OTHERS[module],))
    missing = isinstance(error, ModuleNotFoundError) and _package(error.name) == module
    blocked = sys.modules.get(module, sys) is None
    if missing and (blocked or not names) and extra and module in EXTRAS[extra]:
        return MissingExtraError(
            f"{purpose} needs the package {module}, which is not installed",
            hint=f"install it with: {install_command(extra)}",
            source=module,
        )
    cause = first_line(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {first_line(error)}"
    if not str(error):
        cause = "its compiled part does not start, as one that was built for another version of numpy"
    if _is_emptied(module):
        cause = "of its files only an empty folder is left"
    return BrokenPackageError(
        f"{purpose} needs the package {module}, which cannot be imported ({cause})",
        hint=_way_out(error, module, names, cause, extra),
        source=module,
    )


def _restore(package: str) -> str:
    """Return the hint for a package of which no module is found, whether it is installed or needed by one that is."""
    named = DISTRIBUTIONS.get(package) or (OTHERS.get(package, package),)
    names = _names(named)
    command = f"pip install --force-reinstall --no-deps {names[0]}" if names else f"pip install {named[0]}"
    return f"{package} is missing or incomplete; it comes with: {command}"


def _way_out(error: Exception, module: str, names: Sequence[str], cause: str, extra: str | None) -> str:
    """Return the hint for a package that is installed and cannot be imported."""
    if len(names) > 1:
        return conflict(module) or ""
    if not names:
        command = install_command(extra) if extra else f"pip install {OTHERS.get(module, module)}"
        return f"install it with: {command}"
    if isinstance(error, ModuleNotFoundError) and (lacking := _package(error.name)):
        return _restore(lacking)
    if _ABI.search(cause):
        return f"it was built for another version of numpy: pip install --upgrade {names[0]} numpy"
    reinstall = f"pip install --force-reinstall --no-deps {names[0]}"
    if library := _LIBRARY.search(cause):
        return f"{library[0]} is missing, damaged or of another version; the package comes anew with: {reinstall}"
    return f"it is too old, damaged or installed in part: pip install --upgrade {names[0]}, or {reinstall}"


def _names(distributions: Sequence[str]) -> list[str]:
    """Return the names of those distributions that are installed."""
    return [found.partition(" ")[0] for found in all_installed(distributions)]


def _is_emptied(module: str) -> bool:
    """Return whether only the package's folder is left, which Python imports as an empty namespace package."""
    found = sys.modules.get(module)
    # A namespace package has no file; `cuda` is meant to be one.
    return found is not None and getattr(found, "__file__", None) is None and module != "cuda"


def _culprit(error: Exception) -> str | None:
    """Return the known package that failed to import, or None.

    It is the last package in the traceback that follows the last module of this one.
    """
    trace, found = error.__traceback__, None
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__"))
        found = None if name.partition(".")[0] == "resnet_infer" else _package(name) or found
        trace = trace.tb_next
    if found is not None:
        return found
    if isinstance(error, ImportError):
        return _package(error.name)
    owner = error.obj if isinstance(error, AttributeError) else None
    return _package(owner.__name__) if isinstance(owner, ModuleType) else None


def _package(name: object) -> str | None:
    """Return the top-level package of a module's name if it is a known one, or None."""
    top = str(name or "").partition(".")[0]
    return top if top in DISTRIBUTIONS or top in OTHERS else None
