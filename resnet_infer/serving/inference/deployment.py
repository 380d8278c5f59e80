"""Serve one model: its runtimes, its preprocessing, and the batcher that feeds them."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.classifier import Classifier, Crops, Picture, Prediction
from resnet_infer.errors import AnswerError, ModelError, PictureError
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.artifacts import digest
from resnet_infer.runtimes.base import Images, Logits, Runtime
from resnet_infer.runtimes.nvidia.device_errors import DeviceError
from resnet_infer.runtimes.nvidia.sizes import warm_up_sizes
from resnet_infer.runtimes.registry import get_runtime, open_runtime
from resnet_infer.selection.bf16_guard import require_compute
from resnet_infer.selection.select import Choice, Work, open_chosen
from resnet_infer.serving.inference.batching import STALL_SECONDS, Batcher
from resnet_infer.serving.inference.jobs import Done
from resnet_infer.serving.memory import Memory
from resnet_infer.serving.settings import Settings
from resnet_infer.utils.console import logger
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.utils.files import suffix_of

CPU_BATCH, GPU_BATCH = 8, 32
"""Most rows in a batch, by default."""
PAUSE_SECONDS = 5.0
"""Seconds after a failure of the GPU for which the service is not ready, unless the failure lasts. Then it is tried
again."""


@dataclass(frozen=True)
class ClassifyItem:
    """Request the `top_k` classes of one image, with `maps` also their class activation maps (for one crop only)."""

    picture: Picture
    crops: Crops = 1
    top_k: int = 5
    maps: bool = False
    deadline: float = math.inf
    """Time by the monotonic clock until which the item may wait for memory."""
    notes: list[str] = field(default_factory=list, compare=False)
    """Notes on the image, filled in when it is decoded."""


@dataclass(frozen=True)
class ClassifyResult:
    """Hold the classes of an image, and their activation maps.

    `maps` covers the centre crop, float32 (classes, height, width); None if it was not requested.
    """

    predictions: tuple[Prediction, ...]
    maps: NDArray[np.float32] | None = None
    note: str | None = None
    """Why the predictions may mean little, or None."""


class Deployment:
    """Run a warm model on one device for many requests at a time.

    On a CPU a single request uses all cores. Several requests share them, one thread for each, so that no core waits
    for another. On a GPU one thread infers and the others decode. `on_lost` is called once, in that thread,
    when the GPU fails so that this process cannot use it again. Raises the errors of `zoo` and `open_runtime`.
    """

    def __init__(
        self,
        settings: Settings,
        device: str | None = None,
        on_batch: Callable[[int, float], None] | None = None,
        memory: Memory | None = None,
        on_waiting: Callable[[int], None] | None = None,
        on_lost: Callable[[DeviceError], None] = lambda error: None,
    ) -> None:
        self.settings, self._on_lost = settings, on_lost
        self._failure: DeviceError | None = None
        self._paused_until = 0.0
        self.memory = memory or Memory(settings.max_memory)
        self.model = settings.model or zoo.default_model() or zoo.DEFAULT
        source = zoo.load_for(self.model, settings.runtime)
        device = device or settings.device
        cores = usable_cores()
        self.choice: Choice | None = None
        """Why this runtime answers; None where it was named, or where the file has but one."""
        options = {"runtime": settings.runtime, "compute": settings.compute}
        if settings.runtime == settings.compute == "auto" and isinstance(source, Path):
            self.runtime, self.choice = open_chosen(source, self._work(device), threads=settings.threads)
            options["runtime"] = self.runtime.name
        else:
            if settings.compute != "auto":
                # Whoever starts a service or a load says the note: each process of it opens a deployment.
                require_compute(source, settings.compute, runtime=settings.runtime, device=device, say=False)
            self.runtime = open_runtime(source, device=device, threads=settings.threads, **options)
        self._one_thread = self.runtime
        on_cpu, lanes = self.runtime.device == "cpu", 1
        if on_cpu and get_runtime(self.runtime.name).parallel:
            lanes = max(cores // (settings.threads or 1), 1)
            if settings.threads is None and lanes > 1:
                self._one_thread = self._open_one_thread(source, options)
        self.sha256 = digest(source)
        self.artifact = source if isinstance(source, Path) and suffix_of(source) == ".onnx" else None
        self.classifier = Classifier(self.runtime)
        self._maps: Any = None
        self._maps_lock = threading.Lock()
        self.batcher: Batcher[ClassifyItem | Images, ClassifyResult | Logits] = Batcher(
            self._prepare,
            self._infer,
            self._finish,
            workers=cores if on_cpu and lanes > 1 else cores + 1,
            lanes=lanes,
            max_rows=settings.max_batch or (CPU_BATCH if on_cpu else GPU_BATCH),
            max_wait=settings.max_wait_ms / 1000,
            max_queue=settings.max_queue,
            name=self.spec.name,
            on_batch=on_batch or (lambda rows, seconds: None),
            on_waiting=on_waiting,
        )
        try:
            self._warm_up()
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> ModelSpec:
        """Return the model's spec."""
        return self.runtime.spec

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the runtime's input."""
        height, width = (side or self.spec.input.crop for side in self.runtime.size)
        return height, width

    @property
    def failure(self) -> DeviceError | None:
        """Return the failure of the GPU that makes the service not ready, or None."""
        failure = self._failure
        return failure if failure and (failure.sticky or time.monotonic() < self._paused_until) else None

    def classify(self, items: Sequence[ClassifyItem], timeout: float) -> list[Future[Done[ClassifyResult | Logits]]]:
        """Submit images, and return the futures of their results, which are due in `timeout` seconds.

        The future of an image that cannot be read raises `PictureError`. Raises `RefusedError` as `Batcher.submit`
        does.
        """
        return self.batcher.submit([(item, item.crops) for item in items], timeout)

    def infer(self, images: Images, timeout: float) -> Future[Done[ClassifyResult | Logits]]:
        """Submit a tensor, uint8 (N, height, width, 3), and return the future of its logits, float32 (N, classes)."""
        (future,) = self.batcher.submit([(images, len(images))], timeout)
        return future

    def activation_maps(self) -> Any:
        """Return the object that computes class activation maps, made on the first call.

        Raises `ModelError` for a model without such maps.
        """
        with self._maps_lock:
            if self._maps is None:
                try:
                    if self.artifact is None:
                        raise ModelError(
                            f"{self.spec.name} is not run from an ONNX file",
                            source=self.spec.name,
                            reason="unsupported",
                        )
                    from resnet_infer.runtimes.activation_map import ActivationMaps

                    self._maps = ActivationMaps(self.artifact, self.spec, self.runtime.size)
                except ModelError as error:
                    self._maps = error
        if isinstance(self._maps, ModelError):
            raise self._maps
        return self._maps

    def close(self) -> None:
        """Finish the accepted requests, then free the runtimes."""
        self.batcher.close()
        self.runtime.close()
        if self._one_thread is not self.runtime:
            self._one_thread.close()
        self._maps = None

    def _work(self, device: str) -> Work:
        """Describe the service to those who choose a runtime."""
        return Work("service", batch=self.settings.max_batch or CPU_BATCH, device=device)

    def _open_one_thread(self, source: Path | Checkpoint, options: dict[str, Any]) -> Runtime:
        """Open the model once more, with one thread, for requests under load.

        A runtime that was chosen is proved with one thread too. If it fails, the default runtime answers all requests.
        """
        if self.choice is None or self.choice.is_default or not isinstance(source, Path):
            return open_runtime(source, device="cpu", threads=1, **options)
        opened, choice = open_chosen(source, self._work("cpu"), threads=1, say=False)
        if choice.runtime != self.choice.runtime:
            self.runtime.close()
            self.runtime, self.choice = open_runtime(source, device="cpu"), choice
        return opened

    def _prepare(self, item: ClassifyItem | Images) -> Images:
        """Decode an image within the memory limit, or return a tensor unchanged."""
        if not isinstance(item, ClassifyItem):
            return item
        with self.memory.share(item.deadline) as share:
            prepared = self.classifier.prepared(
                item.picture, item.crops, max_pixels=self.settings.max_pixels, reserve=share.take
            )
        if isinstance(prepared, PictureError):
            raise prepared
        item.notes[:] = [prepared.note] if prepared.note else []
        return prepared.views

    def _infer(self, images: Images, alone: bool) -> Logits:
        """Infer a batch, on all cores if it is alone."""
        runtime: Runtime = self.runtime if alone else self._one_thread
        try:
            return runtime(images)
        except DeviceError as error:
            self._fail(error)
            raise

    def _fail(self, error: DeviceError) -> None:
        """Keep a failure of the GPU, which makes the service not ready, and tell the first that lasts."""
        logger().error("%s", error)
        if self._failure is not None and self._failure.sticky:
            return
        self._paused_until, self._failure = time.monotonic() + PAUSE_SECONDS, copy.copy(error)
        if error.sticky:
            self._on_lost(error)

    def _finish(self, item: ClassifyItem | Images, views: Images, logits: Logits) -> ClassifyResult | Logits:
        """Return the classes, note and maps for the logits of an image, or the logits of a tensor unchanged."""
        if not isinstance(item, ClassifyItem):
            return logits
        predictions = self.classifier.predictions(logits, item.top_k)
        note = next(iter(item.notes), None)
        if not item.maps:
            return ClassifyResult(predictions, note=note)
        maps = self.activation_maps()(views[:1], [entry.index for entry in predictions])
        if not np.isfinite(maps).all():
            raise AnswerError(f"picture: the class activation maps of {self.spec.name} are not finite")
        return ClassifyResult(predictions, maps, note)

    def _warm_up(self) -> None:
        """Run both runtimes once with one image and once with a full batch, so that they allocate their memory.

        On a GPU all batch sizes are run to which batches are padded, because the first run of each makes a plan.
        """
        slowest = 0.0
        largest = self.batcher.max_rows
        sizes = (1, largest) if self.runtime.device == "cpu" else warm_up_sizes(largest)
        for runtime in {id(each): each for each in (self.runtime, self._one_thread)}.values():
            for rows in sizes:
                begin = time.monotonic()
                runtime(np.zeros((rows, *self.size, 3), np.uint8))
                slowest = max(slowest, time.monotonic() - begin)
        self.batcher.stall_seconds = max(STALL_SECONDS, 4 * slowest)
