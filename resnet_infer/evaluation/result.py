"""Hold what an evaluation found: errors with intervals, times, differences, and published errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.datasets import Dataset
from resnet_infer.evaluation.paper import Figure, Table
from resnet_infer.evaluation.record import Record
from resnet_infer.evaluation.runner import Seconds, Unreadable
from resnet_infer.models.spec import Measured, ModelSpec
from resnet_infer.utils.error_statistics import Difference, interval

SHOWN = 5
"""Most results in the `repr` of an evaluation."""
BINS = 15
"""Intervals of confidence in the reliability plot and in the expected calibration error."""


@dataclass(frozen=True)
class Rate:
    """Hold wrong answers among all. `error` and its 95% interval (Wilson) are in percent."""

    wrong: int
    total: int

    @property
    def error(self) -> float:
        """Error in percent."""
        return 100 * self.wrong / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of `error` (Wilson), in percent."""
        return interval(self.wrong, self.total)

    def to_json(self) -> dict[str, Any]:
        """Return error and interval in percent, and the number of wrong answers."""
        return {"error": self.error, "interval": list(self.interval), "wrong": self.wrong}

    def __str__(self) -> str:
        return f"{self.error:.2f}%"


@dataclass(frozen=True)
class Bin:
    """Count answers of similar confidence: `pictures`, mean `confidence` and `accuracy`, both from 0 to 1."""

    pictures: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Answers:
    """Hold one predictor's answers to the pictures that were counted: (pictures,) each.

    `pictures` are numbers in the data set; `labels` and `top1` (-1: no finite answer) are classes of the model.
    """

    pictures: NDArray[np.int64]
    labels: NDArray[np.int64]
    ranks: NDArray[np.int64]
    top1: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @classmethod
    def of(cls, record: Record, predictor: int, labels: NDArray[np.int64]) -> Answers:
        """Take the answers of a predictor, by its number, out of a record; `labels` are those of all pictures."""
        there = np.flatnonzero(record.answered)
        ranks, top1 = (part[predictor, there].astype(np.int64) for part in (record.ranks, record.top1))
        return cls(there, labels[there], ranks, top1, record.confidence[predictor, there].astype(np.float64))

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is right, (pictures,)."""
        first: NDArray[np.bool_] = np.equal(self.ranks, 0)
        return first

    def reliability(self) -> list[Bin]:
        """Group the answers by confidence into `BINS` intervals of equal width; leave out empty ones."""
        place = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        members = [place == number for number in range(BINS)]
        return [
            Bin(int(inside.sum()), float(self.confidence[inside].mean()), float(self.right[inside].mean()))
            for inside in members
            if inside.any()
        ]

    def calibration_error(self) -> float:
        """Return the expected calibration error (Guo et al. 2017), in percent."""
        bins = self.reliability()
        return 100 * sum(part.pictures * abs(part.confidence - part.accuracy) for part in bins) / len(self.ranks)


@dataclass(frozen=True, repr=False)
class Result:
    """Hold one row of the table: a model, or an ensemble, under a protocol.

    - `runtime`: how the runtime describes itself.
    - `matched_by`: how the data's classes were matched with the model's.
    - `resize_seconds`, `inference_seconds`: per picture; None where they are unknown. Decoding is shared by all models.
    - `published` and `recorded` (the error that the model's spec states for the protocol) are of the same pictures.
    - `data`: name of the published data set, see `identity`.
    - `runs_on`: runtime and device; those of all members for an ensemble.
    - `difference`: to the reference, if there is one.
    """

    name: str
    protocol: str
    scales: tuple[int, ...]
    members: tuple[str, ...]
    spec: ModelSpec
    runtime: Mapping[str, Any]
    matched_by: str
    answered: Answers
    resize_seconds: float | None
    inference_seconds: float | None
    published: Sequence[tuple[Table, Figure]]
    recorded: Measured | None = None
    data: str | None = None
    runs_on: str = ""
    is_reference: bool = False
    difference: Difference | None = None

    def __repr__(self) -> str:
        return f"<Result {self.name}, {self.protocol}: top-1 error {self.top1} of {self.top1.total:,} pictures>"

    @property
    def top1(self) -> Rate:
        """Top-1 error."""
        return Rate(int((self.answered.ranks > 0).sum()), len(self.answered.ranks))

    @property
    def top5(self) -> Rate | None:
        """Top-5 error; None if there are at most five classes."""
        if len(self.spec.classes) <= 5:
            return None
        return Rate(int((self.answered.ranks >= 5).sum()), len(self.answered.ranks))

    @property
    def is_ensemble(self) -> bool:
        """Whether there are several members. `spec` is then that of the first; only its classes hold for all."""
        return len(self.members) > 1

    @property
    def precision(self) -> str:
        """Precision of the weights; empty for an ensemble."""
        return "" if self.is_ensemble else str(self.runtime.get("precision", self.spec.precision))

    def to_json(self) -> dict[str, Any]:
        """Return the row as `--json` prints it."""
        architecture = None if self.is_ensemble else self.spec.architecture
        return {
            "model": self.name,
            "protocol": self.protocol,
            "scales": list(self.scales) or None,
            "ensemble": list(self.members) if self.is_ensemble else None,
            "name": None if self.is_ensemble else self.spec.name,
            "architecture": architecture.to_json() if architecture else None,
            "precision": self.precision or None,
            "classes": len(self.spec.classes),
            "classes_matched_by": self.matched_by,
            "runtime": dict(self.runtime),
            "runs_on": self.runs_on,
            "known_as": self.data,
            "pictures": len(self.answered.ranks),
            "top1": self.top1.to_json(),
            "top5": self.top5.to_json() if self.top5 else None,
            "not_finite": int((self.answered.top1 < 0).sum()),
            "calibration_error": self.answered.calibration_error(),
            "resize_seconds": self.resize_seconds,
            "inference_seconds": self.inference_seconds,
            "recorded": dict(vars(self.recorded)) if self.recorded else None,
            "published": [
                {"source": table.source, "table": table.title, "data": table.data, **vars(row)}
                for table, row in self.published
            ],
            "is_reference": self.is_reference,
            "difference": self.difference.to_json() if self.difference else None,
        }


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Hold all that was found on a data set.

    `duplicates` are groups of pictures with the same content, by their numbers. `resumed` pictures were answered by an
    earlier run of the same evaluation. `max_drop` is in points of percent.
    """

    dataset: Dataset
    results: Sequence[Result]
    record: Record
    seconds: Seconds
    unreadable: Sequence[Unreadable]
    duplicates: Sequence[Sequence[int]]
    warnings: Sequence[str]
    resumed: int
    max_drop: float | None = None

    def __repr__(self) -> str:
        found = ", ".join(f"{item.name} {item.top1}" for item in self.results[:SHOWN])
        found += f" and {len(self.results) - SHOWN} more" if len(self.results) > SHOWN else ""
        return f"<Evaluation on {self.dataset.name}, {self.pictures:,} pictures: top-1 error {found}>"

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        from resnet_infer.reporting.notebook import table_html

        header = ("model", "protocol", "precision", "top-1 error", "95%", "top-5 error")
        rows = []
        for item in self.results:
            low, high = item.top1.interval
            errors = (str(item.top1), f"{low:.2f}-{high:.2f}", str(item.top5 or ""))
            rows.append((item.name, item.protocol, item.precision, *errors))
        title = f"{self.dataset.name}: {self.pictures:,} pictures"
        return table_html(title, header, rows, more="; ".join(self.warnings))

    @property
    def pictures(self) -> int:
        """Pictures that were counted."""
        return int(self.record.answered.sum())

    @property
    def over_max_drop(self) -> list[Result]:
        """Results whose top-1 error is more than `max_drop` points above the reference's."""
        if self.max_drop is None:
            return []
        return [item for item in self.results if item.difference and item.difference.top1 > self.max_drop]

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as `--json` prints it."""
        samples = self.dataset.samples
        seconds, count = self.seconds, self.seconds.pictures
        return {
            "data": {
                "name": self.dataset.name,
                "pictures": len(samples),
                "counted": self.pictures,
                "skipped": [
                    {"picture": samples[item.number].name, "error": item.error.message} for item in self.unreadable
                ],
                "duplicates": [[samples[number].name for number in group] for group in self.duplicates],
                "classes": len(self.dataset.classes),
            },
            "results": [item.to_json() for item in self.results],
            "speed": {
                "pictures": count,
                "resumed": self.resumed,
                "seconds": seconds.wall,
                "pictures_per_second": count / seconds.wall if count else None,
                "decode_seconds": seconds.decode / count if count else None,
                "resize_seconds": sum(seconds.resize) / count if count else None,
                "inference_seconds": sum(seconds.inference) / count if count else None,
                "inference_clock": "wall" if seconds.by_clock else "cpu",
            },
            "gate": None if self.max_drop is None else {"max_drop": self.max_drop, "passed": not self.over_max_drop},
            "warnings": list(self.warnings),
        }
