"""Read and check how a TIFF stores its first image. Forms that are not decoded are refused by name."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.formats.kinds import UnsupportedError
from resnet_infer.data.formats.tiff.directory import Directory, Order, Tag

COMPRESSIONS = {
    1: "none",
    2: "fax",
    3: "fax",
    4: "fax",
    5: "libtiff",  # LZW
    7: "jpeg",
    8: "deflate",
    32773: "libtiff",  # PackBits
    32946: "deflate",
    34925: "lzma",
    50000: "zstd",
}
"""Methods of decompression of a block, by the value of the Compression tag."""
_OTHER_COMPRESSIONS = {
    6: "old-style JPEG",
    9: "JBIG",
    10: "JBIG",
    22610: "JPEG XR",
    32766: "NeXT",
    32767: "Sony ARW",
    32769: "packed raw",
    32771: "CCITT RLE by words",
    32809: "ThunderScan",
    32908: "PIXAR film",
    32909: "PIXAR log",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI Log",
    34677: "SGI Log",
    34712: "JPEG 2000",
    34713: "Nikon NEF",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Names of compressions that are not decoded, for messages."""
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Colour samples per pixel, by photometric interpretation: grey (two kinds), RGB, palette, CMYK, YCbCr, Lab."""
_OTHER_COLOURS = {
    4: "a transparency mask",
    9: "ICC Lab",
    10: "ITU Lab",
    32803: "a camera's raw photo",
    32844: "Log L",
    32845: "Log Luv",
    34892: "a camera's raw photo",
    51177: "a depth map",
}
"""Names of photometric interpretations that are not decoded, for messages."""
WHITE_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 2, 3, 5, 6, 8
"""Values of the PhotometricInterpretation tag."""
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
"""Values of the SampleFormat tag."""
UNSPECIFIED, PREMULTIPLIED, ALPHA = 0, 1, 2
"""Values of the ExtraSamples tag."""
MAX_SAMPLES = 8
"""Most samples of a pixel."""
_WIDTHS = {UNSIGNED: (*range(1, 17), 32), SIGNED: (8, 16, 32), FLOAT: (16, 32, 64)}
"""Bits of a sample that are decoded, by sample format."""
_WITH_PREDICTOR = {5, 8, 32946, 34925, 50000}
"""Compressions that may have a predictor."""


@dataclass(frozen=True)
class Layout:
    """Describe how the samples lie in the file. Sizes are in pixels, `bits` per sample.

    Blocks are strips or tiles. A plane holds all `samples` of a pixel side by side or, if `planar`, one of them.
    """

    order: Order
    width: int
    height: int
    bits: int
    format: int
    samples: int
    planar: bool
    compression: int
    predictor: int
    reversed_bits: bool
    photometric: int
    alpha: int | None
    """Meaning of the sample after the colour: `PREMULTIPLIED` or `ALPHA`; None if it is not an alpha channel."""
    block_width: int
    block_height: int
    tiled: bool
    offsets: NDArray[Any]
    counts: NDArray[Any]
    """Position and size of each block in bytes; the sizes may be missing. Neither is copied from the file."""
    subsampling: tuple[int, int]
    tags: dict[int, Tag]

    @property
    def colours(self) -> int:
        """Return the number of colour samples of a pixel."""
        return COLOURS[self.photometric]

    @property
    def is_jpeg(self) -> bool:
        """Tell whether the blocks are compressed as JPEG."""
        return COMPRESSIONS.get(self.compression) == "jpeg"

    @property
    def across(self) -> int:
        """Return the number of blocks across."""
        return -(-self.width // self.block_width)

    @property
    def down(self) -> int:
        """Return the number of blocks down."""
        return -(-self.height // self.block_height)


def read_layout(directory: Directory) -> Layout:
    """Read and check the tags.

    Raises `UnsupportedError` for a form that is not decoded, and `ValueError` for damaged tags.
    """
    tags: dict[int, Tag] = {}
    for tag in directory.tags():
        tags.setdefault(tag.number, tag)

    def values(number: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return the first values of a tag."""
        return directory.numbers(tags[number]) if number in tags else default

    def value(number: int, default: int | None = None) -> int:
        """Return the first value of a tag. Raises `ValueError` if it is missing and has no default."""
        found = values(number)
        if not found and default is None:
            raise ValueError(f"tag {number} is missing")
        return found[0] if found else default or 0

    def every(*numbers: int) -> NDArray[Any]:
        """Return all values of the first of these tags that exists."""
        return next((directory.array(tags[number]) for number in numbers if number in tags), np.empty(0, np.uint32))

    width, height = value(256), value(257)
    compression = value(259, 1)
    samples = value(277, 3 if compression == 6 else 1)
    _refuse_raw_photo(directory, tags)
    if compression not in COMPRESSIONS and compression != 6:
        raise UnsupportedError(f"TIFF with {_OTHER_COMPRESSIONS.get(compression, f'compression {compression}')}")
    if width < 1 or height < 1 or samples < 1:
        raise ValueError("it has no pixels")
    if samples > MAX_SAMPLES:
        raise UnsupportedError(f"TIFF with {samples} samples per pixel")
    photometric = value(262, RGB if samples >= 3 else WHITE_IS_ZERO if compression in (2, 3, 4) else 1)
    if photometric not in COLOURS:
        raise UnsupportedError(
            f"TIFF of {_OTHER_COLOURS.get(photometric, f'photometric interpretation {photometric}')}"
        )
    bits = _common("bits", values(258, (1,))[:samples])
    format_ = _common("format", values(339, (UNSIGNED,))[:samples])
    format_ = UNSIGNED if format_ == 4 else format_  # format 4: undefined
    tiled = 322 in tags or 324 in tags
    shape = (value(322), value(323)) if tiled else (width, min(value(278, height) or height, height))
    layout = Layout(
        order=directory.order,
        width=width,
        height=height,
        bits=bits,
        format=format_,
        samples=samples,
        planar=value(284, 1) == 2 and samples > 1,
        compression=compression,
        predictor=value(317, 1) if compression in _WITH_PREDICTOR else 1,
        reversed_bits=value(266, 1) == 2,
        photometric=photometric,
        alpha=_alpha(photometric, samples, values(338)),
        block_width=shape[0],
        block_height=shape[1],
        tiled=tiled,
        offsets=every(324, 273),
        counts=every(325, 279),
        subsampling=_subsampling(photometric, values(530, (2, 2))),
        tags=tags,
    )
    if compression != 6:
        _refuse_unread(layout, value(332, 1))
        _check_blocks(layout)
    return layout


