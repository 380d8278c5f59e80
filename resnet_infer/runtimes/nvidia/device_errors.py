"""Recognise failures of a GPU in the exceptions of its libraries, and tell which of them end a process's use of it.

ONNX Runtime, torch, TensorRT and the driver report a broken GPU by exceptions of different types, often as text only.
The module turns all of them into `DeviceError`, so that callers need not tell them from errors of a model or an image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from types import MappingProxyType

from resnet_infer.errors import Reason, RuntimeUnavailableError

STICKY: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        214: ("ECC_UNCORRECTABLE", "uncorrectable ecc error"),
        226: ("CONTAINED", ""),
        700: ("ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
        702: ("LAUNCH_TIMEOUT", "the launch timed out and was terminated"),
        710: ("ASSERT", "device-side assert triggered"),
        714: ("HARDWARE_STACK_ERROR", "hardware stack error"),
        715: ("ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"),
        716: ("MISALIGNED_ADDRESS", "misaligned address"),
        717: ("INVALID_ADDRESS_SPACE", "operation not supported on global/shared address space"),
        718: ("INVALID_PC", "invalid program counter"),
        719: ("LAUNCH_FAILED", "unspecified launch failure"),
        721: ("TENSOR_MEMORY_LEAK", ""),
        810: ("MPS_CLIENT_TERMINATED", ""),
        911: ("EXTERNAL_DEVICE", ""),
    }
)
"""Error codes of CUDA after which every call of the process fails -> the name without `CUDA_ERROR_`, and the text of
`cudaGetErrorString` in small letters, empty where it is not known.

Source: `CUresult` of the CUDA driver API 13.2, "leaves the process in an inconsistent state ... the process must be
terminated and relaunched". Of memory after an uncorrectable ECC error nothing may be used either.
"""
_OF_A_DEVICE = re.compile(
    r"\b(?:cuda|cudnn|cublas)(?:lt)?[ _]?(?:runtime|driver|status|error|failure|out of memory)|"
    r"failed to allocate memory for requested buffer",
    re.IGNORECASE,
)
"""What the libraries write of a failed call: "CUDA failure 700: ..." (ONNX Runtime), "CUDA error: ..." (torch), "Cuda
Runtime (...)" (TensorRT). The last alternative is ONNX Runtime's, of its GPU memory."""
_NUMBER = re.compile(r"\bcuda (?:failure|error) (\d+)", re.IGNORECASE)
_MEMORY = re.compile(r"out of ?memory|out_of_memory|failed to allocate memory", re.IGNORECASE)
_CHAIN = 8
"""Most causes of an exception that are read."""


class DeviceError(RuntimeUnavailableError):
    """Report that a GPU failed during a call, which is the fault of neither the image nor the model.

    With `sticky` every further call in this process fails too: only a new process can use the GPU again.

    >>> DeviceError("the GPU failed", sticky=True).reason
    'failed'
    """

    default_reason: Reason | None = "failed"

    def __init__(
        self,
        message: str,
        *,
        sticky: bool = False,
        hint: str | None = None,
        source: str | os.PathLike[str] | None = None,
        reason: Reason | None = None,
    ) -> None:
        super().__init__(message, hint=hint or _hint(sticky), source=source, reason=reason)
        self.sticky = sticky


def _hint(sticky: bool) -> str:
    """Return what helps after a failure."""
    again = "start the program again: this process cannot use the GPU any more; " if sticky else ""
    return f"{again}check the GPU with nvidia-smi"


def is_sticky(text: str) -> bool:
    """Return whether the text of an error has the number, name or description of a code in `STICKY`.

    >>> is_sticky("CUDA failure 700: an illegal memory access was encountered"), is_sticky("CUDA out of memory")
    (True, False)
    """
    small = text.lower()
    if any(int(number) in STICKY for number in _NUMBER.findall(text)):
        return True
    for name, words in STICKY.values():
        names = (f"cuda_error_{name.lower()}", f"cudaerror{name.replace('_', '').lower()}")
        if any(said in small for said in names) or (words and words in small):
            return True
    return False


def raise_if_device_failed(error: BaseException, what: str) -> None:
    """Raise the `DeviceError` for an exception of a call on a GPU. Do nothing for one, and where no GPU has failed."""
    failure = device_error(error, what)
    if failure is not None and failure is not error:
        raise failure from error


def device_error(error: BaseException, what: str) -> DeviceError | None:
    """Return the `DeviceError` for an exception of a call on a GPU, or None if it does not report a failed GPU.

    `what` says what was computed and where, as the message begins. An exception that is a `DeviceError` is returned
    itself. Causes are read too, because the message of a wrapped exception is often cut off before the reason.

    >>> found = device_error(RuntimeError("CUDA error: unspecified launch failure"), "resnet50 on cuda:0")
    >>> found.sticky, found.message
    (True, 'resnet50 on cuda:0: the GPU failed (CUDA error: unspecified launch failure)')
    """
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < _CHAIN:
        if isinstance(cause, DeviceError):
            return cause
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(texts)
    found = _OF_A_DEVICE.search(text)
    if found is None:
        return None
    reason: Reason = "memory" if _MEMORY.search(text) else "failed"
    return DeviceError(
        f"{what}: the GPU failed ({_excerpt(text, found.start())})",
        sticky=is_sticky(text),
        source=what,
        reason=reason,
    )


def _excerpt(text: str, start: int) -> str:
    """Return the line of `text` from `start` on, at most 200 characters: a C++ template may stand before it."""
    return text[start:].splitlines()[0][:200]
