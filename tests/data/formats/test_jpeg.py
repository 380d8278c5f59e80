"""JPEG: whole files, files without their end marker, and scans that are too short or too long."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from resnet_infer.data.image import read_image
from resnet_infer.errors import PictureError, UnsupportedPictureError

Array = NDArray[Any]
PHOTO = Path(__file__).parents[3] / "demo" / "pictures" / "cat.jpg"
END = b"\xff\xd9"


def encode(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def detailed(width: int, height: int) -> Image.Image:
    """Noise over a slope: no part of the scan is short."""
    slope = np.add.outer(np.arange(height), np.arange(width))[..., None] * (1, 2, 3)
    noise = np.random.default_rng(width * height).integers(0, 60, (height, width, 3))
    return Image.fromarray(((slope + noise) % 256).astype(np.uint8))


def read(data: bytes) -> Array:
    return np.asarray(read_image(data, "photo"))


def seen_by_pil(data: bytes) -> Array:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


SIZES = [(1, 1), (4, 90), (5, 7), (8, 8), (16, 16), (17, 33), (90, 4), (200, 120)]
FORMS: list[dict[str, Any]] = [
    *({"subsampling": steps, "quality": quality} for steps in (0, 1, 2) for quality in (10, 75, 99)),
    {"progressive": True, "quality": 80},
    {"restart_marker_blocks": 3},
    {"restart_marker_rows": 1, "subsampling": 0},
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("content", ["flat", "detailed"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_whole_files_are_read_with_and_without_their_end(size: tuple[int, int], content: str, mode: str) -> None:
    picture = (Image.new("RGB", size, (200, 30, 90)) if content == "flat" else detailed(*size)).convert(mode)
    for form in FORMS:
        data = encode(picture, **(form if mode == "RGB" else {**form, "subsampling": -1}))
        right = seen_by_pil(data)
        assert np.array_equal(read(data), right), form
        assert data.endswith(END)
        for cut in (1, 2):
            assert np.array_equal(read(data[:-cut]), right), form
        assert np.array_equal(read(data + data), right), form  # a second picture, as in MPO
        assert np.array_equal(read(data + b"trailer"), right), form


@pytest.mark.parametrize("progressive", [False, True])
def test_a_file_cut_within_its_scan_is_damaged(progressive: bool) -> None:
    data = encode(detailed(200, 120), quality=90, progressive=progressive)
    for length in itertools.chain(range(len(data) // 2, len(data) - 40, 333), range(len(data) - 40, len(data) - 2)):
        try:
            got = read(data[:length])
        except PictureError as error:
            assert "damaged or truncated JPEG" in str(error)  # noqa: PT017
        else:  # only filling bits were cut
            assert length == len(data) - 3
            assert np.array_equal(got, read(data))


def test_a_cut_between_the_scans_of_a_progressive_picture_is_damaged() -> None:
    data = encode(detailed(200, 120), quality=90, progressive=True)
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xc4" and at > data.index(b"\xff\xda")]
    assert len(starts) > 3
    for start in starts:
        with pytest.raises(PictureError, match="damaged or truncated JPEG"):
            read(data[:start])


@settings(deadline=None, max_examples=60)
@given(st.floats(0.05, 0.97), st.booleans(), st.sampled_from([{}, {"subsampling": 0}, {"restart_marker_blocks": 4}]))
def test_a_scan_that_is_too_short_is_damaged(share: float, host: bool, form: dict[str, Any]) -> None:
    """Its end marker is there; libjpeg warns of a premature end and fills the picture up."""
    data = encode(detailed(200, 120), quality=90, **form)
    start = data.index(b"\xff\xda") + 14
    cut = start + int((len(data) - start) * share)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", host)
        for damaged in (data[:cut] + END, data[:cut]):
            with pytest.raises(PictureError, match=r"^photo: damaged or truncated JPEG"):
                read(damaged)


Change = Callable[[bytes, int], bytes]
DAMAGE: dict[str, tuple[int, Change]] = {
    "hole of 200": (200, lambda data, at: data[:at] + bytes(200) + data[at + 200 :]),
    "hole of 4096": (4096, lambda data, at: data[:at] + bytes(4096) + data[at + 4096 :]),
    "200 missing": (200, lambda data, at: data[:at] + data[at + 200 :]),
    "200 doubled": (200, lambda data, at: data[: at + 200] + data[at:]),
    "zeros to the end": (20, lambda data, at: data[:at] + bytes(len(data) - at - 2) + END),
}
"""Bytes that are hit, and what becomes of a file that is hit at a place."""


@pytest.mark.parametrize(
    ("size", "damage", "share"),
    [
        ("small", "hole of 200", 0.35),
        ("small", "200 missing", 0.85),
        ("small", "200 doubled", 0.95),
        ("small", "zeros to the end", 0.85),
        ("large", "hole of 200", 0.5),
        ("large", "hole of 4096", 0.9),
        ("large", "200 missing", 0.9),
        ("large", "200 doubled", 0.95),
        ("large", "zeros to the end", 0.95),
    ],
)
def test_damage_is_noticed_as_often_as_the_docs_say(size: str, damage: str, share: float) -> None:
    with Image.open(PHOTO) as photo:
        whole = photo.convert("RGB")
    pictures = [whole.resize((64 + 4 * n, 64)) for n in range(8)] if size == "small" else [whole, whole.rotate(180)]
    bytes_, change = DAMAGE[damage]
    noticed = tried = 0
    for picture in pictures:
        data = encode(picture, quality=85)
        start = data.rindex(b"\xff\xda") + 14
        for at in np.linspace(start, len(data) - 2 - bytes_, 12 if size == "small" else 25).astype(int):
            tried += 1
            try:
                read(change(data, int(at)))
            except PictureError as error:
                assert "damaged or truncated JPEG" in str(error)  # noqa: PT017
                noticed += 1
    assert noticed >= share * tried, noticed / tried


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([b"\0", b"\xff"]), st.integers(1, 3000), st.sampled_from(FORMS), st.booleans())
def test_filler_before_the_end_is_let_pass(filler: bytes, count: int, form: dict[str, Any], flat: bool) -> None:
    """Some cameras pad a scan."""
    picture = Image.new("RGB", (64, 48), (9, 90, 200)) if flat else detailed(64, 48)
    data = encode(picture, optimize=flat and filler == b"\xff", **form)  # else its data would be zeros too
    assert np.array_equal(read(data[:-2] + filler * count + END), read(data))


@settings(deadline=None, max_examples=30)
@given(st.integers(17, 3000), st.randoms(use_true_random=False), st.sampled_from([0, 1, 2]))
def test_other_bytes_after_the_last_pixel_are_damage(count: int, random: Random, steps: int) -> None:
    data = encode(detailed(64, 48), subsampling=steps)
    extra = bytes(random.randrange(1, 255) for _ in range(count))
    with pytest.raises(PictureError, match=r"goes on after the last pixel.*magick IN.jpg OUT.jpg"):
        read(data[:-2] + extra + END)


def test_a_comment_after_the_scan_is_no_damage() -> None:
    comment = b"\xff\xfe\0\x52" + b"c" * 80
    for form in FORMS:
        data = encode(detailed(64, 48), **form)
        for tail in (comment, comment + b"\xff\xff" + comment):
            assert np.array_equal(read(data[:-2] + tail + END), read(data)), form


@pytest.mark.parametrize("form", [{"restart_marker_blocks": 3}, {"restart_marker_rows": 1}])
def test_one_more_restart_before_the_end_is_no_damage(form: dict[str, int]) -> None:
    data = encode(detailed(64, 48), **form)
    last = next(at for at in range(len(data) - 3, 0, -1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7)
    following = 0xD0 | (data[last + 1] + 1 & 7)
    assert np.array_equal(read(data[:-2] + bytes([0xFF, following]) + END), read(data))
    with pytest.raises(PictureError, match="restarts in the scan"):
        read(data[:-2] + bytes([0xFF, following, 0xFF, following]) + END)


@pytest.mark.parametrize("form", [{}, {"progressive": True}])
def test_a_missing_end_costs_two_decodes_into_the_same_memory(
    form: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    core: Any = vars(Image)["core"]
    decoder, new = Image._getdecoder, core.new
    calls: list[str] = []
    size = (600, 900)
    data = encode(detailed(*size), **form)
    made: list[tuple[int, int]] = []

    def watched_decoder(*args: Any) -> Any:
        calls.append("decode")
        return decoder(*args)

    def watched_new(mode: str, size: tuple[int, int]) -> Any:
        made.append(size)
        return new(mode, size)

    monkeypatch.setattr(Image, "_getdecoder", watched_decoder)
    monkeypatch.setattr(core, "new", watched_new)
    read(data[:-2])
    assert calls == ["decode"] * 2
    assert made.count(size) == 1


def test_an_arithmetic_picture_without_its_end_is_damaged() -> None:
    """It is a form that is read, where libjpeg can; what follows its data changes it."""
    data = arithmetic(64, 48)
    try:
        read(data)
    except UnsupportedPictureError:
        pytest.skip("PIL's libjpeg has no arithmetic coding")
    with pytest.raises(PictureError, match="damaged or truncated JPEG") as caught:
        read(data[:-2])
    assert not isinstance(caught.value, UnsupportedPictureError)


def arithmetic(width: int, height: int) -> bytes:
    """A grey picture whose data are all of the value that an arithmetic decoder reads as plain: none."""
    frame = b"\xff\xc9\0\x0b\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\1\1\x11\0"
    table = b"\xff\xdb\0\x43\0" + b"\1" * 64
    return b"\xff\xd8" + table + frame + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + b"\x12\x34" + END


def frame(data: bytes, marker: int, bits: int = 8) -> bytes:
    at = data.index(b"\xff\xc0")
    return data[: at + 1] + bytes([marker]) + data[at + 2 : at + 4] + bytes([bits]) + data[at + 5 :]


@pytest.mark.parametrize(
    ("marker", "bits", "what"),
    [
        (0xC1, 12, "12-bit JPEG"),
        (0xC3, 16, "lossless JPEG"),
        (0xC5, 8, "hierarchical JPEG"),
        (0xCB, 8, "lossless JPEG"),
        (0xF7, 8, "JPEG-LS"),
    ],
)
def test_forms_that_are_not_read_are_named(marker: int, bits: int, what: str) -> None:
    with pytest.raises(UnsupportedPictureError, match=f"^photo: unsupported: {what}$"):
        read(frame(encode(detailed(64, 48)), marker, bits))


def of_scans(count: int, *, hidden: bool = False) -> bytes:
    """A grey progressive picture: one scan of the mean, one of the rest, and `count` - 2 that refine nothing.

    `hidden`: with bytes in a comment that look like an end and like scans, and more bytes behind the end marker.
    """

    def segment(marker: int, data: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data

    start = b"\xff\xd8" + segment(0xDB, bytes([0] + [1] * 64))
    start += segment(0xC2, bytes([8, 0, 16, 0, 16, 1, 1, 0x11, 0]))
    start += segment(0xC4, bytes([0, 1] + [0] * 15 + [0])) + segment(0xC4, bytes([0x10, 1] + [0] * 15 + [0]))
    mean = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + b"\x0f"
    comment = segment(0xFE, b"\xff\xd9" + b"\xff\xda" * 600) if hidden else b""
    rest = (segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + b"\x0f") * (count - 1)
    return start + mean + comment + rest + b"\xff\xd9" + (b"\xff\xda" * 600 + b"more" if hidden else b"")


@pytest.mark.parametrize("hidden", [False, True])
def test_more_scans_than_any_encoder_writes_are_refused_before_they_are_decoded(hidden: bool) -> None:
    expected = seen_by_pil(of_scans(2))
    assert np.array_equal(read(of_scans(500, hidden=hidden)), expected)
    with pytest.raises(UnsupportedPictureError, match="unsupported: JPEG of more than 500 scans"):
        read(of_scans(501, hidden=hidden))


def test_real_files_of_other_forms() -> None:
    imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
    grey = np.asarray(detailed(64, 48).convert("L"))
    for data, what in (
        (imagecodecs.jpegls_encode(grey), "JPEG-LS"),
        (imagecodecs.jpeg_encode((grey.astype(np.uint16) << 4), bitspersample=12), "12-bit JPEG"),
        (imagecodecs.ljpeg_encode(grey.astype(np.uint16) << 8, bitspersample=16), "lossless JPEG"),
    ):
        with pytest.raises(UnsupportedPictureError, match=f"unsupported: {what}"):
            read(data)
