"""Decode JPEG images with PIL, and check for the damage of which libjpeg would warn, because PIL hides its warnings.

libjpeg fills the image up if a scan is too short, and skips bytes that are left over. The check costs next to nothing:
the file is handed over in parts, and after each part the last row is tested for being decoded.

Damage is noticed if it changes the number of bits of the pixels before it by more than about `SPARE` bytes. It is not
noticed if it does not change their number (most flipped bits), if it lies between two restarts, if only the last few
bytes before the end marker are missing, or if an image in several scans (progressive) has its end marker. libjpeg warns
of some of these cases, but PIL offers no way to read its warnings.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from resnet_infer.data.formats.jpeg_header import END, FORMS, Header, check_scans, read_header
from resnet_infer.data.formats.kinds import UnsupportedError

_RESTARTS = re.compile(rb"\xff[\xd0-\xd7]")
"""Pattern of a restart marker."""
_MARKERS = {
    True: re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL),
    False: re.compile(rb"\xff+[^\x00\xff]", re.DOTALL),
}
"""Patterns of the marker that ends a scan, by whether the scan has restarts."""
SPARE = 4
"""Bytes of any value that are tolerated after the last pixel. Any number of zeros or 0xFF is tolerated as well."""
_READ_AHEAD = 8
"""Bytes that libjpeg reads before it decodes the last pixel, though it needs none of them."""
_FILLING = b"\xfe" * _READ_AHEAD
"""Bytes that follow the scan when its last pixel is decoded."""
_MARKS = tuple(os.urandom(5))
"""Grey levels that are written into a row, to see whether it has been decoded.

Random, so that no file can be made to contain them.
"""
_TAILS = (0x00, 0xAA)
"""Bytes appended to a scan without an end. Missing bits would be read from them, so the two results would differ."""
_SCANS_TAIL = 256
"""Number of these bytes after several scans."""
_BAND = 256
"""Rows that are compared at a time."""
_LAST_ROWS = 64
"""Rows in which the end of a scan shows: at least two rows of coding units (MCU)."""
_REWRITE = "if it looks right, write it anew, e.g. with ImageMagick: magick IN.jpg OUT.jpg"


def read_jpeg(content: bytes, check_size: Callable[[int, int], None]) -> Image.Image:
    """Decode a JPEG image in its own mode (L, RGB or CMYK).

    `check_size` is called with width and height before decoding. A file that lacks only its end marker counts as whole,
    and takes twice the time. Raises `UnsupportedError` for a form that is not decoded, or more than `MAX_SCANS` scans.
    A damaged file raises errors of any other kind.
    """
    header = read_header(content)
    check_scans(content, header)
    ended = not header.scan or header.end >= 0
    if not ended:
        content = content.removesuffix(b"\xff")
        header = replace(header, end=len(content))
    try:
        decoding = _Decoding(content if ended else content + END, header, check_size)
        decoding.run() if ended else decoding.run_ended(_TAILS[0])
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        if header.unsupported:
            raise UnsupportedError(header.unsupported) from error
        raise
    if not ended and not _is_whole(decoding, content):
        raise OSError("image file is truncated")
    return decoding.picture


def _is_whole(decoding: _Decoding, content: bytes) -> bool:
    """Tell whether a decoded image without end marker stays the same whatever bytes follow its scan."""
    if decoding.header.frame in FORMS or not _has_all_scans(content):
        return False
    once = decoding.fingerprint()
    decoding.run_ended(_TAILS[1])
    return decoding.fingerprint() == once


class _Decoding:
    """Decode one file, repeatedly into the same memory."""

    def __init__(self, content: bytes, header: Header, check_size: Callable[[int, int], None]) -> None:
        self._content, self.header = content, header
        self.picture = picture = _Jpeg(io.BytesIO(content))
        check_size(*picture.size)
        self._one_scan = header.frame in (0xC0, 0xC1) and header.in_scan == len(header.components)
        self._watched = self._one_scan and picture.width >= len(_MARKS)
        picture.load_prepare()
        self._tile, picture.tile = picture.tile[0], []
        bands = len(picture.getbands())
        self._marks = [level if bands == 1 else (level,) * bands for level in _MARKS]

    def run(self, filling: bytes = _FILLING) -> None:
        """Decode the file. Raises `OSError` for damage that is noticed."""
        end = self.header.end
        if self._one_scan and self.header.interval:
            end = _check_restarts(self._content, self.header)
        if not self._watched:
            return self._decode(self._content)
        try:
            return self._watch(end, filling)
        except _TooLongError:
            # Other images follow, or something lies between the scan and the end marker.
            first = _first_end(self._content, self.header)
            if first is None or first == end:
                raise
        return self._watch(first, filling)

    def run_ended(self, tail: int) -> None:
        """Decode the file with bytes of value `tail` between its scan and the end marker."""
        if self._watched:
            return self.run(bytes([tail]) * _READ_AHEAD)
        end = self.header.end
        return self._decode(self._content[:end] + bytes([tail]) * _SCANS_TAIL + self._content[end:])

    def fingerprint(self) -> list[int]:
        """Return checksums of the rows that the end of the file may change: the last, or all with several scans."""
        width, height = self.picture.size
        top = max(height - _LAST_ROWS, 0) if self._watched else 0
        bands = [(0, first, width, min(first + _BAND, height)) for first in range(top, height, _BAND)]
        return [zlib.crc32(self.picture.crop(band).tobytes()) for band in bands]

    def _decoder(self) -> Any:
        """Create a decoder of libjpeg that writes into the image."""
        kind, box, _, options = self._tile
        decoder = Image._getdecoder(self.picture.mode, kind, options, self.picture.decoderconfig)
        decoder.setimage(self.picture.im, box)
        return decoder

    def _decode(self, content: bytes) -> None:
        """Decode the whole of `content` without checks of the scan's length."""
        decoder = self._decoder()
        try:
            _decode_part(decoder, content)
        finally:
            decoder.cleanup()

    def _watch(self, end: int, filling: bytes) -> None:
        """Decode the file in parts.

        Raises `OSError` if the rows are not decoded as far as they should be after a part.
        """
        # 0xFF bytes pad up to the marker. With the bytes appended below they would form a marker.
        if end and self._content[end - 1] == 0xFF:
            end = len(self._content[:end].rstrip(b"\xff"))
        content, image, row = memoryview(self._content), self.picture.im, self.picture.height - 1
        for column, level in enumerate(self._marks):
            image.putpixel((column, row), level)

        def decoded() -> bool:
            """Tell whether the marks in the last row have been overwritten."""
            return [image.getpixel((column, row)) for column in range(len(_MARKS))] != self._marks

        decoder, position = self._decoder(), 0
        try:
            for stop, wanted in _stops(self._content, end):
                used = _decode_part(decoder, content[position:stop], last=False)
                if used is None or decoded():
                    if wanted is False:
                        raise _TooLongError
                    return
                position += used
            filled = bytes(content[position:end]) + filling
            used = _decode_part(decoder, filled, last=False)
            if used is None:
                return
            if not decoded():
                raise OSError("the scan ends before the last pixel")
            _decode_part(decoder, filled[used:] + bytes(content[end:]))
        finally:
            decoder.cleanup()


