"""List the versions that fit each other: driver, CUDA, ONNX Runtime, TensorRT, torch and cuda-bindings.

A new generation of CUDA is a new row of `FITS`. The doctor, the errors and the tests of the extras read the table.
Sources: the needed libraries of the wheels of ONNX Runtime 1.18 to 1.31 (ELF, DT_NEEDED); the support matrix and the
prerequisites of TensorRT 11.4; the release notes of CUDA 12 and 13 (the oldest driver of each); pytorch PR 177975.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Fit:
    """Describe what fits one major version of CUDA. Versions are requirements as pip reads them.

    - `cuda`: major version of CUDA.
    - `driver`: oldest series of NVIDIA's driver.
    - `python`: oldest version of Python for which the extra `extra` can be installed.
    - `extra`, `tensorrt_extra`: extras of this package for ONNX Runtime and for engines of TensorRT.
    - `onnxruntime`: ONNX Runtime with the libraries of CUDA and cuDNN, as in the extra.
    - `provider_tensorrt`: TensorRT for ONNX Runtime's provider, whose library is linked to version 10.
    - `engine_tensorrt`: TensorRT for engines, as in the extra.
    - `torch`: PyTorch whose build on PyPI is for this CUDA.
    - `cuda_bindings`: the bindings of the driver API, as in the extra.
    """

    cuda: int
    driver: int
    python: tuple[int, int]
    extra: str
    tensorrt_extra: str
    onnxruntime: str
    provider_tensorrt: str
    engine_tensorrt: str
    torch: str
    cuda_bindings: str


FITS: tuple[Fit, ...] = (
    Fit(
        cuda=13,
        driver=580,
        python=(3, 11),
        extra="gpu",
        tensorrt_extra="tensorrt",
        onnxruntime="onnxruntime-gpu[cuda,cudnn]>=1.28",
        provider_tensorrt="tensorrt-cu13>=10.13.2,<11",
        engine_tensorrt="tensorrt-cu13>=10.13.2",
        torch="torch>=2.11",
        cuda_bindings="cuda-bindings>=13",
    ),
    Fit(
        cuda=12,
        driver=535,
        python=(3, 10),
        extra="gpu-cu12",
        tensorrt_extra="tensorrt-cu12",
        onnxruntime="onnxruntime-gpu[cuda,cudnn]>=1.21,<1.27",
        provider_tensorrt="tensorrt-cu12>=10,<11",
        engine_tensorrt="tensorrt-cu12>=10",
        torch="torch>=2.10,<2.11",
        cuda_bindings="cuda-bindings>=12.8,<13",
    ),
)
"""What fits each major version of CUDA, newest first."""


def fit_of(cuda: int) -> Fit | None:
    """Return the row of a major version of CUDA, or None."""
    return next((row for row in FITS if row.cuda == cuda), None)


def best_fit(cuda: int | None = None, python: tuple[int, int] | None = None) -> Fit | None:
    """Return the newest row for a driver that supports CUDA up to the major version `cuda`, and for a Python.

    `cuda` None stands for any driver, `python` None for the Python that runs this. None is returned where nothing fits.

    >>> best_fit(12).extra, best_fit(14, python=(3, 12)).extra, best_fit(python=(3, 10)).extra
    ('gpu-cu12', 'gpu', 'gpu-cu12')
    """
    here = python or sys.version_info[:2]
    return next((row for row in FITS if (cuda is None or cuda >= row.cuda) and here >= row.python), None)
