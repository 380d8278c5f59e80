"""Convert samples of any depth to 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.formats.kinds import UnsupportedError, UnusableError

Bytes: TypeAlias = NDArray[np.uint8]
_ROWS_PIXELS = 2**20
"""Pixels that are stretched at a time."""
BAND_PIXELS = 2**18
"""Pixels of a band of an image that is copied at a time."""
SMALL_SHARE = 10
"""Divisor of the range: a note is made of an image that uses less than this part of it."""
OUTLIERS = 100
"""One sample in so many at each end of the range counts as an outlier, such as a hot pixel."""
_LOOKED_AT = 2**16
"""Approximate number of samples that are searched for outliers at a time."""
HINT = "to use all of it, rescale the samples, e.g. with ImageMagick: magick IN -auto-level -depth 8 OUT.png"
"""Advice at the end of a note."""


class Range:
    """Find the part of the range 0 to `full` that unsigned samples use, without the two ends and a few outliers.

    Samples at the ends are clipped, or stand for missing data.
    """

    def __init__(self, full: int) -> None:
        self._full = full
        self._step = 0
        self._some: list[NDArray[Any]] = []

    def add(self, samples: NDArray[Any], *, before: int = 0, of: int | None = None) -> None:
        """Take samples into account; of many, an even selection.

        The samples may be a part of `of` samples, after `before` others. The result does not depend on the division
        into parts.
        """
        self._step = self._step or _step(of or samples.size)
        some = samples.reshape(-1)[-before % self._step :: self._step]
        self._some.append(some[(some != 0) & (some != self._full)])

    def note(self) -> str | None:
        """Return a note if nearly all samples lie in less than a tenth of the range, but not at one level."""
        low, high = _most(self._some)
        if 0 < (high - low) * SMALL_SHARE < self._full:
            low, high = (round(100 * end / self._full, 1) for end in (low, high))
            return f"its 16-bit samples use only {low}% to {high}% of their range, a few of them aside; {HINT}"
        return None


def _step(size: int) -> int:
    """Return the step between selected samples. It is odd, so that it does not select a column of an image."""
    return size // _LOOKED_AT | 1


def _most(parts: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Return the levels between which all samples but the outliers lie. One in a hundred at each end is an outlier."""
    every = np.sort(np.concatenate(parts)) if parts else np.empty(0)
    spare = every.size // OUTLIERS + 1
    return (float(every[spare]), float(every[-1 - spare])) if every.size > 2 * spare else (0.0, 0.0)


def bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Yield the first row, and the row after the last, of bands that are small enough to be copied."""
    step = max(BAND_PIXELS // max(width, 1), 1)
    return ((top, min(top + step, height)) for top in range(0, height, step))


def new_picture(mode: str, width: int, height: int) -> Image.Image:
    """Create an image, with undefined pixels, for `put_rows` to fill."""
    return Image.new(mode, (width, height), None)


def put_rows(picture: Image.Image, top: int, rows: Bytes) -> None:
    """Write pixels, uint8 (rows, width, channels) or grey (rows, width), into an image from row `top` on.

    There is then one copy of the pixels. An image that is made from an array would be a second one.
    """
    part = Image.fromarray(rows[..., 0] if rows.ndim == 3 and rows.shape[2] == 1 else rows)
    picture.paste(part, (0, top))


def high_bits(samples: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Convert unsigned samples of `bits` bits (1 to 16) to uint8: the high 8 bits, or fewer bits spread over 0 to 255.

    >>> high_bits(np.array([0, 1]), 1)
    array([  0, 255], dtype=uint8)
    """
    top = 2**bits - 1
    eight: Bytes
    if bits == 8:
        eight = samples.astype(np.uint8, copy=False)
    elif bits > 8:
        eight = (samples >> (bits - 8)).astype(np.uint8)
    else:
        eight = ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)[samples]
    return eight


def over_white(colours: Bytes, alpha: Bytes, *, premultiplied: bool = False) -> Bytes:
    """Composite colours, uint8 (rows, width, channels), of opacity `alpha`, uint8 (rows, width, 1), over white."""
    mixed: Bytes
    wide = alpha.astype(np.uint16)  # NumPy 1 computes a scalar of 16 bits and an array of 8 bits in 8 bits
    if premultiplied:
        mixed = np.minimum(colours + (255 - wide), 255).astype(np.uint8)
        return mixed
    weighted = colours * wide + 255 * (255 - wide) + 128
    mixed = ((weighted >> 8) + weighted >> 8).astype(np.uint8)
    return mixed


def stretched(samples: NDArray[Any]) -> tuple[NDArray[np.uint8], str | None]:
    """Convert grey samples (height, width) without an agreed range to uint8, and return a note about their range.

    These are signed, 32-bit and floating-point samples; `read_image` documents the conversion. It works on some rows at
    a time. Raises `UnusableError` if no sample is a number, and `UnsupportedError` for an infinite range.
    """
    whole = samples.dtype.kind in "iu"
    step = max(_ROWS_PIXELS // samples.shape[1], 1)
    parts = [samples[top : top + step] for top in range(0, len(samples), step)]
    ends = [(float(part.min()), float(part.max())) for part in map(_finite, parts) if part.size]
    if not ends:
        raise UnusableError("none of its samples is a number")
    least, most = min(low for low, _ in ends), max(high for _, high in ends)
    low, high = min(least, 0.0), max(most, 0.0)
    if low == 0:
        high = next((full for full in (1.0, 255.0, 65535.0)[whole:] if high <= full), high)
    if not np.isfinite(high - low):
        raise UnsupportedError("a picture with samples beyond all bounds")
    grey = np.empty(samples.shape, np.uint8)
    for top, bottom in bands(samples.shape[1], len(samples)):
        offset = np.nan_to_num(samples[top:bottom].astype(np.float64), nan=0, posinf=high, neginf=low) - low
        scaled = offset * 256 // (high - low + 1) if whole else np.rint(offset * 255 / (high - low))
        grey[top:bottom] = scaled.astype(np.uint8)
    return grey, _note(parts, (least, most), (low, high))


def _finite(part: NDArray[Any]) -> NDArray[Any]:
    """Return the finite samples, flattened if they are floating-point."""
    return part[np.isfinite(part)] if part.dtype.kind == "f" else part


def _note(parts: Sequence[NDArray[Any]], ends: tuple[float, float], shown: tuple[float, float]) -> str | None:
    """Return a note if all samples but the extremes and outliers lie in less than a tenth of the displayed range."""
    step = _step(sum(part.size for part in parts))
    inner = [
        some[(some != ends[0]) & (some != ends[1])] for part in parts for some in [_finite(part.reshape(-1)[::step])]
    ]
    least, most = _most(inner)
    if 0 < (most - least) * SMALL_SHARE < shown[1] - shown[0]:
        return f"nearly all of its samples lie in {least:g} to {most:g}, shown are {shown[0]:g} to {shown[1]:g}; {HINT}"
    return None
