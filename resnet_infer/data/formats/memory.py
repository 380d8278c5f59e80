"""Estimate the memory that reading an image takes, which its file size does not tell."""

from __future__ import annotations

import math

from resnet_infer.data.formats.samples import BAND_PIXELS

GREY, RGB = 1, 4
"""Bytes of a pixel in PIL's memory."""
SMALL = 1 << 20
"""Bytes that every image may take besides. Also the most pixels, and bytes of the file, of a small image."""
_PIXEL = {"WebP": 13, "BMP": 6, "GIF": 6, "PNG": 8}
"""Most bytes of a pixel at a time, by format: of the image, and of the one that it is rotated or converted to."""
_BAND = {"WebP": 16, "BMP": 64, "GIF": 16, "PNG": 32}
"""Further bytes of a pixel in the band that is worked on (`BAND_PIXELS`)."""
_PNG_GREY = 6
"""Bytes of a pixel of a grey or palette PNG."""
_BAND_OF_FLOATS = 128
"""Bytes of a pixel in a band that is computed in floating point."""
_JPEG = 13
"""Most bytes of a pixel of a JPEG."""
_JPEG_HEAD, _WEBP_CHUNKS = 5, 7
"""Bytes for each byte before a JPEG's first scan, where PIL joins EXIF, and for each byte of a WebP's other chunks."""


def decoding_bytes(kind: str, content: bytes, width: int, height: int) -> int:
    """Return the most bytes that `read_image` takes at a time for an image of this format and size.

    The file itself is not counted. Width and height are in pixels.
    """
    pixels = width * height
    if kind == "JPEG" and pixels <= SMALL and len(content) <= SMALL:  # a better estimate would take longer
        return SMALL + _JPEG * pixels
    if kind == "JPEG":
        from resnet_infer.data.formats.jpeg_header import pixel_bytes

        pixel, before = pixel_bytes(content)
        return SMALL + pixels * pixel + _JPEG_HEAD * before
    if kind == "TIFF":
        return SMALL + _of_tiff(content, pixels)
    pixel, band = _PIXEL[kind], _BAND[kind]
    # Bytes beyond those that an image can have belong to other chunks.
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
    """Return the most bytes of an image in memory and of its resized copy, whose shorter side is `side` pixels."""
    scale = side / min(width, height)
    columns, rows = math.ceil(width * scale), math.ceil(height * scale)
    pixels = width * height + columns * max(rows, height)
    return SMALL + RGB * pixels + 6 * columns * rows


def _of_tiff(content: bytes, pixels: int) -> int:
    """Return the most bytes for a TIFF.

    That is the filled memory (the image, or samples whose range is to be found) and the blocks at work; or two images.
    """
    from resnet_infer.data.formats.tiff.directory import Directory
    from resnet_infer.data.formats.tiff.layout import COMPRESSIONS, UNSIGNED, YCBCR, read_layout
    from resnet_infer.data.formats.tiff.samples import GROUP_BYTES, SLICE_BYTES

    layout = read_layout(Directory(content))
    if layout.compression == 6:  # an embedded JPEG file
        return (1 + _JPEG_HEAD) * len(content) + pixels * _JPEG
    sample = -(-layout.bits // 8)
    stretched = layout.format != UNSIGNED or layout.bits > 16
    grey = layout.photometric in (0, 1)
    filled = (sample + 1 if stretched else 1) if grey else 4
    shown = 5 if grey else 8  # rotated, and converted
    row = layout.across * layout.block_width * layout.samples * sample
    rows = min(layout.block_height, 2 * layout.height + 256)
    together = min(max(row * rows, GROUP_BYTES), row * (layout.height + rows))
    unpacked = max(SLICE_BYTES, row) if row * rows > GROUP_BYTES else together
    copies = 4 if layout.bits in (8, 16, 32, 64) else 16
    # libtiff gets a file of the blocks, and fills an image with them.
    whole = 0 if COMPRESSIONS[layout.compression] in ("none", "deflate", "lzma") else 3 * together
    band = _BAND_OF_FLOATS if stretched or layout.photometric == YCBCR else _BAND["PNG"]
    at_work = copies * unpacked + whole + band * min(pixels, BAND_PIXELS)
    return max(pixels * filled + at_work, pixels * shown + at_work // 4)  # not all memory is returned at once
