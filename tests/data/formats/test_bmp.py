"""BMP: every layout of bits, written by hand."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.image import read_image
from resnet_infer.errors import PictureError, UnsupportedPictureError

Array = NDArray[Any]
HEIGHT, WIDTH = 7, 13


def bmp(
    rows: Array,
    bits: int,
    compression: int = 0,
    between: bytes = b"",
    header: int = 40,
    colours: int = 0,
    top: bool = False,
) -> bytes:
    """A file of these bytes of rows, from the top down; `between` are masks or a palette."""
    padded = np.zeros((len(rows), (WIDTH * bits + 31) // 32 * 4), np.uint8)
    padded[:, : rows.shape[1]] = rows
    data = (padded if top else padded[::-1]).tobytes()
    if header == 12:
        body = struct.pack("<LHHHH", 12, WIDTH, len(rows), 1, bits)
    else:
        body = struct.pack(
            "<LllHHLLllLL", 40, WIDTH, -len(rows) if top else len(rows), 1, bits, compression, 0, 0, 0, colours, 0
        )
        body = struct.pack("<L", header) + body[4:]
        body += between[: header - 40] + bytes(max(header - 40 - len(between), 0))
        between = between[header - 40 :]
    start = 14 + len(body) + len(between)
    return b"BM" + struct.pack("<LLL", start + len(data), 0, start) + body + between + data


def read(data: bytes) -> Array:
    return np.asarray(read_image(data, "photo"))


VALUES: Array = np.random.default_rng(0).integers(0, 2**32, (HEIGHT, WIDTH))
LAYOUTS = {
    "RGB 565": (16, (0xF800, 0x7E0, 0x1F, 0)),
    "RGB 555": (16, (0x7C00, 0x3E0, 0x1F, 0)),
    "BGR 565": (16, (0x1F, 0x7E0, 0xF800, 0)),
    "RGB 444": (16, (0xF00, 0xF0, 0xF, 0)),
    "ARGB 1555": (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
    "ARGB 4444": (16, (0xF00, 0xF0, 0xF, 0xF000)),
    "RGBX": (32, (0xFF000000, 0xFF0000, 0xFF00, 0)),
    "BGRX": (32, (0xFF, 0xFF00, 0xFF0000, 0)),
    "ARGB": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "RGB of 10 bits": (32, (0x3FF00000, 0xFFC00, 0x3FF, 0)),
    "RGB of 11, 11 and 10 bits": (32, (0x7FF, 0x3FF800, 0xFFC00000, 0)),
}


@pytest.mark.parametrize(
    ("header", "name"),
    # A header of 40 bytes has no mask of alpha.
    [(header, name) for header in (40, 56, 124) for name, (_, masks) in LAYOUTS.items() if header > 40 or not masks[3]],
)
@pytest.mark.parametrize("top", [False, True])
def test_layouts_of_bits(header: int, name: str, top: bool) -> None:
    bits, masks = LAYOUTS[name]
    values = VALUES % 2**bits
    rows = values.astype(f"<u{bits // 8}").view(np.uint8).reshape(HEIGHT, -1)
    between = struct.pack("<4L", *masks)[: 12 if header == 40 else 16]
    channels = []
    for mask in masks:
        shift = (mask & -mask).bit_length() - 1 if mask else 0
        width = (mask >> shift).bit_length()
        part = (values & mask) >> shift
        channels.append(
            part >> width - 8 if width > 8 else np.rint(part * 255 / (2**width - 1)) if width else part + 255
        )
    colours, alpha = np.stack(channels[:3], -1).astype(float), channels[3][..., None] / 255
    got = read(bmp(rows, bits, 3, between, header, top=top)).astype(float)
    assert np.abs(got - (colours * alpha + 255 * (1 - alpha))).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("header", [12, 40])
def test_palettes(bits: int, header: int) -> None:
    """Of all colours, and of two that are black and white, which is no bitmap of one bit for that."""
    entry = 3 if header == 12 else 4
    for colours in {2**bits, 2}:
        if header == 12 and colours != 2**bits:
            continue
        palette = np.random.default_rng(bits).integers(0, 256, (colours, entry)).astype(np.uint8)
        if colours == 2:
            palette[:] = [[0] * entry, [255] * entry]
        index = VALUES % colours
        places = (index[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = np.packbits(places.reshape(HEIGHT, -1).astype(np.uint8), axis=1)
        data = bmp(rows, bits, between=palette.tobytes(), header=header, colours=0 if colours == 2**bits else colours)
        if header == 12:  # the palette follows a header that `bmp` does not extend
            start = 26 + palette.nbytes
            data = data[:10] + struct.pack("<L", start) + data[14:26] + palette.tobytes() + data[26 + palette.nbytes :]
        assert np.array_equal(read(data), palette[index][..., 2::-1])


def test_an_alpha_channel_that_was_left_empty_is_none() -> None:
    rows = (VALUES & 0xFFFFFF).astype("<u4").view(np.uint8).reshape(HEIGHT, -1)
    data = bmp(rows, 32, 3, struct.pack("<4L", 0xFF0000, 0xFF00, 0xFF, 0xFF000000), 56)
    assert np.array_equal(read(data), rows.reshape(HEIGHT, WIDTH, 4)[..., 2::-1])


def test_files_of_other_writers() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    assert np.array_equal(read(cv2.imencode(".bmp", picture)[1].tobytes()), picture[..., ::-1])
    assert np.array_equal(read(cv2.imencode(".bmp", picture[..., 0])[1].tobytes())[..., 0], picture[..., 0])
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        file = io.BytesIO()
        Image.fromarray(picture).convert(mode).save(file, "BMP")
        right = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.array_equal(read(file.getvalue()), right), mode


def test_what_is_not_read_is_named() -> None:
    rows = np.zeros((HEIGHT, WIDTH), np.uint8)
    scattered = struct.pack("<3L", 0xF0F000, 0xF00, 0xF)
    for data, what in (
        (bmp(rows, 8, 4), "BMP with JPEG"),
        (bmp(rows, 8, 77), "BMP with compression 77"),
        (bmp(np.zeros((HEIGHT, 4 * WIDTH), np.uint8), 32, 3, scattered), "BMP with scattered bits"),
    ):
        with pytest.raises(UnsupportedPictureError, match=f"^photo: unsupported: {what}$"):
            read(data)
    with pytest.raises(PictureError, match="damaged or truncated BMP"):
        read(bmp(np.zeros((HEIGHT, 3 * WIDTH), np.uint8), 24)[:-9])
