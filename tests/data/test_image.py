"""Pictures in: every kind to the right RGB, every bad file to one clear line."""

from __future__ import annotations

import io
import itertools
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from resnet_infer.data.image import read_image
from resnet_infer.errors import PictureError

pytestmark = pytest.mark.filterwarnings("error")

Array = NDArray[Any]
PIL_13 = int(PIL.__version__.split(".")[0]) >= 13
HEIGHT, WIDTH = 23, 37
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
RGB: Array = np.stack([X * 6, Y * 11, (X * 5 + Y * 7) % 256], -1).astype(np.uint8)
GREY: Array = ((X * 7 + Y * 3) % 256).astype(np.uint8)
ALPHA: Array = ((X * 13 + Y * 29) % 256).astype(np.uint8)
DEEP: Array = (X * 1700 + Y * 83).astype(np.uint16)
INDEX: Array = ((X + Y) % 16).astype(np.uint8)
PALETTE: Array = RGB[::2, ::3].reshape(-1, 3)[:16]
TABLE: Array = (np.arange(16) * 17).astype(np.uint8)
LEVELS = np.linspace(0, 1, 256)


def picture(mode: str, samples: Array) -> Image.Image:
    image = Image.frombytes(mode, (samples.shape[1], samples.shape[0]), samples.tobytes())
    if mode == "P":
        image.putpalette(PALETTE.tobytes())
    return image


def encode(source: Image.Image | Array, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (source if isinstance(source, Image.Image) else Image.fromarray(source)).save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand; each of `rows` begins with its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def tiff(samples: Array, order: str = "<", big: bool = False, **changes: tuple[int, int, Any]) -> bytes:
    """A grey TIFF by hand. A change is named `t` and the number of its tag: type, count and value."""
    height, width = samples.shape[:2]
    numbers = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 16, 277: 1, 278: height, 279: samples.nbytes}
    tags: dict[int, Any] = {number: (4, 1, value) for number, value in numbers.items()}
    tags |= {int(name[1:]): tag for name, tag in changes.items()}
    entries = b""
    for number, (kind, count, value) in sorted(tags.items()):
        field = value if isinstance(value, bytes) else struct.pack(order + ("H" if kind == 3 else "L"), value)
        entries += struct.pack(order + ("HHQ8s" if big else "HHL4s"), number, kind, count, field)
    start = 16 + samples.nbytes
    header = struct.pack(order + ("HHHQ" if big else "HL8x"), *((43, 8, 0, start) if big else (42, start)))
    count_field = struct.pack(order + ("Q" if big else "H"), len(tags))
    return b"".join([{"<": b"II", ">": b"MM"}[order], header, samples.tobytes(), count_field, entries, bytes(8)])


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    entry = struct.pack(order + "HHL", 274, kind, 1) + struct.pack(order + "HL"[kind == 4], orientation).ljust(4, b"\0")
    mark = {"<": b"II", ">": b"MM"}[order]
    return b"Exif\0\0" + mark + struct.pack(order + "HLH", 42, 8, 1) + entry + bytes(4)


