"""Decode the bytes of an image file to an 8-bit RGB image, safely.

The PIL class of the format opens the image, not `Image.open`. PIL warns about large images and damaged tags, and
`warnings.catch_warnings` is not safe while several threads decode. Whatever would make those classes warn is checked or
cut out beforehand. This module changes no global state of PIL, and does not depend on what the calling program changed
there.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from PIL import Image

from resnet_infer.data.formats.jpeg import read_jpeg
from resnet_infer.data.formats.kinds import READ, UnsupportedError, UnusableError, named_kind, other_kind
from resnet_infer.data.formats.memory import decoding_bytes
from resnet_infer.data.formats.samples import bands
from resnet_infer.data.formats.strict import strict_load
from resnet_infer.data.formats.suffixes import READABLE
from resnet_infer.data.formats.tiff.directory import TIFF, orientation
from resnet_infer.errors import PictureError, Reason, ResnetInferError, UnsupportedPictureError, reason_of
from resnet_infer.utils.inputs import open_input, read_open, unresolved

SUFFIXES = frozenset(READABLE)
"""Suffixes that a folder is searched for, in lower case. The content decides how a file is decoded."""

MAX_PIXELS = 178_956_970
"""Most pixels of an image: PIL's own bound against decompression bombs, as a hard limit."""

_BYTES_PER_PIXEL, _OTHER_BYTES = 8, 1 << 26
"""Bytes per pixel (four 16-bit samples), and bytes of metadata, that a file may have. A larger file is not read."""
_LARGE = 1 << 24
"""Bytes of a file above which its head is checked before the whole file is read."""
HEAD = 4096
"""Bytes at the start of a file that suffice to tell its format."""
DIRECTORY_HINT = 'give the files in it: sorted(Path("folder").glob("*.jpg"))'
"""What to do with a directory in the place of an image."""

_MOST_EXTENSIONS = 10_000
"""Most extension blocks of a GIF before its first frame. PIL keeps their contents in memory."""

CheckSize = Callable[[int, int], None]
Reserve = Callable[[int, int, int], None]
"""Callback before decoding, with the most bytes that decoding takes, the width and the height in pixels.

It may raise.
"""


def read_image(
    data: bytes | Path,
    name: str | None = None,
    *,
    exif: bool = True,
    max_pixels: int = MAX_PIXELS,
    reserve: Reserve | None = None,
) -> Image.Image:
    """Decode a JPEG, PNG, WebP, BMP, GIF or TIFF image to 8-bit RGB.

    `data` is the content of a file, or its path. The content decides the format; the name does not. The first frame of
    an animation or multi-page file is decoded.

    - Transparency is composited over white.
    - 16-bit samples keep their high byte.
    - Grey samples that are signed, floating-point or 32-bit have no agreed range. Black is 0, and white the smallest of
      1 (floating point only), 255 and 65535 that no sample exceeds. With larger or negative samples the range from the
      lowest to the highest is stretched to 0 to 255.
    - CMYK and other colour spaces are converted as PIL does. ICC profiles are ignored.
    - `exif` rotates a photo by its orientation tag (EXIF 2.3, tag 274). A damaged tag is ignored.

    `info["note"]` of the image is a sentence if samples of more than 8 bits use less than a tenth of their range, so
    that the image is nearly black or has hardly any contrast.

    Raises `UnsupportedPictureError`, naming the form, for a kind of file that is not decoded. Raises `PictureError` for
    a file that cannot be read whole, or has more than `max_pixels` pixels (a GIF also: more than PIL's
    `MAX_IMAGE_PIXELS`). The message is one line that begins with `name`, or else with the path. Errors of this package
    that `reserve` raises pass through.

    >>> image = read_image(Path("photo.jpg"))
    >>> image.mode, image.size
    ('RGB', (640, 480))
    """
    label = name or (str(data) if isinstance(data, Path) else "picture")
    kind: type[PictureError] = PictureError
    reason: Reason | None = None
    hint = None
    try:
        content = picture_bytes(data, max_pixels) if isinstance(data, Path) else data
        return _decode(content, exif, max_pixels, reserve)
    except UnsupportedError as error:
        why, cause, kind = f"unsupported: {error}", error.__cause__, UnsupportedPictureError
    except UnusableError as error:
        why, cause, reason = str(error), error.__cause__, error.reason
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        why, cause, reason = getattr(error, "strerror", None) or str(error), error, reason_of(error)
        is_missing = isinstance(error, FileNotFoundError)
        hint = unresolved(str(data)) if is_missing else DIRECTORY_HINT if isinstance(error, IsADirectoryError) else None
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in f"{label}: {why}")
    raise kind(line, hint=hint, source=label, reason=reason) from cause


