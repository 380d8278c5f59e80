"""The only module that imports ONNX Runtime, which by itself reports to its maker; here that is switched off.

On its first import ONNX Runtime (from 1.32 on) writes an identifier of the machine below $HOME/.cache and sends
events about the process over the network. The variable `ORT_DISABLE_TELEMETRY` must be set before that import, so
nothing else in the package may import it. Who wants the reports sets the variable to 0.

Import this module inside `extras.needs`: a missing or broken ONNX Runtime raises whatever it does here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_infer.utils import lifetime
from resnet_infer.utils.threads import require_threads

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # only after the variable is set

from resnet_infer.utils.cpu import compute_threads, machine_cores, usable_cores

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

VERSION: str = onnxruntime.__version__
FOLDER: str = os.path.dirname(onnxruntime.__file__)


def available_providers() -> list[str]:
    """Return the names of the execution providers that this build of ONNX Runtime has."""
    found: list[str] = onnxruntime.get_available_providers()
    return found


def session_options(
    *, threads: int | None = None, optimize: bool = True, spin: bool = True, silent: bool = False
) -> Any:
    """Make the options of a session.

    `threads` is the number of threads inside an operator, by default `cpu.compute_threads`: ONNX Runtime itself would
    count the machine's cores. `optimize=False` runs the graph as it is written. `spin=False` lets idle threads sleep.
    `silent` keeps errors from stderr, too: the caller reports them. Raises `UsageError` for a number of threads that
    cannot be.
    """
    require_threads(threads)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4 if silent else 3
    # Where it may use all cores its own number is the same, and its threads then stay on theirs.
    if threads is not None or usable_cores() < machine_cores():
        options.intra_op_num_threads = threads or compute_threads()
    options.inter_op_num_threads = 1  # operators run one after the other
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(model: str | bytes, options: Any, *, providers: Sequence[Any] = (CPU,), fallback: bool = True) -> Any:
    """Open a session of the file at a path, or of a serialised model, on the first of `providers` that starts.

    Raises ONNX Runtime's exceptions, which share no base class but `Exception`. `fallback=False` keeps ONNX Runtime
    from going on with the CPU, and saying so on stdout, where a provider does not start.
    """
    settings = {} if fallback else {"enable_fallback": 0}
    with lifetime.CALLS:
        session = onnxruntime.InferenceSession(model, options, providers=list(providers), **settings)
    return lifetime.keep_in_child(session)


def device_value(shape: Sequence[int], dtype: type[np.generic], device: tuple[str, int]) -> Any:
    """Reserve a tensor of `shape` and `dtype` in the memory of a device: its kind (`cuda`) and its number."""
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, *device)
