"""Tell the kind of a file by its first bytes, and define the two reasons why an image cannot be decoded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_infer.errors import Reason

READ = "JPEG, PNG, WebP, BMP, GIF and TIFF are read"
"""The formats that are decoded, for messages."""


class UnusableError(Exception):
    """Say why an image cannot be decoded. The text goes into the message of the `PictureError`, and the reason too."""

    def __init__(self, text: str, *, reason: Reason = "damaged") -> None:
        super().__init__(text)
        self.reason: Reason = reason


class UnsupportedError(UnusableError):
    """Name a form of image that is not decoded although the file is whole."""

    def __init__(self, text: str) -> None:
        super().__init__(text, reason="unsupported")


_OTHERS = (
    (rb".{4}ftyp(avi[fs]|mi[fa][1f].{0,64}avi[fs])", "AVIF"),
    (rb".{4}ftyp(he[iv][cmsx]|mif1|msf1)", "HEIC"),
    (rb".{4}ftypcrx ", "a camera's raw photo (CR3)"),
    (rb".{4}ftyp", "MP4 or QuickTime"),
    (rb"\x1aE\xdf\xa3", "Matroska or WebM"),
    (rb"RIFF.{4}AVI ", "AVI"),
    (rb"\0\0\x01[\xb3\xba]", "MPEG"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL"),
    (rb"II\xbc\x01", "JPEG XR"),
    (rb"IIU\0", "a camera's raw photo (RW2)"),
    (rb"II(RO|RS)|MMOR", "a camera's raw photo (ORF)"),
    (rb"FUJIFILMCCD-RAW", "a camera's raw photo (RAF)"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"#\?(RADIANCE|RGBE)", "Radiance HDR"),
    (rb"qoif", "QOI"),
    (rb"DDS ", "DDS"),
    (rb"\0\0[\x01\x02]\0.{4}", "an icon or cursor"),
    (rb"P[1-7]\s", "PNM"),
    (rb"SIMPLE  =", "FITS"),
    (rb".{128}DICM", "DICOM"),
    (rb"\x89HDF\r\n\x1a\n", "HDF5"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"(\xef\xbb\xbf)?\s*(?=<).*<html\b", "HTML"),
    (rb"(\xef\xbb\xbf)?\s*(?=<).*<svg\b", "SVG"),
    (rb"%PDF", "PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (rb"8BPS", "PSD"),
    (rb"gimp xcf", "XCF"),
    (rb"PK\x03\x04", "ZIP"),
    (rb"\x1f\x8b", "GZIP"),
    (rb"ID3|\xff[\xf2\xf3\xfa\xfb]", "MP3"),
    (rb"version https://git-lfs", "a Git LFS pointer (fetch the picture itself with: git lfs pull)"),
    (rb"BM.{4}\0{4}.{4}[\x0c-\xff]\0\0\0", "BMP with a header of an unknown size"),
    (rb"[\t\n\r -~]+\Z", "text"),
)
"""Patterns of the first bytes of other kinds of files, and their names, the specific before the general."""


def named_kind(content: bytes) -> str:
    """Name the format of a file that is not decoded, by its first 4096 bytes; "" if it is unknown."""
    start = content[:4096]
    return next((what for magic, what in _OTHERS if re.match(magic, start, re.DOTALL | re.IGNORECASE)), "")


def other_kind(content: bytes) -> str:
    """Describe a file that is not decoded, for a message."""
    return named_kind(content) or "a file of this kind"