def is_resizable(width: int, height: int, side: int) -> bool:
    """Tell whether an image may be resized so that its shorter side is `side` pixels.

    The result must not have more than `MAX_PIXELS` pixels.
    """
    shorter, longer = sorted((width, height))
    return side**2 * longer <= MAX_PIXELS * shorter


def require_resizable(picture: Image.Image, side: int, source: str) -> None:
    """Raise `PictureError` if `is_resizable` is false, because a small file could then fill the memory.

    `source` names the image in the message.
    """
    if not is_resizable(*picture.size, side):
        message = f"{source}: {picture.width}x{picture.height} pixels are too narrow to resize"
        raise PictureError(message, source=source, reason="too_large")


def picture_bytes(path: str | Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """Read the bytes of an image file.

    If a large file is not an image of a known format, only its first `HEAD` bytes are returned; they suffice to say so.

    Raises `OSError` for anything but a regular file (`inputs.open_input`), for a file larger than an image of
    `max_pixels` pixels can be, and if memory is too small for it.
    """
    with open_input(path) as file:
        about = os.fstat(file.fileno())
        if stat.S_ISREG(about.st_mode) and about.st_size > _LARGE:
            head = file.read(HEAD)
            if not format_of(head)[1]:
                return head
            file.seek(0)
        return read_open(file, path, _most_bytes(max_pixels))


def piped_bytes(stream: IO[bytes], max_pixels: int = MAX_PIXELS) -> bytes:
    """Read the bytes of an image from a stream to its end.

    If the stream is not an image of a known format, only its first `HEAD` bytes are returned. Raises `OSError` for more
    bytes than an image of `max_pixels` pixels can have, and if memory is too small.
    """
    limit = _most_bytes(max_pixels)
    head = stream.read(HEAD)
    while 0 < len(head) < HEAD and (more := stream.read(HEAD - len(head))):  # a pipe gives what has come
        head += more
    if not format_of(head)[1]:
        return head
    parts = [head]
    try:
        while part := stream.read(1 << 20):
            parts.append(part)
            if len(parts) << 20 > limit:
                raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes")
        return b"".join(parts)
    except MemoryError as error:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error


def _most_bytes(max_pixels: int) -> int:
    """Return the largest size in bytes of an image file of `max_pixels` pixels."""
    return _BYTES_PER_PIXEL * max_pixels + _OTHER_BYTES


def _decode(content: bytes, exif: bool, max_pixels: int, reserve: Reserve | None) -> Image.Image:
    """Decode `content` as `read_image` documents it.

    Raises `UnusableError`, and what `reserve` raises of this package.
    """
    if not content:
        raise UnusableError("the file is empty", reason="empty")

    def check_size(width: int, height: int) -> None:
        if width * height > max_pixels:
            raise UnusableError(f"{width}x{height} pixels are more than the limit of {max_pixels}", reason="too_large")
        if reserve:
            reserve(decoding_bytes(kind, content, width, height), width, height)

    kind, reader = next(((kind, reader) for kind, magic, reader in _FORMATS if magic.match(content)), ("", None))
    if reader is None:
        raise UnsupportedError(f"{other_kind(content)}; {READ}")
    try:
        # One name for the image in all its forms, so that each form is freed once the next exists.
        picture = reader(content, check_size)
        note = picture.info.get("note")
        turn = TURNS.get(orientation(content if kind == "TIFF" else picture.info.get("exif", b""))) if exif else None
        if turn is not None:  # before the conversion, while a pixel may have fewer bytes
            picture = picture.transpose(turn)
        if picture.mode != "RGB" or "transparency" in picture.info:
            picture = to_rgb(picture)
    except (UnusableError, ResnetInferError):
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise UnusableError("too many pixels to decode", reason="memory") from error
    except Exception as error:  # damaged bytes make parsers raise errors of any kind
        detail = f" ({error})" if isinstance(error, (OSError, SyntaxError, ValueError)) and str(error) else ""
        raise UnusableError(f"damaged or truncated {kind} picture{detail}") from error
    if note:
        picture.info["note"] = note
    return picture


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert an image of any PIL mode to RGB, with transparent pixels over white.

    Raises `UnusableError` for a palette that lacks colours of the image.
    """
    if picture.mode == "P":
        colours = len(picture.getpalette() or ()) // 3
        if colours <= _most(picture):
            raise UnusableError(f"the palette is damaged: it has only {colours} of the picture's colours")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    opaque = Image.new("RGB", picture.size, "white")
    for top, bottom in bands(*picture.size):
        rgba = picture.crop((0, top, picture.width, bottom)).convert("RGBA")
        opaque.paste(rgba, (0, top), rgba)
    return opaque


def _most(picture: Image.Image) -> float:
    """Return the greatest level of a one-channel image."""
    extrema = picture.getextrema()
    return extrema[1] if isinstance(extrema[1], (int, float)) else max(most for _, most in extrema[1:])


# The readers of the other formats are imported when an image needs them: a JPEG is read sooner without them.


def _read_png(content: bytes, check_size: CheckSize) -> Image.Image:
    """Decode a PNG image."""
    from resnet_infer.data.formats.png import read_png

    return read_png(content, check_size)


def _read_webp(content: bytes, check_size: CheckSize) -> Image.Image:
    """Decode the first frame of a WebP image."""
    from PIL.WebPImagePlugin import WebPImageFile

    picture = WebPImageFile(io.BytesIO(content))
    check_size(*picture.size)
    decoder: Any = getattr(picture, "_decoder", None)
    if decoder is None or picture.mode not in ("RGB", "RGBA"):
        picture.load()
        return picture
    # PIL would keep the decoder, which holds two more copies of the image, while it makes its own copy.
    found = decoder.get_next()
    if found is None:
        raise EOFError("failed to decode next frame in WebP file")
    exif, picture._decoder = picture.info.get("exif", b""), None
    del decoder
    raw = "RGBX" if picture.mode == "RGB" else "RGBA"
    result = Image.frombuffer(picture.mode, picture.size, found[0], "raw", raw, 0, 1)
    result.info["exif"] = exif
    return result


def _read_bmp(content: bytes, check_size: CheckSize) -> Image.Image:
    """Decode a BMP image."""
    from resnet_infer.data.formats.bmp import read_bmp

    return read_bmp(content, check_size)


def _read_gif(content: bytes, check_size: CheckSize) -> Image.Image:
    """Decode the first frame of a GIF image.

    The size is checked before PIL opens the file, because PIL enlarges the image to its first frame on opening, and
    warns.
    """
    from PIL.GifImagePlugin import GifImageFile

    width, height, flags = struct.unpack_from("<HHB", content, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    extensions = 0
    while content[position] != 0x2C:  # until the image descriptor of the first frame
        if content[position] == 0x21:  # an extension: its label, then blocks that begin with their size
            extensions += 1
            if extensions > _MOST_EXTENSIONS:
                raise UnsupportedError(f"GIF of more than {_MOST_EXTENSIONS:,} extensions before its first frame")
            position += 2
            while content[position]:
                position += content[position] + 1
        position += 1
    left, top, frame_width, frame_height = struct.unpack_from("<4H", content, position + 1)
    size = max(width, left + frame_width), max(height, top + frame_height)
    if Image.MAX_IMAGE_PIXELS is not None and size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
        raise UnusableError(
            f"{size[0]}x{size[1]} pixels are more than the limit of {Image.MAX_IMAGE_PIXELS}", reason="too_large"
        )
    picture = GifImageFile(io.BytesIO(content))
    check_size(*picture.size)
    strict_load(picture)
    return picture


def _read_tiff(content: bytes, check_size: CheckSize) -> Image.Image:
    """Decode the first image of a TIFF file."""
    from resnet_infer.data.formats.tiff.picture import read_tiff

    return read_tiff(content, check_size)


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""PIL's transposition by EXIF orientation. PIL rotates anticlockwise."""


_FORMATS: tuple[tuple[str, re.Pattern[bytes], Callable[[bytes, CheckSize], Image.Image]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff"), read_jpeg),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _read_png),
    ("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), _read_webp),
    ("BMP", re.compile(rb"BM.{12}[\x0c\x10(48@l|]\0\0\0", re.DOTALL), _read_bmp),
    ("GIF", re.compile(rb"GIF8[79]a"), _read_gif),
    ("TIFF", TIFF, _read_tiff),
)
"""Rows of format name, pattern of the first bytes, and decoder. A decoder does not apply the EXIF orientation."""


def format_of(head: bytes) -> tuple[str, bool]:
    """Tell the format of a file by its first 4096 bytes.

    Returns the name of the format (empty if it is unknown), and whether this package decodes it.

    >>> format_of(b"GIF89a")
    ('GIF', True)
    """
    for kind, magic, _ in _FORMATS:
        if magic.match(head):
            return kind, True
    return named_kind(head), False
