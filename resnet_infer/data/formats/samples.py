"""Samples of any depth to 8 bits."""

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
"""Pixels of a part of a picture that is copied to be worked on."""
SMALL_SHARE = 10
"""A picture is noted that uses less than one part in this of its range."""
OUTLIERS = 100
"""One sample in so many at each end of the range is taken for an outlier, such as a hot pixel."""
_LOOKED_AT = 2**16
"""About how many samples are looked at for outliers at a time."""
HINT = "to use all of it, rescale the samples, e.g. with ImageMagick: magick IN -auto-level -depth 8 OUT.png"


class Range:
    """Which part of the range of unsigned samples, 0 to `full`, is used; the ends and a few outliers do not count.

    At the ends are clipped samples, and those that stand for no data.
    """

    def __init__(self, full: int) -> None:
        self._full = full
        self._step = 0
        self._some: list[NDArray[Any]] = []

    def add(self, samples: NDArray[Any], *, before: int = 0, of: int | None = None) -> None:
        """Take these into account too, or evenly some of many.

        They may be a part of `of` samples, which `before` others precede: it is the same whatever the parts.
        """
        self._step = self._step or _step(of or samples.size)
        some = samples.reshape(-1)[-before % self._step :: self._step]
        self._some.append(some[(some != 0) & (some != self._full)])

    def note(self) -> str | None:
        """Say so if nearly all lie in less than a tenth of the range, though not at a single level."""
        low, high = _most(self._some)
        if 0 < (high - low) * SMALL_SHARE < self._full:
            low, high = (round(100 * end / self._full, 1) for end in (low, high))
            return f"its 16-bit samples use only {low}% to {high}% of their range, a few of them aside; {HINT}"
        return None


def _step(size: int) -> int:
    """Every how many-th of so many samples is looked at; odd, so that it is no column of a picture."""
    return size // _LOOKED_AT | 1


def _most(parts: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Between which levels all samples lie but the outliers: one in a hundred at each end."""
    every = np.sort(np.concatenate(parts)) if parts else np.empty(0)
    spare = every.size // OUTLIERS + 1
    return (float(every[spare]), float(every[-1 - spare])) if every.size > 2 * spare else (0.0, 0.0)


def bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """The first row, and that after the last, of parts of a picture that are small enough to be copied."""
    step = max(BAND_PIXELS // max(width, 1), 1)
    return ((top, min(top + step, height)) for top in range(0, height, step))


def new_picture(mode: str, width: int, height: int) -> Image.Image:
    """A picture for `put_rows` to fill."""
    return Image.new(mode, (width, height), None)


def put_rows(picture: Image.Image, top: int, rows: Bytes) -> None:
    """Put pixels (rows, width, channels), or grey without channels, into a picture from the row `top` on.

    So there is one copy of the pixels: a picture that is made of an array is a second one.
    """
    part = Image.fromarray(rows[..., 0] if rows.ndim == 3 and rows.shape[2] == 1 else rows)
    picture.paste(part, (0, top))


def high_bits(samples: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """8 bits of unsigned samples of `bits` (1 to 16): the highest, or all of fewer, spread over 0 to 255."""
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
    """Colours (rows, width, channels) of opacity `alpha` (rows, width, 1) over white."""
    mixed: Bytes
    if premultiplied:
        mixed = np.minimum(colours + (np.uint16(255) - alpha), 255).astype(np.uint8)
        return mixed
    weighted = colours * alpha.astype(np.uint16) + np.uint16(255) * (np.uint16(255) - alpha) + np.uint16(128)
    mixed = ((weighted >> 8) + weighted >> 8).astype(np.uint8)
    return mixed


def stretched(samples: NDArray[Any]) -> tuple[NDArray[np.uint8], str | None]:
    """Grey (height, width) of no agreed range to 8 bits, as `read_image` documents it, and a note about its range.

    That is signed, 32-bit and floating-point grey. Works on some rows at a time.
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
    return part[np.isfinite(part)] if part.dtype.kind == "f" else part


def _note(parts: Sequence[NDArray[Any]], ends: tuple[float, float], shown: tuple[float, float]) -> str | None:
    """Say so if all samples but the least, the greatest and outliers lie in less than a tenth of what is shown."""
    step = _step(sum(part.size for part in parts))
    inner = [
        some[(some != ends[0]) & (some != ends[1])] for part in parts for some in [_finite(part.reshape(-1)[::step])]
    ]
    least, most = _most(inner)
    if 0 < (most - least) * SMALL_SHARE < shown[1] - shown[0]:
        return f"nearly all of its samples lie in {least:g} to {most:g}, shown are {shown[0]:g} to {shown[1]:g}; {HINT}"
    return None
