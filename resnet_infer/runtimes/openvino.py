"""OpenVINO on a CPU: the same `.onnx` artifacts as ONNX Runtime's, in INT8 often faster."""

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
from resnet_infer.runtimes.signature import OUTPUT, Tensor, require_signature
from resnet_infer.utils.cpu import compute_threads, usable_cores
from resnet_infer.utils.extras import needs
from resnet_infer.utils.lifetime import CALLS, in_child, keep_in_child
from resnet_infer.utils.threads import require_threads


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """`import openvino` tries to import its converter, which reports that to its maker and writes into $HOME."""
    converter = "openvino.tools.ovc"
    if converter in sys.modules:
        yield
        return
    sys.modules[converter] = None  # type: ignore[assignment]  # so that importing it fails, which openvino allows for
    try:
        yield
    finally:
        del sys.modules[converter]


with needs("openvino", "the runtime openvino"), _without_telemetry():
    import openvino

    # One for the whole process. A core's CPU plugin gives the thread that loads it a stack for signals and, when the
    # core goes, puts back the one it had found: of two cores freed in the order they came, the second puts back the
    # first's, which is no longer mapped, and the next signal (a child that ends, say) kills the process.
    CORE = keep_in_child(openvino.Core())
    # Its first use sets up a table under a lock of C++, with pauses for other threads: two at once, as in the first
    # calls of two threads, wait for each other for ever. A module is imported by one thread.
    openvino.Type.u8.to_dtype()


class _Threads:
    """Whether OpenVINO counts on threads that are not there.

    Those of a network that was freed it keeps for the next one. In a forked child they are gone, and whoever is given
    them waits for ever; so does who needs a lock that one of them held in a call.
    """

    def __init__(self) -> None:
        self._freed = self._lost = False
        in_child(self._lose)

    def watch(self, compiled: Any) -> None:
        weakref.finalize(compiled, self._free).atexit = False

    def _free(self) -> None:
        self._freed = True

    def _lose(self) -> None:
        self._lost, self._freed = self._lost or self._freed or CALLS.cut_off, False

    def require(self) -> None:
        """Raise `RuntimeUnavailableError` where a network cannot be compiled."""
        if self._lost:
            raise RuntimeUnavailableError(
                "OpenVINO does not work in this process: it was forked from one in which a network of OpenVINO had "
                "been closed, or other threads were classifying",
                hint="start processes with spawn or forkserver, or before any thread classifies and any network is "
                "closed, or use the runtime onnxruntime",
            )


_THREADS = _Threads()
_HALF = frozenset({"bf16", "f16"})
_LAYERS = frozenset({"Convolution", "FullyConnected", "MatMul"})


class OpenVinoRuntime(Runtime):
    """An `.onnx` artifact of ours, compiled by OpenVINO for the CPU. It writes no files and reports to nobody.

    `device` is `auto` or `cpu`, both the CPU; others raise `RuntimeUnavailableError`. `threads` is the number of
    threads of a call, by default `cpu.compute_threads`; as many calls run at a time as the cores have room for, others
    wait.

    By itself OpenVINO computes float layers in bfloat16 where the processor can. Here all of a network is computed in
    float32, but for what the artifact has in INT8, and what was compiled is asked whether it is. `bf16` lets
    bfloat16 be used, which is faster and no longer FP32; it raises `RuntimeUnavailableError` where there is none.

    In a process that was forked after a network of OpenVINO had been closed, none can be opened: that too raises
    `RuntimeUnavailableError`.
    """

    name = "openvino"

    def __init__(self, model: Path, *, device: str = "auto", threads: int | None = None, bf16: bool = False) -> None:
        require_threads(threads)
        _THREADS.require()
        if parse_device(device)[0] == "cuda":
            raise RuntimeUnavailableError(
                f"{device} was asked for, and the runtime openvino has only the CPU", hint="use --runtime onnxruntime"
            )
        if not model.is_file():
            raise ModelError(f"{model} does not exist")
        if bf16 and "BF16" not in CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeUnavailableError("bf16 was asked for, and this processor has none", hint="leave `bf16` out")
        streams = max(usable_cores() // threads, 1) if threads else 1
        self.threads = threads or compute_threads()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * self.threads,
            # Pinned, the threads of several processes would share the first cores and leave the others idle.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            graph = CORE.read_model(model)
            spec = _spec(graph, str(model))
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
            raise ModelError(f"{model} is damaged: a name or its metadata is no UTF-8 ({error.reason})") from error
        except RuntimeError as error:
            raise ModelError(f"{model}: OpenVINO cannot load it ({_reason(error)})") from error
        self.computes = _computes(self._compiled, str(model), half=bf16)
        self.precision = "bf16" if bf16 and spec.precision != "int8" else spec.precision
        self._idle: list[Any] = []
        super().__init__(spec, "cpu", (images.shape[1], images.shape[2]))

    def _run(self, images: Images) -> Logits:
        # A request serves one call at a time; there are as many as there ever were calls at a time.
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            logits: Logits = np.array(request.infer({0: images}, share_inputs=True, share_outputs=True)[self._output])
        except RuntimeError as error:
            raise ModelError(f"{self.spec.name}: OpenVINO cannot run it ({_reason(error)})") from error
        finally:
            self._idle.append(request)
        return logits

    def _free(self) -> None:
        self._idle.clear()
        self._compiled = None

    def describe(self) -> dict[str, Any]:
        """Besides version and threads: `precision` as it is run, and what OpenVINO says its layers compute in."""
        return {
            **super().describe(),
            "version": openvino.__version__.partition("-")[0],
            "threads": self.threads,
            "precision": self.precision,
            "computes": self.computes,
        }


def _spec(graph: Any, label: str) -> ModelSpec:
    place = ["framework", METADATA_KEY]  # where OpenVINO keeps an ONNX file's metadata
    metadata = {METADATA_KEY: graph.get_rt_info(place).astype(str)} if graph.has_rt_info(place) else {}
    return ModelSpec.from_metadata(metadata, label)


def _tensor(found: Any) -> Tensor:
    """An input or output as OpenVINO describes it."""
    names = found.get_names()
    shape = found.get_partial_shape()
    sides = (
        () if shape.rank.is_dynamic else tuple(None if side.is_dynamic else int(side.get_length()) for side in shape)
    )
    kind = str(found.get_element_type().to_string()).lower()
    dtype = {"u8": "uint8", "f32": "float32", "f16": "float16", "f64": "float64"}.get(kind, kind)
    return Tensor(OUTPUT if OUTPUT in names else min(names, default=""), dtype, sides)


def _computes(compiled: Any, label: str, *, half: bool) -> str:
    """The precisions of the layers as they were compiled, `f32` or `u8`, say.

    Raises `RuntimeUnavailableError` if anything is computed in half precision and `half` does not allow for it.
    """
    layers, everything = set(), set()
    for node in compiled.get_runtime_model().get_ops():
        about = node.get_rt_info()
        kind, precision = (str(about[key].value) for key in ("layerType", "runtimePrecision"))
        if kind != "Const":
            everything.add(precision)
        if kind in _LAYERS:
            layers.add(precision)
    if everything & _HALF and not half:
        found = " and ".join(sorted(everything & _HALF))
        raise RuntimeUnavailableError(f"{label}: OpenVINO computes in {found} here, though float32 was asked for")
    return ", ".join(sorted(layers))


def _reason(error: RuntimeError) -> str:
    """What OpenVINO says last: its messages begin with places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
