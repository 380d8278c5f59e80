"""Classify images in this process: model spec, preprocessing, runtime and top-k in one class.

Streams of images are spread over the cores by `lanes`; a service on another machine is reached by `client`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.data.formats.memory import resizing_bytes
from resnet_infer.data.image import MAX_PIXELS, is_resizable, read_image, require_resizable
from resnet_infer.data.preprocess import Pixels, centre_crop, ten_crops
from resnet_infer.errors import AnswerError, PictureError, ResnetInferError, UsageError, bare
from resnet_infer.lanes import batch_limit, run_lanes
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Runtime
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.utils.threads import require_threads

Crops = Literal[1, 10]
"""Views of an image: 1 for the centre crop, 10 for the four corners and the centre, each also mirrored (Krizhevsky et
al. 2012).
"""


@dataclass(frozen=True)
class Prediction:
    """Hold a class and its probability: the softmax, averaged over the crops.

    `index` is the class's place in the model's list, `id` its WordNet id (`n02123045`), None where there is none.
    """

    label: str
    probability: float
    index: int
    id: str | None = None


@dataclass(frozen=True)
class Answer:
    """Hold the predictions for one image, most probable class first, or the error that took their place.

    `source` is the image's name. `error` is a `PictureError` for an image that cannot be read, and an `AnswerError`
    where the logits are not finite. It has no traceback, so it keeps no image data in memory. `note` is a warning about
    an image that can hardly be seen, for which the predictions may mean little.
    """

    source: str
    predictions: tuple[Prediction, ...] = ()
    error: ResnetInferError | None = None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form: `source`, and either `error` or `predictions`, with the `note` if there is one."""
        if self.error:
            return {"source": self.source, "error": self.error.message}
        note = {"note": self.note} if self.note else {}
        return {"source": self.source, "predictions": [dict(vars(item)) for item in self.predictions], **note}


@dataclass(frozen=True)
class Picture:
    """Name an image to be read: a path, or the bytes of an encoded file.

    `source` is its name in results and messages.
    """

    source: str
    content: Path | bytes


class Prepared(NamedTuple):
    """Hold an image's views, uint8 (views, crop, crop, 3), and the note on it, if any."""

    views: Pixels
    note: str | None


