"""Classify images in this process: model spec, preprocessing, runtime and top-k in one class.

Streams of images are spread over the cores by `lanes`; a service on another machine is reached by `client`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.answers import Answer, BaseClassifier, Crops, Prediction, check_options, require_count
from resnet_infer.data.formats.memory import resizing_bytes
from resnet_infer.data.image import MAX_PIXELS, is_resizable, read_image, require_resizable
from resnet_infer.data.pictures import Picture, PictureInput, Unreadable, pictures_of
from resnet_infer.data.preprocess import Pixels, centre_crop, ten_crops
from resnet_infer.errors import AnswerError, PictureError, UsageError, bare
from resnet_infer.lanes import batch_limit, run_lanes
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Runtime
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.utils.threads import require_threads

__all__ = ["Answer", "Classifier", "Crops", "Picture", "Prediction", "Prepared", "softmax"]


MANY_BATCH = 8
"""Batch of the measurements by which the runtime for many images is chosen, as a lane takes of 224x224 crops."""


class Prepared(NamedTuple):
    """Hold an image's views, uint8 (views, crop, crop, 3), and the note on it, if any."""

    views: Pixels
    note: str | None


class Classifier(BaseClassifier):
    """Classify images with one model.

    `model` is a path (`.onnx`, `.safetensors`, `.xml`, `.engine`), a model's name or an open `Runtime`. None means the
    model of $RESNET_INFER_MODEL, or else `zoo.DEFAULT`. `runtime`, `device`, `threads`, `compute` and `options`
    (`spin=False`, for example) are those of `open_runtime`, whose errors are raised, as are those of `zoo`. With
    `compute="bf16"` the model is first compared with itself in FP32, once, and `ParityError` raised if it loses too
    much (`selection.bf16_guard`).

    By default all threads work on one batch, which gives the lowest latency for a single image. With `throughput`, a
    CPU runs as many batches in parallel as it has cores, each on one thread (or on `threads`), so that no core waits
    for another. An open runtime that is used with `throughput` should have one thread.

    With `throughput` and without `options`, the runtime `auto` is the fastest that is installed: by the machine
    profile, else by the rules of `selection`. Another runtime than the default is first compared with it. `expected` is
    the number of images that will come, if it is known: for a few, another runtime is not worth its longer start.
    Without `throughput`, `auto` is the default runtime of the file.

    Instances are context managers. `pickle`, `copy.copy` and `copy.deepcopy` give one that opens the same file again,
    as a new one with the same arguments would (`Runtime.__reduce__` says when they are refused).

    >>> with Classifier("resnet20-cifar10") as classifier:
    ...     for prediction in classifier.classify("cat.jpg", top_k=2):
    ...         print(f"{prediction.label}: {prediction.probability:.3f}")
    cat: 0.998
    dog: 0.002
    """

    def __init__(
        self,
        model: str | PathLike[str] | Runtime | None = None,
        *,
        runtime: str = "auto",
        device: str | int = "auto",
        threads: int | None = None,
        compute: str = "auto",
        throughput: bool = False,
        expected: int | None = None,
        **options: Any,
    ) -> None:
        require_threads(threads)
        one_thread = 1 if throughput else None
        self._given: dict[str, Any] | None = None
        if isinstance(model, Runtime):
            if (runtime, device, threads, compute, options) != ("auto", "auto", None, "auto", {}):
                raise UsageError("a runtime that is open already has its device, threads, compute and options")
            self.runtime = model
        else:
            path = zoo.file_for(model, runtime)
            asked = {"runtime": runtime, "device": device, "threads": threads, "compute": compute}
            self._given = {**asked, "throughput": throughput, "expected": expected, **options}
            if throughput and runtime == compute == "auto" and not options:
                from resnet_infer.selection.select import Work, open_chosen

                work = Work("many", batch=MANY_BATCH, device=device, images=expected)
                self.runtime, _ = open_chosen(path, work, threads=threads or 1)
            else:
                if compute != "auto":
                    from resnet_infer.selection.bf16_guard import require_compute

                    require_compute(path, compute, runtime=runtime, device=device)
                options["threads"] = threads or one_thread
                self.runtime = open_runtime(path, runtime=runtime, device=device, compute=compute, **options)
        self._throughput = throughput
        lanes = usable_cores() // (threads or 1) if throughput and self.runtime.device == "cpu" else 1
        self.lanes = max(lanes, 1)

    def __reduce__(self) -> tuple[Any, ...]:
        opener, arguments, *_ = self.runtime.__reduce__()  # in its stead, because `copy.copy` would share it
        if self._given is not None:
            from resnet_infer.runtimes.reopening import opened_anew

            version, _, (file, *_), _ = arguments
            return opened_anew, (version, Classifier, file, self._given)
        return _reopened, (opener, arguments, self._throughput)

    def __repr__(self) -> str:
        state = ", closed" if self.runtime.closed else ""
        where = f"{self.runtime.name} on {self.runtime.device}"
        where += f" in {self.runtime.precision}" * (self.runtime.precision != self.spec.precision)
        return f"<Classifier {self.spec.name}: {len(self.spec.classes)} classes, {where}{state}>"

    @property
    def spec(self) -> ModelSpec:
        """Return the model's spec: its classes, input size and preprocessing."""
        return self.runtime.spec

    def stream(
        self,
        pictures: Iterable[PictureInput],
        *,
        crops: Crops = 1,
        top_k: int | None = 5,
        batch_size: int = 32,
        workers: int | None = None,
    ) -> Generator[Answer, None, None]:
        """Yield an answer for every image, in the order of `pictures`.

        `pictures` is any iterable of what `classify` takes as one image, or an array (N, height, width, 3). Paths are
        read and files decoded ahead in threads. Everything else is converted as soon as `pictures` yields it, so that
        they may close a file, or use an array or an animated PIL image again for the next one. Pixels are held until
        they are answered, up to 2 x `batch_size` + 8 images.

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

        Raises `UsageError` for values out of range, and for a single image in the place of an iterable; in its turn for
        an item that is no image.

        >>> pictures = (Picture(str(path), path) for path in sorted(Path("photos").glob("*.jpg")))
        >>> for answer in classifier.stream(pictures, top_k=1):
        ...     print(answer.source, answer.error or answer.predictions[0].label)
        """
        check_options(crops, top_k)
        require_count(batch_size, "the batch size")
        require_threads(workers, "workers")
        return run_lanes(
            pictures_of(pictures),
            partial(self._prepared, crops=crops),
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
        means = _means(self._logits(views))
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
        check_options(crops, None)
        side = self.spec.input.resize

        def admit(decoding: int, width: int, height: int) -> None:
            """Call `reserve` with the peak memory of decoding and resizing an image of this size."""
            if reserve and is_resizable(width, height, side):
                reserve(max(decoding, resizing_bytes(width, height, side)))

        content, exif = picture.content, self.spec.input.exif
        try:
            if isinstance(content, (bytes, Path)):
                reserved = admit if reserve else None  # the estimate itself takes time
                image = read_image(content, picture.source, exif=exif, max_pixels=max_pixels, reserve=reserved)
            else:
                from resnet_infer.data.picture_kinds import upright

                image = upright(content, picture.source, exif=exif, max_pixels=max_pixels)
            require_resizable(image, side, picture.source)
            views = centre_crop(image, self.spec.input) if crops == 1 else ten_crops(image, self.spec.input)
        except MemoryError:
            message = f"{picture.source}: there is not enough memory to resize it"
            return PictureError(message, source=picture.source, reason="memory")
        except PictureError as error:
            return bare(error)
        return Prepared(views, image.info.get("note"))

    def predictions(self, logits: NDArray[np.float32], top_k: int | None) -> tuple[Prediction, ...]:
        """Return the `top_k` most probable classes for the logits (views, classes) of one image (None: all classes).

        Raises `AnswerError` if the logits are not finite.
        """
        probabilities = _means(logits[None])[0]
        if np.isnan(probabilities[0]):
            raise self._no_answer("picture")
        return self._top(probabilities, top_k)

    def _answers_to(
        self, items: Iterable[object], crops: Crops, top_k: int | None, timeout: float | None
    ) -> Iterable[Answer]:
        """Yield an answer for every item. `timeout` is up to the caller."""
        del timeout
        return self.stream(items, crops=crops, top_k=top_k)  # type: ignore[arg-type]  # they pass through

    def _prepared(self, item: Picture | Unreadable, crops: Crops) -> Prepared | PictureError:
        """Return the views of an image, or its error."""
        return item.error if isinstance(item, Unreadable) else self.prepared(item, crops)

    def _logits(self, views: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the logits of images, float32 (images, views, classes)."""
        logits = self.runtime(np.concatenate(views) if len(views) > 1 else views[0])
        return logits.reshape(len(views), -1, logits.shape[1])

    def _answers(
        self, batch: Sequence[tuple[Picture | Unreadable, Prepared | PictureError]], top_k: int | None
    ) -> list[Answer]:
        """Infer the readable images of a batch in one call, and return an answer for every image."""
        views = [prepared.views for _, prepared in batch if not isinstance(prepared, PictureError)]
        logits = self._logits(views) if views else np.empty((0, 1, 1), np.float32)
        each: Iterator[tuple[NDArray[np.float32], NDArray[np.float64]]] = zip(logits, _means(logits), strict=True)

        def answer(picture: Picture | Unreadable, prepared: Prepared | PictureError) -> Answer:
            if isinstance(prepared, PictureError):
                return Answer(picture.source, error=prepared)
            own, probabilities = next(each)
            if np.isnan(probabilities[0]):
                return Answer(picture.source, error=self._no_answer(picture.source))
            own = own.copy()  # a view would keep those of the whole batch
            return Answer(picture.source, self._top(probabilities, top_k), note=prepared.note, logits=own)

        return [answer(*item) for item in batch]

    def _no_answer(self, source: str) -> AnswerError:
        """Return the error for an image whose logits are not finite."""
        message = f"{source}: the logits of {self.spec.name} are not finite, so there is no answer"
        return AnswerError(message, source=source)

    def _top(self, probabilities: NDArray[np.float64], top_k: int | None) -> tuple[Prediction, ...]:
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


def _reopened(opener: Callable[..., Runtime], arguments: tuple[Any, ...], throughput: bool) -> Classifier:
    """Return a classifier of the runtime that `opener` opens again."""
    return Classifier(opener(*arguments), throughput=throughput)


def _means(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the softmax of logits (images, views, classes), averaged over the views."""
    each = softmax(logits)
    means: NDArray[np.float64] = each[:, 0] if each.shape[1] == 1 else each.mean(axis=1)
    return means


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
