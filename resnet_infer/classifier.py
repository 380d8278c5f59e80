"""`Classifier`: spec, preprocessing, runtime and top-k; the one path that every command and service takes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.data.image import MAX_PIXELS, read_image
from resnet_infer.data.loader import parallel_map, usable_cores
from resnet_infer.data.preprocess import Pixels, centre_crop, ten_crops
from resnet_infer.errors import PictureError, UsageError
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Runtime
from resnet_infer.runtimes.registry import open_runtime

Crops = Literal[1, 10]


@dataclass(frozen=True)
class Prediction:
    """A class and its probability (softmax, averaged over the crops); `id` is its WordNet id where there is one."""

    label: str
    probability: float
    index: int
    id: str | None = None


@dataclass(frozen=True)
class Answer:
    """What the model says of one picture, most probable class first; or the error that kept it from being read."""

    source: str
    predictions: tuple[Prediction, ...] = ()
    error: PictureError | None = None

    def to_json(self) -> dict[str, Any]:
        if self.error:
            return {"source": self.source, "error": self.error.message}
        return {"source": self.source, "predictions": [dict(vars(item)) for item in self.predictions]}


@dataclass(frozen=True)
class Picture:
    """A picture to be read: a path, or bytes with a name of their own."""

    source: str
    content: Path | bytes


LANE_BATCH = 8
"""Most crops in a batch when several are inferred at a time on a CPU: on one thread a larger one is no faster."""

_Prepared = tuple[Picture, Pixels | PictureError]


class Classifier:
    """A model, ready to classify.

    `model` is a path (`.onnx`, `.safetensors`) or a model's name; None means $RESNET_INFER_MODEL or the built-in.
    `runtime`, `device` and `threads` are as in `open_runtime`. With all threads on one batch a single picture is
    answered soonest. `throughput` is for many: on a CPU, as many batches at a time as there are cores, each on one
    thread (or `threads`), so that no core ever waits for another; a `Runtime` given as the model should then have one
    thread. Instances are context managers.
    """

    def __init__(
        self,
        model: str | Path | Runtime | None = None,
        *,
        runtime: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        throughput: bool = False,
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"there is at least one thread, not {threads}")
        one_thread = 1 if throughput else None
        if isinstance(model, Runtime):
            if (runtime, device, threads) != ("auto", "auto", None):
                raise UsageError("a runtime that is open already has its device and threads")
            self.runtime = model
        else:
            source = zoo.checkpoint(model) if runtime == "torch" else zoo.artifact(model)
            self.runtime = open_runtime(source, runtime=runtime, device=device, threads=threads or one_thread)
        lanes = usable_cores() // (threads or 1) if throughput and self.runtime.device == "cpu" else 1
        self.lanes = max(lanes, 1)

    @property
    def spec(self) -> ModelSpec:
        return self.runtime.spec

    def classify(self, picture: str | Path | bytes, *, crops: Crops = 1, top_k: int = 5) -> list[Prediction]:
        """The `top_k` most probable classes of one picture (a path, or the bytes of a file).

        Raises `PictureError` if it cannot be read.
        """
        content = picture if isinstance(picture, bytes) else Path(picture)
        source = "picture" if isinstance(picture, bytes) else str(picture)
        (answer,) = self.stream([Picture(source, content)], crops=crops, top_k=top_k)
        if answer.error:
            raise answer.error
        return list(answer.predictions)

    def stream(
        self,
        pictures: Iterable[Picture],
        *,
        crops: Crops = 1,
        top_k: int = 5,
        batch_size: int = 32,
        workers: int | None = None,
    ) -> Generator[Answer, None, None]:
        """Answers in the order of `pictures`, decoded in threads beside the inference.

        `batch_size` is the most crops in one call of the runtime; a picture's crops stay together, and lanes on a CPU
        take no more than `LANE_BATCH`, because larger batches bring nothing there. Unreadable pictures give an
        `Answer` with its `error`. Memory is bounded however many pictures there are.
        """
        if batch_size < 1 or top_k < 1:
            raise UsageError("the batch size and top-k are at least 1")
        if crops not in (1, 10):
            raise UsageError(f"crops is 1 or 10, not {crops}")
        prepare = partial(self._prepare, crops=crops)
        infer = partial(self._answers, top_k=top_k)
        if self.lanes > 1:
            # A lane decodes and infers a few pictures from end to end, so that cores do not hand work to each other.
            size = max(min(batch_size, LANE_BATCH) // crops, 1)
            groups = _groups(pictures, size, self.lanes)
            answer = partial(_answer, prepare, infer)
            results = parallel_map(answer, groups, workers=self.lanes, ahead=2 * self.lanes)
            with closing(results):
                for answers in results:
                    yield from answers
            return
        ahead = 2 * max(batch_size // crops, 1) + 8
        with closing(parallel_map(prepare, pictures, workers=workers, ahead=ahead)) as prepared:
            batches = _batches(prepared, crops, batch_size)
            with closing(parallel_map(infer, batches, workers=1, ahead=2)) as results:
                for answers in results:
                    yield from answers

    def _prepare(self, picture: Picture, crops: Crops) -> _Prepared:
        return picture, self._views(picture, crops)

    def _views(self, picture: Picture, crops: Crops) -> Pixels | PictureError:
        try:
            image = read_image(picture.content, picture.source, exif=self.spec.input.exif)
        except PictureError as error:
            return error
        shorter, longer = sorted(image.size)
        if self.spec.input.resize**2 * longer > MAX_PIXELS * shorter:  # a small file would fill the memory
            return PictureError(f"{picture.source}: {image.width}x{image.height} pixels are too narrow to resize")
        return centre_crop(image, self.spec.input) if crops == 1 else ten_crops(image, self.spec.input)

    def _answers(self, batch: list[_Prepared], top_k: int) -> list[Answer]:
        views = [pixels for _, pixels in batch if not isinstance(pixels, PictureError)]
        means: Iterator[NDArray[np.float64]] = iter(())
        if views:
            probabilities = softmax(self.runtime(np.concatenate(views) if len(views) > 1 else views[0]))
            means = iter(probabilities.reshape(len(views), -1, probabilities.shape[1]).mean(axis=1))
        return [
            Answer(picture.source, error=pixels)
            if isinstance(pixels, PictureError)
            else Answer(picture.source, self._top(next(means), top_k))
            for picture, pixels in batch
        ]

    def _top(self, probabilities: NDArray[np.float64], top_k: int) -> tuple[Prediction, ...]:
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        ids = self.spec.class_ids
        return tuple(
            Prediction(self.spec.classes[i], float(probabilities[i]), int(i), ids[i] if ids else None) for i in order
        )

    def close(self) -> None:
        """Free the runtime."""
        self.runtime.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _groups(pictures: Iterable[Picture], size: int, lanes: int) -> Iterator[list[Picture]]:
    """`size` pictures at a time; where there are too few to fill every lane, an equal share for each."""
    iterator = iter(pictures)
    head = list(islice(iterator, lanes * size))
    size = min(size, -(-len(head) // lanes))
    whole = chain(head, iterator)
    while group := list(islice(whole, size)):
        yield group


def _answer(
    prepare: Callable[[Picture], _Prepared], infer: Callable[[list[_Prepared]], list[Answer]], group: list[Picture]
) -> list[Answer]:
    return infer([prepare(picture) for picture in group])


def _batches(prepared: Iterable[_Prepared], crops: int, batch_size: int) -> Iterator[list[_Prepared]]:
    """Groups of as many readable pictures as fit into `batch_size` rows; unreadable ones keep their place."""
    batch: list[_Prepared] = []
    rows = 0
    for item in prepared:
        taken = 0 if isinstance(item[1], PictureError) else crops
        if batch and (rows + taken > batch_size or len(batch) >= 2 * batch_size):
            yield batch
            batch, rows = [], 0
        batch.append(item)
        rows += taken
    if batch:
        yield batch


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return result
