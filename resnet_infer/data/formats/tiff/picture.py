"""Convert the samples of a TIFF to an 8-bit RGB or grey image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.formats.kinds import UnsupportedError
from resnet_infer.data.formats.samples import Range, bands, high_bits, new_picture, over_white, put_rows, stretched
from resnet_infer.data.formats.tiff.directory import Directory
from resnet_infer.data.formats.tiff.layout import (
    CMYK,
    LAB,
    PALETTE,
    PREMULTIPLIED,
    UNSIGNED,
    WHITE_IS_ZERO,
    YCBCR,
    Layout,
    read_layout,
)
from resnet_infer.data.formats.tiff.samples import Samples, row_groups

Bytes = NDArray[np.uint8]


def read_tiff(content: bytes, check_size: Callable[[int, int], None]) -> Image.Image:
    """Decode the first image of a TIFF to 8-bit RGB or grey. The orientation tag is not applied.

    `info` may hold a `note` about the range of the samples. `check_size` is called with width and height before
    decoding. Raises `UnsupportedError` for a form that is not decoded. A damaged file raises errors of any other kind.
    """
    directory = Directory(content)
    layout = read_layout(directory)
    check_size(layout.width, layout.height)
    if layout.compression == 6:
        return _old_jpeg(content, directory, layout)
    wanted = layout.colours + (layout.alpha is not None)
    groups = row_groups(content, directory, layout, wanted)
    range_ = Range(2**16 - 1)
    if layout.format == UNSIGNED and layout.bits <= 16:
        to_colours, colours = _colours(directory, layout), layout.colours
        picture = new_picture("L" if layout.photometric in (0, 1) else "RGB", layout.width, layout.height)
        for top, samples, (first, rows) in groups:
            if layout.bits == 16 and layout.photometric != PALETTE:
                row = layout.width * colours
                range_.add(samples[..., :colours], before=(top - first) * row, of=rows * row)
            for begin, end in bands(layout.width, len(samples)):
                put_rows(picture, top + begin, to_colours(samples[begin:end]))
        note = range_.note()
    else:
        grey = np.empty((layout.height, layout.width), f"{ {1: 'u', 2: 'i', 3: 'f'}[layout.format] }{layout.bits // 8}")
        for top, samples, _ in groups:
            grey[top : top + len(samples)] = samples[..., 0]
        pixels, note = stretched(grey)
        if layout.photometric == WHITE_IS_ZERO:
            np.invert(pixels, out=pixels)
        picture = Image.fromarray(pixels)
    if note:
        picture.info["note"] = note
    return picture


def _colours(directory: Directory, layout: Layout) -> Callable[[Samples], Bytes]:
    """Return a function that converts unsigned samples (rows, width, samples) to RGB or grey.

    Transparent pixels are composited over white.
    """
    colour = _opaque_colours(directory, layout)
    if layout.alpha is None:
        return colour

    def composed(samples: Samples) -> Bytes:
        """Convert samples with an alpha channel."""
        alpha = high_bits(samples[..., -1:], layout.bits)
        return over_white(colour(samples[..., :-1]), alpha, premultiplied=layout.alpha == PREMULTIPLIED)

    return composed


def _opaque_colours(directory: Directory, layout: Layout) -> Callable[[Samples], Bytes]:
    """Return a function that converts samples without alpha channel to RGB or grey."""
    if layout.photometric == PALETTE:
        return _palette(directory, layout)
    if layout.photometric == YCBCR and not layout.is_jpeg:
        return _from_ycbcr(directory, layout)
    further = {CMYK: from_cmyk, LAB: _from_lab, WHITE_IS_ZERO: np.invert}.get(layout.photometric)

    def colours(samples: Samples) -> Bytes:
        """Convert to 8 bits, and then to RGB."""
        narrow = high_bits(samples, layout.bits)
        return further(narrow) if further else narrow  # type: ignore[operator]

    return colours


def _palette(directory: Directory, layout: Layout) -> Callable[[Samples], Bytes]:
    """Return a function that converts palette indices to RGB. Raises `ValueError` for a palette that is too large."""
    stored = directory.array(layout.tags[320]) if 320 in layout.tags else np.empty(0, np.uint16)
    if len(stored) > 3 << 16:
        raise ValueError(f"its palette has {len(stored) // 3} colours")
    table = stored[: len(stored) // 3 * 3].astype(np.uint16).reshape(3, -1).T
    # The standard has 16-bit levels. If none is above 255, the writer meant 8-bit levels.
    table = (table >> 8 if table.max(initial=0) > 255 else table).astype(np.uint8)

    def colours(samples: Samples) -> Bytes:
        """Convert palette indices to RGB."""
        if len(table) <= samples.max(initial=0):
            raise ValueError(f"its palette has only {len(table)} of the picture's colours")
        found: Bytes = table[samples[..., 0]]
        return found

    return colours


def from_cmyk(inks: Bytes) -> Bytes:
    """Convert CMYK, uint8 (rows, width, 4), to RGB without a colour profile, as PIL does."""
    light = 255 - inks[..., 3:].astype(np.uint16)  # as in `over_white`
    product = inks[..., :3] * light + 128
    rgb: Bytes = (light - ((product >> 8) + product >> 8)).astype(np.uint8)
    return rgb


def _from_lab(lab: Bytes) -> Bytes:
    """Convert CIE Lab (D50), with signed a and b, to RGB."""
    picture = Image.frombytes("LAB", (lab.shape[1], lab.shape[0]), np.ascontiguousarray(lab).tobytes())
    return np.asarray(picture.convert("RGB"))


def _from_ycbcr(directory: Directory, layout: Layout) -> Callable[[Samples], Bytes]:
    """Return a function that converts YCbCr to RGB (TIFF 6.0, section 21).

    The tags state the weights of the colours in Y, and the codes of black and white.
    """

    def fractions(number: int, default: tuple[float, ...]) -> tuple[float, ...]:
        """Return the fractions of a tag. Raises `ValueError` if their number is wrong."""
        found = directory.fractions(layout.tags[number]) if number in layout.tags else default
        if len(found) != len(default):
            raise ValueError(f"tag {number} has {len(found)} values")
        return found

    red, green, blue = fractions(529, (0.299, 0.587, 0.114))
    codes = np.array(fractions(532, (0, 255, 128, 255, 128, 255)), np.float32).reshape(3, 2)
    low, span = codes[:, 0], codes[:, 1] - codes[:, 0]
    if not green or not span.all():
        raise ValueError("its colours have no weight")
    scale = np.array([255, 127, 127], np.float32) / span

    def colours(samples: Samples) -> Bytes:
        """Convert YCbCr to RGB."""
        y, cb, cr = np.moveaxis((samples.astype(np.float32) - low) * scale, -1, 0)
        r = y + cr * (2 - 2 * red)
        b = y + cb * (2 - 2 * blue)
        g = (y - red * r - blue * b) / green
        rgb: Bytes = np.clip(np.rint(np.stack([r, g, b], -1)), 0, 255).astype(np.uint8)
        return rgb

    return colours


def _old_jpeg(content: bytes, directory: Directory, layout: Layout) -> Image.Image:
    """Decode the embedded JPEG file, if there is a whole one (TIFF 6.0, section 22)."""
    from resnet_infer.data.formats.jpeg import read_jpeg

    start = directory.first_value(layout.tags[513]) if 513 in layout.tags else len(content)

    def check(width: int, height: int) -> None:
        """Refuse a JPEG of another size than the image: it is only a part."""
        if (width, height) != (layout.width, layout.height):
            raise UnsupportedError("TIFF with old-style JPEG in parts")

    try:
        return read_jpeg(content[start:], check).convert("RGB")
    except Exception as error:
        raise UnsupportedError("TIFF with old-style JPEG in parts") from error
