"""TensorRT engines on an NVIDIA GPU, without torch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer.errors import ModelError, ResnetInferError, RuntimeUnavailableError, UsageError, first_line
from resnet_infer.runtimes.base import Images, Logits, Runtime, parse_device
from resnet_infer.runtimes.signature import Tensor, require_signature
from resnet_infer.runtimes.tensorrt.cuda import Gpu
from resnet_infer.runtimes.tensorrt.engine_file import EngineInfo, read_engine
from resnet_infer.runtimes.tensorrt.library import load_tensorrt, make_logger
from resnet_infer.utils.console import note

MOST_TENSORS = 16
"""Inputs and outputs of an engine that are looked at; an artifact has two."""
SIZES = 8
"""Sizes of batches that keep an execution context and a CUDA graph."""


class LoadedEngine:
    """An engine in TensorRT's hands, with buffers for its largest batch at fixed addresses.

    `images` and `logits` are where the host writes and reads. Used inside `with gpu.current()`, by one thread at a
    time; the GPU's `close` frees it all.
    """

    def __init__(self, tensorrt: Any, gpu: Gpu, content: bytes, info: EngineInfo, label: str) -> None:
        self.gpu, self.info, self.label, self._tensorrt = gpu, info, label, tensorrt
        self._runtime: Any = None
        self._engine: Any = None
        gpu.before_close(self._drop)
        self.logger = make_logger(tensorrt)
        self._runtime = tensorrt.Runtime(self.logger)
        if info.version_compatible:
            # Such an engine brings the runtime that it was built for, as code for the host.
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise ModelError(f"{label}: TensorRT cannot load it ({self.logger.reason()})", hint="export it again")
        # Before there are buffers of the sizes that the sidecar says.
        require_signature(info.spec, *_tensors(tensorrt, self._engine), label)
        largest, (height, width) = info.batch[2], info.size
        self.images = gpu.allocate_pinned(largest * height * width * 3).reshape(largest, height, width, 3)
        self.logits_bytes = gpu.allocate_pinned(largest * len(info.spec.classes) * 4)
        self.logits = self.logits_bytes.view(np.float32).reshape(largest, -1)
        self.device_images = gpu.allocate(self.images.nbytes)
        self.device_logits = gpu.allocate(self.logits.nbytes)
        version_2 = hasattr(self._engine, "device_memory_size_v2")  # from TensorRT 10.1 on
        self._scratch_size = int(self._engine.device_memory_size_v2 if version_2 else self._engine.device_memory_size)
        self._scratch = gpu.allocate(max(self._scratch_size, 1))

    def make_context(self) -> Any:
        """An execution context on the buffers. All share one scratch memory, so only one may be at work at a time."""
        if hasattr(self._tensorrt, "ExecutionContextAllocationStrategy"):
            strategy = self._tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy)
        else:  # TensorRT 8
            context = self._engine.create_execution_context_without_device_memory()
        if context is None:
            raise RuntimeUnavailableError(
                f"{self.label}: TensorRT cannot make room to run it ({self.logger.reason()})",
                hint="end other programs on the GPU, or export with a smaller --max-batch",
            )
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(self._scratch, self._scratch_size)
        else:  # before TensorRT 10.1
            context.device_memory = self._scratch
        for name, address in ((self.info.images, self.device_images), (self.info.logits, self.device_logits)):
            if not context.set_tensor_address(name, address):
                raise ModelError(f"{self.label}: it has no tensor {name} ({self.logger.reason()})")
        return context

    def _drop(self) -> None:
        """The engine goes before the runtime that made it."""
        self._engine = None
        self._runtime = None


def _tensors(tensorrt: Any, engine: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs and the outputs of an engine as TensorRT describes them."""
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
    """Runs batches of `count` pictures: in an execution context of its own, because a graph holds what is in it."""

    def __init__(self, engine: LoadedEngine, count: int) -> None:
        self._engine, self._count = engine, count
        self._graph: Any = None
        self._context = engine.make_context()
        shape = (count, *engine.info.size, 3)
        if not self._context.set_input_shape(engine.info.images, shape):
            raise ModelError(f"{engine.label}: TensorRT does not take {shape} ({engine.logger.reason()})")

    def run(self) -> None:
        """Answer the first `count` of the engine's `images` in its `logits`, and wait for it."""
        if self._graph is None:
            self._enqueue()
        else:
            self._engine.gpu.launch(self._graph)
        self._engine.gpu.synchronize()

    def capture(self) -> None:
        """Let further runs be one call to the GPU. To be called after a run, which settles what TensorRT sets up."""
        if self._graph is None:
            self._graph = self._engine.gpu.capture(self._enqueue)

    def close(self) -> None:
        """Free the graph, then the context that it works in."""
        if self._graph is not None:
            self._engine.gpu.discard(self._graph)
        self._graph = self._context = None

    def _enqueue(self) -> None:
        """Give the stream all the work."""
        engine = self._engine
        engine.gpu.upload(engine.images[: self._count].reshape(-1), engine.device_images)
        if not self._context.execute_async_v3(engine.gpu.stream):
            raise ModelError(f"{engine.label}: TensorRT could not run it ({engine.logger.reason()})")
        engine.gpu.download(engine.device_logits, engine.logits_bytes[: engine.logits[: self._count].nbytes])


