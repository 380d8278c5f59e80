"""`resnet-infer env`"""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from resnet_infer import __version__
from resnet_infer.cli.options import Json
from resnet_infer.console import pairs
from resnet_infer.extras import EXTRAS

PACKAGES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt",),
    "cuda": ("cuda-bindings",),
    "onnx": ("onnx",),
    "torch": ("torch",),
    "matplotlib": ("matplotlib",),
    "bentoml": ("bentoml",),
}
"""Module -> the distributions that may bring it."""


def env(as_json: Json = False) -> None:
    """Nothing heavy is imported: versions come from the packages' metadata."""
    installed = {module: _version(names) for module, names in PACKAGES.items()}
    devices = _devices(installed["onnxruntime"] is not None)
    # The builds of ONNX Runtime for CPU and GPU exclude each other.
    swap = "pip uninstall onnxruntime; " if (installed["onnxruntime"] or "").startswith("onnxruntime ") else ""
    missing = {
        f'{swap if extra == "gpu" else ""}pip install "resnet-infer[{extra}]"': [m for m in modules if not installed[m]]
        for extra, modules in EXTRAS.items()
        if not all(installed[m] for m in modules)
    }
    report = {
        "resnet-infer": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "packages": installed,
        "devices": devices,
        "missing": missing,
    }
    if as_json:
        print(json.dumps(report, indent=2))
        return
    rows = [(key, str(report[key])) for key in ("resnet-infer", "python", "platform", "processor", "cores")]
    rows += [(module, found or "not installed") for module, found in installed.items()]
    rows.append(("devices", ", ".join(devices) or "none: no runtime is installed"))
    rows += [(f"for {', '.join(modules)}", command) for command, modules in missing.items()]
    print(pairs(rows))


def processor() -> str:
    """The processor's name as the operating system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None


def _devices(has_runtime: bool) -> list[str]:
    if not has_runtime:
        return []
    import onnxruntime

    kinds = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}
    return sorted(kinds[name] for name in onnxruntime.get_available_providers() if name in kinds)
