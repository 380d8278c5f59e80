"""JPEG: decoded by PIL, and checked for what libjpeg would warn of, because PIL hides its warnings.

Where a scan is too short, a decoder fills the picture up; where bytes are left, it passes over them. The check costs
next to nothing: the file is handed over in parts, and between them it is looked whether the last row is decoded.
What this does not notice: damage that takes as many bits as what was there, which is a matter of chance; damage between
two restarts; and damage of a progressive picture that has its end marker.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from resnet_infer.data.kinds import UnsupportedError

END = b"\xff\xd9"
_RESTARTS = re.compile(rb"\xff[\xd0-\xd7]")
SPARE = 512
"""So many unused bytes at the end of a scan are let pass: some cameras pad it."""
_FILLING = b"\xfe" * 24
"""Put after a scan, so that a decoder that reads ahead can decode the last pixel. As data, it is less than a block."""
_MARKS = tuple(os.urandom(5))
"""Levels that are put into a row, to see whether it has been decoded."""
_TAILS = tuple(bytes([value]) * 256 for value in (0x00, 0x55, 0xAA, 0xFE))
"""What may follow a scan: bits that begin and go on differently."""
_FORMS = {
    0xC3: "lossless JPEG",
    0xC5: "hierarchical JPEG",
    0xC6: "hierarchical JPEG",
    0xC7: "hierarchical JPEG",
    0xC9: "arithmetic-coded JPEG",
    0xCA: "arithmetic-coded JPEG",
    0xCB: "lossless JPEG",
    0xCD: "hierarchical JPEG",
    0xCE: "hierarchical JPEG",
    0xCF: "hierarchical JPEG",
    0xF7: "JPEG-LS",
}
"""Forms that a decoder may lack, by the marker of the frame."""
_FRAMES = {0xC0, 0xC1, 0xC2, *_FORMS}
MAX_SCANS = 500
"""Most scans of a picture: each visits every block, so a small file of many costs minutes. Encoders write about 10."""
_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd9-\xfe])")
"""A marker behind a scan, but for restarts and others without a length."""
_MOST_SEGMENTS = 100_000
"""So many are looked through for scans."""


@dataclass
class _Header:
    """What stands before the first scan."""

    frame: int = 0
    """The marker of the frame."""
    bits: int = 8
    height: int = 0
    width: int = 0
    components: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Samples of a unit across and down, by component."""
    interval: int = 0
    """Units between restarts, if there are any."""
    scan: int = 0
    """Where the data of the first scan begin."""
    count: int = 0
    """Components, as the file counts them."""
    in_scan: int = 0
    """Components of the first scan."""
    several: bool = False
    """Whether further pictures follow (MPO)."""
    end: int = -1
    """Where the end marker is, if there is one."""

    @property
    def has_one_scan(self) -> bool:
        """Whether no more than the first scan is decoded."""
        return self.frame in (0xC0, 0xC1) and self.in_scan == self.count

    @property
    def coding(self) -> str | None:
        """The name of a coding that is not read."""
        if self.frame in _FORMS:
            return _FORMS[self.frame]
        return f"{self.bits}-bit JPEG" if self.frame and self.bits != 8 else None

    @property
    def unsupported(self) -> str | None:
        """The name of a form that is not read."""
        if self.coding:
            return self.coding
        if self.frame and len(self.components) not in (1, 3, 4):
            return f"JPEG of {len(self.components)} components"
        if self.frame and self.width and not self.height:
            return "JPEG that tells its height at its end"
        return None


