"""Load the libraries of CUDA and TensorRT that ONNX Runtime's providers are linked to.

They lie in packages of their own, where the system's loader does not look. A library that has been loaded once is found
by its name afterwards: `onnxruntime.preload_dlls` loads those of CUDA and cuDNN, and this module those of TensorRT.
"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

from resnet_infer.runtimes.nvidia.fits import Fit, fit_of
from resnet_infer.utils.extras import needs

with needs("gpu", "running on an NVIDIA GPU"):
    from resnet_infer.runtimes import ort_session

TENSORRT_MAJOR = 10
"""Major version of TensorRT that ONNX Runtime 1.18 to 1.31 is linked to."""
_CUFFT = {12: 11, 13: 12}
"""Major version of CUDA -> that of cuFFT's library."""


def built_for() -> int | None:
    """Return the major version of CUDA that the installed ONNX Runtime was built for; None for a build without CUDA."""
    major = ort_session.CUDA_VERSION.partition(".")[0]
    return int(major) if major.isdecimal() else None


def fit_here() -> Fit | None:
    """Return the row of versions that fit the installed ONNX Runtime, or None for a build without CUDA."""
    major = built_for()
    return None if major is None else fit_of(major)


def names(cuda: int) -> tuple[str, ...]:
    """Return the names of the libraries of a major version of CUDA that ONNX Runtime uses, on Linux."""
    versions = {"cublasLt": cuda, "cublas": cuda, "cudart": cuda, "nvrtc": cuda, "curand": 10}
    versions |= {"cufft": _CUFFT.get(cuda, cuda - 1), "cudnn": 9}
    return tuple(f"lib{name}.so.{version}" for name, version in versions.items())


def load(provider: str) -> str | None:
    """Load the libraries of a provider, `cuda` or `tensorrt`, and then the provider's own library as ONNX Runtime does.

    Returns the loader's message about the first that cannot be loaded, or None. Nothing is tried on other systems than
    Linux and for builds whose providers lie elsewhere.
    """
    ort_session.preload_cuda()
    if provider == "tensorrt":
        _load_tensorrt()
    folder = Path(ort_session.FOLDER, "capi")
    shared, own = (folder / f"libonnxruntime_providers_{name}.so" for name in ("shared", provider))
    if sys.platform != "linux" or not shared.is_file() or not own.is_file():
        return None
    try:
        ctypes.CDLL(str(shared), ctypes.RTLD_GLOBAL)  # whose symbols the provider's library takes
        ctypes.CDLL(str(own))
    except OSError as error:
        return str(error).removeprefix(f"{own}: ")
    return None


def error_of(name: str) -> str | None:
    """Return why a library cannot be loaded by its name, or None."""
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return str(error)
    return None


def _load_tensorrt() -> None:
    """Load TensorRT's libraries from their package, in the order of their dependencies; those that are missing not."""
    found = find_spec("tensorrt_libs")
    for folder in (found.submodule_search_locations or ()) if found else ():
        for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
            error_of(str(Path(folder, f"lib{name}.so.{TENSORRT_MAJOR}")))
