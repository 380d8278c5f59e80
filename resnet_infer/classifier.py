"""`Classifier`: spec, preprocessing, runtime and top-k."""

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


@dataclass(frozen=True)
class Prediction:
    """A class and its probability (softmax, averaged over the crops); `id` is its WordNet id where there is one."""

    label: str
    probability: float
    index: int
    id: str | None = None


@dataclass(frozen=True)
class Answer:
    """What the model says of one picture, most probable class first; or why there is no answer.

    `error` is a `PictureError` for a picture that cannot be read, an `AnswerError` where the network's logits for it
    are not finite; it has no traceback, so that it holds nothing of the picture. `note` is a sentence on why the answer
    may mean little, where the picture can hardly be seen.
    """

    source: str
    predictions: tuple[Prediction, ...] = ()
    error: ResnetInferError | None = None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        if self.error:
            return {"source": self.source, "error": self.error.message}
        note = {"note": self.note} if self.note else {}
        return {"source": self.source, "predictions": [dict(vars(item)) for item in self.predictions], **note}


@dataclass(frozen=True)
class Picture:
    """A picture to be read: a path, or bytes with a name of their own."""

    source: str
    content: Path | bytes


class Prepared(NamedTuple):
    """What the runtime is given of a picture, uint8 (views, crop, crop, 3), and what is to be noted of it."""

    views: Pixels
    note: str | None


class Classifier:
    """A model, ready to classify.

    `model` is a path (`.onnx`, `.safetensors`) or a model's name; None means $RESNET_INFER_MODEL or `zoo.DEFAULT`.
    `runtime`, `device`, `threads` and `options` (`spin=False`, say) are as in `open_runtime`. With all threads on one
    batch a single picture is answered soonest. `throughput` is for many: on a CPU, as many batches at a time as there
    are cores, each on one thread (or `threads`), so that no core ever waits for another; a `Runtime` given as the model
    should then have one thread. Instances are context managers.
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
            source = zoo.checkpoint(model) if runtime == "torch" else zoo.artifact(model)
            self.runtime = open_runtime(
                source, runtime=runtime, device=device, threads=threads or one_thread, **options
            )
        lanes = usable_cores() // (threads or 1) if throughput and self.runtime.device == "cpu" else 1
        self.lanes = max(lanes, 1)

    @property
    def spec(self) -> ModelSpec:
        return self.runtime.spec

    def classify(self, picture: str | Path | bytes, *, crops: Crops = 1, top_k: int = 5) -> list[Prediction]:
        """The `top_k` most probable classes of one picture (a path, or the bytes of a file).

        Warns of a picture whose answer has a `note`. Raises `PictureError` if it cannot be read, and `AnswerError` if
        the network's logits for it are not finite.
        """
        content = picture if isinstance(picture, bytes) else Path(picture)
        source = "picture" if isinstance(picture, bytes) else str(picture)
        (answer,) = self.stream([Picture(source, content)], crops=crops, top_k=top_k)
        del picture, content  # an error that is kept holds this frame
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
        """Answers in the order of `pictures`, decoded in threads beside the inference.

        `batch_size` is the most crops in one call of the runtime; a picture's crops stay together, and lanes on a CPU
        take no more than is of use there (`batch_limit`). Unreadable pictures, and those whose logits are not finite,
        give an `Answer` with its `error`; the others of their batch are answered. Memory is bounded however many
        pictures there are. An error of `pictures` is raised after the answers to all pictures before it.

        `pictures` may wait for answers, as those of a camera or of a queue do: where the next one has not come, what
        has come is answered within a twentieth of a second and the time that the answers take. For that, `pictures`
        that are no list or tuple are read in a thread of their own, with the context variables of the caller. A source
        that is bound to its thread must allow that (`sqlite3.connect(..., check_same_thread=False)`). Closing the
        stream does not wait for a picture that does not come.
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
        """The softmax averaged over a picture's views, (pictures, classes), of all pictures in one call.

        `views` has an array uint8 (views, height, width, 3) for each picture, all of one shape. Raises `UsageError`
        for pictures with different numbers of views, or without any, and for views that the runtime does not take;
        `AnswerError` if any logits are not finite; with `allow_nan` the row of that picture is NaN instead.
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
        """What the runtime is given of a picture, uint8 (views, crop, crop, 3), or why there is nothing to give."""
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
        """What `views` gives, together with what is to be noted of the picture.

        `reserve` is told beforehand how many bytes it takes at most; what it raises of this package's errors is raised.
        """
        _check_crops(crops)
        side = self.spec.input.resize

        def admit(decoding: int, width: int, height: int) -> None:
            if reserve and is_resizable(width, height, side):
                reserve(max(decoding, resizing_bytes(width, height, side)))

        try:
            image = read_image(
                picture.content,
                picture.source,
                exif=self.spec.input.exif,
                max_pixels=max_pixels,
                reserve=admit if reserve else None,  # the estimate takes time of its own
            )
            require_resizable(image, side, picture.source)
            views = centre_crop(image, self.spec.input) if crops == 1 else ten_crops(image, self.spec.input)
        except MemoryError:
            return PictureError(f"{picture.source}: there is not enough memory to resize it")
        except PictureError as error:
            return bare(error)
        return Prepared(views, image.info.get("note"))

    def predictions(self, logits: NDArray[np.float32], top_k: int) -> tuple[Prediction, ...]:
        """The most probable classes by the logits (views, classes) of one picture.

        Raises `AnswerError` if they are not finite.
        """
        each = softmax(logits)
        probabilities = each[0] if len(each) == 1 else each.mean(axis=0)
        if np.isnan(probabilities[0]):
            raise self._no_answer("picture")
        return self._top(probabilities, top_k)

    def _answers(self, batch: Sequence[tuple[Picture, Prepared | PictureError]], top_k: int) -> list[Answer]:
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
        return AnswerError(f"{source}: the logits of {self.spec.name} are not finite, so there is no answer")

    def _top(self, probabilities: NDArray[np.float64], top_k: int) -> tuple[Prediction, ...]:
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        classes, ids = self.spec.classes, self.spec.class_ids
        return tuple(
            Prediction(classes[i], probability, i, ids[i] if ids else None)
            for i, probability in zip(order.tolist(), probabilities[order].tolist(), strict=True)
        )

    def close(self) -> None:
        """Free the runtime, and give its memory back to the system."""
        self.runtime.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_crops(crops: int) -> None:
    if crops not in (1, 10):
        raise UsageError(f"crops is 1 or 10, not {crops}")


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities over the last axis, in float64; all of them NaN where any of the logits is not finite."""
    finite = np.isfinite(logits)
    with np.errstate(invalid="ignore"):
        result: NDArray[np.float64] = logits.astype(np.float64)
        result -= np.maximum.reduce(result, axis=-1, keepdims=True)
        np.exp(result, out=result)
        result /= np.add.reduce(result, axis=-1, keepdims=True)
    if not finite.all():
        result[~finite.all(axis=-1)] = np.nan
    return result
