"""`resnet-infer env`"""

from __future__ import annotations

import platform

from resnet_infer import __version__, strict_json
from resnet_infer.cgroups import cpu_quota
from resnet_infer.cli.options import Json
from resnet_infer.console import pairs
from resnet_infer.cpu import machine_cores, processor, usable_cores
from resnet_infer.extras import DISTRIBUTIONS, EXTRAS, install_command
from resnet_infer.extras import installed as find_installed


def env(as_json: Json = False) -> None:
    """Nothing heavy is imported: versions come from the packages' metadata."""
    installed = {module: find_installed(names) for module, names in DISTRIBUTIONS.items()}
    devices = _devices(installed["onnxruntime"] is not None)
    # The builds of ONNX Runtime for CPU and GPU exclude each other.
    swap = "pip uninstall onnxruntime; " if (installed["onnxruntime"] or "").startswith("onnxruntime ") else ""
    missing = {
        (swap if extra == "gpu" else "") + install_command(extra): [m for m in modules if not installed[m]]
        for extra, modules in EXTRAS.items()
        if not all(installed[m] for m in modules)
    }
    report = {
        "resnet-infer": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": machine_cores(),
        "usable_cores": usable_cores(),
        "cpu_quota": cpu_quota(),
        "packages": installed,
        "devices": devices,
        "missing": missing,
    }
    if as_json:
        print(strict_json.dumps(report, indent=2))
        return
    rows = [(key, str(report[key])) for key in ("resnet-infer", "python", "platform", "processor", "cores")]
    rows += [(module, found or "not installed") for module, found in installed.items()]
    rows.append(("devices", ", ".join(devices) or "none: no runtime is installed"))
    rows += [(f"for {', '.join(modules)}", command) for command, modules in missing.items()]
    print(pairs(rows))


def _devices(has_runtime: bool) -> list[str]:
    if not has_runtime:
        return []
    from resnet_infer.runtimes import ort_session

    kinds = {ort_session.CPU: "cpu", ort_session.CUDA: "cuda"}
    return sorted(kinds[name] for name in ort_session.available_providers() if name in kinds)
