"""Run artifacts in ONNX or in OpenVINO's own format (IR) on a CPU.

`selection.rules` says on which processors it is faster than ONNX Runtime.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer.errors import ModelError, RuntimeUnavailableError
from resnet_infer.models.spec import METADATA_KEY, ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime, parse_device
from resnet_infer.runtimes.openvino_ir import RT_INFO, SUFFIX, ir_parts, read_ir_files
from resnet_infer.runtimes.signature import OUTPUT, Tensor, require_signature
from resnet_infer.utils.cpu import compute_threads, usable_cores
from resnet_infer.utils.extras import needs
from resnet_infer.utils.files import suffix_of
from resnet_infer.utils.lifetime import CALLS, in_child, keep_in_child
from resnet_infer.utils.threads import require_threads


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Keep `import openvino` from importing its converter, which sends telemetry and writes into $HOME."""
    converter = "openvino.tools.ovc"
    if converter in sys.modules:
        yield
        return
    sys.modules[converter] = None  # type: ignore[assignment]  # its import fails, which openvino tolerates
    try:
        yield
    finally:
        del sys.modules[converter]


with needs("openvino", "the runtime openvino"), _without_telemetry():
    import openvino

    # One Core for the whole process. Its CPU plugin installs a signal stack (sigaltstack) on the thread that loads it,
    # and restores the previous stack when the Core is freed. If two Cores are freed in the order of creation, the
    # second restores the stack of the first, which is unmapped, and the next signal (SIGCHLD, say) kills the process.
    CORE = keep_in_child(openvino.Core())
    # The first use of a type initialises a table under a C++ lock, while releasing the interpreter. Two threads whose
    # first calls coincide would deadlock. At import there is only one thread here.
    openvino.Type.u8.to_dtype()


class _Threads:
    """Track whether OpenVINO would wait for threads that do not exist.

    OpenVINO keeps the threads of a freed network for the next one. A forked child does not have them, and would wait
    for them, or for a lock that one of them held in a call, for ever.
    """

    def __init__(self) -> None:
        self._freed = self._lost = False
        in_child(self._lose)

    def watch(self, compiled: Any) -> None:
        """Take note when a compiled network is freed."""
        weakref.finalize(compiled, self._free).atexit = False

    def _free(self) -> None:
        self._freed = True

    def _lose(self) -> None:
        """Record a fork, in the child."""
        self._lost, self._freed = self._lost or self._freed or CALLS.cut_off, False

    def require(self) -> None:
        """Raise `RuntimeUnavailableError` if this process cannot compile networks."""
        if self._lost:
            raise RuntimeUnavailableError(
                "OpenVINO does not work in this process: it was forked from one in which a network of OpenVINO had "
                "been closed, or other threads were classifying",
                hint="start processes with spawn or forkserver, or before any thread classifies and any network is "
                "closed, or use the runtime onnxruntime",
            )


_THREADS = _Threads()
_HALF = frozenset({"bf16", "f16"})
"""OpenVINO's names of 16-bit floating-point precisions."""
_LAYERS = frozenset({"Convolution", "FullyConnected", "MatMul"})
"""Types of compiled layers whose precision is reported."""


