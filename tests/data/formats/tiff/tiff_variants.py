"""TIFFs of many forms, written by tifffile, and the picture that each is of."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")

Array = Any
HEIGHT, WIDTH = 37, 53
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
COLOURS = {"miniswhite": 1, "minisblack": 1, "rgb": 3, "palette": 1, "separated": 4, "ycbcr": 3, "cielab": 3}
EXTRA = {"unspecified": 0, "assocalpha": 1, "unassalpha": 2}


def _pil_writes(compression: str) -> bool:
    try:
        Image.new("L", (9, 9)).save(io.BytesIO(), "TIFF", compression=compression)
    except (OSError, RuntimeError):
        return False
    return True


LOSSLESS = (None, "lzw", "zlib", "packbits", *(["zstd"] if _pil_writes("zstd") else []), "lzma")
"""Zstandard is not in the libtiff of every PIL."""


@dataclass(frozen=True)
class Variant:
    """A form of TIFF."""

    photometric: str
    dtype: str
    planar: bool = False
    compression: str | None = None
    predictor: int = 1
    tiled: bool = False
    order: str = "<"
    extra: tuple[str, ...] = ()
    bits: int = 0
    big: bool = False

    def __str__(self) -> str:
        parts = [self.photometric, self.dtype, f"{self.bits}bit" if self.bits else "", self.compression or "raw"]
        parts += [f"predictor{self.predictor}" if self.predictor > 1 else "", "planar" if self.planar else ""]
        parts += ["tiles" if self.tiled else "", {"<": "", ">": "big-endian"}[self.order], *self.extra]
        return "-".join([part for part in parts if part] + ["bigtiff"] * self.big)


def lossless() -> Iterator[Variant]:
    """Every form of samples, by every way to store them without loss."""
    depths = [(colour, dtype, 0) for colour in ("miniswhite", "minisblack") for dtype in _GREY]
    depths += [(colour, dtype, 0) for colour in ("rgb", "separated") for dtype in ("u1", "u2")]
    depths += [("palette", "u1", 0), ("palette", "u2", 0), ("cielab", "u1", 0), ("cielab", "u2", 0)]
    depths += [(colour, "u1", bits) for colour in ("miniswhite", "minisblack") for bits in (1, 2, 4)]
    for (photometric, dtype, bits), compression, planar, tiled, order in itertools.product(
        depths, LOSSLESS, (False, True), (False, True), "<>"
    ):
        for extra in ((), ("unspecified",), ("assocalpha",), ("unassalpha",), ("unassalpha", "unspecified")):
            if photometric == "palette" and extra:  # tifffile does not write it
                continue
            if planar and COLOURS[photometric] + len(extra) == 1:
                continue
            plain = dtype in ("u1", "u2") and photometric not in ("cielab", "palette")
            if extra and not plain and (tiled or compression not in (None, "zlib")):
                continue  # refused alike however they are stored
            if bits and (compression or extra or tiled):  # tifffile writes them in no other way
                continue
            for predictor in _predictors(dtype, bits, compression):
                yield Variant(photometric, dtype, planar, compression, predictor, tiled, order, extra, bits)
    for photometric, dtype in (("rgb", "u1"), ("minisblack", "u2")):
        yield Variant(photometric, dtype, big=True)


_GREY = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")


def _predictors(dtype: str, bits: int, compression: str | None) -> tuple[int, ...]:
    if compression in (None, "packbits") or bits:
        return (1,)
    return (1, 3) if dtype[0] == "f" else (1, 2)


def samples(variant: Variant) -> Array:
    """What is stored, (height, width, samples): smooth, with a jump at every depth, different in all channels."""
    count = COLOURS[variant.photometric] + len(variant.extra)
    channels = [(X * (5 + 2 * k) + Y * (3 + k) + 40 * k) % 256 for k in range(count)]
    levels = np.stack(channels, -1) / 255
    if "assocalpha" in variant.extra and variant.photometric != "palette":
        colours = COLOURS[variant.photometric]
        levels[..., :colours] *= levels[..., colours : colours + 1]
    if variant.photometric == "cielab":  # within the colours that sRGB has
        light, a, b = 128 + 30 * (levels[..., 0] - 0.5), 24 * (levels[..., 1] - 0.5), 24 * (levels[..., 2] - 0.5)
        scaled = np.rint(
            np.stack([light, a, b, *np.moveaxis(levels[..., 3:] * 255, -1, 0)], -1)
            * (1 if variant.dtype == "u1" else 256)
        )
        return scaled.astype("i4").astype(variant.dtype)
    if variant.bits:
        return np.floor(levels * (2**variant.bits - 0.01)).astype(np.uint8)
    if variant.photometric == "palette":
        return (levels * 255 if variant.dtype == "u1" else levels * 65535).astype(variant.dtype)
    return _SCALE[variant.dtype](levels).astype(variant.dtype)


_SCALE = {
    "u1": lambda x: np.rint(x * 255),
    "u2": lambda x: np.rint(x * 65535),
    "u4": lambda x: np.rint(x * (2**32 - 1)),
    "i1": lambda x: np.rint(x * 255) - 128,
    "i2": lambda x: np.rint(x * 65535) - 32768,
    "i4": lambda x: np.rint(x * (2**32 - 1)) - 2**31,
    "f2": lambda x: x,
    "f4": lambda x: x * 255,
    "f8": lambda x: x * 1000 - 500,
}


def colour_map(variant: Variant) -> Array:
    entries = 2 ** (8 * int(variant.dtype[1]))
    ramp = np.arange(entries) / max(entries - 1, 1)
    return (np.stack([ramp, 1 - ramp, ramp * 7 % 1]) * 65535).astype(np.uint16)


def written(variant: Variant) -> bytes:
    """The file. Raises whatever tifffile does for a form that it does not write."""
    stored = samples(variant)
    if variant.planar:
        stored = np.ascontiguousarray(np.moveaxis(stored, -1, 0))
    elif stored.shape[-1] == 1:
        stored = stored[..., 0]
    options: dict[str, Any] = {
        "photometric": variant.photometric,
        "compression": variant.compression,
        "byteorder": variant.order,
        "bigtiff": variant.big,
        "metadata": None,
    }
    if stored.ndim == 3:
        options["planarconfig"] = "separate" if variant.planar else "contig"
    if variant.extra:
        options["extrasamples"] = variant.extra
    if variant.predictor > 1:
        options["predictor"] = variant.predictor
    if variant.tiled:
        options["tile"] = (16, 32)
    else:
        options["rowsperstrip"] = 8
    if variant.bits:
        options["bitspersample"] = variant.bits
    if variant.photometric == "palette":
        options["colormap"] = colour_map(variant)
    file = io.BytesIO()
    tifffile.imwrite(file, stored, **options)
    return file.getvalue()


def expected(variant: Variant) -> Array:
    """RGB (height, width, 3) in floating point, as `read_image` documents it."""
    stored = samples(variant)
    count = COLOURS[variant.photometric]
    rgb = _opaque(variant, stored[..., :count])
    meaning = variant.extra[0] if variant.extra else "unspecified"
    if meaning == "unspecified":
        return rgb
    alpha = _eight_bits(stored[..., count : count + 1]).astype(float) / 255
    return np.minimum(rgb + 255 * (1 - alpha), 255) if meaning == "assocalpha" else rgb * alpha + 255 * (1 - alpha)


def _eight_bits(stored: Array) -> Array:
    return stored >> 8 if stored.dtype == np.uint16 else stored


def _opaque(variant: Variant, stored: Array) -> Array:
    if variant.photometric == "palette":
        return (colour_map(variant).T[stored[..., 0]] >> 8).astype(float)
    if variant.photometric == "cielab":
        return _from_lab(stored)
    if variant.bits:
        grey = np.rint(stored * (255 / (2**variant.bits - 1)))
    elif variant.dtype in ("u1", "u2"):
        grey = _eight_bits(stored).astype(float)
    else:
        grey = _stretched(stored)
    if variant.photometric == "separated":
        return (255 - grey[..., :3]) * (255 - grey[..., 3:]) / 255
    grey = 255 - grey if variant.photometric == "miniswhite" else grey
    return np.repeat(grey, 3, -1) if grey.shape[-1] == 1 else grey


def _stretched(stored: Array) -> Array:
    values = stored.astype(float)
    low, high = min(values.min(), 0), max(values.max(), 0)
    if low == 0:
        high = next((full for full in (1, 255, 65535)[stored.dtype.kind != "f" :] if high <= full), high)
    scaled: Array = (values - low) * 255 / (high - low)
    return scaled


def _from_lab(stored: Array) -> Array:
    """CIE 1976 L*a*b* of D50 to sRGB, by the textbook (Bradford adaptation)."""
    if stored.dtype == np.uint8:
        light, a, b = stored[..., 0] / 255 * 100, *(stored[..., k].astype(np.int8).astype(float) for k in (1, 2))
    else:
        light, a, b = stored[..., 0] / 65535 * 100, *(stored[..., k].astype(np.int16) / 256 for k in (1, 2))
    y = (light + 16) / 116
    cube = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(cube > 6 / 29, cube**3, 3 * (6 / 29) ** 2 * (cube - 4 / 29)) * (0.9642, 1, 0.8251)
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(xyz @ np.array(matrix).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
