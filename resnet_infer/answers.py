"""Define what classifiers give, and the methods that `Classifier` and `Client` have in common.

`calls` runs them in threads, for `timeout` and asyncio.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.pictures import PictureInput, picture_of, shortened
from resnet_infer.errors import ResnetInferError, UsageError

Crops = Literal[1, 10]
"""Views of an image: 1 for the centre crop, 10 for the four corners and the centre, each also mirrored (Krizhevsky et
al. 2012).
"""
Given = TypeVar("Given", bound=PictureInput)
"""Kind of image in a list: lists are invariant, so one of paths is no list of `PictureInput`."""
MOST_SECONDS = 10**6
"""Longest timeout: above some number that depends on the system, its calls refuse to wait."""
SHOWN = 5
"""Most predictions in the `repr` of an answer."""


@dataclass(frozen=True)
class Prediction:
    """Hold a class and its probability: the softmax, averaged over the crops.

    `index` is the class's place in the model's list, `id` its WordNet id (`n02123045`), None where there is none.

    >>> with Classifier("resnet20-cifar10") as classifier:
    ...     best, *_ = classifier.classify("cat.jpg")
    >>> best.label, best.index, best.probability > 0.9
    ('cat', 3, True)
    """

    label: str
    probability: float
    index: int
    id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"label": self.label, "probability": self.probability, "index": self.index, "id": self.id}


@dataclass(frozen=True, repr=False)
class Answer:
    """Hold the predictions for one image, most probable class first, or the error that took their place.

    `source` is the image's name. `error` is a `PictureError` for an image that cannot be read, and an `AnswerError`
    where the logits are not finite. It has no traceback, so it keeps no image data in memory. `note` is a warning about
    an image that can hardly be seen, for which the predictions may mean little.

    `logits` are the model's outputs for every view of the image, float32 (views, classes) in the order of the spec's
    classes; `predictions` are the mean of their softmax over the views. None with an `error`, and where a service
    answered, because HTTP answers do not contain them. They do not take part in comparisons and in `to_json`. An answer
    that is kept takes 4 bytes for each view and class.

    In a notebook an answer is shown as a table.

    >>> with Classifier("resnet20-cifar10") as classifier:
    ...     for answer in classifier.stream(["cat.jpg", "absent.jpg"], top_k=1):
    ...         print(answer.source, answer.error.reason if answer.error else answer.predictions[0].label)
    cat.jpg cat
    absent.jpg missing
    """

    source: str
    predictions: tuple[Prediction, ...] = ()
    error: ResnetInferError | None = None
    note: str | None = None
    logits: NDArray[np.float32] | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form: `source`, and either `error` or `predictions`, with the `note` if there is one."""
        if self.error:
            return {"source": self.source, "error": self.error.message}
        note = {"note": self.note} if self.note else {}
        return {"source": self.source, "predictions": [item.to_json() for item in self.predictions], **note}

    def __repr__(self) -> str:
        found = self.predictions
        if self.error:
            shown = f"{type(self.error).__name__}: {shortened(self.error.message)}"
        else:
            shown = ", ".join(f"{shortened(item.label)} {item.probability:.3f}" for item in found[:SHOWN])
            shown += f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"<Answer {shortened(self.source)!r}: {shown or 'no predictions'}>"

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        from resnet_infer.reporting.answer import answer_html

        rows = [(item.label, item.probability) for item in self.predictions]
        return answer_html(self.source, rows, self.error.message if self.error else None, self.note)


