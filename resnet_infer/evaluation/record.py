"""Keep every picture's answers: enough for every total, and small enough for 50,000 pictures and more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class RankedAnswer(NamedTuple):
    """Hold an answer to a picture.

    `rank` is the place of the right class, from 0. `top1` is the first class, -1 if an answer is not finite, and
    `confidence` its probability.
    """

    rank: int
    top1: int
    confidence: float


class Record:
    """Hold the answers of `predictors` to `count` pictures: 12 bytes for each answer, and 8 for each picture.

    `ranks`, `top1` and `confidence` have shape (predictors, pictures); a rank of -1 is an answer that is missing.
    `digests` (pictures,) are those of `OpenPicture`.
    """

    def __init__(self, predictors: int, count: int) -> None:
        self.ranks = np.full((predictors, count), -1, np.int32)
        self.top1 = np.full((predictors, count), -1, np.int32)
        self.confidence = np.zeros((predictors, count), np.float32)
        self.digests = np.zeros(count, np.uint64)

    def add(self, index: int, digest: int, answers: Sequence[RankedAnswer]) -> None:
        """Store a picture's answers, one for each predictor. Storing them again does not count the picture twice."""
        self.digests[index] = digest
        for predictor, (rank, top1, confidence) in enumerate(answers):
            self.ranks[predictor, index] = rank
            self.top1[predictor, index] = top1
            self.confidence[predictor, index] = confidence

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Whether each picture is answered, (pictures,)."""
        done: NDArray[np.bool_] = np.all(self.ranks >= 0, axis=0)
        return done

    def same_digest(self) -> list[list[int]]:
        """Return groups of answered pictures with the same digest, by their numbers."""
        there = np.flatnonzero(self.answered)
        order = there[np.argsort(self.digests[there], kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(self.digests[order])) + 1) if len(order) else []
        return sorted([int(index) for index in group] for group in groups if len(group) > 1)
