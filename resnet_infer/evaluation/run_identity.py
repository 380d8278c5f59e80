"""Identify an evaluation, so that no other one resumes from its answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer._version import __version__
from resnet_infer.data.datasets import Dataset
from resnet_infer.errors import DataError, PictureError
from resnet_infer.evaluation.journal import VERSION
from resnet_infer.evaluation.record import Record
from resnet_infer.evaluation.scorer import OpenPicture, Scorer
from resnet_infer.evaluation.targets.local import OpenModel, Row
from resnet_infer.utils.parallel import parallel_map

CHECKED = 300
"""Most pictures that are read again before the answers in a file are used."""


def run_identity(
    dataset: Dataset, models: Sequence[OpenModel], rows: Sequence[Row], scorers: Sequence[Scorer]
) -> dict[str, Any]:
    """Return what answers belong to; error messages name the keys.

    Raises `ServiceError` for a service that does not say which weights it has.
    """
    data = hashlib.sha256(repr((dataset.classes, dataset.class_ids)).encode())
    for sample in dataset.samples:
        data.update(repr((sample.name, sample.label)).encode())
    numbers = {id(model): number for number, model in enumerate(models)}
    return {
        VERSION: __version__,
        "the models": [model.fingerprint() for model in models],
        "the data": data.hexdigest(),
        "the class order": [model.classes.indices.tolist() for model in models],
        "the protocols": [
            [
                row.protocol,
                [numbers[id(model)] for model in row.models],
                [list(scorers[number].scales) for number in row.scorers],
            ]
            for row in rows
        ],
    }


def require_same_pictures(dataset: Dataset, record: Record, kept_in: Path) -> None:
    """Read up to `CHECKED` of the answered pictures again, spread over all of them.

    Raises `DataError`, naming one, if the content of some has changed since they were answered.
    """
    answered = np.flatnonzero(record.answered)
    places = np.unique(np.linspace(0, len(answered) - 1, min(CHECKED, len(answered))).astype(int))
    numbers: list[int] = answered[places].tolist()

    def differs(number: int) -> bool:
        try:
            return OpenPicture(dataset.samples[number]).digest != int(record.digests[number])
        except PictureError:  # it was readable when it was answered
            return True

    with closing(parallel_map(differs, numbers)) as found:
        changed = [number for number, other in zip(numbers, found, strict=True) if other]
    if changed:
        raise DataError(
            f"{kept_in} has answers to other pictures: {dataset.samples[changed[0]].name} is not what it was "
            f"({len(changed)} of the {len(numbers)} that were compared)",
            hint="name a new file, or evaluate the data that it began with",
            source=kept_in,
            reason="changed",
        )
