"""Implement `resnet-infer env`."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from typing import Any

from resnet_infer._version import __version__
from resnet_infer.cli.options import Json
from resnet_infer.errors import MissingExtraError, ResnetInferError
from resnet_infer.models.format_version import document
from resnet_infer.runtimes.tensorrt.versions import compatible_majors, version_numbers
from resnet_infer.utils import strict_json
from resnet_infer.utils.cgroups import cpu_quota, memory_limit
from resnet_infer.utils.console import pairs, show
from resnet_infer.utils.cpu import machine_cores, processor, usable_cores
from resnet_infer.utils.extras import DISTRIBUTIONS, EXTRAS, all_installed, conflict, install_command, needs
from resnet_infer.utils.host_memory import physical_memory

EXAMPLES = ("env", "env --json")
"""Command lines that the help ends with."""


def env(as_json: Json = False) -> None:
    """Show the environment. Versions come from package metadata; only ONNX Runtime is imported."""
    installed = {module: ", ".join(all_installed(names)) or None for module, names in DISTRIBUTIONS.items()}
    imported, problems = _onnxruntime(installed["onnxruntime"] is not None)
    missing: dict[str, list[str]] = {}
    for extra, modules in EXTRAS.items():
        if lacking := [module for module in modules if not installed[module]]:
            missing[install_command(extra)] = lacking
    report = {
        "resnet-infer": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": machine_cores(),
        "usable_cores": usable_cores(),
        "cpu_quota": cpu_quota(),
        "memory_gb": _gigabytes(physical_memory()),
        "memory_limit_gb": _gigabytes(memory_limit()),
        "packages": installed,
        "onnxruntime": imported,
        "devices": imported["devices"] if imported else [],
        "engines": (engines := _engines(installed["tensorrt"])),
        "problems": problems,
        "missing": missing,
    }
    if as_json:
        print(strict_json.dumps(document(report), indent=2))
        return
    rows = [(key, str(report[key])) for key in ("resnet-infer", "python", "platform", "processor")]
    rows += [("cores", _cores(report)), ("memory", _memory(report))]
    rows += [(module, found or "not installed") for module, found in installed.items()]
    if imported:
        rows.append(("imported", f"onnxruntime {imported['version']} from {imported['folder']}"))
    rows.append(("devices", ", ".join(report["devices"]) or "none: no runtime can be used"))
    if engines:
        majors = " and ".join(map(str, engines["version_compatible"]))
        rows.append(("engines", f"of TensorRT {engines['tensorrt']}; version-compatible ones of {majors}, if no newer"))
    rows += [("problem", text) for text in problems]
    rows += [(f"for {', '.join(modules)}", command) for command, modules in missing.items()]
    show(pairs(rows))


def _engines(installed: str | None) -> dict[str, Any] | None:
    """Return the versions of TensorRT whose engines the installed one runs, None without TensorRT.

    `installed` is the distribution's name and version. Which GPU an engine needs is told by `resnet-infer inspect`.
    """
    numbers = version_numbers((installed or "").rpartition(" ")[2])
    if not numbers:
        return None
    version = ".".join(map(str, numbers))
    return {"tensorrt": version, "version_compatible": list(compatible_majors(version))}


def _onnxruntime(present: bool) -> tuple[dict[str, Any] | None, list[str]]:
    """Import ONNX Runtime. Return its description, None if it is missing, and the problems of the installation."""
    problems = [text] if (text := conflict("onnxruntime")) else []
    if not present and find_spec("onnxruntime") is None:
        return None, problems
    try:
        with needs("cpu", "every command"):
            from resnet_infer.runtimes import ort_session
    except MissingExtraError as error:
        return None, problems or [_sentence(error)]
    kinds = {ort_session.CPU: "cpu", ort_session.CUDA: "cuda"}
    providers = ort_session.available_providers()
    return {
        "version": ort_session.VERSION,
        "folder": ort_session.FOLDER,
        "providers": providers,
        "devices": sorted(kinds[name] for name in providers if name in kinds),
    }, problems


def _sentence(error: ResnetInferError) -> str:
    """Join an error's message and hint."""
    return f"{error.message}; {error.hint}" if error.hint else error.message


def _cores(report: dict[str, Any]) -> str:
    """Describe the number of cores, and how many are usable."""
    if report["usable_cores"] == report["cores"]:
        return str(report["cores"])
    quota = "" if report["cpu_quota"] is None else f"; the control group's quota is {report['cpu_quota']:g}"
    return f"{report['cores']}, of which {report['usable_cores']} may be used{quota}"


def _memory(report: dict[str, Any]) -> str:
    """Describe the memory, in GB, and its limit."""
    physical, limit = report["memory_gb"], report["memory_limit_gb"]
    parts = [] if physical is None else [f"{physical:g} GB"]
    parts += [] if limit is None else [f"the control group's limit is {limit:g} GB"]
    return "; ".join(parts) or "unknown"


def _gigabytes(size: int | None) -> float | None:
    """Convert bytes to GB (10^9 bytes)."""
    return None if size is None else round(size / 1e9, 2)
