"""Run a data set through several models: every picture is decoded once and counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from time import perf_counter, thread_time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.damaged import NAMED, in_one, unreadable
from resnet_infer.data.datasets import Dataset, Sample
from resnet_infer.errors import PictureError, bare
from resnet_infer.evaluation.record import RankedAnswer, Record
from resnet_infer.evaluation.scorer import OpenPicture, Probabilities, Scorer
from resnet_infer.lanes import batch_limit, run_lanes
from resnet_infer.utils.error_statistics import ranks


@dataclass(frozen=True)
class Member:
    """Refer to a scorer by its number.

    `order` is the scorer's class for every class of the predictor, None if they are the same.
    """

    scorer: int
    order: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Predictor:
    """Describe what is counted: one scorer, or an ensemble of several, whose probabilities are averaged.

    `labels` (int64, pictures) are the right classes, by the predictor's numbers.
    """

    members: tuple[Member, ...]
    labels: NDArray[np.int64]


@dataclass
class Seconds:
    """Hold CPU seconds per stage; wall-clock seconds for inference on several threads or on a GPU.

    `by_clock` says that inference was measured by the wall clock. `resize` and `inference` have an entry for each
    scorer. `wall` is the wall-clock time of the whole run, for `pictures`.
    """

    decode: float
    resize: list[float]
    inference: list[float]
    wall: float = 0.0
    pictures: int = 0
    by_clock: bool = False


def inference_clock(scorers: Sequence[Scorer]) -> Callable[[], float]:
    """Return the clock for all scorers, so that their times are comparable.

    It is the wall clock, unless the CPU time of the calling thread covers the work of every scorer.
    """
    clocks = {scorer.clock for scorer in scorers}
    return clocks.pop() if len(clocks) == 1 else perf_counter


class Unreadable(NamedTuple):
    """Hold the number of a picture in the data set, and why it was not counted."""

    number: int
    error: PictureError


@dataclass(frozen=True)
class _Prepared:
    """Hold a picture's views for every scorer, and the CPU seconds that they took."""

    digest: int
    views: list[Any]
    decode: float
    resize: list[float]


@dataclass(frozen=True)
class _Outcome:
    """Hold the answers to a picture and their times, or the error that prevented them."""

    index: int
    error: PictureError | None = None
    digest: int = 0
    answers: list[RankedAnswer] = field(default_factory=list)
    decode: float = 0.0
    resize: Sequence[float] = ()
    inference: Sequence[float] = ()


