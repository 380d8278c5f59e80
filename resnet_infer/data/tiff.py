"""TIFF and EXIF: one format of tags, read so that PIL sees only what it decodes without a warning."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

from PIL import Image, ImageFile

TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
_TAG_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of one value, by a tag's type."""
ORIENTATION = 274


class _Tag(NamedTuple):
    number: int
    type: int
    length: int  # in values
    field: bytes  # the values if they fit, else their offset


class Directory:
    """The first directory of a TIFF, which EXIF is too (TIFF 6.0, section 2; BigTIFF has wider fields).

    Raises `struct.error` where the data end too early.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data[:2] == b"II" else ">"
        big = self._number(data[2:4]) == 43
        layout = ("Q", "Q", "HHQ8s") if big else ("L", "H", "HHL4s")
        self._offset, self._counter, self._entry = (struct.Struct(self._order + code) for code in layout)
        (self._start,) = self._offset.unpack_from(data, 8 if big else 4)

    def _number(self, field: bytes) -> int:
        return int.from_bytes(field, "little" if self._order == "<" else "big")

    def tags(self) -> Iterator[_Tag]:
        (count,) = self._counter.unpack_from(self._data, self._start)
        for index in range(count):
            position = self._start + self._counter.size + index * self._entry.size
            yield _Tag(*self._entry.unpack_from(self._data, position))

    def first_value(self, tag: _Tag) -> int:
        return self._number(tag.field[: _TAG_SIZES.get(tag.type, 0)])

    def outside(self, tag: _Tag) -> range:
        """Where the values lie if they do not fit into the field."""
        size, start = tag.length * _TAG_SIZES[tag.type], self._number(tag.field)
        return range(start, start + size) if size > len(tag.field) else range(0)

    def with_only(self, tags: Collection[_Tag]) -> bytes:
        """The file with these of its tags, and without further frames."""
        entries = b"".join(self._entry.pack(*tag) for tag in tags)
        directory = self._counter.pack(len(tags)) + entries + self._offset.pack(0)
        return self._data[: self._start] + directory + self._data[self._start + len(directory) :]


def open_tiff(content: bytes) -> ImageFile.ImageFile:
    """Shows PIL only sound tags, and only those that decoding needs, because it warns of others.

    Nor does it see the orientation, which it would obey unasked.
    """
    # Imported here because it loads half of the time that reading a JPEG takes to start.
    from PIL import TiffTags
    from PIL.TiffImagePlugin import MAX_SAMPLESPERPIXEL, TiffImageFile

    directory = Directory(content)
    tags: dict[int, _Tag] = {}
    for tag in directory.tags():
        needed = (254 <= tag.number <= 347 or 512 <= tag.number <= 532) and tag.number != ORIENTATION and tag.type != 2
        sound = tag.type in _TAG_SIZES and directory.outside(tag).stop <= len(content)
        one_value = tag.length == 1 or tag.type in (1, 7)  # a string of bytes is one value
        if needed and sound and (one_value or TiffTags.lookup(tag.number).length != 1):
            tags.setdefault(tag.number, tag)
    if sum(len(directory.outside(tag)) for tag in tags.values()) > len(content):
        raise ValueError("its tags overlap")
    samples = tags.get(277)  # SamplesPerPixel
    if samples and directory.first_value(samples) > MAX_SAMPLESPERPIXEL:  # PIL would log it
        raise ValueError(f"{directory.first_value(samples)} samples per pixel are not supported")
    return TiffImageFile(io.BytesIO(directory.with_only(tags.values())))


def orientation(picture: Image.Image, content: bytes) -> int:
    """The orientation tag's value; 1, which is upright, if there is none or it is damaged."""
    exif = content if picture.format == "TIFF" else picture.info.get("exif")
    try:
        if exif is None and "Raw profile type exif" in picture.info:  # how ImageMagick puts it into a PNG
            exif = bytes.fromhex("".join(picture.info["Raw profile type exif"].split("\n")[3:]))
        exif = re.sub(rb"^(Exif\0\0)+", b"", exif or b"")
        if not TIFF.match(exif):
            return 1
        directory = Directory(exif)
        return next((directory.first_value(tag) for tag in directory.tags() if tag.number == ORIENTATION), 1)
    except (struct.error, ValueError, TypeError, IndexError, OverflowError):
        return 1