class OpenVinoRuntime(Runtime):
    """Run an `.onnx` or `.xml` artifact, compiled by OpenVINO for the CPU.

    No files are written and no telemetry is sent.

    - `model`: path of a file that has a model spec.
    - `device`: `auto` or `cpu`, which are the same.
    - `threads`: threads of a call; default: `cpu.compute_threads`. Calls run side by side while there are cores for
      them; further calls wait.
    - `bf16`: allow bfloat16, which is faster than FP32 and less exact.

    OpenVINO by default computes float layers in bfloat16 on processors that support it. Here
    `INFERENCE_PRECISION_HINT` (https://docs.openvino.ai, "Precision Control") is float32, and the compiled network is
    checked to use only float32, and INT8 where the artifact does.

    Raises `ModelError` for a file that is missing, damaged, without a spec or not fitting it, and
    `RuntimeUnavailableError` for another device, for `bf16` on a processor without it, and in a process that was forked
    after an OpenVINO network had been closed or while other threads were classifying.
    """

    name = "openvino"

    def __init__(self, model: Path, *, device: str = "auto", threads: int | None = None, bf16: bool = False) -> None:
        require_threads(threads)
        _THREADS.require()
        if parse_device(device)[0] == "cuda":
            raise RuntimeUnavailableError(
                f"{device} was asked for, and the runtime openvino has only the CPU",
                hint="use the runtime onnxruntime",
                source=device,
            )
        if not model.is_file():
            raise ModelError(f"{model} does not exist", source=model, reason="missing")
        if bf16:
            self.hardware(device, "bf16")
        streams = max(usable_cores() // threads, 1) if threads else 1
        self.threads = threads or compute_threads()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * self.threads,
            # With pinning, the threads of several processes would share the first cores and leave the others idle.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            graph, spec = _read(model)
            images, logits = require_signature(
                spec,
                [_tensor(item) for item in graph.inputs],
                outputs := [_tensor(item) for item in graph.outputs],
                str(model),
            )
            self._output = outputs.index(logits)
            self._compiled: Any = CORE.compile_model(graph, "CPU", settings)
            _THREADS.watch(self._compiled)
        except UnicodeDecodeError as error:
            raise ModelError(
                f"{model} is damaged: a name or its metadata is no UTF-8 ({error.reason})",
                source=model,
                reason="damaged",
            ) from error
        except RuntimeError as error:
            raise ModelError(
                f"{model}: OpenVINO cannot load it ({reason(error)})",
                hint="export the model again",
                source=model,
                reason="damaged",
            ) from error
        self.computes = _computes(self._compiled, str(model), half=bf16)
        self._idle: list[Any] = []
        precision = "bf16" if bf16 and spec.precision != "int8" else spec.precision
        super().__init__(spec, "cpu", (images.shape[1], images.shape[2]), precision)

    def _run(self, images: Images) -> Logits:
        # A request serves one call at a time. Requests are created as concurrent calls need them, and kept.
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            logits: Logits = np.array(request.infer({0: images}, share_inputs=True, share_outputs=True)[self._output])
        except RuntimeError as error:
            raise ModelError(
                f"{self.spec.name}: OpenVINO cannot run it ({reason(error)})", source=self.spec.name, reason="failed"
            ) from error
        finally:
            self._idle.append(request)
        return logits

    def _free(self) -> None:
        self._idle.clear()
        self._compiled = None

    @classmethod
    def hardware(cls, device: str, compute: str) -> str:
        """Return the name of the processor. Raises `RuntimeUnavailableError` if it has no instructions for bf16."""
        if compute == "bf16" and "BF16" not in CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeUnavailableError(
                "bf16 was asked for, and this processor has none", hint="leave --compute, or the option `bf16`, out"
            )
        return super().hardware(device, compute)

    @classmethod
    def parts(cls, model: Path) -> tuple[Path, ...]:
        """Return the files that opening `model` reads: an IR has two."""
        return ir_parts(model) if suffix_of(model) == SUFFIX else (model,)

    def describe(self) -> dict[str, Any]:
        """Return the base fields, `version`, `threads`, `precision` in use, and `computes`, the layers' precisions."""
        return {
            **super().describe(),
            "version": openvino.__version__.partition("-")[0],
            "threads": self.threads,
            "precision": self.precision,
            "computes": self.computes,
        }


def _read(model: Path) -> tuple[Any, ModelSpec]:
    """Read the graph and its spec. Raises `ModelError`, and what OpenVINO raises."""
    if suffix_of(model) == SUFFIX:
        # OpenVINO would map the weights into memory, where another program that writes to the file changes them.
        content, weights, ir = read_ir_files(model)
        return CORE.read_model(content, weights), ir.spec
    graph = CORE.read_model(model)
    return graph, _spec(graph, str(model))


def _spec(graph: Any, label: str) -> ModelSpec:
    """Read the spec from the metadata of an ONNX graph. Raises `ModelError`."""
    place = [RT_INFO, METADATA_KEY]
    metadata = {METADATA_KEY: graph.get_rt_info(place).astype(str)} if graph.has_rt_info(place) else {}
    return ModelSpec.from_metadata(metadata, label)


def _tensor(found: Any) -> Tensor:
    """Describe an input or output of OpenVINO's graph."""
    names = found.get_names()
    shape = found.get_partial_shape()
    sides = (
        () if shape.rank.is_dynamic else tuple(None if side.is_dynamic else int(side.get_length()) for side in shape)
    )
    kind = str(found.get_element_type().to_string()).lower()
    dtype = {"u8": "uint8", "f32": "float32", "f16": "float16", "f64": "float64"}.get(kind, kind)
    return Tensor(OUTPUT if OUTPUT in names else min(names, default=""), dtype, sides)


def _computes(compiled: Any, label: str, *, half: bool) -> str:
    """Return the precisions of the compiled layers, such as `f32` or `f32, u8`.

    Raises `RuntimeUnavailableError` if anything is computed in 16-bit floating point and `half` is False.
    """
    layers, everything = set(), set()
    for node in compiled.get_runtime_model().get_ops():
        about = node.get_rt_info()
        kind, precision = (str(about[key].value) for key in ("layerType", "runtimePrecision"))
        if precision in _HALF and _only_weights_are_half(node):
            precision = "f32"
        if kind != "Const":
            everything.add(precision)
        if kind in _LAYERS:
            layers.add(precision)
    if everything & _HALF and not half:
        found = " and ".join(sorted(everything & _HALF))
        raise RuntimeUnavailableError(
            f"{label}: OpenVINO computes in {found} here, though float32 was asked for", source=label
        )
    return ", ".join(sorted(layers))


def _only_weights_are_half(node: Any) -> bool:
    """Return whether a compiled layer has float32 input and output, and so computes in float32.

    Of a layer whose weights are stored in float16, OpenVINO reports the precision of the weights.
    """
    tensors = [*node.inputs()[:1], *node.outputs()]
    return len(tensors) > 1 and all(tensor.get_element_type() == openvino.Type.f32 for tensor in tensors)


def reason(error: RuntimeError) -> str:
    """Return the last line of OpenVINO's message, the reason. The lines before it are places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


__all__ = ["CORE", "OpenVinoRuntime", "openvino", "reason"]
