"""Say why ONNX Runtime cannot use a GPU here, and what helps."""

from __future__ import annotations

import re
from dataclasses import dataclass

from resnet_infer.runtimes.nvidia import libraries
from resnet_infer.runtimes.nvidia.driver import LIBRARY, Driver, ask_driver
from resnet_infer.runtimes.nvidia.fits import best_fit, fit_of
from resnet_infer.utils.extras import conflict, install_command, needs, writers

with needs("gpu", "running on an NVIDIA GPU"):
    from resnet_infer.runtimes import ort_session

CALLED = {"cuda": "CUDA", "tensorrt": "TensorRT"}
"""Provider -> what messages call it."""
NO_DRIVER = "a GPU needs NVIDIA's driver: nvidia-smi must list it; in a container, start it with --gpus all"
CHECK = "check the GPU and its memory with nvidia-smi"
"""Hint for an error of CUDA whose cause is not known."""
_OLD_DRIVER = re.compile(r"undefined symbol: cu[A-Z]|failure (35|803|804):|driver version is insufficient")
"""Messages about a driver that is older than CUDA's libraries need."""
_TENSORRT = re.compile(r"libnv(infer|onnxparser)")
_CAUSES = (
    re.compile(r"[\w.+-]+\.so[\w.]*: cannot open shared object file: [^\n]*"),
    re.compile(r"undefined symbol: \w+"),
    re.compile(r"(?:CUDA|CUDNN|CUBLAS|cuDNN|cuBLAS)\w* failure \d+: [^;\n]+"),
    re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : [^\n]+"),
)
"""What the cause looks like in the texts of ONNX Runtime, the most certain first."""
_LENGTH = 300
"""Most characters of a cause."""


@dataclass(frozen=True)
class Obstacle:
    """Hold why a GPU cannot be used, as the end of a sentence, and what helps."""

    reason: str
    hint: str


def cause(error: Exception) -> str:
    """Return the cause that stands in a text of ONNX Runtime, behind the names of C++ functions and templates.

    >>> cause(RuntimeError("cuda_call.cc:154 CudaCall(ERRTYPE) CUDA failure 35: driver is too old ; GPU=-1"))
    'CUDA failure 35: driver is too old'
    """
    text = str(error).strip()
    for pattern in _CAUSES:
        if found := list(pattern.finditer(text)):
            return found[-1][0].strip()[:_LENGTH]
    lines = text.splitlines() or [type(error).__name__]
    return lines[0][-_LENGTH:]  # functions stand in front


def obstacle(provider: str, number: int = 0) -> Obstacle | None:
    """Return what keeps ONNX Runtime from using GPU `number` with the provider `cuda` or `tensorrt`; None if nothing.

    The driver is asked, and the libraries are loaded as ONNX Runtime would. Nothing is computed, so that opening a
    model may still fail.
    """
    if ort_session.PROVIDERS[provider] not in ort_session.available_providers():
        return Obstacle(f"this ONNX Runtime has no {CALLED[provider]}", _install())
    if found := _driver_obstacle(ask_driver(), number):
        return found
    if message := libraries.load(provider):
        return Obstacle(f"{CALLED[provider]} does not load ({message})", remedy(message))
    return None


def _driver_obstacle(driver: Driver, number: int) -> Obstacle | None:
    """Return what the driver lacks, or None."""
    if driver.error:
        return Obstacle(driver.error, NO_DRIVER)
    built = libraries.built_for()
    if driver.cuda and built and driver.cuda[0] < built:
        newest = ".".join(map(str, driver.cuda))
        reason = f"the driver supports CUDA {newest}, and this ONNX Runtime is built for CUDA {built}"
        return Obstacle(reason, _update(built, _install(driver)))
    if number >= len(driver.gpus):
        return Obstacle(
            f"there is no GPU {number}: the driver lists {len(driver.gpus) or 'none'}",
            "nvidia-smi lists the GPUs; CUDA_VISIBLE_DEVICES may hide some",
        )
    return None


def remedy(message: str) -> str:
    """Return what helps against the message of a loader, or of CUDA."""
    if conflict("onnxruntime"):
        return _install()
    built, fit = libraries.built_for(), libraries.fit_here()
    if LIBRARY in message:
        return NO_DRIVER
    if _TENSORRT.search(message):
        wanted = fit.provider_tensorrt if fit else "tensorrt"
        return f'ONNX Runtime needs TensorRT {libraries.TENSORRT_MAJOR}: pip install "{wanted}"'
    if "cannot open" in message:
        command = install_command(fit.extra if fit else "gpu")
        return (
            f"the libraries of CUDA {built or ''} come with: {command}; those that are installed elsewhere are found "
            "in LD_LIBRARY_PATH"
        )
    return _update(built, _install()) if built and _OLD_DRIVER.search(message) else CHECK


def _update(built: int, install: str) -> str:
    """Return the hint for a driver that is older than the installed build of ONNX Runtime."""
    row = fit_of(built)
    return f"update NVIDIA's driver to {row.driver if row else 'a newer one'} or newer, or: {install}"


def _install(driver: Driver | None = None) -> str:
    """Return the command that installs the ONNX Runtime for the driver, and uninstalls others; several are named."""
    known = driver or ask_driver()
    fit = best_fit(known.cuda[0] if known.cuda else None)
    command = install_command(fit.extra if fit else "gpu")
    several = [found.partition(" ")[0] for found in writers("onnxruntime")]
    if len(several) < 2:
        return command
    return f"{' and '.join(several)} are installed into the same folder; uninstall all, then install one: {command}"
