"""`Classifier`: spec, preprocessing, runtime and top-k; the one path that every command and service takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.data.image import read_image
from resnet_infer.data.loader import parallel_map
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
        return {"source": self.source, "predictions": [asdict(item) for item in self.predictions]}


@dataclass(frozen=True)
class Picture:
    """A picture to be read: a path, or bytes with a name of their own."""

    source: str
    content: Path | bytes


class Classifier:
    """A model, ready to classify.

    `model` is a path (`.onnx`, `.safetensors`) or a model's name; None means $RESNET_INFER_MODEL or the built-in.
    `runtime` and `device` are as in `open_runtime`. Instances are context managers.
    """

    def __init__(
        self,
        model: str | Path | Runtime | None = None,
        *,
        runtime: str = "auto",
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        if isinstance(model, Runtime):
            self.runtime = model
        else:
            self.runtime = open_runtime(zoo.artifact(model), runtime=runtime, device=device, threads=threads)

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
    ) -> Iterator[Answer]:
        """Answers in the order of `pictures`, decoded in threads beside the inference.

        `batch_size` is the most crops in one call of the runtime; a picture's crops stay together. Unreadable
        pictures give an `Answer` with its `error`. Memory is bounded however many pictures there are.
        """
        if batch_size < 1 or top_k < 1:
            raise UsageError("the batch size and top-k are at least 1")
        if crops not in (1, 10):
            raise UsageError(f"crops is 1 or 10, not {crops}")
        ahead = 2 * max(batch_size // crops, 1) + 8
        waiting: list[tuple[Picture, Pixels | PictureError]] = []
        rows = 0
        prepared = parallel_map(lambda item: (item, self._prepare(item, crops)), pictures, workers=workers, ahead=ahead)
        for item, pixels in prepared:
            if rows and not isinstance(pixels, PictureError) and rows + crops > batch_size:
                yield from self._answers(waiting, top_k)
                waiting, rows = [], 0
            waiting.append((item, pixels))
            rows += 0 if isinstance(pixels, PictureError) else crops
        yield from self._answers(waiting, top_k)

    def _prepare(self, picture: Picture, crops: Crops) -> Pixels | PictureError:
        try:
            image = read_image(picture.content, picture.source, exif=self.spec.input.exif)
        except PictureError as error:
            return error
        return centre_crop(image, self.spec.input) if crops == 1 else ten_crops(image, self.spec.input)

    def _answers(self, waiting: list[tuple[Picture, Pixels | PictureError]], top_k: int) -> Iterator[Answer]:
        views = [pixels for _, pixels in waiting if not isinstance(pixels, PictureError)]
        if views:
            probabilities = softmax(self.runtime(np.concatenate(views) if len(views) > 1 else views[0]))
            means = iter(probabilities.reshape(len(views), -1, probabilities.shape[1]).mean(axis=1))
        for picture, pixels in waiting:
            if isinstance(pixels, PictureError):
                yield Answer(picture.source, error=pixels)
            else:
                yield Answer(picture.source, self._top(next(means), top_k))

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


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return result
