"""Decode BMP images. PIL decodes only those with run-length coding, because it knows few bit layouts."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.formats.kinds import UnsupportedError
from resnet_infer.data.formats.samples import bands, high_bits, new_picture, over_white, put_rows
from resnet_infer.data.formats.strict import strict_load

Bytes = NDArray[np.uint8]
Words = NDArray[np.unsignedinteger[Any]]
_PLAIN, _RLE, _BITFIELDS = (0,), (1, 2), (3, 6)
"""Values of the compression field: no compression, run lengths, and channel masks."""
_OTHERS = {4: "JPEG", 5: "PNG", 11: "CMYK", 12: "CMYK", 13: "CMYK"}
"""Names of compressions that are not decoded, for messages."""
_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}
"""Masks of red, green, blue and alpha by bits per pixel, for a file that states none."""


class _Header(NamedTuple):
    """Hold the fields of a BMP header. Width and height are in pixels, `bits` per pixel."""

    size: int
    width: int
    height: int
    upside_down: bool
    bits: int
    compression: int
    colours: int
    """Colours of the palette; 0 means as many as the bits can tell apart."""


def read_bmp(content: bytes, check_size: Callable[[int, int], None]) -> Image.Image:
    """Decode a BMP image to grey or RGB, with transparent pixels over white.

    `check_size` is called with width and height before decoding. Raises `UnsupportedError` for a form that is not
    decoded. A damaged file raises errors of any other kind.
    """
    header = _read_header(content)
    if header.width < 1 or header.height < 1:
        raise ValueError("it has no pixels")
    check_size(header.width, header.height)
    if header.compression in _RLE and (header.size != 64 or header.compression == 1):
        return _run_lengths(content)
    if header.compression not in (*_PLAIN, *_BITFIELDS) or (header.size == 64 and header.compression):
        raise UnsupportedError(f"BMP with {_OTHERS.get(header.compression, f'compression {header.compression}')}")
    if header.bits not in (1, 2, 4, 8, 16, 24, 32):
        raise UnsupportedError(f"BMP with {header.bits} bits per pixel")
    (start,) = struct.unpack_from("<L", content, 10)
    row_bytes = (header.width * header.bits + 31) // 32 * 4
    if start + row_bytes * header.height > len(content):
        raise ValueError("image file is truncated")
    rows = np.frombuffer(content, np.uint8, row_bytes * header.height, start).reshape(header.height, row_bytes)
    rows = rows[::-1] if header.upside_down else rows
    colours = _colours(content, header, start, rows)
    picture = new_picture("RGB", header.width, header.height)
    for top, bottom in bands(header.width, header.height):
        put_rows(picture, top, colours(rows[top:bottom]))
    return picture


def _read_header(content: bytes) -> _Header:
    """Read the header. Raises `struct.error` if it is cut off."""
    (size,) = struct.unpack_from("<L", content, 14)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", content, 18)
        return _Header(size, width, height, True, bits, 0, 0)
    width, height, _, bits, compression = struct.unpack_from("<llHHL", content, 18)
    colours = struct.unpack_from("<L", content, 46)[0] if size >= 40 else 0
    return _Header(size, width, abs(height), height > 0, bits, compression, colours)


def _colours(content: bytes, header: _Header, start: int, every: Bytes) -> Callable[[Bytes], Bytes]:
    """Return a function that converts some rows to RGB. `every` are all rows of the image."""
    if header.bits <= 8:
        return _palette(content, header, start)
    if header.bits == 24:
        return lambda rows: rows[:, : 3 * header.width].reshape(len(rows), header.width, 3)[..., ::-1]

    channel = _channel(_masks(content, header))
    kind = f"<u{header.bits // 8}"

    def words(rows: Bytes) -> Words:
        """View the bytes of rows as words of one pixel each."""
        return np.ascontiguousarray(rows).view(kind)[:, : header.width]

    # Many writers declare an alpha channel and leave it empty.
    parts = (words(every[top:bottom]) for top, bottom in bands(header.width, header.height))
    has_alpha = any(channel(part, 3).any() for part in parts)

    def colours(rows: Bytes) -> Bytes:
        """Convert rows to RGB by the masks."""
        some = words(rows)
        rgb = np.stack([channel(some, number) for number in range(3)], -1)
        return over_white(rgb, channel(some, 3)[..., None]) if has_alpha else rgb

    return colours


def _palette(content: bytes, header: _Header, start: int) -> Callable[[Bytes], Bytes]:
    """Return a function that converts rows of palette indices to RGB."""
    entry = 3 if header.size == 12 else 4
    count = min(header.colours or 2**header.bits, 2**header.bits)
    after = 14 + header.size + (12 if header.size == 40 and header.compression == 3 else 0)
    room = (start - after) // entry if start > after else count
    table = np.frombuffer(content, np.uint8, entry * min(count, room), after).reshape(-1, entry)[:, 2::-1]

    def colours(rows: Bytes) -> Bytes:
        """Convert rows to RGB by the palette."""
        shifts = np.arange(8 - header.bits, -1, -header.bits, dtype=np.uint8)
        places = (rows[..., None] >> shifts & (2**header.bits - 1)).reshape(len(rows), -1)[:, : header.width]
        if len(table) <= places.max():
            raise ValueError(f"its palette has only {len(table)} of the picture's colours")
        found: Bytes = table[places]
        return found

    return colours


def _masks(content: bytes, header: _Header) -> tuple[int, int, int, int]:
    """Return the masks of red, green, blue and alpha."""
    if header.compression not in _BITFIELDS:
        return _MASKS[header.bits]
    red, green, blue = struct.unpack_from("<LLL", content, 54)
    alpha = struct.unpack_from("<L", content, 66)[0] if header.size >= 56 or header.compression == 6 else 0
    return red, green, blue, alpha


def _channel(masks: tuple[int, int, int, int]) -> Callable[[Words, int], Bytes]:
    """Return a function that extracts a channel from words, by its number: 0 red, 1 green, 2 blue, 3 alpha."""
    shifts = [(mask & -mask).bit_length() - 1 if mask else 0 for mask in masks]
    widths = [(mask >> shift).bit_length() for mask, shift in zip(masks, shifts, strict=True)]
    for mask, shift, bits in zip(masks, shifts, widths, strict=True):
        if mask >> shift != 2**bits - 1 or bits > 16:
            raise UnsupportedError("BMP with scattered bits")

    def channel(words: Words, number: int) -> Bytes:
        """Extract channel `number` as 8 bits."""
        if not masks[number]:
            return np.zeros(words.shape, np.uint8)
        mask, shift = (np.array(value, words.dtype) for value in (masks[number], shifts[number]))
        return high_bits((words & mask) >> shift, widths[number])

    return channel


def _run_lengths(content: bytes) -> Image.Image:
    """Decode a run-length coded image with PIL."""
    from PIL.BmpImagePlugin import BmpImageFile

    picture = BmpImageFile(io.BytesIO(content))
    strict_load(picture)
    return picture
