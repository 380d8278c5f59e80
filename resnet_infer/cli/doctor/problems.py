"""List what can be wrong with an installation: a table of checks, each with a message and a remedy.

A new problem is a new row of `CHECKS`. A check reads the report of `resnet-infer env`; what the report lacks is
gathered in `facts` or `probe`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resnet_infer.runtimes.registry import NAMES
from resnet_infer.utils.extras import DISTRIBUTIONS, EXTRAS, install_command, writers

Report = Mapping[str, Any]
"""What `resnet-infer env --json` prints, without its problems."""
Finding = Mapping[str, object]
"""Values for the holes of a row's message and remedy."""
LITTLE_MEMORY = 0.15
"""GB of free memory below which the small model's process may be killed; `classify` takes 0.1 GB."""


@dataclass(frozen=True)
class Check:
    """Describe a problem.

    - `name`: what `--json` calls it.
    - `find`: function that yields a finding for each occurrence in a report, and nothing where all is well.
    - `message`: what is wrong, with holes for a finding's values.
    - `remedy`: the command or the step that mends it, with holes likewise.
    """

    name: str
    find: Callable[[Report], Iterator[Finding]]
    message: str
    remedy: str


def problems(report: Report) -> list[dict[str, str]]:
    """Return the problems of a report as `name`, `message` and `remedy`, in the order of the table, each once."""
    found = [
        {"name": row.name, "message": row.message.format_map(one), "remedy": row.remedy.format_map(one)}
        for row in CHECKS
        for one in row.find(report)
    ]
    return [one for number, one in enumerate(found) if one not in found[:number]]


def _two_distributions(report: Report) -> Iterator[Finding]:
    """Find modules that several installed distributions write."""
    for module in DISTRIBUTIONS:
        present = writers(module)
        if len(present) > 1:
            owners = (report["onnxruntime"] or {}).get("files_of", {})
            files = ", ".join(f"{file} is that of {name}" for file, name in owners.items())
            commands = sorted(install_command(extra) for extra, modules in EXTRAS.items() if module in modules)
            yield {
                "names": " and ".join(present),
                "module": module,
                "files": f" ({files})" if files else "",
                "commands": " or ".join(commands),
            }


def _broken_imports(report: Report) -> Iterator[Finding]:
    """Find packages that are installed and could not be imported, once for all that the same remedy repairs."""
    failed: dict[str, list[tuple[str, str]]] = {}
    for module, event in report["imports"].items():
        if event.get("error"):
            failed.setdefault(event.get("hint") or f"reinstall {module}", []).append((module, event["error"]))
    for hint, packages in failed.items():
        # The package that the remedy names is the cause; others need it.
        (_, error), *others = sorted(packages, key=lambda package: not hint.startswith(f"{package[0]} "))
        follow = f"; for the same reason: {', '.join(name for name, _ in others)}" if others else ""
        yield {"error": error + follow, "hint": hint}


def _no_runtime(report: Report) -> Iterator[Finding]:
    """Find an installation in which no model can be run, and no other problem says why."""
    failed = [report["imports"].get(name, {}).get("error") for name in NAMES]
    if not report["devices"] and not any(failed) and not any(row.get("error") for row in report["runtimes"]):
        yield {"command": install_command("cpu")}


def _builtin_damaged(report: Report) -> Iterator[Finding]:
    """Find built-in models whose files are not as they were packed."""
    for path in report["builtin_damaged"]:
        yield {"path": path}


def _outside_range(report: Report) -> Iterator[Finding]:
    """Find installed versions that this package does not allow."""
    for name, version, wanted in report["outside_range"]:
        yield {"name": name, "version": version, "wanted": wanted}


def _wrong_answers(report: Report) -> Iterator[Finding]:
    """Find runtimes that could be imported and did not answer rightly on the CPU."""
    for row in report["runtimes"]:
        if row["device"] == "cpu" and row.get("error"):
            remedy = row.get("hint") or f"pip install --force-reinstall --no-deps {row['runtime']}"
            yield {"runtime": row["runtime"], "error": row["error"], "remedy": remedy}


