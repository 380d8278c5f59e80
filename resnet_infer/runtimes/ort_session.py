"""Open ONNX Runtime sessions with telemetry switched off. No other module may import ONNX Runtime.

On its first import, ONNX Runtime 1.32 or newer writes an identifier of the machine below $HOME/.cache and sends events
about the process over the network. The variable `ORT_DISABLE_TELEMETRY` must be set before that import. To allow
telemetry, set the variable to 0.

Import this module inside `extras.needs`, which explains the exceptions of a missing or broken ONNX Runtime.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from resnet_infer.utils import lifetime
from resnet_infer.utils.threads import require_threads

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # must follow the variable

from resnet_infer.utils.cpu import compute_threads, machine_cores, usable_cores

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
"""Name of an execution provider in options -> ONNX Runtime's name of it."""

VERSION: str = onnxruntime.__version__
FOLDER: str = os.path.dirname(onnxruntime.__file__)
"""Folder that ONNX Runtime was imported from."""
CUDA_VERSION: str = getattr(onnxruntime, "cuda_version", None) or ""
"""Version of CUDA that ONNX Runtime was built for, such as 13.0; empty for a build without CUDA."""
_WARNING, _FATAL = 2, 4
"""Severities of ONNX Runtime's log. Its default logger has the first."""
_QUIET = threading.Lock()
"""Held while the default logger is silent."""


def available_providers() -> list[str]:
    """Return the names of the execution providers that this build of ONNX Runtime has."""
    found: list[str] = onnxruntime.get_available_providers()
    return found


def session_options(
    *, threads: int | None = None, optimize: bool = True, spin: bool = True, silent: bool = False
) -> Any:
    """Create the options of a session, an `onnxruntime.SessionOptions`.

    - `threads`: threads inside an operator; default: `cpu.compute_threads`, which respects CPU affinity and quotas.
      ONNX Runtime itself counts the cores of the machine.
    - `optimize=False`: run the graph as written, without graph optimisations.
    - `spin=False`: let idle threads sleep rather than spin (`session.intra_op.allow_spinning`).
    - `silent`: write no errors to stderr, for callers that report them.

    Raises `UsageError` for an invalid number of threads.
    """
    require_threads(threads)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4 if silent else 3
    # With all cores usable, ONNX Runtime's default is the same number and also pins its threads to cores.
    if threads is not None or usable_cores() < machine_cores():
        options.intra_op_num_threads = threads or compute_threads()
    options.inter_op_num_threads = 1  # operators run one after the other
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(model: str | bytes, options: Any, *, providers: Sequence[Any] = (CPU,), fallback: bool = True) -> Any:
    """Open an `onnxruntime.InferenceSession` of a file's path or a serialised model.

    `providers` are in order of preference. `fallback=False` raises an exception if one does not start; otherwise ONNX
    Runtime continues on the CPU and prints that to stdout. Raises ONNX Runtime's exceptions, whose only common base
    class is `Exception`.
    """
    settings = {} if fallback else {"enable_fallback": 0}
    with lifetime.CALLS:
        session = onnxruntime.InferenceSession(model, options, providers=list(providers), **settings)
    return lifetime.keep_in_child(session)


def device_value(shape: Sequence[int], dtype: type[np.generic], device: tuple[str, int]) -> Any:
    """Allocate a tensor of `shape` and `dtype` in the memory of `device`, a kind (`cuda`) and a number."""
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, *device)


@cache
def preload_cuda() -> tuple[str, ...]:
    """Load the libraries of CUDA and cuDNN that pip has installed, once in a process. Return what it says of failures.

    ONNX Runtime does not look for them where pip puts them (`onnxruntime.preload_dlls`, 1.21 or newer). Those that are
    loaded already, by torch for example, or found by the system's loader are taken as they are.
    """
    if not hasattr(onnxruntime, "preload_dlls"):
        return ()
    said: list[str] = []
    # It prints its failures. A global of its module takes the place of the function, and no other text is caught.
    onnxruntime.print = lambda *values, **_: said.append(" ".join(map(str, values)))
    try:
        onnxruntime.preload_dlls()
    finally:
        del onnxruntime.print
    return tuple(said)


@contextmanager
def silence() -> Iterator[None]:
    """Keep ONNX Runtime's default logger from writing to stderr while a session is opened on a GPU.

    It writes raw lines about every opening, also a good one. What fails raises an exception. ONNX Runtime does not tell
    the severity that was set; afterwards it is the default, warnings.
    """
    with _QUIET:
        onnxruntime.set_default_logger_severity(_FATAL)
        try:
            yield
        finally:
            onnxruntime.set_default_logger_severity(_WARNING)
