"""Decode PNG images. PIL gets only the chunks that make the image."""

from __future__ import annotations

import io
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from resnet_infer.data.formats.kinds import UnsupportedError
from resnet_infer.data.formats.samples import Range, bands, new_picture, put_rows
from resnet_infer.data.formats.strict import strict_load

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG."""
_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
"""Names of the chunks that PIL gets."""
_EXIF_TEXT = b"Raw profile type exif"
"""Name of the text chunk into which ImageMagick writes EXIF."""
_MAX_EXIF = 2**20
"""Most bytes of compressed EXIF after decompression."""
_MOST_CHUNKS = 100_000
"""Most chunks of a file. Each takes PIL as long as some kB of pixels; encoders write about 8 kB or more into one."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Passes of an interlaced image (Adam7): first column and row, and steps across and down, in pixels."""
_INFLATED_BYTES = 2**20
"""Bytes that are decompressed at a time if they are only counted."""


def read_png(content: bytes, check_size: Callable[[int, int], None]) -> Image.Image:
    """Decode a PNG image to 8 bits per sample. 16-bit samples keep their high byte.

    A single colour that the file declares transparent becomes white. `info` holds `exif` if there is any, and
    `transparency` of a palette. `check_size` is called with width and height before decoding. Raises `UnsupportedError`
    for a form that is not decoded. A damaged file raises errors of any other kind.
    """
    kept, exif, key = [memoryview(SIGNATURE)], b"", None
    first, last = 0, -1  # bounds of the part that the next chunk may extend
    for number, (name, start, end) in enumerate(_chunks(content)):
        if number == _MOST_CHUNKS:
            raise UnsupportedError(f"PNG of more than {_MOST_CHUNKS:,} chunks")
        if name in _NEEDED:
            if start != last:
                kept.append(memoryview(content)[start:end])
                first = start
            else:  # no part for each chunk: there may be millions
                kept[-1] = memoryview(content)[first:end]
            last = end
            if name == b"tRNS" and end - start in (14, 18):
                key = np.frombuffer(content, ">u2", (end - start - 12) // 2, start + 8)
        elif name == b"eXIf" or (name in (b"tEXt", b"zTXt") and content.startswith(_EXIF_TEXT, start + 8)):
            exif = exif or _exif(name, content[start + 8 : end - 4])
        elif name == b"CgBI":
            raise UnsupportedError("PNG as iPhone applications have it (CgBI)")
        elif name.isalpha() and name[:1].isupper():
            raise UnsupportedError(f"PNG with the necessary chunk {name.decode()}")
    picture = PngImageFile(cast(IO[bytes], _Parts(kept)))
    check_size(*picture.size)
    head = bytes(kept[1][:33])
    depth, colour, interlaced = head[16], head[17], head[20] != 0
    key = key if key is not None and len(key) == {0: 1, 2: 3}.get(colour) else None
    low = _low_bytes(kept) if key is not None and (depth, colour) == (16, 2) else None
    strict_load(picture)
    _check_rows(picture, content, depth, colour, interlaced=interlaced)
    result = picture if colour == 3 else _shown(picture, key, depth, low)
    if exif:
        result.info["exif"] = exif
    return result


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each chunk. The last one may be cut off."""
    start = len(SIGNATURE)
    while start + 8 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        name = content[start + 4 : start + 8]
        yield name, start, end
        if name == b"IEND":
            return
        start = end


class _Parts(io.RawIOBase):
    """Present several buffers as one file without copying them."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))
        self._position = 0

    def read(self, size: int = -1, /) -> bytes:
        """Read `size` bytes, or all that are left."""
        stop = self._ends[-1] if size < 0 else min(self._position + size, self._ends[-1])
        found: list[memoryview] = []
        while self._position < stop:
            index = bisect_right(self._ends, self._position)
            begin = self._ends[index] - len(self._parts[index])
            found.append(self._parts[index][self._position - begin : stop - begin])
            self._position += len(found[-1])
        return b"".join(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readable(self) -> bool:
        """Return True: the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: the file can be searched."""
        return True


def _check_rows(picture: Image.Image, file: bytes, depth: int, colour: int, *, interlaced: bool) -> None:
    """Raise `OSError` if the data end properly, but before the last row: PIL leaves the missing rows at zero.

    Counting the data takes as long as decompressing them. It is done only if the last row is zero, or if the image is
    interlaced, because the last row may then not be the last one in the file.
    """
    width, height = picture.size
    if not interlaced and any(picture.crop((0, height - 1, width, height)).tobytes()):
        return
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = (
        ((width - left + right - 1) // right, (height - top + down - 1) // down) for left, top, right, down in passes
    )
    missing = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0)
    inflate = zlib.decompressobj()
    for name, start, end in _chunks(file):
        data = memoryview(file)[start + 8 : max(min(end, len(file)) - 4, 0)] if name == b"IDAT" else b""
        for first in range(0, len(data), _INFLATED_BYTES):
            part: bytes | memoryview = data[first : first + _INFLATED_BYTES]
            while part and missing > 0:
                missing -= len(inflate.decompress(part, _INFLATED_BYTES))
                part = inflate.unconsumed_tail
    if missing > 0 and missing > len(inflate.flush()):
        raise OSError("the data end before the last row")


def _exif(name: bytes, data: bytes) -> bytes:
    """Return the EXIF of a chunk; empty if it is damaged."""
    if name == b"eXIf":
        return data
    try:
        text = data[len(_EXIF_TEXT) + 1 :]
        if name == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_EXIF)
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except (zlib.error, ValueError):
        return b""


def _low_bytes(parts: Sequence[memoryview]) -> Image.Image:
    """Decode the low bytes of 16-bit RGB, by telling PIL that they are the high ones."""
    picture = PngImageFile(cast(IO[bytes], _Parts(parts)))
    picture.tile = [(*picture.tile[0][:3], "RGB;16L")]  # type: ignore[list-item]  # PIL 10 has tuples
    strict_load(picture)
    return picture


def _shown(picture: Image.Image, key: NDArray[Any] | None, depth: int, low: Image.Image | None) -> Image.Image:
    """Convert to 8 bits, and make the transparent colour `key` white. `key` has as many bits as the file's samples."""
    picture.info.pop("transparency", None)
    if depth < 16 and key is None:
        return picture
    width, height = picture.size
    narrow = picture.mode in ("RGB", "RGBA", "LA")
    channels = len(picture.getbands())
    colours = channels - (picture.mode in ("RGBA", "LA"))
    range_ = Range(255 if narrow else 2**16 - 1)
    result = picture if narrow else new_picture("L", width, height)
    for top, bottom in bands(width, height):
        box = (0, top, width, bottom)
        samples = np.asarray(picture.crop(box)).reshape(bottom - top, width, channels)
        transparent = None
        if depth < 16:
            assert key is not None
            wanted = key % 2**depth * (255 // (2**depth - 1))
            pixels = samples.astype(np.uint8) * (255 if samples.dtype == bool else 1)
            transparent = (pixels == wanted).all(-1)
        else:
            range_.add(samples[..., :colours], before=top * width * colours, of=height * width * colours)
            pixels = samples if narrow else (samples >> 8).astype(np.uint8)
            if low is not None:
                transparent = (samples.astype(np.uint16) << 8 | np.asarray(low.crop(box)) == key).all(-1)
            elif key is not None and not narrow:
                transparent = samples[..., 0] == key
        if transparent is not None and transparent.any():
            pixels = pixels.copy()
            pixels[transparent] = 255
            put_rows(result, top, pixels)
        elif not narrow:
            put_rows(result, top, pixels)
    if note := range_.note():
        result.info["note"] = note
    return result
