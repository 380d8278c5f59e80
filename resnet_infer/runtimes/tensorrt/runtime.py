"""Run TensorRT engines on an NVIDIA GPU, without torch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer.errors import ModelError, ResnetInferError, RuntimeUnavailableError, UsageError, first_line
from resnet_infer.runtimes.base import Images, Logits, Runtime, parse_device
from resnet_infer.runtimes.nvidia.device_errors import DeviceError, is_sticky
from resnet_infer.runtimes.nvidia.sizes import padded
from resnet_infer.runtimes.signature import Tensor, require_signature
from resnet_infer.runtimes.tensorrt.cuda import Gpu
from resnet_infer.runtimes.tensorrt.engine_file import EngineInfo, read_engine
from resnet_infer.runtimes.tensorrt.library import load_tensorrt, process_logger
from resnet_infer.utils.console import warn

MOST_TENSORS = 16
"""Most inputs and outputs of an engine that are read for messages; an artifact has two."""
SIZES = 8
"""Most batch sizes that keep an execution context and a CUDA graph."""


class LoadedEngine:
    """Hold a deserialised engine and buffers for its largest batch at fixed addresses.

    `images`, uint8 (largest, height, width, 3), and `logits`, float32 (largest, classes), are in pinned host memory.
    Use the engine inside `with gpu.current()`, from one thread at a time. `Gpu.close` frees it.

    Raises `ModelError` for an engine that TensorRT cannot load or that does not fit its spec, and
    `RuntimeUnavailableError` if the GPU has too little memory.
    """

    def __init__(self, tensorrt: Any, gpu: Gpu, content: bytes, info: EngineInfo, label: str) -> None:
        self.gpu, self.info, self.label, self._tensorrt = gpu, info, label, tensorrt
        self._runtime: Any = None
        self._engine: Any = None
        gpu.before_close(self._drop)
        self.logger = process_logger(tensorrt)
        self.logger.begin()
        self._runtime = tensorrt.Runtime(self.logger)
        if info.version_compatible:
            # A version-compatible engine contains a lean runtime, which is code that runs on the host.
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise ModelError(
                f"{label}: TensorRT cannot load it ({self.logger.reason()})",
                hint="export it again",
                source=label,
                reason="damaged",
            )
        # Checked before buffers of the sidecar's sizes are allocated.
        require_signature(info.spec, *_tensors(tensorrt, self._engine), label)
        largest, (height, width) = info.batch[2], info.size
        self.images = gpu.allocate_pinned(largest * height * width * 3).reshape(largest, height, width, 3)
        self.logits_bytes = gpu.allocate_pinned(largest * len(info.spec.classes) * 4)
        self.logits = self.logits_bytes.view(np.float32).reshape(largest, -1)
        self.device_images = gpu.allocate(self.images.nbytes)
        self.device_logits = gpu.allocate(self.logits.nbytes)
        version_2 = hasattr(self._engine, "device_memory_size_v2")  # TensorRT 10.1 or newer
        self._scratch_size = int(self._engine.device_memory_size_v2 if version_2 else self._engine.device_memory_size)
        self._scratch = gpu.allocate(max(self._scratch_size, 1))

    def make_context(self) -> Any:
        """Create an execution context on the buffers. All contexts share one workspace, so only one may run at a time.

        Raises `RuntimeUnavailableError` if there is too little memory, and `ModelError` for a tensor that is missing.
        """
        self.logger.begin()
        if hasattr(self._tensorrt, "ExecutionContextAllocationStrategy"):
            strategy = self._tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy)
        else:  # TensorRT 8
            context = self._engine.create_execution_context_without_device_memory()
        if context is None:
            raise RuntimeUnavailableError(
                f"{self.label}: TensorRT cannot make room to run it ({self.logger.reason()})",
                hint="end other programs on the GPU, or export with a smaller --max-batch",
                source=self.label,
                reason="memory",
            )
        # TensorRT 8 selects the profile by itself for the first context only.
        if context.active_optimization_profile != 0 and not context.set_optimization_profile_async(0, self.gpu.stream):
            raise ModelError(
                f"{self.label}: TensorRT runs it for one batch size only ({self.logger.reason()})",
                hint="export it again: this version shares the profile between batch sizes",
                source=self.label,
                reason="unsupported",
            )
        # Engines are built with detailed names of layers, for the inspector; marking each layer would slow every call.
        context.nvtx_verbosity = self._tensorrt.ProfilingVerbosity.NONE
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(self._scratch, self._scratch_size)
        else:  # before TensorRT 10.1
            context.device_memory = self._scratch
        for name, address in ((self.info.images, self.device_images), (self.info.logits, self.device_logits)):
            if not context.set_tensor_address(name, address):
                raise ModelError(
                    f"{self.label}: it has no tensor {name} ({self.logger.reason()})",
                    source=self.label,
                    reason="mismatch",
                )
        return context

    def _drop(self) -> None:
        """Free the engine, then the `tensorrt.Runtime` that created it; TensorRT requires this order."""
        self._engine = None
        self._runtime = None


def _tensors(tensorrt: Any, engine: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Return the inputs and the outputs of an engine, from TensorRT's description."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for index in range(min(engine.num_io_tensors, MOST_TENSORS)):
        name = engine.get_tensor_name(index)
        dtype = str(engine.get_tensor_dtype(name)).rpartition(".")[2].lower()
        shape = tuple(int(side) if side > 0 else None for side in engine.get_tensor_shape(name))
        tensor = Tensor(name, {"float": "float32", "half": "float16"}.get(dtype, dtype), shape)
        (inputs if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT else outputs).append(tensor)
    return inputs, outputs


class SizedBatch:
    """Run batches of `count` images in an execution context of their own.

    A CUDA graph records the addresses and shapes of its context, so the context must not change after `capture`.
    Raises `ModelError` for a size outside the engine's profile.
    """

    def __init__(self, engine: LoadedEngine, count: int) -> None:
        self._engine, self._count = engine, count
        self._graph: Any = None
        self._context = engine.make_context()
        shape = (count, *engine.info.size, 3)
        if not self._context.set_input_shape(engine.info.images, shape):
            raise ModelError(
                f"{engine.label}: TensorRT does not take {shape} ({engine.logger.reason()})",
                source=engine.label,
                reason="mismatch",
            )

    def run(self) -> None:
        """Compute the engine's first `count` `logits` from its first `count` `images`, and wait for them."""
        if self._graph is None:
            self._enqueue()
        else:
            self._engine.gpu.launch(self._graph)
        self._engine.gpu.synchronize()

    def capture(self) -> None:
        """Record a CUDA graph, so that further runs are one launch.

        Call `run` once before: TensorRT's first run in a context does work that a graph must not contain.
        """
        if self._graph is None:
            self._graph = self._engine.gpu.capture(self._enqueue)

    def close(self) -> None:
        """Free the graph, then the context that it uses."""
        if self._graph is not None:
            self._engine.gpu.discard(self._graph)
        self._graph = self._context = None

    def _enqueue(self) -> None:
        """Enqueue upload, inference and download in the stream."""
        engine = self._engine
        engine.logger.begin()
        engine.gpu.upload(engine.images[: self._count].reshape(-1), engine.device_images)
        if not self._context.execute_async_v3(engine.gpu.stream):
            reason = engine.logger.reason()
            raise DeviceError(
                f"{engine.label}: TensorRT could not run it ({reason})", sticky=is_sticky(reason), source=engine.label
            )
        engine.gpu.download(engine.device_logits, engine.logits_bytes[: engine.logits[: self._count].nbytes])


