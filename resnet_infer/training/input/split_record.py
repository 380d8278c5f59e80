"""Record the pictures of a run as a table beside its checkpoints, and compare it with the pictures of a resumed run."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from resnet_infer.data.datasets import Sample
from resnet_infer.data.datasets.tree import read_file
from resnet_infer.errors import DataError, reason_of
from resnet_infer.training.input.splits import Splits
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.inputs import read_bytes

FILE = "split.csv"
COLUMNS = ("part", "class", "bytes", "crc32", "name")
READ_AT_MOST = 1 << 30
"""Bytes of pictures that are read to identify them by content; the rest is identified by name, class and size."""
NAMED = 3
"""Most pictures that a message names."""


@dataclass(frozen=True)
class SplitRecord:
    """Hold a row of `COLUMNS` for each picture, in the order of the run, which the sampled indices refer to."""

    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, data: Splits) -> SplitRecord:
        """Record what is trained on and what is held out. Raises `PictureError` for a file that cannot be read."""
        left = READ_AT_MOST
        rows = []
        for part, dataset in (("train", data.train), ("validation", data.validation)):
            for sample in dataset.samples if dataset else ():
                size, check = _file_size(sample), ""
                if left > 0:
                    plain = _content(sample)
                    size, check = str(len(plain)), f"{zlib.crc32(plain):08x}"
                    left -= len(plain)
                rows.append((part, data.train.classes[sample.label], size, check, sample.name))
        return cls(tuple(rows))

    def repeated(self, data: Splits) -> list[tuple[str, str]]:
        """Return the held-out pictures of `data` that are, byte by byte, trained on too: pairs of names.

        `self` is the record of `data`. Pictures that were not read for it are not compared.
        """
        held_out = data.validation.samples if data.validation else []
        count = len(data.train.samples)
        first = {row[2:4]: sample for row, sample in zip(self.rows[:count], data.train.samples, strict=True) if row[3]}
        found = []
        for row, sample in zip(self.rows[count:], held_out, strict=True):
            other = first.get(row[2:4])
            if other and _content(other) == _content(sample):
                found.append((sample.name, other.name))
        return found

    @classmethod
    def read(cls, folder: Path) -> SplitRecord:
        """Read what `write` left in `folder`. Raises `DataError` if it is missing or damaged."""
        path = folder / FILE
        try:
            text = read_bytes(path).decode("utf-8", "surrogateescape")
            header, *rows = map(tuple, csv.reader(io.StringIO(text, newline="")))
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{path} cannot be read ({error})", source=path, reason=reason_of(error)) from error
        if header != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
            raise DataError(f"{path} is damaged", source=path, reason="damaged")
        return cls(tuple(rows))

    @property
    def digest(self) -> str:
        """SHA-256 of the table, which stands in the checkpoints."""
        return hashlib.sha256(self._text().encode("utf-8", "surrogateescape")).hexdigest()

    def write(self, folder: Path) -> None:
        """Write the table into `folder`, whole or not at all."""
        with atomic_path(folder / FILE) as path:
            path.write_bytes(self._text().encode("utf-8", "surrogateescape"))

    def _text(self) -> str:
        """Return the table as CSV."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows([COLUMNS, *self.rows])
        return text.getvalue()

    def differences(self, now: SplitRecord) -> list[str]:
        """Describe how the pictures of `now` differ: a line for each kind of difference, naming a few pictures."""
        before, after = self._named(), now._named()
        both = [name for name in before if name in after]
        found = {
            "gone": [name for name in before if name not in after],
            "new": [name for name in after if name not in before],
            "of another class": [name for name in both if before[name][1] != after[name][1]],
            "of other content": [name for name in both if before[name][2:] != after[name][2:]],
            "moved between training and validation": [name for name in both if before[name][0] != after[name][0]],
        }
        told = [f"{len(names)} {kind} ({_some(names)})" for kind, names in found.items() if names]
        return told or ["they come in another order"]

    def _named(self) -> dict[str, tuple[str, ...]]:
        """Return part, class and content by name. A name that occurs several times gets a number."""
        found: dict[str, tuple[str, ...]] = {}
        times: Counter[str] = Counter()
        for *values, name in self.rows:
            times[name] += 1
            found[name if times[name] == 1 else f"{name} (no. {times[name]})"] = tuple(values)
        return found


def _content(sample: Sample) -> bytes:
    """Return the bytes of a sample's file, or of its pixels."""
    content = sample.read()
    return content if isinstance(content, bytes) else content.tobytes()


def _file_size(sample: Sample) -> str:
    """Return the bytes of the sample's file as text, empty if it has no file of its own."""
    if isinstance(sample.read, partial) and sample.read.func is read_file:
        with contextlib.suppress(OSError):
            return str(os.stat(sample.read.args[0]).st_size)
    return ""


def _some(names: Sequence[str]) -> str:
    """Return the first `NAMED` names, with dots if there are more."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
