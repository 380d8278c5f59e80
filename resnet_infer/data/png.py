"""PNG: PIL is given the chunks that make the picture, and no others."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from resnet_infer.data.kinds import UnsupportedError
from resnet_infer.data.samples import Range
from resnet_infer.data.strict import strict_load

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_EXIF_TEXT = b"Raw profile type exif"
"""The name of the text that ImageMagick writes EXIF into."""
_MAX_EXIF = 2**20
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of the passes of an interlaced picture: the first column and row, and the steps across and down."""
_INFLATED_BYTES = 2**20
"""Bytes that are decompressed at a time where they are only counted."""


def read_png(content: bytes, check_size: Callable[[int, int], None]) -> Image.Image:
    """Decode it in 8 bits a sample; of 16, the high byte. The colour that is stated to be transparent becomes white.

    `info` has `exif` where there is any, and `transparency` of a palette. Raises `UnsupportedError` for a form that is
    not read; a damaged file raises anything else.
    """
    kept, exif, key = [SIGNATURE], b"", None
    for name, start, end in _chunks(content):
        if name in _NEEDED:
            kept.append(content[start:end])
            if name == b"tRNS" and end - start in (14, 18):
                key = np.frombuffer(content, ">u2", (end - start - 12) // 2, start + 8)
        elif name == b"eXIf" or (name in (b"tEXt", b"zTXt") and content.startswith(_EXIF_TEXT, start + 8)):
            exif = exif or _exif(name, content[start + 8 : end - 4])
        elif name == b"CgBI":
            raise UnsupportedError("PNG as iPhone applications have it (CgBI)")
        elif name.isalpha() and name[:1].isupper():
            raise UnsupportedError(f"PNG with the necessary chunk {name.decode()}")
    file = b"".join(kept)
    picture = PngImageFile(io.BytesIO(file))
    check_size(*picture.size)
    depth, colour = file[24], file[25]
    key = key if key is not None and len(key) == {0: 1, 2: 3}.get(colour) else None
    low = _low_bytes(file) if key is not None and (depth, colour) == (16, 2) else None
    interlaced = file[28] != 0
    strict_load(picture)
    _check_rows(picture, file, interlaced=interlaced)
    result = picture if colour == 3 else _shown(picture, key, depth, low)
    if exif:
        result.info["exif"] = exif
    return result


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each chunk; the last one may be cut off."""
    start = len(SIGNATURE)
    while start + 8 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        name = content[start + 4 : start + 8]
        yield name, start, end
        if name == b"IEND":
            return
        start = end


def _check_rows(picture: Image.Image, file: bytes, *, interlaced: bool) -> None:
    """Raise `OSError` where the data end rightly, but before the last row: PIL leaves the rest at zero.

    To count the data takes as long as to decompress them, so it is done only where the last row is zero or, as an
    interlaced picture is written in passes, may not be the last one in the file.
    """
    width, height = picture.size
    if not interlaced and any(picture.crop((0, height - 1, width, height)).tobytes()):
        return
    bits = file[24] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[file[25]]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = (
        ((width - left + right - 1) // right, (height - top + down - 1) // down) for left, top, right, down in passes
    )
    missing = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0)
    inflate = zlib.decompressobj()
    for name, start, end in _chunks(file):
        data = file[start + 8 : end - 4] if name == b"IDAT" else b""
        while data and missing > 0:
            missing -= len(inflate.decompress(data, _INFLATED_BYTES))
            data = inflate.unconsumed_tail
    if missing > 0 and missing > len(inflate.flush()):
        raise OSError("the data end before the last row")


def _exif(name: bytes, data: bytes) -> bytes:
    """The EXIF of a chunk; nothing where it is damaged."""
    if name == b"eXIf":
        return data
    try:
        text = data[len(_EXIF_TEXT) + 1 :]
        if name == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_EXIF)
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except (zlib.error, ValueError):
        return b""


def _low_bytes(file: bytes) -> NDArray[np.uint8]:
    """The low bytes of 16-bit RGB (height, width, 3): PIL unpacks them as if they were the high ones."""
    picture = PngImageFile(io.BytesIO(file))
    picture.tile = [(*picture.tile[0][:3], "RGB;16L")]  # type: ignore[list-item]  # PIL 10 has tuples
    strict_load(picture)
    return np.asarray(picture)


def _shown(picture: Image.Image, key: NDArray[Any] | None, depth: int, low: NDArray[np.uint8] | None) -> Image.Image:
    """In 8 bits, with the transparent colour `key`, which has as many bits as the file's samples, made white."""
    picture.info.pop("transparency", None)
    if depth < 16 and key is None:
        return picture
    samples = np.asarray(picture)
    range_ = Range(255 if picture.mode in ("RGB", "RGBA", "LA") else 2**16 - 1)
    if key is not None and depth < 16:
        levels = 255 // (2**depth - 1)
        wanted = key % 2**depth * levels
        pixels = samples.astype(np.uint8) * (255 if samples.dtype == bool else 1)
        transparent = (pixels.reshape(*pixels.shape[:2], -1) == wanted).all(-1)
    elif picture.mode in ("RGB", "RGBA", "LA"):
        pixels = samples
        transparent = None if low is None else (samples.astype(np.uint16) << 8 | low == key).all(-1)
        colours = pixels if picture.mode == "RGB" else pixels[..., :-1]
        range_.add(colours)
    else:
        range_.add(samples)
        pixels = (samples >> 8).astype(np.uint8)
        transparent = None if key is None else samples == key
    if transparent is not None and transparent.any():
        pixels = pixels.copy()
        pixels[transparent] = 255
    result = Image.fromarray(pixels)
    if note := range_.note():
        result.info["note"] = note
    return result
