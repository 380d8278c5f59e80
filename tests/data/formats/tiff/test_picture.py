"""TIFF: many forms, each to the right pixels or an error that names the form."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.image import read_image
from resnet_infer.errors import PictureError, UnsupportedPictureError
from tests.data.formats.tiff.tiff_variants import LOSSLESS, Variant, expected, lossless, tifffile, written
from tests.data.test_image import exif, tiff, turned

Array = NDArray[Any]
VARIANTS = list(lossless())
SMOOTH: Array = np.stack([np.add.outer(np.arange(64) * k, np.arange(96)) for k in (1, 2, 1)], -1).astype(np.uint8)
SMOOTH = SMOOTH // 2 + np.array([20, 60, 90], np.uint8)


def outcome(variant: Variant) -> str:
    """What comes of it: right, wrong, unsupported or damaged."""
    try:
        got = np.asarray(read_image(written(variant))).astype(float)
    except UnsupportedPictureError:
        return "unsupported"
    except PictureError as error:
        return f"called damaged: {error}"
    difference = np.abs(got - expected(variant)).max()
    return "right" if difference <= (4 if variant.photometric == "cielab" else 1.01) else f"wrong by {difference}"


def read_here(variant: Variant) -> bool:
    """Whether this form is one that is read."""
    if variant.photometric == "cielab":
        return not variant.extra
    return variant.dtype in ("u1", "u2") or not variant.extra or variant.extra == ("unspecified",)


def check(variants: list[Variant]) -> None:
    found = {variant: outcome(variant) for variant in variants}
    counts = Counter(found.values())
    bad = {str(variant): what for variant, what in found.items() if what not in ("right", "unsupported")}
    assert not bad, f"{counts}: {dict(list(bad.items())[:20])}"
    for variant, what in found.items():
        assert (what == "right") == read_here(variant), variant
    assert counts["right"] >= len(variants) * 0.8


def test_a_part_of_all_forms() -> None:
    check(VARIANTS[::13])


@pytest.mark.slow
def test_all_forms() -> None:
    assert len(VARIANTS) > 3500
    check(VARIANTS)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_samples_that_are_no_whole_bytes(bits: int, count: int, reverse: bool) -> None:
    """Packed here, by one bit after the other."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (23, 37, count))
    places = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    packed = np.packbits(places.reshape(23, -1).astype(np.uint8), axis=1)
    if reverse:
        packed = np.packbits(np.unpackbits(packed[..., None], axis=-1)[..., ::-1], axis=-1)[..., 0]
    tags: dict[str, Any] = {"t258": (3, 1, bits), "t262": (3, 1, 1 if count == 1 else 2), "t277": (3, 1, count)}
    data = tiff(packed, **tags, t266=(3, 1, 2 if reverse else 1), t256=(4, 1, 37))
    right = values >> bits - 8 if bits > 8 else np.rint(values * 255 / (2**bits - 1))
    assert np.array_equal(np.asarray(read_image(data)), np.broadcast_to(right, (23, 37, 3)))
    if not reverse:
        assert np.array_equal(tifffile.imread(io.BytesIO(data)).reshape(values.shape), values)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize(
    ("photometric", "planar"),
    [
        *((photometric, False) for photometric in ("minisblack", "rgb", "ycbcr", "separated", "grey-alpha")),
        *((photometric, True) for photometric in ("rgb", "separated", "grey-alpha")),  # YCbCr in planes is refused
    ],
)
def test_jpeg_inside(photometric: str, planar: bool, tiled: bool) -> None:
    stored = {"minisblack": SMOOTH[..., 0], "separated": np.dstack([SMOOTH, SMOOTH[..., :1] // 2])}.get(
        photometric, SMOOTH[..., :2] if photometric == "grey-alpha" else SMOOTH
    )
    options: dict[str, Any] = {"tile": (32, 32)} if tiled else {"rowsperstrip": 16}
    if stored.ndim == 3:
        options["planarconfig"] = "separate" if planar else "contig"
    if photometric == "grey-alpha":
        options |= {"photometric": "minisblack", "extrasamples": ["unassalpha"]}
    else:
        options["photometric"] = photometric
    file = io.BytesIO()
    source = np.moveaxis(stored, -1, 0) if planar else stored
    tifffile.imwrite(file, source, compression="jpeg", compressionargs={"level": 98}, metadata=None, **options)
    got = np.asarray(read_image(file.getvalue())).astype(float)
    if photometric == "ycbcr":
        right = tifffile.imread(io.BytesIO(file.getvalue())).astype(float)
    else:
        plain = io.BytesIO()
        tifffile.imwrite(plain, source, metadata=None, **options)
        right = np.asarray(read_image(plain.getvalue())).astype(float)
    assert np.abs(got - right).mean() < 2
    assert np.abs(got - right).max() < 12


@pytest.mark.parametrize("steps", [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4), (1, 2)])
@pytest.mark.parametrize("height", [24, 21])
def test_ycbcr_of_fewer_colours(steps: tuple[int, int], height: int, tmp_path: Path) -> None:
    """Stored by hand, with one colour for all of the picture's parts; checked by libtiff's own program, too."""
    across, down = steps
    width = 37
    units = (-(-height // down), -(-width // across))
    light = np.random.default_rng(1).integers(30, 220, (units[0] * down, units[1] * across)).astype(np.uint8)
    colours = np.random.default_rng(2).integers(100, 156, (*units, 2)).astype(np.uint8)
    blocks = light.reshape(units[0], down, units[1], across).swapaxes(1, 2).reshape(*units, -1)
    stored = np.concatenate([blocks, colours], -1).reshape(units[0], -1)
    tags: dict[str, Any] = {"t256": (4, 1, width), "t257": (4, 1, height), "t278": (4, 1, height)}
    tags |= {"t258": (3, 3, (8).to_bytes(2, "little") + b"\0\0"), "t262": (3, 1, 6), "t277": (3, 1, 3)}
    tags |= {"t258": (3, 1, 8), "t530": (3, 2, across.to_bytes(2, "little") + down.to_bytes(2, "little"))}
    data = tiff(stored, **tags)
    got = np.asarray(read_image(data)).astype(float)
    y = light[:height, :width].astype(float)
    cb, cr = (np.kron(colours[..., k], np.ones((down, across)))[:height, :width] - 128.0 for k in (0, 1))
    right = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    assert np.abs(got - np.clip(right, 0, 255)).max() <= 1


def test_fax() -> None:
    bilevel = SMOOTH[..., 0] > 100
    for way in ("group3", "group4", "tiff_ccitt"):
        file = io.BytesIO()
        Image.fromarray(bilevel).save(file, "TIFF", compression=way)
        assert np.array_equal(np.asarray(read_image(file.getvalue()))[..., 0], bilevel * 255), way


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("planar", [False, True])
def test_orientation(orientation: int, planar: bool) -> None:
    file = io.BytesIO()
    source = np.moveaxis(SMOOTH, -1, 0) if planar else SMOOTH
    tag = (274, "H", 1, orientation, True)
    options: dict[str, Any] = {"planarconfig": "separate" if planar else "contig", "compression": "lzw"}
    tifffile.imwrite(file, source, photometric="rgb", extratags=[tag], metadata=None, **options)
    assert np.array_equal(np.asarray(read_image(file.getvalue())), turned(SMOOTH, orientation))
    assert np.array_equal(np.asarray(read_image(file.getvalue(), exif=False)), SMOOTH)


def test_a_palette_of_8_bit_levels() -> None:
    """Some writers do so; libtiff takes them for what they are."""
    index = np.arange(16, dtype=np.uint8)[None]
    levels = np.arange(768, dtype=np.uint16) % 256
    file = io.BytesIO()
    tifffile.imwrite(file, index, photometric="palette", colormap=levels.reshape(3, 256), metadata=None)
    assert np.array_equal(np.asarray(read_image(file.getvalue()))[..., 0], index)


NAMED: dict[str, tuple[dict[str, Any], Array, str]] = {
    "three grey": (
        {"photometric": "minisblack", "planarconfig": "contig"},
        SMOOTH,
        "3 channels of which only one is a colour",
    ),
    "RGB float": ({"photometric": "rgb"}, SMOOTH.astype(np.float32), "floating-point samples that are not grey"),
    "jpeg 2000": ({"compression": "jpeg2000"}, SMOOTH, "JPEG 2000"),
    "webp": ({"compression": "webp"}, SMOOTH, "WebP"),
    "jpeg xl": ({"compression": "jpegxl"}, SMOOTH, "JPEG XL"),
    "lerc": ({"compression": "lerc"}, SMOOTH[..., 0].astype(np.float32), "LERC"),
    "uint64": ({}, SMOOTH[..., 0].astype(np.uint64), "64-bit unsigned"),
    "complex": ({}, SMOOTH[..., 0].astype(np.complex64), "complex"),
    "bands": ({"photometric": "minisblack", "planarconfig": "contig"}, np.dstack([SMOOTH] * 4), "12 samples per pixel"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_read_is_named(name: str) -> None:
    options, stored, words = NAMED[name]
    file = io.BytesIO()
    tifffile.imwrite(file, stored, metadata=None, **options)
    with pytest.raises(UnsupportedPictureError, match=f"^photo: unsupported: TIFF (with|of) .*{words}"):
        read_image(file.getvalue(), "photo")


def test_a_raw_photo_is_named_though_it_begins_with_a_thumbnail() -> None:
    file = io.BytesIO()
    tag = (50706, "B", 4, (1, 4, 0, 0), True)
    tifffile.imwrite(file, SMOOTH, photometric="rgb", extratags=[tag], metadata=None)
    with pytest.raises(UnsupportedPictureError, match="raw photo"):
        read_image(file.getvalue())
    canon = bytearray(tiff(SMOOTH[..., 0].copy()))
    canon[8:12] = b"CR\x02\0"
    with pytest.raises(UnsupportedPictureError, match=r"raw photo \(CR2\)"):
        read_image(bytes(canon))


@pytest.mark.parametrize("compression", LOSSLESS)
def test_a_cut_file_is_damaged(compression: str | None) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, SMOOTH, photometric="rgb", compression=compression, rowsperstrip=16, metadata=None)
    data = file.getvalue()
    assert np.array_equal(np.asarray(read_image(data)), SMOOTH)
    with pytest.raises(PictureError, match="damaged or truncated TIFF") as caught:
        read_image(data[: len(data) * 2 // 3])
    assert not isinstance(caught.value, UnsupportedPictureError)


def test_blocks_that_overlap_are_refused_before_they_are_copied() -> None:
    data = tiff(np.zeros((40, 500), np.uint8), t259=(3, 1, 5), t278=(4, 1, 1), t273=(4, 40, 20), t279=(4, 40, 180))
    body = bytearray(data)
    body[20:180] = (300).to_bytes(4, "little") * 40
    body[180:340] = (15000).to_bytes(4, "little") * 40
    with pytest.raises(PictureError, match="overlap"):
        read_image(bytes(body))


def test_exif_inside_is_not_the_orientation_of_the_file() -> None:
    assert exif(6)  # EXIF is a TIFF itself: only the file's own directory counts
    data = tiff(SMOOTH[..., 0].copy(), t274=(3, 1, 6))
    assert read_image(data).size == (64, 96)


PROGRAMS = [name for name in ("tiff2rgba", "magick", "convert-im6.q16") if shutil.which(name)]


def seen_by(program: str, source: Path, target: Path) -> Array | None:
    """The picture as another program decodes it, or None where it refuses."""
    options = ["-depth", "8", "-type", "TrueColor", "-compress", "none"]
    command: list[str | Path] = (
        [program, "-c", "none", source, target] if program == "tiff2rgba" else [program, source, *options, target]
    )
    done = subprocess.run(command, capture_output=True, check=False)
    return None if done.returncode else tifffile.imread(target)[..., :3].astype(float)


@pytest.mark.slow
@pytest.mark.skipif(len(PROGRAMS) < 2, reason="libtiff's programs and ImageMagick are not installed")
def test_other_programs_see_the_same(tmp_path: Path) -> None:
    """Decoders that share nothing with tifffile, each with defects of its own: one of them must agree.

    Left out are premultiplied alpha, CMYK and Lab, which they convert otherwise.
    """
    kinds = [v for v in VARIANTS if not v.extra and v.compression in (None, "lzw", "zlib") and v.dtype in ("u1", "u2")]
    kinds = [v for v in kinds if v.photometric not in ("cielab", "separated")]
    compared: Counter[str] = Counter()
    for variant in kinds:
        source, target = tmp_path / "in.tif", tmp_path / "out.tif"
        source.write_bytes(written(variant))
        ours = np.asarray(read_image(source)).astype(float)
        theirs = {program: seen_by(program, source, target) for program in PROGRAMS}
        agree = [p for p, picture in theirs.items() if picture is not None and np.abs(picture - ours).max() <= 1]
        compared.update(agree)
        compared["none decodes it"] += all(picture is None for picture in theirs.values())
        assert agree or all(picture is None for picture in theirs.values()), str(variant)
    assert compared["none decodes it"] == 0
    assert all(compared[program] > len(kinds) / 2 for program in PROGRAMS), compared
    print(len(kinds), compared)


@settings(deadline=None, max_examples=250)
@given(
    st.integers(0, len(VARIANTS) - 1),
    st.dictionaries(st.integers(-260, 400), st.integers(0, 255), min_size=1, max_size=5),
)
def test_mutated_files_raise_nothing_else(number: int, changes: dict[int, int]) -> None:
    data = bytearray(written(VARIANTS[number]))
    for position, value in changes.items():
        data[position % len(data)] = value
    with suppress(PictureError):
        got = read_image(bytes(data), max_pixels=100_000)
        assert got.width * got.height <= 100_000


def test_deep_samples_that_use_little_of_their_range_are_noted() -> None:
    """12 bits in 16, and heights with a value for no data."""
    slope = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint16)
    heights = slope.astype(np.int16) * 5
    heights[:5] = -32768
    hot = slope * 20
    hot[10, 10:14] = (60000, 61000, 65535, 0)
    lit = slope.astype(np.float32) / 200
    lit[3, 3:6] = (1e6, 2e6, np.nan)
    lacking = slope.astype(np.float32) / 200
    lacking[5, 5:8] = (-9999, -9998, np.inf)
    cases: dict[str, tuple[NDArray[Any], bool]] = {
        "12 bits": (slope * 20, True),
        "12 bits in RGB": (np.stack([slope * 20, slope * 24, slope], -1), True),
        "all bits": (slope * 400, False),
        "no light at all": (slope * 0, False),
        "clipped at one end": (np.where(slope > 150, 65535, slope * 20).astype(np.uint16), True),
        "heights": (heights, True),
        "hot pixels": (hot, True),
        "outliers in floating point": (lit, True),
        "two values for no data": (lacking, True),
        "signed": ((slope.astype(np.int32) * 400 - 32000).astype(np.int16), False),
        "float": (slope.astype(np.float32) / 4000, True),
        "float of the whole range": (slope.astype(np.float32) / 200, False),
    }
    for name, (stored, noted) in cases.items():
        file = io.BytesIO()
        tifffile.imwrite(file, stored, photometric="rgb" if stored.ndim == 3 else "minisblack", metadata=None)
        note = read_image(file.getvalue()).info.get("note")
        assert bool(note) == noted, (name, note)
        assert not noted or "magick" in str(note)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_picture_without_a_number_is_refused(value: float) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, np.full((20, 30), value, np.float32), metadata=None)
    with pytest.raises(PictureError, match=r"^picture: none of its samples is a number$"):
        read_image(file.getvalue())
