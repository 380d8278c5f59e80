"""Detect a second image after the first one, as `cat a.jpg b.jpg` makes it."""

from __future__ import annotations

import re
from collections.abc import Callable

_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
"""Pattern of a marker in the scan of a JPEG.

Zero (a stuffed byte) and the restart markers D0 to D7 belong to the scan.
"""


def second_picture(content: bytes) -> bool:
    """Tell whether another image begins right where the first one ends.

    Trailing bytes of any other kind are common, and do not count. A JPEG that states that it holds several images (MPO)
    counts as one image, and so does a format that states no end (TIFF).
    """
    from resnet_infer.data.image import format_of

    kind, _ = format_of(content[:4096])
    find = _ENDS.get(kind)
    try:
        end = find(content) if find else len(content)
    except (IndexError, ValueError):  # damaged: the decoder reports it
        return False
    if kind == "JPEG" and b"MPF\0" in content[: 1 << 16]:
        return False
    return 0 < end < len(content) and format_of(content[end : end + 4096])[1]


def _end_of_jpeg(content: bytes) -> int:
    """Return the position after the end marker. Raises `ValueError` or `IndexError` for a damaged file."""
    position = 2
    while True:
        if content[position] != 0xFF:
            raise ValueError
        marker = content[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker == 0xD9:
            return position + 2
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
            if marker == 0xDA:
                found = _MARKER.search(content, position)
                while found and 0xD0 <= found[1][0] <= 0xD7:
                    found = _MARKER.search(content, found.end())
                if not found:
                    raise ValueError
                position = found.end() - 2


def _end_of_png(content: bytes) -> int:
    """Return the position after the IEND chunk. Raises `ValueError` if there is none."""
    position = 8
    while content[position + 4 : position + 8] != b"IEND":
        if position >= len(content):
            raise ValueError
        position += 12 + int.from_bytes(content[position : position + 4], "big")
    return position + 12


def _end_of_gif(content: bytes) -> int:
    """Return the position after the trailer. Raises `IndexError` if there is none."""

    def colours(flags: int) -> int:
        """Return the bytes of the colour table that `flags` announce."""
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    position = 13 + colours(content[10])
    while content[position] != 0x3B:
        if content[position] == 0x2C:
            position += 11 + colours(content[position + 9])
        else:
            position += 2
        while content[position]:
            position += content[position] + 1
        position += 1
    return position + 1


_ENDS: dict[str, Callable[[bytes], int]] = {
    "JPEG": _end_of_jpeg,
    "PNG": _end_of_png,
    "GIF": _end_of_gif,
    "WebP": lambda content: 8 + int.from_bytes(content[4:8], "little") + (content[4] & 1),
    "BMP": lambda content: int.from_bytes(content[2:6], "little"),
}
"""Functions that return where the first image ends, by format."""