def _read_header(content: bytes) -> _Header:
    header, position = _Header(), 2
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            break
        marker = content[position + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:  # a filling byte, or a marker that stands alone
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        part = content[position + 4 : end]
        if marker in _FRAMES and len(part) >= 6:
            header.frame, header.bits, header.count = marker, part[0], part[5]
            header.height, header.width = int.from_bytes(part[1:3], "big"), int.from_bytes(part[3:5], "big")
            header.components = {part[at]: divmod(part[at + 1], 16) for at in range(6, len(part) - 2, 3)}
        elif marker == 0xDD and len(part) >= 2:
            header.interval = int.from_bytes(part[:2], "big")
        elif marker == 0xE2 and part.startswith(b"MPF"):
            header.several = True
        elif marker == 0xDA:
            header.scan, header.in_scan = end, part[0] if part else 0
            break
        position = end
    # The end of the file is where it nearly always is; to search takes a tenth of the time of decoding.
    at_end = not (header.several or header.interval) and content.endswith(END)
    header.end = len(content) - len(END) if at_end else content.find(END, header.scan)
    return header


def unsupported_coding(content: bytes) -> str | None:
    """The name of the JPEG's coding, where that is one that is not read."""
    return _read_header(content).coding


def pixel_bytes(content: bytes) -> int:
    """Most bytes of a pixel that decoding takes at a time: pictures, and coefficients where there are several scans."""
    header = _read_header(content)
    components = len(header.components)
    picture = 1 if components == 1 else 4
    coefficients = 0 if header.has_one_scan else 2 * components
    converted = picture + 4 * (components != 3) + 4  # and turned
    # Without its end it is decoded more than once, and compared.
    compared = 2 * picture + 3 * components + 2 if header.end < 0 else 0
    return max(converted, picture + coefficients, compared) + 1


def read_jpeg(content: bytes, check_size: Callable[[int, int], None]) -> Image.Image:
    """Decode it in the mode that it has. A file that only lacks its end marker is whole.

    Raises `UnsupportedError` for a form that is not read, or more than `MAX_SCANS` scans; a damaged file raises
    anything else.
    """
    header = _read_header(content)
    _check_scans(content, header)
    try:
        if not header.scan or header.end >= 0:
            return _decode(content, header, check_size)
        whole = content.removesuffix(b"\xff")
        picture = _ended(whole, header, check_size)
        pixels = picture.tobytes()
        # Bits that are missing would be taken from what follows, and change the picture.
        if not _has_all_scans(whole) or any(
            _ended(whole + tail, header, check_size).tobytes() != pixels for tail in _TAILS
        ):
            raise OSError("image file is truncated")
        return picture
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        if header.unsupported:
            raise UnsupportedError(header.unsupported) from error
        raise


def _ended(content: bytes, header: _Header, check_size: Callable[[int, int], None]) -> Image.Image:
    """Decode what lacks its end marker."""
    return _decode(content + END, replace(header, end=len(content)), check_size)


def _decode(content: bytes, header: _Header, check_size: Callable[[int, int], None]) -> Image.Image:
    picture = _Jpeg(io.BytesIO(content))
    check_size(*picture.size)
    sequential = header.frame in (0xC0, 0xC1) and header.in_scan == len(header.components)
    if sequential and header.interval:
        _check_restarts(content, header)
    picture.load_prepare()
    kind, box, _, options = picture.tile[0]
    decoder = Image._getdecoder(picture.mode, kind, options, picture.decoderconfig)
    try:
        decoder.setimage(picture.im, box)
        if sequential and picture.width >= len(_MARKS):
            seen = _watch(decoder, picture, content, header.end)
        else:
            _decode_part(decoder, content)
            seen = True
    finally:
        decoder.cleanup()
    picture.tile = []
    if seen:
        return picture
    first_end = content.find(END, header.scan)
    if first_end == header.end:
        raise OSError("the scan goes on after the last pixel")
    return _decode(content, replace(header, end=first_end), check_size)  # other pictures follow


def _watch(decoder: Any, picture: Image.Image, content: bytes, end: int) -> bool:
    """Decode the file in parts. Raises `OSError` where the rows are not as far as they should be after one.

    Returns whether the first part was not all of the picture.
    """
    row, bands = picture.height - 1, len(picture.getbands())
    marks = [level if bands == 1 else (level,) * bands for level in _MARKS]
    for column, level in enumerate(marks):
        picture.im.putpixel((column, row), level)

    def decoded() -> bool:
        return [picture.im.getpixel((column, row)) for column in range(len(marks))] != marks

    split = max(end - SPARE, 0)
    used = _decode_part(decoder, memoryview(content)[:split], last=False)
    if used is None:
        return False
    if decoded():
        raise OSError("the scan goes on after the last pixel")
    filled = content[used:end] + _FILLING
    used = _decode_part(decoder, filled, last=False)
    if used is None:
        return True
    if not decoded():
        raise OSError("the scan ends before the last pixel")
    _decode_part(decoder, filled[used:] + content[end:])
    return True


def _decode_part(decoder: Any, part: bytes | memoryview, *, last: bool = True) -> int | None:
    """How many bytes were used; None if the picture is whole. Raises `OSError` for damage."""
    used, error = decoder.decode(part)
    if error < 0:
        raise OSError("broken data stream")
    if used >= 0 and last:
        raise OSError("image file is truncated")
    return None if used < 0 else used


def _check_scans(content: bytes, header: _Header) -> None:
    """Raise `UnsupportedError` for more than `MAX_SCANS` scans, before any of them is decoded."""
    if header.has_one_scan:
        return
    octets = np.frombuffer(content, np.uint8)
    places = np.flatnonzero(octets[:-1] == 0xFF) + 1
    if np.count_nonzero(octets[places] == 0xDA) <= MAX_SCANS:  # quickly; what is no marker is counted, too
        return
    scans, position = 1, header.scan
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(content, position)
        if found is None or found[1] == END[1:]:
            return
        scans += found[1] == b"\xda"
        if scans > MAX_SCANS:
            break
        position = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    raise UnsupportedError(f"JPEG of more than {MAX_SCANS} scans")


def _check_restarts(content: bytes, header: _Header) -> None:
    """Raise `OSError` where there are more or fewer restarts in the only scan than there should be."""
    steps = list(header.components.values())
    wide, high = (max(step[axis] for step in steps) for axis in (0, 1))
    if len(steps) == 1:
        wide = high = 1
    units = -(-header.width // (8 * wide)) * -(-header.height // (8 * high))
    found = sum(1 for _ in _RESTARTS.finditer(content, header.scan, header.end))
    expected = -(-units // header.interval) - 1
    if found != expected:
        raise OSError(f"{found} restarts in the scan where {expected} should be")


def _has_all_scans(content: bytes) -> bool:
    """Whether every coefficient of every component is there to its last bit."""
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
    def getexif(self) -> Image.Exif:
        """Nothing: on opening, the resolution would be looked for here, and damage warned of."""
        return Image.Exif()
