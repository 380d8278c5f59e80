"""Describe NVIDIA's driver, its GPUs and the libraries of CUDA, in a child process: a broken driver may crash it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from resnet_infer.errors import ResnetInferError
from resnet_infer.runtimes import processes
from resnet_infer.runtimes.nvidia.driver import ask_driver
from resnet_infer.runtimes.nvidia.fits import FITS, best_fit
from resnet_infer.utils import strict_json

LIMIT = 60.0
"""Seconds after which the child process is ended. Loading CUDA's libraries from a cold disk takes some of them."""
NOTHING: dict[str, Any] = {"driver": None, "cuda": None, "gpus": [], "error": None, "libraries": {}, "fits": None}
"""Description of a machine of which nothing is known."""


def nvidia() -> dict[str, Any]:
    """Return driver, newest CUDA that it supports, GPUs in CUDA's order, and what of CUDA's libraries is missing.

    `libraries` maps the name of each library that ONNX Runtime uses to None, or to why it cannot be loaded; it is empty
    without an ONNX Runtime for CUDA. `fits` has the requirements of the row of `FITS` for the driver, None without one.
    `error` says why there is no driver that works.
    """
    try:
        command = processes.command(__name__)
    except ResnetInferError:  # a frozen program has no interpreter to start
        return describe()
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=LIMIT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {**NOTHING, "error": f"asking NVIDIA's driver failed ({type(error).__name__})"}
    if done.returncode:
        ended = processes.ending(done.returncode, done.stderr)
        return {**NOTHING, "error": f"asking NVIDIA's driver failed: {ended}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def fits_not(extra: str, fits: Mapping[str, Any] | None) -> bool:
    """Return whether an extra is for another CUDA than that of `fits`, the row for the driver; False without a row."""
    own = {fits["extra"], fits["tensorrt_extra"]} if fits else set()
    return bool(own) and extra not in own and any(extra in (row.extra, row.tensorrt_extra) for row in FITS)


def describe() -> dict[str, Any]:
    """Return what `nvidia` does, from this process."""
    driver = ask_driver()
    fit = best_fit(driver.cuda[0]) if driver.cuda else None
    return {
        "driver": driver.version,
        "cuda": ".".join(map(str, driver.cuda)) if driver.cuda else None,
        "gpus": list(driver.gpus),
        "error": driver.error,
        "libraries": _libraries(),
        "fits": asdict(fit) if fit else None,
    }


def _libraries() -> dict[str, str | None]:
    """Return the state of each library that ONNX Runtime uses on a GPU; nothing without an ONNX Runtime for CUDA."""
    try:
        from resnet_infer.runtimes.nvidia import libraries
    except Exception:  # ONNX Runtime is missing or does not load, which its own row says
        return {}
    built = libraries.built_for()
    if built is None:
        return {}
    libraries.load("cuda")
    return {name: libraries.error_of(name) for name in libraries.names(built)}


def main() -> None:
    """Write the description as JSON to stdout."""
    channel = processes.answer_channel()
    channel.write(strict_json.dumps(describe()).encode())
    channel.flush()