def _refuse_raw_photo(directory: Directory, tags: dict[int, Tag]) -> None:
    """Refuse a camera's raw file, whose first image is only a thumbnail."""
    if 50706 in tags or directory.data[8:10] == b"CR":
        raise UnsupportedError(f"a camera's raw photo ({'DNG' if 50706 in tags else 'CR2'})")
    with suppress(struct.error, ValueError, OverflowError):  # further images may be damaged
        for start in directory.numbers(tags[330])[:8] if 330 in tags else ():  # SubIFDs
            below = Directory(directory.data, start)
            if any(tag.number == 262 and below.first_value(tag) in (32803, 34892) for tag in below.tags()):
                raise UnsupportedError("a camera's raw photo")


def _common(what: str, found: tuple[int, ...]) -> int:
    """Return the value that all samples share. Raises `UnsupportedError` if they differ."""
    if len(set(found)) != 1:
        raise UnsupportedError(f"TIFF with samples of unequal {what} ({', '.join(map(str, found))})")
    return found[0]


def _alpha(photometric: int, samples: int, extra: tuple[int, ...]) -> int | None:
    """Return the meaning of the sample after the colour, if it is an alpha channel.

    Samples of unspecified meaning are left out (TIFF 6.0, ExtraSamples).
    """
    colours = COLOURS[photometric]
    count = samples - colours
    if count < 0:
        raise ValueError(f"{samples} samples per pixel are too few for its colours")
    if count == 0:
        return None
    if not extra and (photometric, samples) == (RGB, 4):
        return ALPHA  # a common omission
    if len(extra) < count:
        raise UnsupportedError(
            f"TIFF with {samples} samples per pixel of which {colours} is a colour, the rest unstated"
        )
    if extra[0] in (PREMULTIPLIED, ALPHA, 999):  # Corel Draw writes 999
        return PREMULTIPLIED if extra[0] == PREMULTIPLIED else ALPHA
    if colours == 1 and count > 1:
        raise UnsupportedError(f"TIFF with {samples} channels of which only one is a colour")
    if any(meaning in (PREMULTIPLIED, ALPHA) for meaning in extra[:count]):
        raise UnsupportedError("TIFF with an alpha channel after others")
    return None