def run(
    dataset: Dataset,
    scorers: Sequence[Scorer],
    predictors: Sequence[Predictor],
    record: Record,
    *,
    lanes: int,
    batch_size: int,
    workers: int | None = None,
    skip: bool = False,
    keep: Callable[[int, int, Sequence[RankedAnswer]], None] = lambda index, digest, answers: None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[Seconds, list[Unreadable]]:
    """Put the answers to all pictures that `record` lacks into it; return times, and what could not be read.

    `keep` is called with every picture's number, digest and answers, and `advance` with the number of pictures done.
    `batch_size` is in views, and `workers` are threads that decode. Raises `PictureError` naming unreadable pictures,
    at most `NAMED` of them, unless `skip`. Memory is bounded, however many pictures there are.
    """
    seconds = Seconds(
        0.0, [0.0] * len(scorers), [0.0] * len(scorers), by_clock=inference_clock(scorers) is perf_counter
    )
    missing = np.flatnonzero(~record.answered)
    todo = ((index, dataset.samples[index]) for index in missing.tolist())
    unreadable: list[Unreadable] = []
    begin = perf_counter()
    outcomes = run_lanes(
        todo,
        _Preparing(scorers),
        _Answering(scorers, predictors),
        lanes=lanes,
        rows=max(scorer.rows for scorer in scorers),
        batch_size=min(
            batch_limit(batch_size, max(scorer.scales, default=scorer.spec.input.crop), lanes) for scorer in scorers
        ),
        workers=workers,
    )
    with closing(outcomes):
        for outcome in outcomes:
            advance(1)
            if outcome.error:
                unreadable.append(Unreadable(outcome.index, outcome.error))
                if not skip:
                    break
                continue
            record.add(outcome.index, outcome.digest, outcome.answers)
            keep(outcome.index, outcome.digest, outcome.answers)
            seconds.pictures += 1
            seconds.decode += outcome.decode
            for total, spent in ((seconds.resize, outcome.resize), (seconds.inference, outcome.inference)):
                for number, value in enumerate(spent):
                    total[number] += value
    seconds.wall = perf_counter() - begin
    if unreadable and not skip:
        rest = (dataset.samples[index] for index in missing[missing > unreadable[0].number].tolist())
        raise _named([unreadable[0].error, *_broken(rest, scorers)], dataset)
    return seconds, unreadable


class _Preparing:
    """Read and decode a picture, and make every scorer's views of it."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self.scorers = scorers

    def __call__(self, item: tuple[int, Sample]) -> _Prepared | PictureError:
        """Prepare the picture with its number; return an error instead of raising it."""
        try:
            picture = OpenPicture(item[1])
            views, resize = [], []
            for scorer in self.scorers:
                start = thread_time() - picture.decode_seconds
                views.append(scorer.prepare(picture))
                resize.append(thread_time() - picture.decode_seconds - start)
            return _Prepared(picture.digest, views, picture.decode_seconds, resize)
        except PictureError as error:
            return bare(error)


class _Answering:
    """Turn the views of several pictures into the answers of every predictor."""

    def __init__(self, scorers: Sequence[Scorer], predictors: Sequence[Predictor]) -> None:
        self.scorers, self.predictors = scorers, predictors
        self.clock = inference_clock(scorers)

    def __call__(self, batch: Sequence[tuple[tuple[int, Sample], _Prepared | PictureError]]) -> list[_Outcome]:
        """Return an outcome for each picture of a batch, in its order."""
        good = [(item[0], prepared) for item, prepared in batch if isinstance(prepared, _Prepared)]
        scores: list[Probabilities] = []
        spent = []
        for number, scorer in enumerate(self.scorers if good else ()):
            start = self.clock()
            scores.append(scorer.score([prepared.views[number] for _, prepared in good]))
            spent.append((self.clock() - start) / len(good))
        indices = np.array([index for index, _ in good], np.int64)
        answers = (
            zip(*(_ranked(predictor, scores, indices) for predictor in self.predictors), strict=True) if good else ()
        )
        made = iter(
            [
                _Outcome(index, None, prepared.digest, list(given), prepared.decode, prepared.resize, spent)
                for (index, prepared), given in zip(good, answers, strict=True)
            ]
        )
        return [
            _Outcome(item[0], prepared) if isinstance(prepared, PictureError) else next(made)
            for item, prepared in batch
        ]


def _ranked(predictor: Predictor, scores: Sequence[Probabilities], indices: NDArray[np.int64]) -> list[RankedAnswer]:
    """Return a predictor's answers, from the probabilities of all scorers for the pictures `indices`."""
    parts = [
        scores[member.scorer] if member.order is None else scores[member.scorer][:, member.order]
        for member in predictor.members
    ]
    probabilities = parts[0] if len(parts) == 1 else np.mean(parts, axis=0)
    finite = np.isfinite(probabilities).all(axis=1)
    top = np.where(finite, np.where(np.isfinite(probabilities), probabilities, -1).argmax(axis=1), -1)
    confidence = np.where(finite, probabilities[np.arange(len(top)), top], 0).astype(np.float32)
    places = ranks(probabilities, predictor.labels[indices])
    return [RankedAnswer(*values) for values in zip(places.tolist(), top.tolist(), confidence.tolist(), strict=True)]


def _broken(samples: Iterable[Sample], scorers: Sequence[Scorer]) -> Iterator[PictureError]:
    """Yield why pictures cannot be read, for the first `NAMED` - 1 of them, without inference."""
    rules = {scorer.spec.input.exif for scorer in scorers}

    def read(sample: Sample) -> None:
        picture = OpenPicture(sample)
        for exif in rules:
            picture.image(exif)

    return unreadable(read, samples, NAMED - 1)


def _named(errors: Sequence[PictureError], dataset: Dataset) -> PictureError:
    """Return one error for all `errors`."""
    hint = "repair or remove them, or leave them out of the count with --on-error skip"
    return in_one(errors, dataset.name, len(dataset.samples), hint)
