"""A model that is being served: its runtimes, its preprocessing, and the batcher that feeds them."""

from __future__ import annotations

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
from resnet_infer.models.checkpoint import model_digest
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.serving.inference.batching import STALL_SECONDS, Batcher
from resnet_infer.serving.inference.jobs import Done
from resnet_infer.serving.memory import Memory
from resnet_infer.serving.settings import Settings
from resnet_infer.utils.cpu import usable_cores

CPU_BATCH, GPU_BATCH = 8, 32


@dataclass(frozen=True)
class Question:
    """What is to be known of a picture: its `top_k` classes; with `maps`, for one crop only, also where they are."""

    picture: Picture
    crops: Crops = 1
    top_k: int = 5
    maps: bool = False
    due: float = math.inf
    """Until when, by the monotonic clock, it may wait for memory."""
    notes: list[str] = field(default_factory=list, compare=False)
    """What is to be said of the picture, filled in when it is decoded."""


@dataclass(frozen=True)
class Reply:
    """The classes of a picture, and maps (classes, h, w) of where they are seen in its centre crop."""

    predictions: tuple[Prediction, ...]
    maps: NDArray[np.float32] | None = None
    note: str | None = None
    """Why the answer may mean little."""


class Deployment:
    """A model on a device, warm, that answers many at a time.

    On a CPU a single request has all cores; several share them, a thread for each, so that no core waits for another.
    On a GPU one thread infers and the others decode. Raises the errors of `zoo` and `open_runtime`.
    """

    def __init__(
        self,
        settings: Settings,
        device: str | None = None,
        on_batch: Callable[[int, float], None] | None = None,
        memory: Memory | None = None,
        on_waiting: Callable[[int], None] | None = None,
    ) -> None:
        self.settings = settings
        self.memory = memory or Memory(settings.max_memory)
        self.model = settings.model or zoo.default_model() or zoo.DEFAULT
        source = zoo.checkpoint(self.model) if settings.runtime == "torch" else zoo.artifact(self.model)
        device = device or settings.device
        cores = usable_cores()
        self.runtime = open_runtime(source, runtime=settings.runtime, device=device, threads=settings.threads)
        self._one_thread = self.runtime
        on_cpu, lanes = self.runtime.device == "cpu", 1
        if on_cpu and self.runtime.name in ("onnxruntime", "openvino"):
            lanes = max(cores // (settings.threads or 1), 1)
            if settings.threads is None and lanes > 1:
                self._one_thread = open_runtime(source, runtime=settings.runtime, device="cpu", threads=1)
        self.sha256 = model_digest(source)
        self.artifact = source if isinstance(source, Path) and source.suffix == ".onnx" else None
        self.classifier = Classifier(self.runtime)
        self._maps: Any = None
        self._maps_lock = threading.Lock()
        self.batcher: Batcher[Question | Images, Reply | Logits] = Batcher(
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
        return self.runtime.spec

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the runtime is given of a picture."""
        height, width = (side or self.spec.input.crop for side in self.runtime.size)
        return height, width

    def ask(self, questions: Sequence[Question], timeout: float) -> list[Future[Done[Reply | Logits]]]:
        """The replies are due in `timeout` seconds. A picture that cannot be read is its future's `PictureError`."""
        return self.batcher.submit([(question, question.crops) for question in questions], timeout)

    def infer(self, images: Images, timeout: float) -> Future[Done[Reply | Logits]]:
        """The logits of `images`, uint8 (N, height, width, 3)."""
        (future,) = self.batcher.submit([(images, len(images))], timeout)
        return future

    def activation_maps(self) -> Any:
        """What draws class activation maps, made when first needed. Raises `ModelError` where the model has none."""
        with self._maps_lock:
            if self._maps is None:
                try:
                    if self.artifact is None:
                        raise ModelError(f"{self.spec.name} is not run from an ONNX file")
                    from resnet_infer.runtimes.activation_map import ActivationMaps

                    self._maps = ActivationMaps(self.artifact, self.spec, self.runtime.size)
                except ModelError as error:
                    self._maps = error
        if isinstance(self._maps, ModelError):
            raise self._maps
        return self._maps

    def close(self) -> None:
        """Answer what was taken, then free the runtimes."""
        self.batcher.close()
        self.runtime.close()
        if self._one_thread is not self.runtime:
            self._one_thread.close()
        self._maps = None

    def _prepare(self, item: Question | Images) -> Images:
        if not isinstance(item, Question):
            return item
        with self.memory.share(item.due) as share:
            prepared = self.classifier.prepared(
                item.picture, item.crops, max_pixels=self.settings.max_pixels, reserve=share.take
            )
        if isinstance(prepared, PictureError):
            raise prepared
        item.notes[:] = [prepared.note] if prepared.note else []
        return prepared.views

    def _infer(self, images: Images, alone: bool) -> Logits:
        runtime: Runtime = self.runtime if alone else self._one_thread
        return runtime(images)

    def _finish(self, item: Question | Images, views: Images, logits: Logits) -> Reply | Logits:
        if not isinstance(item, Question):
            return logits
        predictions = self.classifier.predictions(logits, item.top_k)
        note = next(iter(item.notes), None)
        if not item.maps:
            return Reply(predictions, note=note)
        maps = self.activation_maps()(views[:1], [entry.index for entry in predictions])
        if not np.isfinite(maps).all():
            raise AnswerError(f"picture: the class activation maps of {self.spec.name} are not finite")
        return Reply(predictions, maps, note)

    def _warm_up(self) -> None:
        """Let both runtimes make room for one picture and for a full batch."""
        slowest = 0.0
        for runtime in {id(each): each for each in (self.runtime, self._one_thread)}.values():
            for rows in (1, self.batcher.max_rows):
                begin = time.monotonic()
                runtime(np.zeros((rows, *self.size, 3), np.uint8))
                slowest = max(slowest, time.monotonic() - begin)
        self.batcher.stall_seconds = max(STALL_SECONDS, 4 * slowest)
