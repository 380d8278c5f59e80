"""A GPU that fails is told from a model or an image that does, whichever library says so, and whether it lasts."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_infer.errors import ModelError, ResnetInferError, RuntimeUnavailableError, UsageError
from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime
from resnet_infer.runtimes.nvidia.device_errors import STICKY, DeviceError, device_error, is_sticky

IMAGES = np.zeros((1, 8, 8, 3), np.uint8)
ORT_700 = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'' Status Message: "
    + "std::conditional_t<THRW, void, onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*) " * 8
    + "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h"
)
SAID = [
    (ORT_700, True, "failed"),
    ("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0", False, "failed"),
    ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", False, "failed"),
    ("CUDA error: unspecified launch failure\nSearch for `cudaErrorLaunchFailure' in", True, "failed"),
    ("CUDA error: device-side assert triggered", True, "failed"),
    ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", False, "failed"),
    ("CUDA out of memory. Tried to allocate 2.00 GiB", False, "memory"),
    ("Failed to allocate memory for requested buffer of size 1024", False, "memory"),
    ("1: [executionContext.cpp] Error Code 1: Cuda Runtime (misaligned address)", True, "failed"),
]
"""What the libraries write, whether it lasts, and the reason."""


class Broken(Runtime):
    """Raises `error` in every call."""

    name = "broken"

    def __init__(self, error: Exception, device: str = "cuda:0") -> None:
        self.error = error
        super().__init__(
            ModelSpec("net", None, ("a", "b"), InputSpec(8, 8, np.zeros(3), np.ones(3))), device, (None, None)
        )

    def _run(self, images: Images) -> Logits:
        raise self.error


@pytest.mark.parametrize(("text", "sticky", "reason"), SAID, ids=range(len(SAID)))
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_the_libraries_say_of_a_gpu_is_a_device_error(text: str, sticky: bool, reason: str, wrapped: bool) -> None:
    error: Exception = RuntimeError(text)
    if wrapped:  # by a runtime that keeps the first 300 characters
        error, cause = ModelError(f"net: cannot be run ({text[:300]})"), error
        error.__cause__ = cause
    with pytest.raises(DeviceError) as caught:
        Broken(error)(IMAGES)
    found = caught.value
    assert (found.sticky, found.reason, found.source) == (sticky, reason, "net on cuda:0")
    assert "std::conditional_t" not in found.message
    assert len(found.message) < 300
    assert ("start the program again" in str(found.hint)) == sticky
    assert isinstance(found, RuntimeUnavailableError)


@pytest.mark.parametrize("error", [ModelError("the graph has no node"), UsageError("closed"), ValueError("a shape")])
def test_other_errors_on_a_gpu_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        Broken(error)(IMAGES)
    assert caught.value is error


def test_on_a_cpu_no_text_makes_a_device_error() -> None:
    error = RuntimeError("CUDA failure 700: an illegal memory access was encountered")
    with pytest.raises(RuntimeError) as caught:
        Broken(error, "cpu")(IMAGES)
    assert caught.value is error


def test_a_device_error_is_passed_on() -> None:
    error = DeviceError("the GPU failed", sticky=True)
    assert device_error(error, "net") is error
    with pytest.raises(DeviceError) as caught:
        Broken(error)(IMAGES)
    assert caught.value is error


@pytest.mark.parametrize("code", STICKY)
def test_each_code_that_lasts_is_known_by_number_name_and_text(code: int) -> None:
    name, text = STICKY[code]
    assert is_sticky(f"cuStreamSynchronize gave CUDA_ERROR_{name}")
    assert is_sticky(f"CUDA failure {code}: it failed")
    assert not text or is_sticky(f"CUDA error: {text}")


@pytest.mark.parametrize("text", ["CUDA_ERROR_OUT_OF_MEMORY", "CUDA failure 2: out of memory", "7000", "", "error 700"])
def test_others_do_not_last(text: str) -> None:
    assert not is_sticky(text)


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_it_survives_copies(again: Any) -> None:
    found = again(DeviceError("the GPU failed", sticky=True, source=Path("a")))
    assert (found.sticky, found.source, found.reason) == (True, "a", "failed")
    assert isinstance(found, ResnetInferError)
