"""A data set through several models: every picture decoded once and counted once."""

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
from resnet_infer.evaluation.protocols import OpenPicture, Probabilities, Scorer
from resnet_infer.evaluation.record import Given, Record
from resnet_infer.lanes import batch_limit, run_lanes
from resnet_infer.utils.metrics import ranks


@dataclass(frozen=True)
class Member:
    """A scorer by its number; `order` is its class for every class of the entrant, None where they are the same."""

    scorer: int
    order: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Entrant:
    """Who is counted: one scorer, or an ensemble of several, whose probabilities are averaged.

    `labels` (int64, pictures) are the right classes, by the entrant's numbers.
    """

    members: tuple[Member, ...]
    labels: NDArray[np.int64]


@dataclass
class Seconds:
    """CPU seconds for each stage; wall-clock seconds for inference if not every runtime computes on the calling thread.

    `by_clock` says that it is so. `resize` and `inference` are by scorer. `wall` is the time of the whole by the clock,
    for `pictures`.
    """

    decode: float
    resize: list[float]
    inference: list[float]
    wall: float = 0.0
    pictures: int = 0
    by_clock: bool = False


def inference_clock(scorers: Sequence[Scorer]) -> Callable[[], float]:
    """One for all, so that their times compare: the wall clock unless the thread's own sees the work of every one."""
    clocks = {scorer.clock for scorer in scorers}
    return clocks.pop() if len(clocks) == 1 else perf_counter


class Unreadable(NamedTuple):
    """A picture by its number in the data set, and why it was not counted."""

    number: int
    error: PictureError


@dataclass(frozen=True)
class _Prepared:
    digest: int
    views: list[Any]
    decode: float
    resize: list[float]


@dataclass(frozen=True)
class _Verdict:
    index: int
    error: PictureError | None = None
    digest: int = 0
    answers: list[Given] = field(default_factory=list)
    decode: float = 0.0
    resize: Sequence[float] = ()
    inference: Sequence[float] = ()


def run(
    dataset: Dataset,
    scorers: Sequence[Scorer],
    entrants: Sequence[Entrant],
    record: Record,
    *,
    lanes: int,
    batch_size: int,
    workers: int | None = None,
    skip: bool = False,
    keep: Callable[[int, int, Sequence[Given]], None] = lambda index, digest, answers: None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[Seconds, list[Unreadable]]:
    """Put the answers to all pictures that `record` lacks into it, and say what could not be read.

    `keep` is called with everything that is put down. Raises `PictureError` naming the unreadable pictures, at most
    `NAMED` of them, unless `skip`. Memory is bounded however many pictures there are.
    """
    seconds = Seconds(
        0.0, [0.0] * len(scorers), [0.0] * len(scorers), by_clock=inference_clock(scorers) is perf_counter
    )
    missing = np.flatnonzero(~record.answered)
    todo = ((index, dataset.samples[index]) for index in missing.tolist())
    unreadable: list[Unreadable] = []
    begin = perf_counter()
    verdicts = run_lanes(
        todo,
        _Preparing(scorers),
        _Answering(scorers, entrants),
        lanes=lanes,
        rows=max(scorer.rows for scorer in scorers),
        batch_size=min(
            batch_limit(batch_size, max(scorer.scales, default=scorer.spec.input.crop), lanes) for scorer in scorers
        ),
        workers=workers,
    )
    with closing(verdicts):
        for verdict in verdicts:
            advance(1)
            if verdict.error:
                unreadable.append(Unreadable(verdict.index, verdict.error))
                if not skip:
                    break
                continue
            record.add(verdict.index, verdict.digest, verdict.answers)
            keep(verdict.index, verdict.digest, verdict.answers)
            seconds.pictures += 1
            seconds.decode += verdict.decode
            for total, spent in ((seconds.resize, verdict.resize), (seconds.inference, verdict.inference)):
                for number, value in enumerate(spent):
                    total[number] += value
    seconds.wall = perf_counter() - begin
    if unreadable and not skip:
        rest = (dataset.samples[index] for index in missing[missing > unreadable[0].number].tolist())
        raise _named([unreadable[0].error, *_broken(rest, scorers)], dataset)
    return seconds, unreadable


class _Preparing:
    """Reads and decodes a picture, and makes every scorer's views of it."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self.scorers = scorers

    def __call__(self, item: tuple[int, Sample]) -> _Prepared | PictureError:
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
    """Several pictures' views -> what every entrant says of them."""

    def __init__(self, scorers: Sequence[Scorer], entrants: Sequence[Entrant]) -> None:
        self.scorers, self.entrants = scorers, entrants
        self.clock = inference_clock(scorers)

    def __call__(self, batch: Sequence[tuple[tuple[int, Sample], _Prepared | PictureError]]) -> list[_Verdict]:
        good = [(item[0], prepared) for item, prepared in batch if isinstance(prepared, _Prepared)]
        scores: list[Probabilities] = []
        spent = []
        for number, scorer in enumerate(self.scorers if good else ()):
            start = self.clock()
            scores.append(scorer.score([prepared.views[number] for _, prepared in good]))
            spent.append((self.clock() - start) / len(good))
        indices = np.array([index for index, _ in good], np.int64)
        answers = zip(*(_given(entrant, scores, indices) for entrant in self.entrants), strict=True) if good else ()
        made = iter(
            [
                _Verdict(index, None, prepared.digest, list(given), prepared.decode, prepared.resize, spent)
                for (index, prepared), given in zip(good, answers, strict=True)
            ]
        )
        return [
            _Verdict(item[0], prepared) if isinstance(prepared, PictureError) else next(made)
            for item, prepared in batch
        ]


def _given(entrant: Entrant, scores: Sequence[Probabilities], indices: NDArray[np.int64]) -> list[Given]:
    parts = [
        scores[member.scorer] if member.order is None else scores[member.scorer][:, member.order]
        for member in entrant.members
    ]
    probabilities = parts[0] if len(parts) == 1 else np.mean(parts, axis=0)
    finite = np.isfinite(probabilities).all(axis=1)
    top = np.where(finite, np.where(np.isfinite(probabilities), probabilities, -1).argmax(axis=1), -1)
    confidence = np.where(finite, probabilities[np.arange(len(top)), top], 0).astype(np.float32)
    places = ranks(probabilities, entrant.labels[indices])
    return [Given(*values) for values in zip(places.tolist(), top.tolist(), confidence.tolist(), strict=True)]


def _broken(samples: Iterable[Sample], scorers: Sequence[Scorer]) -> Iterator[PictureError]:
    """Why pictures cannot be read, the first `NAMED` - 1 of them; nothing is inferred any more."""
    rules = {scorer.spec.input.exif for scorer in scorers}

    def read(sample: Sample) -> None:
        picture = OpenPicture(sample)
        for exif in rules:
            picture.image(exif)

    return unreadable(read, samples, NAMED - 1)


def _named(errors: Sequence[PictureError], dataset: Dataset) -> PictureError:
    hint = "repair or remove them, or leave them out of the count with --on-error skip"
    return in_one(errors, dataset.name, len(dataset.samples), hint)
