"""PNG: every depth, colour and key to the right pixels, whatever else is in the file."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ImageFile

from resnet_infer.data.image import read_image
from resnet_infer.errors import PictureError, UnsupportedPictureError
from tests.data.test_image import exif, turned

png = pytest.importorskip("png", reason="pypng is not installed")

Array = NDArray[Any]
HEIGHT, WIDTH = 9, 21
GREY, COLOUR, INDEXED, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, COLOUR: 3, INDEXED: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
FORMS = [(GREY, depth) for depth in (1, 2, 4, 8, 16)] + [(INDEXED, depth) for depth in (1, 2, 4, 8)]
FORMS += [(colour, depth) for colour in (COLOUR, GREY_ALPHA, COLOUR_ALPHA) for depth in (8, 16)]
VARIANTS = [
    (colour, depth, keyed, interlaced, seed)
    for (colour, depth), keyed, interlaced, seed in itertools.product(FORMS, (False, True), (False, True), range(12))
    if not (keyed and colour in (GREY_ALPHA, COLOUR_ALPHA))
]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """The file with further chunks after its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def written(colour: int, depth: int, keyed: bool, interlaced: bool, seed: int) -> tuple[bytes, Array]:
    """A file by pypng, and its picture in floating point."""
    random = np.random.default_rng(seed)
    # Few high bytes, so that keys share theirs with other samples.
    top = 2**depth
    values = random.integers(0, top, (HEIGHT, WIDTH, CHANNELS[colour]))
    if depth == 16 and keyed:
        values = random.integers(0, 3, values.shape) * 256 + random.integers(0, 3, values.shape)
    options: dict[str, Any] = {"greyscale": colour in (GREY, GREY_ALPHA), "alpha": colour in (GREY_ALPHA, COLOUR_ALPHA)}
    palette = random.integers(0, 256, (top, 4)) if colour == INDEXED else None
    key = values[2, 3] if keyed and palette is None else None
    if palette is not None:
        options = {"palette": [tuple(int(x) for x in row[: 4 if keyed else 3]) for row in palette]}
    elif key is not None:
        options["transparent"] = int(key[0]) if len(key) == 1 else tuple(int(part) for part in key)
    file = io.BytesIO()
    writer = png.Writer(WIDTH, HEIGHT, bitdepth=depth, interlace=interlaced, **options)
    writer.write(file, values.reshape(HEIGHT, -1).tolist())
    if palette is not None:
        rgba = palette[values[..., 0]].astype(float)
        colours, alpha = rgba[..., :3], rgba[..., 3:] if keyed else np.full((HEIGHT, WIDTH, 1), 255.0)
    else:
        shown = values >> 8 if depth == 16 else values * (255 // (top - 1))
        has_alpha = colour in (GREY_ALPHA, COLOUR_ALPHA)
        colours = (shown[..., :-1] if has_alpha else shown).astype(float)
        alpha = shown[..., -1:] if has_alpha else np.full((HEIGHT, WIDTH, 1), 255.0)
        if key is not None:
            alpha = np.where((values == key).all(-1, keepdims=True), 0, 255)
    right = colours * (alpha / 255) + 255 * (1 - alpha / 255)
    return file.getvalue(), np.broadcast_to(right, (HEIGHT, WIDTH, 3))


def test_all_forms() -> None:
    assert len(VARIANTS) > 400
    for variant in VARIANTS:
        data, right = written(*variant)
        got = np.asarray(read_image(data)).astype(float)
        assert np.abs(got - right).max() <= 1, variant
        if not variant[2]:  # pypng itself reads the same samples
            width, height, rows, info = png.Reader(bytes=data).read()
            assert (width, height, info["bitdepth"]) == (WIDTH, HEIGHT, variant[1])
            assert len(list(rows)) == HEIGHT


def test_a_16_bit_key_is_compared_whole() -> None:
    data, _ = written(COLOUR, 16, True, False, 0)
    assert (np.asarray(read_image(data)) == 255).all(-1).mean() < 0.1
    black = with_chunks(written(COLOUR, 16, False, False, 0)[0], chunk(b"tRNS", bytes(6)))
    assert not (np.asarray(read_image(black)) == 255).all(-1).any()


LARGE = zlib.compress(bytes(2**22))
NEEDLESS = {
    "large compressed text": chunk(b"zTXt", b"a\0\0" + LARGE),
    "large international text": chunk(b"iTXt", b"a\0\1\0\0\0" + LARGE),
    "large profile": chunk(b"iCCP", b"a\0\0" + LARGE),
    "text that is not compressed as it says": chunk(b"zTXt", b"a\0\0nonsense"),
    "text with a wrong checksum": chunk(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0",
    "time of no sense": chunk(b"tIME", b"\0"),
    "a resolution cut short": chunk(b"pHYs", b"\0"),
    "a gamma cut short": chunk(b"gAMA", b""),
    "primaries cut short": chunk(b"cHRM", b"\0\0"),
    "two sRGB": chunk(b"sRGB", b"\0") * 2,
    "sRGB cut short": chunk(b"sRGB", b""),
    "private": chunk(b"prVt", b"abc"),
    "damaged EXIF": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "damaged EXIF text": chunk(b"zTXt", b"Raw profile type exif\0\0nonsense"),
    "animation of no sense": chunk(b"acTL", bytes(8)) + chunk(b"fcTL", b"\0"),
}


@pytest.mark.parametrize("name", NEEDLESS)
@pytest.mark.parametrize("host", [False, True])
def test_chunks_that_are_not_needed_never_matter(name: str, host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", host)
    data, _ = written(COLOUR, 8, False, False, 1)
    got = read_image(with_chunks(data, NEEDLESS[name]))
    assert np.array_equal(np.asarray(got), np.asarray(read_image(data)))


@pytest.mark.parametrize("compressed", [False, True])
def test_the_orientation_is_found_beside_them(compressed: bool) -> None:
    data, _ = written(COLOUR, 8, False, False, 1)
    upright = np.asarray(read_image(data))
    text = f"\nexif\n{len(exif(6)):8}\n{exif(6).hex()}\n".encode()
    body = b"\0" + zlib.compress(text) if compressed else text
    named = chunk(b"zTXt" if compressed else b"tEXt", b"Raw profile type exif\0" + body)
    for extra in (chunk(b"eXIf", exif(6)[6:]), named):
        got = read_image(with_chunks(data, NEEDLESS["large compressed text"], extra))
        assert np.array_equal(np.asarray(got), turned(upright, 6))


def test_what_is_needed_and_unknown_is_named() -> None:
    data, _ = written(COLOUR, 8, False, False, 1)
    for name, words in ((b"CgBI", "iPhone"), (b"QQQQ", "chunk QQQQ")):
        with pytest.raises(UnsupportedPictureError, match=rf"unsupported: PNG .*{words}"):
            read_image(with_chunks(data, chunk(name, b"abcd")))


@pytest.mark.parametrize("host", [False, True])
def test_damage_is_told_whatever_the_host_has_set(host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", host)
    data, _ = written(COLOUR, 8, False, False, 1)
    start = data.index(b"IDAT") + 4
    for damaged in (data[: start + 200], data[: start + 20] + bytes(60) + data[start + 80 :]):
        with pytest.raises(PictureError, match="damaged or truncated PNG"):
            read_image(damaged)


@pytest.mark.parametrize(("colour", "depth", "keyed", "interlaced", "seed"), VARIANTS[::7])
def test_data_that_end_before_the_last_row_are_damage(
    colour: int, depth: int, keyed: bool, interlaced: bool, seed: int
) -> None:
    """The stream ends rightly, with its checksum; PIL leaves the rows that it lacks black."""
    data, _ = written(colour, depth, keyed, interlaced, seed)
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    inflate, rest = zlib.decompressobj(), data[start:end]
    rows = b""
    while rest:
        size = int.from_bytes(rest[:4], "big")
        rows, rest = rows + inflate.decompress(rest[8 : 8 + size]), rest[12 + size :]
    bits = CHANNELS[colour] * depth
    for missing in (1 + (WIDTH * bits + 7) // 8, len(rows) // 2):
        short = data[:start] + chunk(b"IDAT", zlib.compress(rows[:-missing])) + data[end:]
        with pytest.raises(PictureError, match="damaged or truncated PNG"):
            read_image(short)
    black = data[:start] + chunk(b"IDAT", zlib.compress(bytes(len(rows)))) + data[end:]
    assert read_image(black).size == (WIDTH, HEIGHT)


def test_samples_that_use_little_of_their_range_are_noted() -> None:
    dark = (np.arange(HEIGHT * WIDTH * 3) * 20 % 4096).reshape(HEIGHT, -1)
    for grey in (True, False):
        rows = dark[:, :WIDTH] if grey else dark
        for scale, noted in ((1, True), (16, False)):
            file = io.BytesIO()
            png.Writer(WIDTH, HEIGHT, bitdepth=16, greyscale=grey).write(file, (rows * scale).tolist())
            note = read_image(file.getvalue()).info.get("note", "")
            assert ("16-bit samples use only" in note and "-auto-level" in note) == noted