class _TooLongError(OSError):
    """Report that a scan goes on after the last pixel."""

    def __init__(self) -> None:
        super().__init__(f"the scan goes on after the last pixel, for more than {SPARE} bytes; {_REWRITE}")


def _stops(content: bytes, end: int) -> list[tuple[int, bool | None]]:
    """Return the positions at which to test whether the image is decoded, and whether it may be.

    None instead of a truth value means: if it is decoded, it is whole.
    """
    stops: list[tuple[int, bool | None]] = []
    if not any(content[max(end - SPARE, 0) : end]):
        filler = len(content[:end].rstrip(b"\0"))
        # Zeros may pad a scan. They may also be data of a uniform image.
        stops = [(max(filler - SPARE, 0), False), (min(filler + SPARE + _READ_AHEAD, end), None)]
    return [*stops, (max(end - SPARE, 0), False)]


def _first_end(content: bytes, header: Header) -> int | None:
    """Return where the first scan ends, or None if anything but comments and the like precedes the end marker."""
    found = _MARKERS[header.interval > 0].search(content, header.scan)
    position = found.start() if found else len(content)
    while found and (marker := content[found.end() - 1]) != END[1]:
        if marker != 0xFE and not 0xE0 <= marker <= 0xEF:
            return None
        after = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
        found = _MARKERS[False].match(content, after)
    return position if found else None


def _decode_part(decoder: Any, part: bytes | memoryview, *, last: bool = True) -> int | None:
    """Feed bytes to the decoder. Return how many it used, or None if the image is complete.

    Raises `OSError` for damage.
    """
    used, error = decoder.decode(part)
    if error < 0:
        raise OSError("broken data stream")
    if used >= 0 and last:
        raise OSError("image file is truncated")
    return None if used < 0 else used


def _check_restarts(content: bytes, header: Header) -> int:
    """Raise `OSError` if the number of restarts in the only scan is wrong.

    Returns where the data after the last restart end: some encoders put one more restart there, which means nothing.
    """
    steps = list(header.components.values())
    wide, high = (max(step[axis] for step in steps) for axis in (0, 1))
    if len(steps) == 1:
        wide = high = 1
    units = -(-header.width // (8 * wide)) * -(-header.height // (8 * high))
    found = sum(1 for _ in _RESTARTS.finditer(content, header.scan, header.end))
    expected = -(-units // header.interval) - 1
    if found == expected + 1 and _RESTARTS.fullmatch(content, header.end - 2, header.end):
        return header.end - 2
    if found != expected:
        raise OSError(f"{found} restarts in the scan where {expected} should be")
    return header.end


def _has_all_scans(content: bytes) -> bool:
    """Tell whether every coefficient of every component is coded to its last bit."""
    missing: set[tuple[int, int]] = set()
    for found in re.finditer(rb"\xff([\xc0-\xc2\xda])(..)(.)", content, re.DOTALL):
        part = content[found.start(3) : found.end(1) + int.from_bytes(found[2], "big")]
        if found[1] != b"\xda":
            if len(part) >= 6 and len(part) == 6 + 3 * part[5]:
                missing = {(part[at], place) for at in range(6, len(part), 3) for place in range(64)}
        elif len(part) == 4 + 2 * part[0] and part[-1] & 15 == 0:
            ids = part[1:-3:2]
            missing -= {(component, place) for component in ids for place in range(part[-3], part[-2] + 1)}
    return not missing


class _Jpeg(JpegImageFile):
    """Open a JPEG without reading its EXIF."""

    def getexif(self) -> Image.Exif:
        """Return no tags: PIL would look for the resolution on opening, and warn about damage."""
        return Image.Exif()