class TensorRTRuntime(Runtime):
    """Run an `.engine` file, which has its sidecar beside it, on an NVIDIA GPU.

    - `device`: `auto`, `cuda` or `cuda:N`.
    - `cuda_graph`: record the work of each batch size as a CUDA graph in its first call, and launch it after.

    Batches above the engine's largest are split, others padded to few sizes (`sizes.padded`). Calls from several
    threads run one after the other.

    Raises `ModelError` for an engine that is missing, damaged, or built for another TensorRT or GPU;
    `RuntimeUnavailableError` without a driver, a GPU or a TensorRT that loads; `MissingExtraError` without the package
    `tensorrt` or `cuda-python`.
    """

    name = "tensorrt"

    def __init__(self, model: Path, *, device: str = "auto", cuda_graph: bool = True) -> None:
        kind, number = parse_device(device)
        if kind == "cpu":
            raise RuntimeUnavailableError(
                f"{model}: cpu was asked for, and a TensorRT engine runs on an NVIDIA GPU only",
                hint="for a CPU: resnet-infer export --format onnx",
                source=model,
            )
        content, info = read_engine(model)
        self._lock = threading.Lock()
        self._sizes: dict[int, SizedBatch] = {}
        self.cuda_graph, self.info = cuda_graph, info
        self._gpu = Gpu(number)
        try:
            tensorrt = load_tensorrt(self._gpu)
            self.version = str(tensorrt.__version__)
            info.require(self.version, self._gpu.name, self._gpu.compute_capability, str(model))
            with self._gpu.current():
                self._engine = LoadedEngine(tensorrt, self._gpu, content, info, str(model))
                self._gpu.before_close(self._close_sizes)
                self._sized(max(padded(info.batch[1], info.batch[2]), info.batch[0]))  # errors show on opening
        except BaseException:
            self._gpu.close()
            raise
        super().__init__(info.spec, f"cuda:{number}", info.size)

    def _run(self, images: Images) -> Logits:
        largest = self.info.batch[2]
        logits = np.empty((len(images), len(self.spec.classes)), np.float32)
        with self._lock:
            if self.closed:  # by another thread after the call began
                raise UsageError(f"{self.spec.name} was closed", reason="closed")
            with self._gpu.current():
                for start in range(0, len(images), largest):
                    part = images[start : start + largest]
                    logits[start : start + len(part)] = self._answer(part)
        return logits

    def _transfer(self, images: Images) -> bool:
        with self._lock, self._gpu.current():
            for start in range(0, len(images), self.info.batch[2]):
                part = self._engine.images[: len(images[start : start + self.info.batch[2]])]
                part[:] = images[start : start + len(part)]
                self._gpu.upload(part.reshape(-1), self._engine.device_images)
                self._gpu.synchronize()
        return True

    def _answer(self, images: Images) -> Logits:
        """Compute the logits of at most the engine's largest batch, in memory that the next call overwrites."""
        count = max(padded(len(images), self.info.batch[2]), self.info.batch[0])
        self._engine.images[: len(images)] = images  # the padding is left over from the last batch
        sized = self._sized(count)
        sized.run()
        if self.cuda_graph:
            try:
                sized.capture()
            except ResnetInferError as error:
                if isinstance(error, DeviceError) and error.sticky:
                    raise
                self.cuda_graph = False
                warn(f"{self.spec.name} runs without CUDA graphs: {first_line(error)}")
        return self._engine.logits[: len(images)]

    def _sized(self, count: int) -> SizedBatch:
        """Return the context of a batch size; beyond `SIZES` contexts, free the least recently used one."""
        sized = self._sizes.pop(count, None) or SizedBatch(self._engine, count)
        self._sizes[count] = sized
        if len(self._sizes) > SIZES:
            self._sizes.pop(next(iter(self._sizes))).close()
        return sized

    def _close_sizes(self) -> None:
        """Free all contexts and graphs."""
        while self._sizes:
            self._sizes.popitem()[1].close()

    def _free(self) -> None:
        with self._lock:
            self._gpu.close()

    def describe(self) -> dict[str, Any]:
        """Return the base fields, `version`, `gpu`, `precision`, `batch` (smallest-largest) and `cuda_graph`."""
        low, _, high = self.info.batch
        return {
            **super().describe(),
            "version": self.version,
            "gpu": self._gpu.name,
            "precision": self.spec.precision,
            "batch": f"{low}-{high}",
            "cuda_graph": self.cuda_graph,
        }
