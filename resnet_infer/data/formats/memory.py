"""How much memory a picture takes while it is read: more than its file, and not to be told from that."""

from __future__ import annotations

import math

from resnet_infer.data.formats.samples import BAND_PIXELS

GREY, RGB = 1, 4
"""Bytes of a pixel in PIL."""
SMALL = 1 << 20
"""Bytes that every picture may take besides; and pixels of one that is small."""
_PIXEL = {"WebP": 13, "BMP": 6, "GIF": 6, "PNG": 8}
"""Most bytes of a pixel at a time, by format: of the picture, and of that which it is turned or converted to."""
_BAND = {"WebP": 16, "BMP": 64, "GIF": 16, "PNG": 32}
"""And of a pixel of the part that is worked on."""
_PNG_GREY = 6
"""Of a PNG of grey or a palette."""
_BAND_OF_FLOATS = 128
"""The same where that is computed in floating point."""
_JPEG = 13
_JPEG_HEAD, _WEBP_CHUNKS = 5, 7
"""Of a byte before the first scan, where EXIF is joined; and of a byte of chunks, which a WebP may have many of."""


def decoding_bytes(kind: str, content: bytes, width: int, height: int) -> int:
    """The most that `read_image` takes at a time for a picture of that format and size, besides the file itself."""
    pixels = width * height
    if kind == "JPEG" and pixels <= SMALL and len(content) <= SMALL:  # to know better would take longer
        return SMALL + _JPEG * pixels
    if kind == "JPEG":
        from resnet_infer.data.formats.jpeg_header import pixel_bytes

        pixel, before = pixel_bytes(content)
        return SMALL + pixels * pixel + _JPEG_HEAD * before
    if kind == "TIFF":
        return SMALL + _of_tiff(content, pixels)
    pixel, band = _PIXEL[kind], _BAND[kind]
    # Where there are more bytes than a picture has, they are something else.
    other = _WEBP_CHUNKS * max(len(content) - pixels, 0) if kind == "WebP" else 0
    if kind == "PNG":
        head = content[: content.find(b"IDAT")]
        depth, colour = content[24:26]
        several = head.count(b"IHDR") > 1
        transparent = colour & 4 or b"tRNS" in head
        pixel = pixel if colour in (2, 4, 6) or several else _PNG_GREY
        band = band if transparent or depth == 16 or several else 0
    return SMALL + pixels * pixel + band * min(pixels, BAND_PIXELS) + other


def resizing_bytes(width: int, height: int, side: int) -> int:
    """The most that a picture and its copy take, of which the shorter side is `side`."""
    scale = side / min(width, height)
    columns, rows = math.ceil(width * scale), math.ceil(height * scale)
    pixels = width * height + columns * max(rows, height)
    return SMALL + RGB * pixels + 6 * columns * rows


def _of_tiff(content: bytes, pixels: int) -> int:
    """What is filled (the picture, or samples whose range is to be found) with the blocks at work; or it twice."""
    from resnet_infer.data.formats.tiff.directory import Directory
    from resnet_infer.data.formats.tiff.layout import COMPRESSIONS, UNSIGNED, YCBCR, read_layout
    from resnet_infer.data.formats.tiff.samples import GROUP_BYTES, SLICE_BYTES

    layout = read_layout(Directory(content))
    if layout.compression == 6:  # a JPEG file
        return (1 + _JPEG_HEAD) * len(content) + pixels * _JPEG
    sample = -(-layout.bits // 8)
    stretched = layout.format != UNSIGNED or layout.bits > 16
    grey = layout.photometric in (0, 1)
    filled = (sample + 1 if stretched else 1) if grey else 4
    shown = 5 if grey else 8  # turned, and converted
    row = layout.across * layout.block_width * layout.samples * sample
    rows = min(layout.block_height, 2 * layout.height + 256)
    together = min(max(row * rows, GROUP_BYTES), row * (layout.height + rows))
    unpacked = max(SLICE_BYTES, row) if row * rows > GROUP_BYTES else together
    copies = 4 if layout.bits in (8, 16, 32, 64) else 16
    # libtiff is given a file of the blocks, and fills a picture with them.
    whole = 0 if COMPRESSIONS[layout.compression] in ("none", "deflate", "lzma") else 3 * together
    band = _BAND_OF_FLOATS if stretched or layout.photometric == YCBCR else _BAND["PNG"]
    at_work = copies * unpacked + whole + band * min(pixels, BAND_PIXELS)
    return max(pixels * filled + at_work, pixels * shown + at_work // 4)  # not all is given back at once