class BaseClassifier(ABC):
    """Share the methods of `Classifier` and `Client` that answer an image or a list of images."""

    _bounds_itself: ClassVar[bool] = False
    """Whether `_answers_to` ends after its `timeout`. If not, another thread runs it."""

    @abstractmethod
    def _answers_to(
        self, items: Iterable[object], crops: Crops, top_k: int | None, timeout: float | None
    ) -> Iterable[Answer]:
        """Yield an answer for every item, as `stream` does."""

    @overload
    def classify(
        self,
        picture: list[PictureInput] | tuple[PictureInput, ...],
        *,
        crops: Crops = ...,
        top_k: int | None = ...,
        timeout: float | None = ...,
    ) -> list[list[Prediction]]: ...

    @overload
    def classify(
        self,
        picture: list[Given] | tuple[Given, ...],
        *,
        crops: Crops = ...,
        top_k: int | None = ...,
        timeout: float | None = ...,
    ) -> list[list[Prediction]]: ...

    @overload
    def classify(
        self, picture: NDArray[np.uint8], *, crops: Crops = ..., top_k: int | None = ..., timeout: float | None = ...
    ) -> Any: ...

    @overload
    def classify(
        self, picture: PictureInput, *, crops: Crops = ..., top_k: int | None = ..., timeout: float | None = ...
    ) -> list[Prediction]: ...

    def classify(self, picture: Any, *, crops: Crops = 1, top_k: int | None = 5, timeout: float | None = None) -> Any:
        """Return the `top_k` most probable classes of an image (None: all classes), most probable first.

        `picture` is one image - a path, the bytes of an encoded file, a binary file object, a PIL image, or an array,
        uint8 (height, width, 3) in RGB; `Picture` describes each - or several: a list or tuple of those, or an array
        (N, height, width, 3). One image gives a list of `Prediction`; several give a list of such lists, in order.

        `timeout` bounds the wait in seconds. After it `AnswerTimeoutError` is raised, which says what still runs.

        Warns if an answer has a `note`. Raises `PictureError` if an image cannot be read, and `AnswerError` if the
        logits are not finite: with several images those of the first such image (`stream` gives an `Answer` for each).
        Raises `UsageError` for what is no image, for no images, for `crops` other than 1 or 10 and for `top_k` below 1.

        >>> classifier.classify("cat.jpg", top_k=1)
        [Prediction(label='cat', probability=0.9981, index=3, id=None)]
        >>> [found[0].label for found in classifier.classify(["cat.jpg", "ship.jpg"])]
        ['cat', 'ship']
        """
        several = _is_several(picture)
        answers = self._within(picture, crops, top_k, timeout)
        del picture  # an error that the caller keeps holds this frame
        return _results(answers, several)

    def ask(
        self, picture: PictureInput, *, crops: Crops = 1, top_k: int | None = 5, timeout: float | None = None
    ) -> Answer:
        """Return the `Answer` for one image, with its `logits`, `note` or `error`.

        The arguments and errors are those of `classify`, except that an image that cannot be read, and logits that are
        not finite, are the `error` of the answer.
        """
        (answer,) = self._within(picture_of(picture), crops, top_k, timeout)
        return answer

    @overload
    async def aclassify(
        self,
        picture: list[PictureInput] | tuple[PictureInput, ...],
        *,
        crops: Crops = ...,
        top_k: int | None = ...,
        timeout: float | None = ...,
    ) -> list[list[Prediction]]: ...

    @overload
    async def aclassify(
        self,
        picture: list[Given] | tuple[Given, ...],
        *,
        crops: Crops = ...,
        top_k: int | None = ...,
        timeout: float | None = ...,
    ) -> list[list[Prediction]]: ...

    @overload
    async def aclassify(
        self, picture: NDArray[np.uint8], *, crops: Crops = ..., top_k: int | None = ..., timeout: float | None = ...
    ) -> Any: ...

    @overload
    async def aclassify(
        self, picture: PictureInput, *, crops: Crops = ..., top_k: int | None = ..., timeout: float | None = ...
    ) -> list[Prediction]: ...

    async def aclassify(
        self, picture: Any, *, crops: Crops = 1, top_k: int | None = 5, timeout: float | None = None
    ) -> Any:
        """Return what `classify` returns, from a thread of the event loop, which goes on meanwhile (asyncio).

        When the task is cancelled, or after `timeout` seconds (`AnswerTimeoutError`), nothing new is begun. What has
        begun - a call of the runtime, or a request to a service - ends by itself in its thread, and its result is
        dropped.

        >>> async def label(path):
        ...     return (await classifier.aclassify(path, timeout=2))[0].label
        """
        from resnet_infer.calls import in_event_loop

        check_options(crops, top_k, timeout)
        several = _is_several(picture)
        answers = await in_event_loop(partial(self._each, picture, crops, top_k, timeout), timeout)
        del picture
        return _results(answers, several)

    def _within(self, picture: object, crops: Crops, top_k: int | None, timeout: float | None) -> list[Answer]:
        """Return the answers to one or several pictures within `timeout` seconds."""
        check_options(crops, top_k, timeout)
        each = partial(self._each, picture, crops, top_k, timeout)
        if timeout is None or self._bounds_itself:
            return list(each())
        from resnet_infer.calls import within

        return within(timeout, each)

    def _each(self, picture: object, crops: Crops, top_k: int | None, timeout: float | None) -> Iterator[Answer]:
        """Yield the answers to one or several pictures, after converting them."""
        items = cast("Iterable[object]", picture) if _is_several(picture) else [picture_of(picture)]
        del picture
        yield from self._answers_to(items, crops, top_k, timeout)


def _is_several(picture: object) -> bool:
    """Return whether an argument is several pictures. Raises `UsageError` for none."""
    if not (isinstance(picture, (list, tuple)) or (isinstance(picture, np.ndarray) and picture.ndim == 4)):
        return False
    if not len(picture):
        from resnet_infer.data.picture_kinds import kind_of

        raise UsageError(f"{kind_of(picture)} has no pictures", hint="`stream` takes any number of them, also none")
    return True


def _results(answers: list[Answer], several: bool) -> Any:
    """Return the predictions, warn of notes, and raise the first error."""
    for answer in answers:
        if answer.error:
            raise answer.error
    for answer in answers:
        if answer.note:
            warnings.warn(f"{answer.source}: {answer.note}", stacklevel=3)
    found = [list(answer.predictions) for answer in answers]
    return found if several else found[0]


def check_options(crops: object, top_k: object, timeout: object = None) -> None:
    """Raise `UsageError` for `crops` other than 1 or 10, a `top_k` below 1, and a `timeout` of no length."""
    if crops not in (1, 10) or isinstance(crops, bool):
        raise UsageError(f"crops is 1 or 10, not {crops!r:.40}")
    require_count(top_k, "top-k", none="all classes")
    if timeout is not None:
        require_seconds(timeout, "None")


def require_seconds(timeout: object, *others: str) -> None:
    """Raise `UsageError` unless `timeout` is a number of seconds that can be waited for. `others` are also taken."""
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not 0 < timeout <= MOST_SECONDS:
        known = " or ".join((f"a number of seconds above 0 and up to {MOST_SECONDS:,}", *others))
        raise UsageError(f"a timeout is {known}, not {timeout!r:.40}")


def require_count(number: object, what: str, *, none: str | None = None) -> None:
    """Raise `UsageError` unless `number` is a whole number from 1; None is taken where it means something (`none`)."""
    if number is None and none:
        return
    if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < 1:
        also = f", or None for {none}" if none else ""
        raise UsageError(f"{what} is a whole number and at least 1{also}, not {number!r:.40}")