class TensorRTRuntime(Runtime):
    """An `.engine` of ours, with its sidecar, on a GPU.

    `device` is `auto`, `cuda` or `cuda:N`. A batch above the engine's largest is split, one below its least is filled
    up. `cuda_graph`: the work of a batch is captured the first time that its size comes, and from then on given to the
    GPU in one call. Calls from several threads wait for each other.

    Raises `ModelError` for an engine that is missing, damaged, or of another TensorRT or GPU, and
    `RuntimeUnavailableError` or `MissingExtraError` where there is no driver, GPU or TensorRT.
    """

    name = "tensorrt"

    def __init__(self, model: Path, *, device: str = "auto", cuda_graph: bool = True) -> None:
        kind, number = parse_device(device)
        if kind == "cpu":
            raise RuntimeUnavailableError(
                f"{model}: cpu was asked for, and a TensorRT engine runs on an NVIDIA GPU only",
                hint="for a CPU: resnet-infer export --format onnx",
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
                self._sizes[info.batch[1]] = SizedBatch(self._engine, info.batch[1])  # fails now rather than later
        except BaseException:
            self._gpu.close()
            raise
        super().__init__(info.spec, f"cuda:{number}", info.size)

    def _run(self, images: Images) -> Logits:
        largest = self.info.batch[2]
        logits = np.empty((len(images), len(self.spec.classes)), np.float32)
        with self._lock:
            if self.closed:  # by another thread, since the call began
                raise UsageError(f"{self.spec.name} was closed")
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
        """Logits of at most the engine's largest batch, in memory that the next call overwrites."""
        count = max(len(images), self.info.batch[0])
        self._engine.images[: len(images)] = images  # what fills up a batch is whatever was there before
        sized = self._sized(count)
        sized.run()
        if self.cuda_graph:
            try:
                sized.capture()
            except ResnetInferError as error:
                self.cuda_graph = False
                note(f"{self.spec.name} runs without CUDA graphs: {first_line(error)}")
        return self._engine.logits[: len(images)]

    def _sized(self, count: int) -> SizedBatch:
        """What runs batches of this size; of many sizes the one used longest ago gives way."""
        sized = self._sizes.pop(count, None) or SizedBatch(self._engine, count)
        self._sizes[count] = sized
        if len(self._sizes) > SIZES:
            self._sizes.pop(next(iter(self._sizes))).close()
        return sized

    def _close_sizes(self) -> None:
        while self._sizes:
            self._sizes.popitem()[1].close()

    def _free(self) -> None:
        with self._lock:
            self._gpu.close()

    def describe(self) -> dict[str, Any]:
        low, _, high = self.info.batch
        return {
            **super().describe(),
            "version": self.version,
            "gpu": self._gpu.name,
            "precision": self.spec.precision,
            "batch": f"{low}-{high}",
            "cuda_graph": self.cuda_graph,
        }
