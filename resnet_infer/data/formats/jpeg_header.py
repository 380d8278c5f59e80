"""Read the header of a JPEG and count its scans: all that is known before it is decoded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from resnet_infer.data.formats.kinds import UnsupportedError

END = b"\xff\xd9"
"""End marker (EOI)."""
FORMS = {
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
"""Forms that a decoder may lack, by the frame's marker."""
_FRAMES = {0xC0, 0xC1, 0xC2, *FORMS}
"""Markers of frames (SOF)."""
MAX_SCANS = 500
"""Most scans of an image: each visits every block, so a small file with many costs minutes. Encoders write about 10."""
_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd9-\xfe])")
"""Pattern of a marker behind a scan, but for restarts and others without a length."""
_MOST_SEGMENTS = 100_000
"""Most segments that are searched for scans."""
_MOST_HEAD_SEGMENTS = 20_000
"""Most segments and fill bytes before the first scan: PIL keeps or visits each. Photos have up to a thousand."""


@dataclass
class Header:
    """Hold what precedes the first scan. Positions are in bytes from the start of the file."""

    frame: int = 0
    """Marker of the frame; 0 if there is none."""
    bits: int = 8
    """Bits of a sample."""
    height: int = 0
    width: int = 0
    components: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Sampling factors across and down, by component."""
    interval: int = 0
    """Coding units (MCU) between restarts; 0 without restarts."""
    scan: int = 0
    """Position of the data of the first scan."""
    count: int = 0
    """Number of components as the file states it."""
    in_scan: int = 0
    """Number of components in the first scan."""
    several: bool = False
    """Whether further images follow (MPO)."""
    end: int = -1
    """Position of the end marker; -1 if there is none."""

    @property
    def has_one_scan(self) -> bool:
        """Tell whether only the first scan is decoded."""
        return self.frame in (0xC0, 0xC1) and self.in_scan == self.count

    @property
    def coding(self) -> str | None:
        """Return the name of a coding that is not decoded, or None."""
        if self.frame in FORMS:
            return FORMS[self.frame]
        return f"{self.bits}-bit JPEG" if self.frame and self.bits != 8 else None

    @property
    def unsupported(self) -> str | None:
        """Return the name of a form that is not decoded, or None."""
        if self.coding:
            return self.coding
        if self.frame and len(self.components) not in (1, 3, 4):
            return f"JPEG of {len(self.components)} components"
        if self.frame and self.width and not self.height:
            return "JPEG that tells its height at its end"
        return None


def read_header(content: bytes) -> Header:
    """Read the segments up to the first scan. Raises `UnsupportedError` if there are far too many."""
    header, position, segments = Header(), 2, 0
    while position + 4 <= len(content):
        segments += 1
        if segments > _MOST_HEAD_SEGMENTS:
            raise UnsupportedError(f"JPEG of more than {_MOST_HEAD_SEGMENTS:,} segments before its first scan")
        if content[position] != 0xFF:
            break
        marker = content[position + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:  # a fill byte, or a marker without a length
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
    # The end marker is nearly always at the end of the file. A search takes a tenth of the time of decoding.
    at_end = not (header.several or header.interval) and content.endswith(END)
    header.end = len(content) - len(END) if at_end else content.find(END, header.scan)
    return header


def unsupported_coding(content: bytes) -> str | None:
    """Return the name of the JPEG's coding if it is not decoded, else None."""
    return read_header(content).coding


def pixel_bytes(content: bytes) -> tuple[int, int]:
    """Return the most bytes per pixel that decoding takes at a time, and the bytes before the first scan.

    The bytes per pixel are those of the images, and of coefficients if there are several scans.
    """
    header = read_header(content)
    components = len(header.components)
    picture = 1 if components == 1 else 4
    coefficients = 0 if header.has_one_scan else 2 * components
    converted = picture + max(picture, 4 * (components != 3))  # rotated, and then converted
    return max(converted, picture + coefficients) + 1, header.scan


def check_scans(content: bytes, header: Header) -> None:
    """Raise `UnsupportedError` for more than `MAX_SCANS` scans, before any of them is decoded."""
    if header.has_one_scan:
        return
    octets = np.frombuffer(content, np.uint8)
    places = np.flatnonzero(octets[:-1] == 0xFF) + 1
    # a quick upper bound: bytes that are not markers are counted too
    if np.count_nonzero(octets[places] == 0xDA) <= MAX_SCANS:
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
