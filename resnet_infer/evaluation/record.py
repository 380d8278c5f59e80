"""What is kept of every picture's answers: enough for every total, little enough for 50,000 pictures and more."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import DataError, ResnetInferError
from resnet_infer.files import atomic_path

MAGIC = "resnet-infer evaluation"


class Given(NamedTuple):
    """An answer. `rank` is the place of the right class, from 0; `top1` the first class, -1 if no number is finite.

    `confidence` is the probability of `top1`.
    """

    rank: int
    top1: int
    confidence: float


class Record:
    """The answers of `entrants` to `count` pictures; 12 bytes for each, and 8 for each picture.

    `ranks`, `top1` and `confidence` have shape (entrants, pictures); a rank of -1 is an answer that is not there.
    `digests` (pictures,) are those of `OpenPicture`.
    """

    def __init__(self, entrants: int, count: int) -> None:
        self.ranks = np.full((entrants, count), -1, np.int32)
        self.top1 = np.full((entrants, count), -1, np.int32)
        self.confidence = np.zeros((entrants, count), np.float32)
        self.digests = np.zeros(count, np.uint64)

    def add(self, index: int, digest: int, answers: Sequence[Given]) -> None:
        """Put down a picture's answers. A picture that is there already is not counted again."""
        self.digests[index] = digest
        for entrant, (rank, top1, confidence) in enumerate(answers):
            self.ranks[entrant, index] = rank
            self.top1[entrant, index] = top1
            self.confidence[entrant, index] = confidence

    @property
    def answered(self) -> NDArray[np.bool_]:
        """(pictures,)"""
        done: NDArray[np.bool_] = np.all(self.ranks >= 0, axis=0)
        return done

    def alike(self) -> list[list[int]]:
        """Groups of answered pictures with the same digest, by their numbers."""
        there = np.flatnonzero(self.answered)
        order = there[np.argsort(self.digests[there], kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(self.digests[order])) + 1) if len(order) else []
        return sorted([int(index) for index in group] for group in groups if len(group) > 1)


class Journal:
    """A file to which every picture's answers are appended, so that a run that was killed goes on where it was.

    Its first line says what it belongs to. A last line that is not whole is cut off. Instances are context managers.
    """

    def __init__(self, path: Path, belongs_to: Mapping[str, Any], record: Record) -> None:
        """Put what `path` has into `record`, or begin it.

        Raises `DataError` if the file belongs to something else, naming what differs, or is none of ours.
        """
        self.path = path
        head = json.dumps({"file": MAGIC, **belongs_to})
        if not path.exists() or not path.stat().st_size:
            with atomic_path(path) as temporary:
                temporary.write_text(head + "\n", encoding="utf-8")
        self._load(json.loads(head), record)
        self._file: TextIO = open(path, "a", encoding="utf-8", buffering=1)  # a line at a time  # noqa: SIM115

    def append(self, index: int, digest: int, answers: Sequence[Given]) -> None:
        """Put down a picture's answers. Once this returns, only the machine's own end can lose them."""
        try:
            self._file.write(json.dumps([index, digest, [list(answer) for answer in answers]]) + "\n")
        except OSError as error:
            raise ResnetInferError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _load(self, head: Mapping[str, Any], record: Record) -> None:
        with open(self.path, "rb") as file:
            found = _parse(file.readline())
            if not isinstance(found, dict) or found.get("file") != MAGIC:
                raise DataError(f"{self.path} holds no results of an evaluation", hint="name another file")
            differs = [key for key in {**head, **found} if head.get(key) != found.get(key)]
            if differs:
                raise DataError(
                    f"{self.path} belongs to another evaluation: {', '.join(differs)} differ",
                    hint="name a new file, or repeat the command that began it",
                )
            end = file.tell()
            entrants, count = record.ranks.shape
            for line in file:
                entry = _parse(line)
                if not line.endswith(b"\n") or not _sound(entry, entrants, count):
                    break
                index, digest, answers = entry
                record.add(index, digest, [Given(*answer) for answer in answers])
                end += len(line)
        with open(self.path, "rb+") as file:
            file.truncate(end)

    def close(self) -> None:
        """Bring all to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _sound(entry: Any, entrants: int, count: int) -> bool:
    """Whether it is `[index, digest, [[rank, top1, confidence], ...]]`."""
    numbers: Callable[[Any], bool] = lambda item: isinstance(item, (int, float)) and not isinstance(item, bool)  # noqa: E731
    return (
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], int)
        and 0 <= entry[0] < count
        and isinstance(entry[1], int)
        and isinstance(entry[2], list)
        and len(entry[2]) == entrants
        and all(isinstance(one, list) and len(one) == 3 and all(map(numbers, one)) for one in entry[2])
    )
