"""Decompress the blocks of a TIFF, in Python if that is simple, else with libtiff through PIL."""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Read = Callable[[int], bytes | memoryview]
"""Function that returns the next bytes of a block, as many as are asked for, or fewer at its end."""
_PIECE = 2**18
"""Compressed bytes that are worked on at a time."""
REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]
"""Bytes with their bits in reverse order, by value."""
_ZSTD = bytes.fromhex("28b52ffd200109000061")
"""The letter a, compressed with Zstandard."""


def _pieces(data: memoryview, reversed_bits: bool) -> Iterator[bytes | memoryview]:
    """Yield the data in pieces, with their bits reversed if asked."""
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        yield REVERSED[np.frombuffer(piece, np.uint8)].tobytes() if reversed_bits else piece


def _plain(data: memoryview, reversed_bits: bool) -> Read:
    """Read an uncompressed block."""
    position = 0

    def read(size: int) -> bytes | memoryview:
        """Return the next bytes."""
        nonlocal position
        position += size
        found = data[position - size : position]
        return b"".join(_pieces(found, reversed_bits)) if reversed_bits else found

    return read


def _deflate(data: memoryview, reversed_bits: bool) -> Read:
    """Read a block compressed with Deflate."""
    inflate, pieces, left = zlib.decompressobj(), _pieces(data, reversed_bits), b""

    def read(size: int) -> bytes:
        """Return the next bytes."""
        nonlocal left
        found: list[bytes] = []
        while size > 0 and not inflate.eof:
            piece = left or next(pieces, b"")
            found.append(inflate.decompress(piece, size))  # zlib may hold output back after it has taken all input
            if not piece and not found[-1]:
                break
            size, left = size - len(found[-1]), inflate.unconsumed_tail
        return b"".join(found)

    return read


def _lzma(data: memoryview, reversed_bits: bool) -> Read:
    """Read a block compressed with LZMA."""
    unpack, pieces = lzma.LZMADecompressor(), _pieces(data, reversed_bits)

    def read(size: int) -> bytes:
        """Return the next bytes."""
        found: list[bytes] = []
        while size > 0 and not unpack.eof:
            piece = next(pieces, b"") if unpack.needs_input else b""
            if unpack.needs_input and not piece:
                break
            found.append(unpack.decompress(piece, size))
            size -= len(found[-1])
        return b"".join(found)

    return read


READERS: dict[str, Callable[[memoryview, bool], Read]] = {"none": _plain, "deflate": _deflate, "lzma": _lzma}
"""Functions that open a block, by method of decompression."""


def from_picture(picture: Image.Image) -> Callable[[int], NDArray[np.generic]]:
    """Return a function that gives the next rows of an image as an array."""
    top = 0

    def take(count: int) -> NDArray[np.generic]:
        """Give the next `count` rows."""
        nonlocal top
        top += count
        return np.asarray(picture.crop((0, top - count, picture.width, top)))

    return take


def plain_tiff(
    tags: dict[int, tuple[int, Sequence[int]]], blocks: Sequence[bytes | memoryview], tables: bytes
) -> bytes:
    """Write a little-endian TIFF with these blocks as strips. `tables` are those that JPEG strips share."""
    position, offsets = 8 + len(tables), []
    for block in blocks:
        offsets.append(position)
        position += len(block)
    entries, beyond = b"", b""
    everything: dict[int, tuple[int, bytes]] = {
        number: (kind, struct.pack(f"<{len(values)}{'H' if kind == 3 else 'L'}", *values))
        for number, (kind, values) in {**tags, 273: (4, offsets)}.items()
    }
    if tables:
        everything[347] = (7, tables)
    start = position + 2 + 12 * len(everything) + 4
    for number, (kind, values_) in sorted(everything.items()):
        count = len(values_) // {3: 2, 4: 4, 7: 1}[kind]
        if len(values_) <= 4:
            field = values_.ljust(4, b"\0")
        else:
            field = struct.pack("<L", start + len(beyond))
            beyond += values_
        entries += struct.pack("<HHL", number, kind, count) + field
    directory = struct.pack("<H", len(everything)) + entries + bytes(4)
    return b"".join((b"II*\0", struct.pack("<L", position), tables, *blocks, directory, beyond))


def decoded(file: bytes, size: tuple[int, int]) -> Image.Image:
    """Decompress a TIFF file with libtiff. `size` is its width and height in pixels."""
    from PIL.TiffImagePlugin import TiffImageFile

    picture = TiffImageFile(io.BytesIO(file))
    pixels = Image.new(picture.mode, size)
    picture.im = pixels.im  # with memory of its own, PIL does not warn about the size
    picture.load()
    assert picture.im is pixels.im
    return pixels  # does not keep the file alive


def has_zstd() -> bool:
    """Tell whether PIL's libtiff decompresses Zstandard."""
    tags = {256: 1, 257: 1, 258: 8, 259: 50000, 262: 1, 277: 1, 278: 1, 279: len(_ZSTD)}
    try:
        decoded(plain_tiff({number: (4, [value]) for number, value in tags.items()}, [_ZSTD], b""), (1, 1))
    except OSError:
        return False
    return True