def _subsampling(photometric: int, found: tuple[int, ...]) -> tuple[int, int]:
    """Return the subsampling of the colours across and down. Raises `ValueError` for impossible values."""
    if photometric != YCBCR:
        return (1, 1)
    if len(found) != 2 or not all(step in (1, 2, 4) for step in found):
        raise ValueError("its colours are sampled at impossible steps")
    return (found[0], found[1])


def _refuse_unread(layout: Layout, ink_set: int) -> None:
    """Refuse forms that `samples` and `picture` cannot convert to the right pixels."""
    kind = {UNSIGNED: "unsigned", SIGNED: "signed", FLOAT: "floating-point"}.get(layout.format)
    grey = layout.photometric in (0, 1)
    way = COMPRESSIONS[layout.compression]
    if kind is None:
        raise UnsupportedError("TIFF of complex numbers")
    if layout.bits not in _WIDTHS[layout.format]:
        raise UnsupportedError(f"TIFF with {layout.bits}-bit {kind} samples")
    if (layout.format != UNSIGNED or layout.bits == 32) and not (grey and layout.alpha is None):
        raise UnsupportedError(f"TIFF with {layout.bits}-bit {kind} samples that are not grey alone")
    if layout.photometric == CMYK and ink_set != 1:
        raise UnsupportedError("TIFF with inks other than CMYK")
    if layout.photometric == YCBCR and (layout.bits != 8 or layout.samples != 3):
        raise UnsupportedError(f"TIFF of YCbCr with {layout.bits}-bit samples or an alpha channel")
    if layout.photometric == YCBCR and layout.planar and (layout.subsampling != (1, 1) or way == "jpeg"):
        raise UnsupportedError("TIFF of YCbCr in separate planes of unequal size")
    if layout.photometric == LAB and (layout.bits not in (8, 16) or layout.samples != 3):
        raise UnsupportedError(f"TIFF of Lab with {layout.bits}-bit samples or an alpha channel")
    if layout.photometric == PALETTE and layout.alpha == PREMULTIPLIED:
        raise UnsupportedError("TIFF of a palette with premultiplied alpha")
    if way == "fax" and (layout.bits, layout.samples) != (1, 1):
        raise UnsupportedError("TIFF with fax compression of more than two levels")
    if way == "jpeg" and layout.bits != 8:
        raise UnsupportedError(f"TIFF with {layout.bits}-bit JPEG")
    if way == "jpeg" and not layout.planar and layout.samples > 4:
        raise UnsupportedError(f"TIFF with JPEG of {layout.samples} samples per pixel")
    if layout.predictor not in (1, 2, 3):
        raise UnsupportedError(f"TIFF with predictor {layout.predictor}")
    if layout.predictor == 2 and layout.bits not in (8, 16, 32, 64):
        raise UnsupportedError(f"TIFF with predictor 2 for {layout.bits}-bit samples")
    if layout.predictor == 3 and layout.format != FLOAT:
        raise UnsupportedError("TIFF with predictor 3 for whole numbers")
    if layout.predictor != 1 and layout.subsampling != (1, 1):
        raise UnsupportedError("TIFF with a predictor for YCbCr of unequal size")


def _check_blocks(layout: Layout) -> None:
    """Raise `ValueError` or `UnsupportedError` if blocks are missing or have no size."""
    if layout.block_width < 1 or layout.block_height < 1:
        raise ValueError("its tiles have no size")
    needed = layout.across * layout.down * (layout.samples if layout.planar else 1)
    if len(layout.offsets) < needed or 0 < len(layout.counts) < needed:
        raise ValueError("not all of its blocks are there")
    if not layout.offsets[:needed].all():
        raise UnsupportedError("TIFF with blocks left out (sparse)")
