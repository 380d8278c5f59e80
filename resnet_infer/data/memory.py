"""How much memory a picture takes while it is read: more than its file, and not to be told from that."""

from __future__ import annotations

import math

GREY, RGB = 1, 4
"""Bytes of a pixel in PIL."""
SMALL = 1 << 20
"""Bytes that every picture may take besides; and pixels of one that is small."""
_PIXEL = {"WebP": 24, "BMP": 20, "GIF": 10}
"""Most bytes of a pixel at a time, by format, measured: the picture, what it is converted to, and it turned."""
_JPEG = 13
_PNG_ALPHA, _PNG_DEEP, _PNG = 20, 16, 10


def decoding_bytes(kind: str, content: bytes, width: int, height: int) -> int:
    """The most that `read_image` takes at a time for a picture of that format and size, besides the file itself."""
    pixels = width * height
    if kind == "JPEG" and pixels <= SMALL:  # to know better would take longer than it is worth
        return SMALL + _JPEG * pixels
    if kind == "JPEG":
        from resnet_infer.data.jpeg import pixel_bytes

        return SMALL + pixels * pixel_bytes(content)
    if kind == "TIFF":
        return SMALL + _of_tiff(content, pixels)
    if kind == "PNG":
        head = content[: content.find(b"IDAT")]
        depth, colour = content[24:26]
        alpha = colour & 4 or b"tRNS" in head or head.count(b"IHDR") > 1
        return SMALL + pixels * (_PNG_ALPHA if alpha else _PNG_DEEP if depth == 16 else _PNG)
    return SMALL + pixels * _PIXEL[kind]


def resizing_bytes(width: int, height: int, side: int) -> int:
    """The most that a picture and its copy take, of which the shorter side is `side`."""
    scale = side / min(width, height)
    columns, rows = math.ceil(width * scale), math.ceil(height * scale)
    pixels = width * height + columns * max(rows, height)
    return SMALL + RGB * pixels + 6 * columns * rows


def _of_tiff(content: bytes, pixels: int) -> int:
    """The picture as PIL's and as an array, its samples where their range is to be found, and a row of its blocks."""
    from resnet_infer.data.tiff import Directory
    from resnet_infer.data.tiff_layout import UNSIGNED, YCBCR, read_layout
    from resnet_infer.data.tiff_samples import GROUP_BYTES

    layout = read_layout(Directory(content))
    stretched = layout.format != UNSIGNED or layout.bits > 16
    sample = -(-layout.bits // 8)
    blocks = layout.across * layout.block_width * min(layout.block_height, 2 * layout.height + 256)
    in_blocks = max(blocks * layout.samples * sample, GROUP_BYTES)
    return pixels * (14 + (sample if stretched else 0)) + in_blocks * (15 if layout.photometric == YCBCR else 4)