def _unusable_gpu(report: Report) -> Iterator[Finding]:
    """Find runtimes that were built for CUDA and do not answer on a GPU that nvidia-smi or the driver lists."""
    gpus = [f"{gpu.get('name')}, driver {gpu.get('driver_version')}" for gpu in report["gpus"]]
    gpus += report["nvidia"]["gpus"]
    for row in report["runtimes"] if gpus else ():
        if row["device"] != "cpu" and row.get("error") and row["built_for_cuda"]:
            yield {
                "runtime": row["runtime"],
                "gpu": gpus[0],
                "error": row["error"],
                "hint": row.get("hint") or "compare the driver's version (nvidia-smi) with what the package needs",
            }


def _cache_error(report: Report) -> Iterator[Finding]:
    """Find a cache that has no place or cannot be read."""
    if report["cache"]["error"]:
        yield {
            "error": report["cache"]["error"],
            "hint": report["cache"]["hint"] or "set RESNET_INFER_CACHE to a folder of its own",
        }


def _cache_read_only(report: Report) -> Iterator[Finding]:
    """Find a cache that cannot be written."""
    cache = report["cache"]
    if not cache["error"] and not cache["writable"]:
        yield {"folder": cache["folder"]}


def _cache_damaged(report: Report) -> Iterator[Finding]:
    """Find files of the cache whose digest is another one."""
    for path in report["cache"]["damaged"]:
        yield {"path": path}


def _no_temporary_folder(report: Report) -> Iterator[Finding]:
    """Find a missing folder for temporary files."""
    if report["temporary_folder"] is None:
        yield {}


def _little_memory(report: Report) -> Iterator[Finding]:
    """Find a process that may have too little memory to classify."""
    if report["memory_free_gb"] < LITTLE_MEMORY:
        yield {"free": f"{report['memory_free_gb']:g} GB"}


def _model_is_gone(report: Report) -> Iterator[Finding]:
    """Find a default model that names a file which does not exist."""
    model = report["default_model"]
    if model["variable"] and not model["exists"]:
        yield {"model": model["variable"]}


CHECKS: tuple[Check, ...] = (
    Check(
        "two-distributions",
        _two_distributions,
        "{names} write into the same folder, {module}, so that what is imported is a mixture{files}",
        "uninstall all of them, then install one: {commands}",
    ),
    Check("import-fails", _broken_imports, "{error}", "{hint}"),
    Check(
        "version-not-supported",
        _outside_range,
        "{name} {version} is installed, and {name}{wanted} is required",
        'pip install "{name}{wanted}"',
    ),
    Check("no-runtime", _no_runtime, "no runtime is installed: no model can be run", "{command}"),
    Check(
        "model-damaged",
        _builtin_damaged,
        "the built-in model {path} is damaged: it is not as it was packed",
        "pip install --force-reinstall --no-deps resnet-infer",
    ),
    Check("runtime-fails", _wrong_answers, "{error}", "{remedy}"),
    Check(
        "gpu-not-usable",
        _unusable_gpu,
        "{runtime} was built for CUDA and does not use the GPU ({gpu}): {error}",
        "{hint}",
    ),
    Check("cache-not-usable", _cache_error, "{error}", "{hint}"),
    Check(
        "cache-not-writable",
        _cache_read_only,
        "the cache, {folder}, cannot be written",
        "set RESNET_INFER_CACHE to a folder that can be written",
    ),
    Check(
        "cache-damaged",
        _cache_damaged,
        "{path} is damaged: its digest is another one",
        "resnet-infer cache clear (the file is also made again when it is next used)",
    ),
    Check(
        "no-temporary-folder",
        _no_temporary_folder,
        "there is no temporary folder that can be written",
        "set TMPDIR to a folder that can be written",
    ),
    Check(
        "little-memory",
        _little_memory,
        "only {free} of memory are free",
        "end other programs, or raise the memory limit of the container or control group",
    ),
    Check(
        "model-missing",
        _model_is_gone,
        "RESNET_INFER_MODEL names {model}, and there is no such file",
        "unset RESNET_INFER_MODEL, or set it to a model of: resnet-infer models",
    ),
)
"""All problems that are looked for, in the order in which they are shown."""
