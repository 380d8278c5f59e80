"""Implement `resnet-infer env`."""

from __future__ import annotations

import os
import platform
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from resnet_infer._version import __version__
from resnet_infer.cli.doctor import facts
from resnet_infer.cli.doctor.nvidia import fits_not, nvidia
from resnet_infer.cli.doctor.probe import Event, needs_gpu, packages, probe, runtime_of
from resnet_infer.cli.doctor.problems import problems
from resnet_infer.cli.options import Json, output_option
from resnet_infer.cli.results import Forms, Found, two_columns
from resnet_infer.runtimes.registry import SUFFIXES
from resnet_infer.runtimes.tensorrt.versions import compatible_majors, version_numbers
from resnet_infer.selection.rules import missing_for
from resnet_infer.utils.cgroups import cpu_quota, memory_limit
from resnet_infer.utils.console import pairs, size_text
from resnet_infer.utils.cpu import affinity_cores, compute_threads, flags, machine_cores, processor, usable_cores
from resnet_infer.utils.extras import DISTRIBUTIONS, EXTRAS, install_command, writers
from resnet_infer.utils.host_memory import free_memory, physical_memory

FORMS = Forms("env", (".json", ".md"), (("resnet-infer", "python"),))
MODEL_VARIABLE = "RESNET_INFER_MODEL"
"""Variable with the default model, as in `zoo`, which is not imported here because numpy may be broken."""

EXAMPLES = ("env", "env --json")
"""Command lines that the help ends with."""