class Classifier:
    """Classify images with one model.

    `model` is a path (`.onnx`, `.safetensors`, `.xml`, `.engine`), a model's name or an open `Runtime`. None means the
    model of $RESNET_INFER_MODEL, or else `zoo.DEFAULT`. `runtime`, `device`, `threads` and `options` (`spin=False`, for
    example) are those of `open_runtime`, whose errors are raised, as are those of `zoo`.

    By default all threads work on one batch, which gives the lowest latency for a single image. With `throughput`, a
    CPU runs as many batches in parallel as it has cores, each on one thread (or on `threads`), so that no core waits
    for another. An open runtime that is used with `throughput` should have one thread.

    Instances are context managers.

    >>> with Classifier("resnet20-cifar10") as classifier:
    ...     for prediction in classifier.classify("cat.jpg", top_k=2):
    ...         print(f"{prediction.label}: {prediction.probability:.3f}")
    cat: 0.998
    dog: 0.002
    """

    def __init__(
        self,
        model: str | Path | Runtime | None = None,
        *,
        runtime: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        throughput: bool = False,
        **options: Any,
    ) -> None:
        require_threads(threads)
        one_thread = 1 if throughput else None
        if isinstance(model, Runtime):
            if (runtime, device, threads, options) != ("auto", "auto", None, {}):
                raise UsageError("a runtime that is open already has its device, threads and options")
            self.runtime = model
        else:
            source = zoo.load_for(model, runtime)
            self.runtime = open_runtime(
                source, runtime=runtime, device=device, threads=threads or one_thread, **options
            )
        lanes = usable_cores() // (threads or 1) if throughput and self.runtime.device == "cpu" else 1
        self.lanes = max(lanes, 1)

    @property
    def spec(self) -> ModelSpec:
        """Return the model's spec: its classes, input size and preprocessing."""
        return self.runtime.spec

    def classify(self, picture: str | Path | bytes, *, crops: Crops = 1, top_k: int = 5) -> list[Prediction]:
        """Return the `top_k` most probable classes of one image, which is a path or the bytes of an encoded file.

        Warns if the answer has a `note`. Raises `PictureError` if the image cannot be read, `AnswerError` if the logits
        are not finite, and `UsageError` for `crops` other than 1 or 10 and for `top_k` below 1.
        """
        content = picture if isinstance(picture, bytes) else Path(picture)
        source = "picture" if isinstance(picture, bytes) else str(picture)
        (answer,) = self.stream([Picture(source, content)], crops=crops, top_k=top_k)
        del picture, content  # an error that the caller keeps holds this frame
        if answer.error:
            raise answer.error
        if answer.note:
            warnings.warn(f"{source}: {answer.note}", stacklevel=2)
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
        """Yield an answer for every image, in the order of `pictures`.

        Images are decoded in threads during inference: in `workers` threads (default: the usable cores), or in the
        lanes of a classifier with `throughput`. `batch_size` is the most crops in one call of the runtime; lanes on a
        CPU take no more than `batch_limit` gives. The crops of one image stay in one batch. An image that cannot be
        read, or whose logits are not finite, gets an `Answer` with its `error`; the rest of its batch is answered.
        Memory use is bounded, also for endless `pictures`. An error of `pictures` is raised after the answers to all
        images before it.

        `pictures` may also be a live source, such as a camera or a queue. When the next image has not come, those that
        have are answered within 50 ms plus the time of their inference. For that, `pictures` that are not a list or
        tuple are read in a thread of their own, with the caller's context variables. A source that is bound to one
        thread must allow this: `sqlite3.connect(..., check_same_thread=False)`. Closing the stream does not wait for an
        image that does not come.

        Raises `UsageError` for values out of range.

        >>> pictures = (Picture(str(path), path) for path in sorted(Path("photos").glob("*.jpg")))
        >>> for answer in classifier.stream(pictures, top_k=1):
        ...     print(answer.source, answer.error or answer.predictions[0].label)
        """
        if batch_size < 1 or top_k < 1:
            raise UsageError("the batch size and top-k are at least 1")
        require_threads(workers, "workers")
        _check_crops(crops)
        return run_lanes(
            pictures,
            partial(self.prepared, crops=crops),
            partial(self._answers, top_k=top_k),
            lanes=self.lanes,
            rows=crops,
            batch_size=batch_limit(batch_size, self.spec.input.crop, self.lanes),
            workers=workers,
            live=True,
        )

    def probabilities(self, views: Sequence[Pixels], *, allow_nan: bool = False) -> NDArray[np.float64]:
        """Return the softmax of every image, averaged over its views, as float64 (images, classes).

        All views are inferred in one call of the runtime.

        `views` has an array, uint8 (views, height, width, 3) for each image, all of one shape. Raises `UsageError` for
        images with different numbers of views or none, and for a shape that the runtime does not take. Raises
        `AnswerError` if any logits are not finite; with `allow_nan` the row of that image is NaN instead.
        """
        shapes = sorted({item.shape for item in views})
        if len(shapes) > 1 or not all(len(item) for item in views):
            raise UsageError(
                "pictures of one call have the same number of views, at least one, and the same size, not the shapes "
                + ", ".join(map(str, shapes))
            )
        if not views:
            return np.empty((0, len(self.spec.classes)))
        probabilities = softmax(self.runtime(np.concatenate(views) if len(views) > 1 else views[0]))
        means: NDArray[np.float64] = probabilities.reshape(len(views), -1, probabilities.shape[1]).mean(axis=1)
        bad = [] if allow_nan else np.flatnonzero(np.isnan(means[:, 0])).tolist()
        if bad:
            raise self._no_answer(f"picture {bad[0]} of {len(means)}")
        return means

    def views(self, picture: Picture, crops: Crops = 1, *, max_pixels: int = MAX_PIXELS) -> Pixels | PictureError:
        """Return the runtime's input for an image, uint8 (views, crop, crop, 3), or the error if it cannot be read.

        `max_pixels` is the largest image that is decoded. Raises `UsageError` for `crops` other than 1 or 10.
        """
        prepared = self.prepared(picture, crops, max_pixels=max_pixels)
        return prepared if isinstance(prepared, PictureError) else prepared.views

    def prepared(
        self,
        picture: Picture,
        crops: Crops = 1,
        *,
        max_pixels: int = MAX_PIXELS,
        reserve: Callable[[int], None] | None = None,
    ) -> Prepared | PictureError:
        """Return the views of an image, with the note on it, or the error if it cannot be read.

        `reserve` is called before decoding with an upper bound of the memory that it takes, in bytes. If it raises an
        `UnusableError`, that becomes the returned error; its other errors are raised.
        """
        _check_crops(crops)
        side = self.spec.input.resize

        def admit(decoding: int, width: int, height: int) -> None:
            """Call `reserve` with the peak memory of decoding and resizing an image of this size."""
            if reserve and is_resizable(width, height, side):
                reserve(max(decoding, resizing_bytes(width, height, side)))

        try:
            image = read_image(
                picture.content,
                picture.source,
                exif=self.spec.input.exif,
                max_pixels=max_pixels,
                reserve=admit if reserve else None,  # the estimate itself takes time
            )
            require_resizable(image, side, picture.source)
            views = centre_crop(image, self.spec.input) if crops == 1 else ten_crops(image, self.spec.input)
        except MemoryError:
            return PictureError(f"{picture.source}: there is not enough memory to resize it")
        except PictureError as error:
            return bare(error)
        return Prepared(views, image.info.get("note"))

    def predictions(self, logits: NDArray[np.float32], top_k: int) -> tuple[Prediction, ...]:
        """Return the `top_k` most probable classes for the logits (views, classes) of one image.

        Raises `AnswerError` if the logits are not finite.
        """
        each = softmax(logits)
        probabilities = each[0] if len(each) == 1 else each.mean(axis=0)
        if np.isnan(probabilities[0]):
            raise self._no_answer("picture")
        return self._top(probabilities, top_k)

    def _answers(self, batch: Sequence[tuple[Picture, Prepared | PictureError]], top_k: int) -> list[Answer]:
        """Infer the readable images of a batch in one call, and return an answer for every image."""
        views = [prepared.views for _, prepared in batch if not isinstance(prepared, PictureError)]
        means: Iterator[NDArray[np.float64]] = iter(self.probabilities(views, allow_nan=True) if views else ())

        def answer(picture: Picture, prepared: Prepared | PictureError) -> Answer:
            if isinstance(prepared, PictureError):
                return Answer(picture.source, error=prepared)
            probabilities = next(means)
            if np.isnan(probabilities[0]):
                return Answer(picture.source, error=self._no_answer(picture.source))
            return Answer(picture.source, self._top(probabilities, top_k), note=prepared.note)

        return [answer(*item) for item in batch]

    def _no_answer(self, source: str) -> AnswerError:
        """Return the error for an image whose logits are not finite."""
        return AnswerError(f"{source}: the logits of {self.spec.name} are not finite, so there is no answer")

    def _top(self, probabilities: NDArray[np.float64], top_k: int) -> tuple[Prediction, ...]:
        """Return the `top_k` most probable classes, ties in the order of the classes."""
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        classes, ids = self.spec.classes, self.spec.class_ids
        return tuple(
            Prediction(classes[i], probability, i, ids[i] if ids else None)
            for i, probability in zip(order.tolist(), probabilities[order].tolist(), strict=True)
        )

    def close(self) -> None:
        """Close the runtime and free its memory."""
        self.runtime.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_crops(crops: int) -> None:
    """Raise `UsageError` unless `crops` is 1 or 10."""
    if crops not in (1, 10):
        raise UsageError(f"crops is 1 or 10, not {crops}")


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the softmax over the last axis, as float64 of the shape of `logits`.

    A row with logits that are not finite is all NaN.
    """
    finite = np.isfinite(logits)
    with np.errstate(invalid="ignore"):
        result: NDArray[np.float64] = logits.astype(np.float64)
        result -= np.maximum.reduce(result, axis=-1, keepdims=True)
        np.exp(result, out=result)
        result /= np.add.reduce(result, axis=-1, keepdims=True)
    if not finite.all():
        result[~finite.all(axis=-1)] = np.nan
    return result
