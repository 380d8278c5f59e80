"""Read the directory of tags that TIFF and EXIF share."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Order = Literal["<", ">"]
"""Byte order as `struct` writes it: little-endian or big-endian."""
TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
"""Pattern of the first bytes of a TIFF or BigTIFF."""
ORIENTATION = 274
"""Number of the orientation tag."""
_TAG_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 18: 8}
"""Bytes of one value, by the type of a tag."""
_CODES = {1: "B", 3: "H", 4: "L", 6: "b", 7: "B", 8: "h", 9: "l", 13: "L", 16: "Q", 18: "Q"}
"""Code of a whole number in `struct`, by the type of a tag."""
_FEW = 16
"""Most values that are read of a tag that needs few: a damaged or hostile file may have any number."""


class Tag(NamedTuple):
    """Hold an entry of a directory."""

    number: int
    type: int
    length: int  # number of values
    field: bytes  # the values if they fit, else their offset


class Directory:
    """Read a directory of a TIFF or of EXIF (TIFF 6.0, section 2; BigTIFF has wider fields).

    It is the first directory, or the one at byte `start`. Raises `struct.error` if the data end too early.
    """

    def __init__(self, data: bytes, start: int | None = None) -> None:
        self.data = data
        self.order: Order = "<" if data[:2] == b"II" else ">"
        big = self._number(data[2:4]) == 43
        layout = ("Q", "Q", "HHQ8s") if big else ("L", "H", "HHL4s")
        offset, self._counter, self._entry = (struct.Struct(self.order + code) for code in layout)
        self._start = offset.unpack_from(data, 8 if big else 4)[0] if start is None else start

    def _number(self, field: bytes) -> int:
        """Decode an unsigned number in the byte order of the file."""
        return int.from_bytes(field, "little" if self.order == "<" else "big")

    def tags(self) -> Iterator[Tag]:
        """Yield the entries in their order."""
        (count,) = self._counter.unpack_from(self.data, self._start)
        for index in range(count):
            position = self._start + self._counter.size + index * self._entry.size
            yield Tag(*self._entry.unpack_from(self.data, position))

    def first_value(self, tag: Tag) -> int:
        """Return the first value as an unsigned whole number."""
        return self._number(tag.field[: _TAG_SIZES.get(tag.type, 0)])

    def content(self, tag: Tag) -> memoryview:
        """Return the bytes of all values without a copy.

        Raises `ValueError` if they are not in the file, or the type is unknown.
        """
        size = tag.length * _TAG_SIZES.get(tag.type, 0)
        start = self._number(tag.field)
        found = memoryview(tag.field)[:size] if size <= len(tag.field) else memoryview(self.data)[start : start + size]
        if not size or len(found) < size:
            raise ValueError(f"the values of tag {tag.number} are not in the file")
        return found

    def array(self, tag: Tag) -> NDArray[Any]:
        """Return all values as whole numbers without a copy.

        Raises `ValueError` as `content` does, and for other types.
        """
        if tag.type not in _CODES:
            raise ValueError(f"tag {tag.number} is not a whole number")
        code = _CODES[tag.type]
        kind = f"{'u' if code.isupper() else 'i'}{_TAG_SIZES[tag.type]}"
        return np.frombuffer(self.content(tag), np.dtype(kind).newbyteorder(self.order))

    def numbers(self, tag: Tag) -> tuple[int, ...]:
        """Return the first 16 values as whole numbers. Raises `ValueError` as `array` does."""
        return tuple(map(int, self.array(tag)[:_FEW]))

    def fractions(self, tag: Tag) -> tuple[float, ...]:
        """Return the first 16 unsigned fractions. Raises `ValueError` as `content` does, and for other types."""
        if tag.type != 5:
            raise ValueError(f"tag {tag.number} is not a fraction")
        few = min(tag.length, _FEW)
        parts = struct.unpack_from(f"{self.order}{2 * few}L", self.content(tag))
        return tuple(above / below for above, below in zip(parts[::2], parts[1::2], strict=True) if below)


def orientation(exif: bytes) -> int:
    """Return the value of the orientation tag, 1 to 8; 1 (upright) if it is missing or damaged.

    `exif` is a block of EXIF, with or without the prefix that JPEG and WebP put before it, or a TIFF file.
    """
    exif = re.sub(rb"^(Exif\0\0)+", b"", exif) if exif.startswith(b"Exif") else exif
    if not TIFF.match(exif):
        return 1
    try:
        directory = Directory(exif)
        return next((directory.first_value(tag) for tag in directory.tags() if tag.number == ORIENTATION), 1)
    except (struct.error, ValueError, IndexError, OverflowError):
        return 1
