"""Bytes in, a safe RGB picture out.

PIL's class for the format opens the picture, not `Image.open`: PIL warns about large pictures and damaged tags, and
`warnings.catch_warnings` is not safe while several threads decode. What would make those classes warn is checked or
cut out beforehand. No global state of PIL is changed.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from resnet_infer.data.suffixes import READABLE
from resnet_infer.data.tiff import TIFF, open_tiff, orientation
from resnet_infer.errors import PictureError

SUFFIXES = frozenset(READABLE)
"""What a folder is searched for; the content decides how a file is read."""

MAX_PIXELS = 178_956_970
"""PIL's own bound against decompression bombs, as a hard limit."""


def read_image(
    data: bytes | Path, name: str | None = None, *, exif: bool = True, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode a JPEG, PNG, WebP, BMP, GIF or TIFF to 8-bit RGB; of several frames, the first.

    The content decides the format, not the name. Transparency is composited over white. Of 16-bit samples the high
    byte is kept. Grey samples of 32 bits have no agreed range: black is 0 and white the smallest of 1 (floating point
    only), 255 and 65535 that holds all of them; beyond these, or with negative ones, they are stretched from the
    lowest to the highest. CMYK and the like are converted as PIL does; ICC profiles are ignored. `exif` turns a photo
    by its orientation tag (EXIF 2.3, tag 274; a damaged one is ignored).

    Raises `PictureError` for whatever cannot be read whole or has more than `max_pixels` pixels (a GIF: than PIL's
    `MAX_IMAGE_PIXELS`). Its message is one line that begins with `name`, or else with the path.
    """
    label = name or (str(data) if isinstance(data, Path) else "picture")
    try:
        return _decode(data.read_bytes() if isinstance(data, Path) else data, exif, max_pixels)
    except _UnusableError as error:
        reason, cause = str(error), error.__cause__
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason, cause = getattr(error, "strerror", None) or str(error), error
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in f"{label}: {reason}")
    raise PictureError(line) from cause


class _UnusableError(Exception):
    """Why a picture cannot be had."""


def _decode(content: bytes, exif: bool, max_pixels: int) -> Image.Image:
    if not content:
        raise _UnusableError("the file is empty")
    kind, opener = next(((kind, opener) for kind, magic, opener in _FORMATS if magic.match(content)), ("", None))
    if opener is None:
        what = next(
            (what for magic, what in _UNSUPPORTED if re.match(magic, content[:4096], re.DOTALL | re.IGNORECASE)),
            "a file of this kind",
        )
        raise _UnusableError(f"{what} is not supported; only JPEG, PNG, WebP, BMP, GIF and TIFF are")
    try:
        picture = opener(content)
        _check_size(*picture.size, max_pixels)
        if picture.format == "TIFF":  # given its memory, it does not warn about the size
            picture.im = Image.new(picture.mode, picture.size).im
        picture.load()
        rgb = picture if picture.mode == "RGB" and "transparency" not in picture.info else _to_rgb(picture)
        turn = _TURNS.get(orientation(picture, content)) if exif else None
        return rgb if turn is None else rgb.transpose(turn)
    except _UnusableError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise _UnusableError("too many pixels to decode") from error
    except Exception as error:  # PIL's parsers raise whatever damaged bytes make them stumble over
        detail = f" ({error})" if isinstance(error, (OSError, SyntaxError, ValueError)) and str(error) else ""
        raise _UnusableError(f"damaged or truncated {kind} picture{detail}") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _UnusableError(f"{width}x{height} pixels are more than the limit of {max_pixels}")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(picture)).convert("RGB")
    if picture.mode == "P":
        colours = len(picture.getpalette() or ()) // 3
        if colours <= np.asarray(picture).max():
            raise _UnusableError(f"the palette is damaged: it has only {colours} of the picture's colours")
    if picture.mode == "La":  # PIL converts it to LA only
        picture = picture.convert("LA")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    opaque = Image.new("RGB", picture.size, "white")
    opaque.paste(rgba, mask=rgba)
    return opaque


def _to_8_bits(picture: Image.Image) -> NDArray[np.uint8]:
    """Grey of more than 8 bits a sample: (height, width), as `read_image` documents it."""
    samples = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})
    grey: NDArray[np.uint8]
    if picture.mode not in ("I", "F") or picture.format == "PNG":
        bits = tags.get(258, (16,))[0]  # BitsPerSample: 12 are stored in 16
        grey = (samples >> (bits - 8)).astype(np.uint8)
        grey[samples == picture.info.get("transparency", -1)] = 255
    else:
        whole = picture.mode == "I"
        if whole and tags.get(339, (1,))[0] == 1:  # SampleFormat: unsigned, in PIL's signed memory
            samples = samples.view(np.uint32)
        finite = samples[np.isfinite(samples)].astype(np.float64)
        low, high = finite.min(initial=0), finite.max(initial=0)
        if low == 0:
            high = next((full for full in (1.0, 255.0, 65535.0)[whole:] if high <= full), high)
        offset = np.nan_to_num(samples, nan=0, posinf=high, neginf=low).astype(np.float64) - low
        scaled = offset * 256 // (high - low + 1) if whole else np.rint(offset * 255 / (high - low))
        grey = scaled.astype(np.uint8)
    return ~grey if tags.get(262) == 0 else grey  # PhotometricInterpretation: white is zero


class _Jpeg(JpegImageFile):
    def getexif(self) -> Image.Exif:
        """Nothing: on opening, the resolution would be looked for here, and damage warned of."""
        return Image.Exif()


def _open_jpeg(content: bytes) -> ImageFile.ImageFile:
    picture = _Jpeg(io.BytesIO(content))
    picture.decodermaxblock = len(content)  # decoded in one call, not 64 KiB at a time
    return picture


# The classes of the other formats are imported when a picture needs one: a JPEG is soonest read without them.


def _open_webp(content: bytes) -> ImageFile.ImageFile:
    from PIL.WebPImagePlugin import WebPImageFile

    return WebPImageFile(io.BytesIO(content))


def _open_bmp(content: bytes) -> ImageFile.ImageFile:
    from PIL.BmpImagePlugin import BmpImageFile

    return BmpImageFile(io.BytesIO(content))


def _open_png(content: bytes) -> ImageFile.ImageFile:
    from PIL.PngImagePlugin import PngImageFile

    if b"acTL" in content:  # an animation; PIL warns of one that makes no sense
        kept, start = [content[:8]], 8
        while start < len(content):
            end = start + 12 + int.from_bytes(content[start : start + 4], "big")
            if content[start + 4 : start + 8] not in (b"acTL", b"fcTL", b"fdAT"):
                kept.append(content[start:end])
            start = end
        content = b"".join(kept)
    picture = PngImageFile(io.BytesIO(content))
    transparent, depth = picture.info.get("transparency"), content[24]
    # The file states the transparent colour in its own samples; PIL compares it with 8-bit ones.
    if transparent is not None and picture.mode == "L":
        picture.info["transparency"] = transparent * 255 // (2**depth - 1)
    elif transparent is not None and picture.mode == "RGB" and depth == 16:
        picture.info["transparency"] = tuple(sample >> 8 for sample in transparent)
    return picture


def _open_gif(content: bytes) -> ImageFile.ImageFile:
    """Checks the size before PIL does: it widens the picture to its first frame on opening, and warns."""
    from PIL.GifImagePlugin import GifImageFile

    width, height, flags = struct.unpack_from("<HHB", content, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while content[position] != 0x2C:  # the first frame's descriptor
        if content[position] == 0x21:  # an extension: its label, then blocks that begin with their size
            position += 2
            while content[position]:
                position += content[position] + 1
        position += 1
    left, top, frame_width, frame_height = struct.unpack_from("<4H", content, position + 1)
    if Image.MAX_IMAGE_PIXELS is not None:
        _check_size(max(width, left + frame_width), max(height, top + frame_height), Image.MAX_IMAGE_PIXELS)
    return GifImageFile(io.BytesIO(content))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By orientation. PIL rotates anticlockwise."""


# What a file is

_FORMATS: tuple[tuple[str, re.Pattern[bytes], Callable[[bytes], ImageFile.ImageFile]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff"), _open_jpeg),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _open_png),
    ("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), _open_webp),
    ("BMP", re.compile(rb"BM.{12}[\x0c(48@l|]\0\0\0", re.DOTALL), _open_bmp),
    ("GIF", re.compile(rb"GIF8[79]a"), _open_gif),
    ("TIFF", TIFF, open_tiff),
)
_UNSUPPORTED = (
    (rb".{4}ftyp(avi[fs]|mi[fa][1f].{0,64}avi[fs])", "AVIF"),
    (rb".{4}ftyp(he[iv][cmsx]|mif1|msf1)", "HEIC"),
    (rb".{4}ftyp", "MP4 or QuickTime"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL"),
    (rb"(\xef\xbb\xbf)?\s*(?=<).*<html\b", "HTML"),
    (rb"(\xef\xbb\xbf)?\s*(?=<).*<svg\b", "SVG"),
    (rb"%PDF", "PDF"),
    (rb"8BPS", "PSD"),
    (rb"PK\x03\x04", "ZIP"),
    (rb"\x1f\x8b", "GZIP"),
    (rb"ID3|\xff[\xf2\xf3\xfa\xfb]", "MP3"),
    (rb"version https://git-lfs", "a Git LFS pointer (fetch the picture itself with: git lfs pull)"),
    (rb"[\t\n\r -~]+\Z", "text"),
)


def format_of(head: bytes) -> tuple[str, bool]:
    """Tell by its first 4096 bytes what a file is: the name of its format, empty if unknown, and if it is decoded."""
    for kind, magic, _ in _FORMATS:
        if magic.match(head):
            return kind, True
    for pattern, what in _UNSUPPORTED:
        if re.match(pattern, head[:4096], re.DOTALL | re.IGNORECASE):
            return what, False
    return "", False