def env(as_json: Json = False, output: Annotated[Path | None, output_option(FORMS.suffixes)] = None) -> None:
    """Show the environment and what is broken. Exit with 1 if something is.

    Every installed package is imported, and every runtime answers for a built-in model, in a child process. A package
    that is not installed is no problem.
    """
    if output is not None:
        FORMS.require_free(output)
    installed = {module: ", ".join(writers(module)) or None for module in DISTRIBUTIONS}
    missing: dict[str, list[str]] = {}
    driver = nvidia()
    for extra, modules in EXTRAS.items():
        if fits_not(extra, driver["fits"]):
            continue
        if lacking := [module for module in modules if not installed[module]]:
            missing[install_command(extra)] = lacking
    gpus = facts.gpus()
    events = probe(
        module
        for module, extra in packages().items()
        if (extra is None or installed[module] or find_spec(module)) and (gpus or not needs_gpu(module))
    )
    runtimes = [row for module, found in events.items() for row in _answers(module, found)]
    report: dict[str, Any] = {
        "resnet-infer": __version__,
        "python": platform.python_version(),
        "interpreter": facts.interpreter(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": machine_cores(),
        "affinity": affinity_cores(),
        "usable_cores": usable_cores(),
        "threads": compute_threads(),
        "cpu_quota": cpu_quota(),
        "memory_gb": _gigabytes(physical_memory()),
        "memory_limit_gb": _gigabytes(memory_limit()),
        "memory_free_gb": _gigabytes(free_memory()),
        "temporary_folder": facts.temporary_folder(),
        "cache": facts.cache(),
        "default_model": _default_model(),
        "builtin_damaged": facts.builtin_damaged(),
        "requirements": facts.requirements(),
        "outside_range": list(facts.outside_range()),
        "packages": installed,
        "imports": {module: found[0] for module, found in events.items()},
        "onnxruntime": _onnxruntime(events),
        "gpus": gpus,
        "nvidia": driver,
        "runtimes": runtimes,
        "devices": sorted({row["device"] for row in runtimes if row.get("answers")}),
        "engines": _engines(installed["tensorrt"]),
        "missing": missing,
        "faster": [
            {
                "runtime": rule.runtime,
                "precisions": list(rule.precisions),
                "uses": list(rule.uses),
                "ratio": rule.ratio,
                "measured": rule.measured,
                "install": rule.install,
            }
            for rule in missing_for(flags())
        ],
    }
    report = facts.without_home({**report, "problems": problems(report)})
    rows = _rows(report)
    FORMS.give(Found(report, pairs(rows), **two_columns(rows)), output, as_json)
    if report["problems"]:
        raise typer.Exit(1)


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the table: facts, packages, runtimes, then what is missing, and at the end the problems."""
    interpreter = report["interpreter"]
    rows = [(key, str(report[key])) for key in ("resnet-infer", "python", "platform", "processor")]
    rows += [("interpreter", f"{interpreter['path']} ({interpreter['kind']}, {interpreter['implementation']})")]
    rows += [("cores", _cores(report)), ("memory", _memory(report)), ("cache", _cache(report["cache"]))]
    core = [f"{name} {version}" for name, version in report["requirements"].items() if version]
    rows.append(("requirements", ", ".join(core)))
    rows += [(module, found or "not installed") for module, found in report["packages"].items()]
    if found := report["onnxruntime"]:
        rows.append(("imported", f"onnxruntime {found['version']} from {found['folder']}"))
    rows.append(("GPUs", "; ".join(", ".join(gpu.values()) for gpu in report["gpus"]) or "nvidia-smi lists none"))
    rows += _nvidia(report["nvidia"])
    rows += [(f"{row['runtime']} on {row['device']}", _answer(row)) for row in report["runtimes"]]
    rows.append(("devices", ", ".join(report["devices"]) or "none: no runtime can be used"))
    if engines := report["engines"]:
        majors = " and ".join(map(str, engines["version_compatible"]))
        rows.append(("engines", f"of TensorRT {engines['tensorrt']}; version-compatible ones of {majors}, if no newer"))
    rows += [(f"for {', '.join(modules)}", command) for command, modules in report["missing"].items()]
    rows += [
        (
            f"faster: {row['runtime']}",
            f"{' and '.join(row['precisions']).upper()} models, many pictures or a service: "
            f"{row['measured']}\nto install it: {row['install']}",
        )
        for row in report["faster"]
    ]
    return rows + [("problem", f"{one['message']}\nremedy: {one['remedy']}") for one in report["problems"]]


def _answers(module: str, events: list[Event]) -> list[dict[str, Any]]:
    """Return a row for each device on which the runtime of a package was tried."""
    if runtime_of(module) is None:
        return []
    return [
        {
            "runtime": module,
            "device": event["step"],
            "built_for_cuda": bool(events[0].get("cuda")),
            **{key: value for key, value in event.items() if key != "step"},
        }
        for event in events[1:]
    ]


def _answer(row: dict[str, Any]) -> str:
    """Describe how a runtime answered."""
    if row.get("answers"):
        return f"opened the built-in model and answered rightly in {row['seconds']:.2f} s"
    return f"not tried: {row['skipped']}" if row.get("skipped") else f"not usable: {row['error']}"


def _nvidia(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows about NVIDIA's driver, CUDA's libraries and the versions that fit, where there is any of it."""
    missing = [name for name, error in found["libraries"].items() if error]
    rows = []
    if found["cuda"] or found["driver"]:
        gpus = ", ".join(found["gpus"]) or "no GPU"
        state = found["error"] or f"CUDA up to {found['cuda']}, {gpus}"
        rows.append(("NVIDIA driver", f"{found['driver'] or 'of unknown version'}: {state}"))
    if found["libraries"]:
        names = f"missing: {', '.join(missing)}" if missing else f"found: {', '.join(found['libraries'])}"
        rows.append(("CUDA libraries", names))
    if fits := found["fits"]:
        inside = f"{fits['onnxruntime']} (with TensorRT inside: {fits['provider_tensorrt']})"
        others = [fits[key] for key in ("engine_tensorrt", "cuda_bindings", "torch")]
        rows.append(("fits the driver", ", ".join([inside, *others])))
    return rows


def _onnxruntime(events: dict[str, list[Event]]) -> dict[str, Any] | None:
    """Describe the imported ONNX Runtime: version, folder, providers and who wrote its files; None without one."""
    (found, *_) = events.get("onnxruntime") or [{"error": "not installed"}]
    if found.get("error"):
        return None
    return {
        **{key: found[key] for key in ("version", "folder", "providers")},
        "files_of": facts.owners("onnxruntime", found["folder"]),
    }


def _default_model() -> dict[str, Any]:
    """Return the value of RESNET_INFER_MODEL, and whether it may exist: names do, paths are looked up."""
    value = os.environ.get(MODEL_VARIABLE) or None
    is_path = value is not None and (os.sep in value or value.endswith(SUFFIXES))
    return {"variable": value, "exists": os.path.isfile(os.path.expanduser(value)) if value and is_path else True}


def _engines(installed: str | None) -> dict[str, Any] | None:
    """Return the versions of TensorRT whose engines the installed one runs, None without TensorRT.

    `installed` is the distribution's name and version. Which GPU an engine needs is told by `resnet-infer inspect`.
    """
    numbers = version_numbers((installed or "").rpartition(" ")[2])
    if not numbers:
        return None
    version = ".".join(map(str, numbers))
    return {"tensorrt": version, "version_compatible": list(compatible_majors(version))}


def _cache(cache: dict[str, Any]) -> str:
    """Describe the cache: its place, whether it can be written, and its files."""
    if cache["folder"] is None:
        return "no place"
    rights = "can be written" if cache["writable"] else "cannot be written"
    damaged = f", of which {len(cache['damaged'])} damaged" if cache["damaged"] else ""
    content = f"{cache['files']} files, {size_text(cache['bytes'])}{damaged}" if cache["exists"] else "empty"
    return f"{cache['folder']}: {content}; {rights}"


def _cores(report: dict[str, Any]) -> str:
    """Describe the number of cores, how many are usable and why, and the threads of a computation."""
    if report["usable_cores"] == report["cores"]:
        text = str(report["cores"])
    else:
        quota = "" if report["cpu_quota"] is None else f"; the control group's quota is {report['cpu_quota']:g}"
        text = f"{report['cores']}, of which {report['usable_cores']} may be used{quota}"
        if report["affinity"] is not None and report["affinity"] < report["cores"]:
            text += f"; the affinity mask has {report['affinity']}"
    return f"{text}; a computation takes {report['threads']} threads"


def _memory(report: dict[str, Any]) -> str:
    """Describe the memory, in GB, its limit and how much is free."""
    physical, limit = report["memory_gb"], report["memory_limit_gb"]
    parts = [] if physical is None else [f"{physical:g} GB"]
    parts += [] if limit is None else [f"the control group's limit is {limit:g} GB"]
    return "; ".join([*parts, f"{report['memory_free_gb']:g} GB are free"]) if parts else "unknown"


def _gigabytes(size: int | None) -> float | None:
    """Convert bytes to GB (10^9 bytes)."""
    return None if size is None else round(size / 1e9, 2)