def pixels(data: bytes | Path, **options: Any) -> Array:
    image = read_image(data, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def three(grey: Array) -> Array:
    return np.stack([grey] * 3, -1)


def over_white(colour: Array, alpha: Array) -> Array:
    weight = alpha[..., None] / 255
    composite: Array = np.floor(colour * weight + 255 * (1 - weight) + 0.5 + 1e-9)
    return composite


def from_cmyk(cmyk: Array) -> Array:
    light = 255 - cmyk[..., 3:].astype(float)
    mixed: Array = light - np.floor(cmyk[..., :3] * light / 255 + 0.5)
    return mixed


RGBA, LA, CMYK = np.dstack([RGB, ALPHA]), np.dstack([GREY, ALPHA]), np.dstack([RGB, ALPHA // 2])
BILEVEL = GREY > 127
COLOURS = PALETTE[INDEX]
HOLES = np.where((INDEX == 5)[..., None], 255, COLOURS)
PREMULTIPLIED = np.dstack([np.round(GREY * (ALPHA / 255)), ALPHA]).astype(np.uint8)
KEY = (int(RGB[3, 4, 0]), int(RGB[3, 4, 1]), int(RGB[3, 4, 2]))
LAB = picture("LAB", np.full((4, 4, 3), (138, 81, 70), np.uint8))  # sRGB's red, seen in D50
EXACT: dict[str, tuple[bytes, Array]] = {
    "png 1": (encode(BILEVEL, "PNG"), three(BILEVEL * 255)),
    "png L": (encode(GREY, "PNG"), three(GREY)),
    "png LA": (encode(LA, "PNG"), over_white(three(GREY), ALPHA)),
    "png RGB": (encode(RGB, "PNG"), RGB),
    "png RGBA": (encode(RGBA, "PNG"), over_white(RGB, ALPHA)),
    "png P": (encode(picture("P", INDEX), "PNG"), COLOURS),
    "png P, a transparent index": (encode(picture("P", INDEX), "PNG", transparency=5), HOLES),
    "png P, alpha by index": (
        encode(picture("P", INDEX), "PNG", transparency=TABLE.tobytes()),
        over_white(COLOURS, TABLE[INDEX]),
    ),
    "png RGB, a transparent colour": (
        encode(RGB, "PNG", transparency=KEY),
        np.where((RGB == KEY).all(-1, keepdims=True), 255, RGB),
    ),
    "png RGB 16 bits, a transparent colour": (
        png(
            2,
            1,
            16,
            2,
            b"\0" + struct.pack(">6H", 1000, 2000, 3000, 40000, 50000, 60000),
            (b"tRNS", struct.pack(">3H", 1000, 2000, 3000)),
        ),
        np.array([[[255] * 3, [156, 195, 234]]]),
    ),
    "png L, a transparent level": (encode(GREY, "PNG", transparency=10), three(np.where(GREY == 10, 255, GREY))),
    "png L 4 bits, a transparent level": (
        png(4, 1, 4, 0, b"\0\x01\x23", (b"tRNS", b"\0\1")),
        three(np.array([[0, 255, 34, 51]])),
    ),
    "png I;16": (encode(DEEP, "PNG"), three(DEEP >> 8)),
    "png I;16, nearly black": (encode(DEEP // 300, "PNG"), three(DEEP * 0)),
    "png I;16, a transparent level": (
        png(3, 1, 16, 0, b"\0" + struct.pack(">3H", 257, 258, 65535), (b"tRNS", b"\1\1")),
        three(np.array([[255, 1, 255]])),
    ),
    "png LA 16 bits": (png(1, 1, 16, 4, b"\0\x80\x40\x80\xff"), np.array([[[191] * 3]])),
    "webp RGB": (encode(RGB, "WEBP", lossless=True), RGB),
    "webp RGBA": (encode(RGBA, "WEBP", lossless=True, exact=True), over_white(RGB, ALPHA)),
    "bmp 1": (encode(BILEVEL, "BMP"), three(BILEVEL * 255)),
    "bmp L": (encode(GREY, "BMP"), three(GREY)),
    "bmp P": (encode(picture("P", INDEX), "BMP"), COLOURS),
    "bmp RGB": (encode(RGB, "BMP"), RGB),
    "gif L": (encode(GREY, "GIF"), three(GREY)),
    "gif P": (encode(picture("P", INDEX), "GIF"), COLOURS),
    "gif P, a transparent index": (encode(picture("P", INDEX), "GIF", transparency=5), HOLES),
    "tiff 1": (encode(BILEVEL, "TIFF", compression="group4"), three(BILEVEL * 255)),
    "tiff L": (encode(GREY, "TIFF", compression="tiff_lzw"), three(GREY)),
    "tiff L, white is zero": (tiff(GREY, t262=(3, 1, 0)), three(255 - GREY)),
    "tiff L, big-endian": (tiff(GREY, ">"), three(GREY)),
    "tiff L, BigTIFF": (tiff(GREY, big=True), three(GREY)),
    "tiff LA": (encode(LA, "TIFF"), over_white(three(GREY), ALPHA)),
    "tiff P": (encode(picture("P", INDEX), "TIFF"), COLOURS),
    "tiff RGB": (encode(RGB, "TIFF", compression="tiff_adobe_deflate"), RGB),
    "tiff RGBA": (encode(RGBA, "TIFF"), over_white(RGB, ALPHA)),
    "tiff CMYK": (encode(picture("CMYK", CMYK), "TIFF"), from_cmyk(CMYK)),
    "tiff I;16": (encode(DEEP, "TIFF"), three(DEEP >> 8)),
    "tiff I;16, white is zero": (tiff(DEEP, t258=(3, 1, 16), t262=(3, 1, 0)), three(255 - (DEEP >> 8))),
    "tiff I;16B": (tiff(DEEP.astype(">u2"), ">", t258=(3, 1, 16)), three(DEEP >> 8)),
    "tiff I of 8 bits": (encode(GREY.astype(np.int32), "TIFF"), three(GREY)),
    "tiff I of 16 bits": (encode(DEEP.astype(np.int32), "TIFF"), three(DEEP >> 8)),
    "tiff I of two levels": (encode(BILEVEL.astype(np.int32), "TIFF"), three(BILEVEL * 1)),
    "tiff I without black": (encode(np.full((2, 3), 200, np.int32), "TIFF"), three(np.full((2, 3), 200))),
    "tiff I of 32 bits, unsigned": (
        tiff((LEVELS[None] * (2**32 - 1)).astype(np.uint32), t258=(3, 1, 32)),
        three(np.arange(256)[None]),
    ),
    "tiff I with negatives": (encode(np.arange(-100, 156, dtype=np.int32)[None], "TIFF"), three(np.arange(256)[None])),
    "tiff F up to 1": (encode(LEVELS[None].astype(np.float32), "TIFF"), three(np.arange(256)[None])),
    "tiff F up to 255": (encode(GREY.astype(np.float32), "TIFF"), three(GREY)),
    "tiff F, not finite": (
        encode(np.array([[0, 1, np.nan, np.inf, -np.inf]], np.float32), "TIFF"),
        three(np.array([[0, 255, 0, 255, 0]])),
    ),
}
CLOSE: dict[str, tuple[bytes, Array]] = {
    "jpeg RGB": (encode(RGB, "JPEG", quality=100, subsampling=0), RGB),
    "jpeg L": (encode(GREY // 2, "JPEG", quality=100), three(GREY // 2)),
    "jpeg progressive": (encode(RGB, "JPEG", quality=100, subsampling=0, progressive=True), RGB),
    "jpeg CMYK, inverted by Adobe's marker": (encode(picture("CMYK", CMYK), "JPEG", quality=100), from_cmyk(CMYK)),
    "tiff YCbCr": (encode(Image.fromarray(RGB).convert("YCbCr"), "TIFF", compression="tiff_lzw"), RGB),
    "tiff LAB": (encode(LAB, "TIFF"), np.full((4, 4, 3), (255, 0, 0))),
    "tiff JPEG": (encode(RGB, "TIFF", compression="jpeg", quality=100), RGB),
}


@pytest.mark.parametrize("name", EXACT)
def test_every_mode_gives_the_right_pixels(name: str) -> None:
    data, expected = EXACT[name]
    assert np.array_equal(pixels(data), expected)


@pytest.mark.parametrize("name", CLOSE)
def test_lossy_kinds_give_nearly_the_right_pixels(name: str) -> None:
    data, expected = CLOSE[name]
    difference = np.abs(pixels(data) - expected.astype(float))
    assert difference.shape == expected.shape
    assert difference.max() <= 6
    assert difference.mean() <= 4.5


@pytest.mark.skipif(not PIL_13, reason="PIL reads this mode from version 13 on")
def test_premultiplied_grey() -> None:
    data = tiff(PREMULTIPLIED, t258=(3, 2, b"\x08\0\x08\0"), t277=(3, 1, 2), t338=(3, 1, 1))
    assert np.abs(pixels(data) - over_white(three(GREY), ALPHA)).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_first_frame(kind: str) -> None:
    frames = [picture("P", (INDEX + shift) % 16).convert("P" if kind == "GIF" else "RGB") for shift in range(3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as check:
        assert getattr(check, "n_frames", 1) == 3
    assert np.array_equal(pixels(data), COLOURS)


def test_another_decoder_sees_the_same() -> None:
    """OpenCV has decoders of its own builds; JPEG's inverse transform may differ by some levels."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    random = np.random.default_rng(0)
    for size in ((1, 1), (7, 33), (40, 61)):
        colours = cv2.resize(random.integers(0, 256, (5, 5, 3)).astype(np.uint8), size[::-1]).reshape(*size, 3)
        for source in (colours, colours[..., 0]):
            image = Image.fromarray(source)
            files = {f"PNG {level}": encode(image, "PNG", compress_level=level) for level in (0, 6)}
            files |= {f"WEBP {lossless}": encode(image, "WEBP", lossless=lossless) for lossless in (True, False)}
            files |= {"BMP": encode(image, "BMP"), "TIFF": encode(image, "TIFF", compression="tiff_lzw")}
            for steps, progressive, quality in itertools.product((0, 1, 2), (False, True), (30, 95)):
                options = {"subsampling": steps if source.ndim == 3 else -1, "progressive": progressive}
                files[f"JPEG {steps} {progressive} {quality}"] = encode(image, "JPEG", quality=quality, **options)
            for name, data in files.items():
                right = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(float)
                allowed = 4 if name.startswith(("JPEG", "WEBP False")) else 0
                assert np.abs(pixels(data) - right).max() <= allowed, (name, size)


def turned(stored: Array, orientation: int) -> Array:
    """EXIF 2.3, tag 274: on which sides the stored first row and first column are seen."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    row, column = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}[
        orientation
    ]
    return stored[::row, ::column]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_obeyed_or_not(kind: str, orientation: int) -> None:
    stored = pixels(encode(RGB, kind))
    tag: dict[str, Any] = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif(orientation)}
    data = encode(RGB, kind, **tag)
    assert np.array_equal(pixels(data, exif=False), stored)
    assert np.array_equal(pixels(data), turned(stored, orientation))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [3, 4])
def test_orientation_in_either_byte_order_and_width(order: str, kind: int) -> None:
    data = encode(RGB, "PNG", exif=exif(6, order, kind))
    assert np.array_equal(pixels(data), turned(RGB, 6))


@pytest.mark.parametrize(("profile", "expected"), [(exif(8).hex(), [[10, 20]]), ("no hexadecimal", [[10], [20]])])
def test_orientation_in_the_text_that_imagemagick_writes(profile: str, expected: list[list[int]]) -> None:
    text = b"Raw profile type exif\0" + f"\nexif\n{len(profile) // 2:8}\n{profile}\n".encode()
    data = png(1, 2, 8, 0, b"\0\x0a\0\x14", (b"tEXt", text))
    assert pixels(data)[:, :, 0].tolist() == expected


@settings(deadline=None, max_examples=60)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(lambda at, junk: exif(6)[:at] + junk, st.integers(0, 30), st.binary(max_size=30)),
    )
)
def test_damaged_exif_is_ignored(block: bytes) -> None:
    for data in (encode(RGB, "JPEG", exif=b"Exif\0\0" + block), encode(RGB, "PNG", exif=block)):
        assert sorted(pixels(data).shape) == sorted(RGB.shape)


@pytest.mark.parametrize("block", [exif(0), exif(9), exif(65535), exif(6, ">").replace(b"MM", b"XX"), exif(6)[:-8]])
def test_impossible_orientation_is_ignored(block: bytes) -> None:
    assert np.array_equal(pixels(encode(RGB, "PNG", exif=block)), RGB)


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "jpeg.png"
    path.write_bytes(encode(RGB, "JPEG"))
    assert np.array_equal(pixels(path), pixels(encode(RGB, "JPEG")))


# What cannot be read


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


JPEG, PNG = encode(RGB, "JPEG"), encode(RGB, "PNG")
NO_FRAME = b"GIF89a" + struct.pack("<HHBBB", 60000, 9, 0, 0, 0)
TALL_FRAME = b"\x2c" + struct.pack("<4HB", 0, 10000, 9, 50000, 0) + b"\x08\0"
WIDE_FRAME = b"\x2c" + struct.pack("<4HB", 10000, 0, 50000, 9, 0) + b"\x08\0"
NUMBERED = b"\0\0\1\2\3"
HUGE = struct.pack("<LL", 60000, 60000)
BAD: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"a cat\n" * 9, "text"),
    "page.jpg": (b"<!DOCTYPE html>\n<html><svg></svg></html>", "HTML"),
    "noise.jpg": (bytes(range(1, 200)), "unsupported: a file of this kind"),
    "archive.jpg": (b"PK\x03\x04" + bytes(40), "ZIP"),
    "archive.gz": (b"\x1f\x8b\x08" + bytes(40), "GZIP"),
    "paper.pdf": (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
    "song.mp3": (b"ID3\x04" + bytes(40), "MP3"),
    "frame.mp3": (b"\xff\xfb\x90\x64" + bytes(40), "MP3"),
    "film.mp4": (b"\0\0\0\x18ftypisom" + bytes(40), "MP4"),
    "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    "photo.heif": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
    "photo.avif": (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "AVIF"),
    "mif1.avif": (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
    "photo.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    "photo.jxl": (b"\xff\x0a\xfa\x1f", "JPEG XL"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported: SVG"),
    "prolog.svg": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a > b -->\n<svg/>", "unsupported: SVG"),
    "layers.psd": (b"8BPS\0\1" + bytes(40), "PSD"),
    "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "cut.jpg": (cut(JPEG), "truncated"),
    "magic.jpg": (JPEG[:3], "truncated"),
    "cut.png": (cut(PNG), "truncated"),
    "cut.webp": (cut(encode(RGB, "WEBP")), "truncated"),
    "cut.bmp": (cut(encode(RGB, "BMP")), "truncated"),
    "cut.gif": (cut(encode(RGB, "GIF")), "truncated"),
    "cut.tif": (cut(encode(RGB, "TIFF")), "truncated"),
    "strip.tif": (cut(encode(RGB, "TIFF", compression="tiff_lzw")), "truncated"),
    "no-frame.gif": (NO_FRAME + b";", "damaged"),
    "no-directory.tif": (b"II*\0\x08\0\0\0", "damaged"),
    "checksum.png": (patched(PNG, 29, b"\0\0\0\0"), "checksum"),
    "twelve-bit.jpg": (patched(JPEG, JPEG.index(b"\xff\xc0") + 4, b"\x0c"), "12-bit"),
    "forty-bit.tif": (tiff(GREY, t258=(3, 1, 40)), "unsupported: TIFF with 40-bit unsigned samples"),
    "bands.tif": (tiff(GREY, t277=(3, 1, 12)), "12 samples per pixel"),
    "zero.png": (png(0, 1, 8, 2, b""), "damaged"),
    "zero.gif": (b"GIF89a" + bytes(7) + b"\x2c" + bytes(9) + b"\x08\0;", "damaged"),
    "no-palette.png": (png(4, 1, 8, 3, NUMBERED), "palette"),
    "two-colours.png": (png(4, 1, 8, 3, NUMBERED, (b"PLTE", bytes(6))), "palette"),
    "odd-palette.png": (png(4, 1, 8, 3, NUMBERED, (b"PLTE", bytes(11))), "palette"),
    "long-palette.png": (png(4, 1, 8, 3, NUMBERED, (b"PLTE", bytes(771))), "palette"),
    "palette.bmp": (encode(picture("P", INDEX), "BMP")[:70], "damaged"),
    "palette.gif": (encode(picture("P", INDEX), "GIF")[:40], "damaged"),
    "palette.tif": (tiff(GREY, t262=(3, 1, 3)), "damaged"),
    "bomb.jpg": (patched(JPEG, JPEG.index(b"\xff\xc0") + 5, b"\xff\xff\xff\xff"), "65535x65535"),
    "bomb.png": (png(60000, 60000, 8, 2, b""), "60000x60000"),
    "bomb.webp": (b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\0" * 2, "pixels" if PIL_13 else "WebP"),
    "bomb.bmp": (patched(encode(RGB, "BMP"), 18, HUGE), "60000x60000"),
    "bomb.gif": (patched(encode(RGB, "GIF"), 6, b"\xff\xff\xff\xff"), "65535x65535"),
    "tall-bomb.gif": (NO_FRAME + b"!\xfe\3abc\2de\0" + TALL_FRAME, "60000x60000"),
    "wide-bomb.gif": (b"GIF89a" + struct.pack("<HHBBB", 9, 60000, 0, 0, 0) + WIDE_FRAME, "60000x60000"),
    "bomb.tif": (tiff(GREY, t256=(4, 1, 60000), t257=(4, 1, 60000), t278=(4, 1, 60000)), "60000x60000"),
}


def failure(data: bytes | Path, **options: Any) -> str:
    with pytest.raises(PictureError) as caught:
        read_image(data, **options)
    message = caught.value.message
    assert message.isprintable()  # and therefore one line
    return message


@pytest.mark.parametrize("name", BAD)
def test_bad_files_give_one_line_that_names_them(name: str) -> None:
    data, reason = BAD[name]
    message = failure(data, name=name)
    assert message.startswith(f"{name}: ")
    assert reason in message.removeprefix(f"{name}: ")


def test_bad_paths(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(PNG)
    (tmp_path / "loop").symlink_to("loop")
    bad = [tmp_path, *(tmp_path / name for name in ("missing.jpg", "file/below.jpg", "loop", "a" * 300, "nul\0byte"))]
    for path in bad:
        assert failure(path).startswith(str(path).replace("\0", r"\x00") + ": ")
    assert failure(tmp_path / "missing.jpg", name="photo 7") == "photo 7: No such file or directory"
    assert failure(b"", name="two\nlines\x1b[2J") == r"two\nlines\x1b[2J: the file is empty"


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="the system has no users as Unix has them")
def test_file_without_permission(tmp_path: Path) -> None:
    """Read as nobody where this is root, to whom nothing is forbidden."""
    path = tmp_path / "secret.png"
    path.write_bytes(PNG)
    path.chmod(0)
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        assert failure(path) == f"{path}: Permission denied"
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_pixel_limit_is_inclusive(kind: str) -> None:
    data = encode(RGB, kind)
    assert pixels(data, max_pixels=WIDTH * HEIGHT).shape == RGB.shape
    assert f"limit of {WIDTH * HEIGHT - 1}" in failure(data, max_pixels=WIDTH * HEIGHT - 1)


# Silence: every warning is an error in this module


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_sizes_that_pil_warns_of_are_read_in_silence(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(RGB, kind)
    expected = pixels(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.warns(Image.DecompressionBombWarning), Image.open(io.BytesIO(data)):
        pass
    assert np.array_equal(pixels(data), expected)


SILENT: dict[str, tuple[bytes, Array]] = {
    "jpeg, EXIF cut off": (encode(RGB, "JPEG", exif=exif(1)[:-9]), pixels(JPEG)),
    "png, alpha by index": EXACT["png P, alpha by index"],
    "png, animation of no frames": (png(4, 1, 8, 0, NUMBERED, (b"acTL", bytes(8))), three(np.arange(4)[None])),
    "tiff, a tag beyond the file": (tiff(GREY, t301=(3, 4000, 9)), three(GREY)),
    "tiff, a tag of two values for one": (tiff(GREY, t296=(3, 2, 2)), three(GREY)),
    "tiff, broken tag elsewhere": (tiff(GREY, t34665=(4, 1, 10**9)), three(GREY)),
}


def test_nothing_is_warned_of_by_any_thread() -> None:
    jobs = [job for _ in range(8) for job in SILENT.values()]
    with ThreadPoolExecutor(8) as pool:
        for got, (_, expected) in zip(pool.map(lambda job: pixels(job[0]), jobs), jobs, strict=True):
            assert np.array_equal(got, expected)


# Damage of any kind

WHOLE = [
    *(encode(RGB, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")),
    encode(RGB, "JPEG", progressive=True, exif=exif(1)),
    encode(RGBA, "WEBP", lossless=True),
    encode(RGB, "TIFF", compression="tiff_lzw"),
    *(EXACT[name][0] for name in ("png P, alpha by index", "tiff L, BigTIFF", "tiff I;16B", "tiff F up to 1")),
]


def attempt(data: bytes, **options: Any) -> Array | str:
    try:
        return pixels(data, name="damaged", **options)
    except PictureError as error:
        return str(error)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(WHOLE), st.floats(0, 1, exclude_max=True))
def test_truncated_is_an_error_or_the_same_picture(data: bytes, where: float) -> None:
    result = attempt(data[: int(len(data) * where)])
    if isinstance(result, str):
        assert result.startswith("damaged: ")
        assert result.isprintable()
    else:
        assert np.array_equal(result, pixels(data))
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


positions = st.one_of(st.integers(0, 120), st.integers(-160, -1), st.integers(0, 2000))


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(WHOLE), st.dictionaries(positions, st.integers(0, 255), min_size=1, max_size=6))
def test_mutated_bytes_raise_nothing_else(data: bytes, changes: dict[int, int]) -> None:
    mutated = bytearray(data)
    for position, value in changes.items():
        mutated[position % len(data)] = value
    result = attempt(bytes(mutated), max_pixels=100_000)
    if isinstance(result, str):
        assert result.startswith("damaged: ")
        assert result.isprintable()
    else:
        assert result.shape[0] * result.shape[1] <= 100_000
