"""Classify files by their suffixes: images that are decoded, images that are not, and other files.

The content decides how a file is decoded (`image.read_image`). Names decide which files of a folder are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

READABLE: Mapping[str, str] = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".jfi": "JPEG",
    ".jif": "JPEG",
    ".pjpeg": "JPEG",
    ".pjp": "JPEG",
    ".mpo": "JPEG",
    ".png": "PNG",
    ".apng": "PNG",
    ".webp": "WebP",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Suffixes of the images that `image.read_image` decodes, and the names of their formats."""

UNREADABLE: Mapping[str, str] = {
    ".heic": "HEIC",
    ".heics": "HEIC",
    ".heif": "HEIC",
    ".heifs": "HEIC",
    ".hif": "HEIC",
    ".avif": "AVIF",
    ".avifs": "AVIF",
    ".jp2": "JPEG 2000",
    ".j2k": "JPEG 2000",
    ".j2c": "JPEG 2000",
    ".jpc": "JPEG 2000",
    ".jpf": "JPEG 2000",
    ".jpx": "JPEG 2000",
    ".jxl": "JPEG XL",
    ".jxr": "JPEG XR",
    ".wdp": "JPEG XR",
    ".ppm": "Netpbm",
    ".pgm": "Netpbm",
    ".pbm": "Netpbm",
    ".pnm": "Netpbm",
    ".pam": "Netpbm",
    ".pfm": "PFM",
    ".tga": "Targa",
    ".ico": "ICO",
    ".icns": "ICNS",
    ".pcx": "PCX",
    ".dds": "DDS",
    ".qoi": "QOI",
    ".exr": "OpenEXR",
    ".hdr": "Radiance HDR",
    ".svg": "SVG",
    ".svgz": "SVG",
    ".eps": "EPS",
    ".pdf": "PDF",
    ".psd": "PSD",
    ".psb": "PSD",
    ".xcf": "XCF",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
    ".nii": "NIfTI",
    ".fits": "FITS",
    ".raw": "camera raw",
    ".dng": "camera raw",
    ".cr2": "camera raw",
    ".cr3": "camera raw",
    ".crw": "camera raw",
    ".nef": "camera raw",
    ".nrw": "camera raw",
    ".arw": "camera raw",
    ".sr2": "camera raw",
    ".srw": "camera raw",
    ".orf": "camera raw",
    ".rw2": "camera raw",
    ".raf": "camera raw",
    ".pef": "camera raw",
}
"""Suffixes of images that are not decoded, and the names of their formats for messages."""

OTHER = frozenset(
    {
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".md", ".rst", ".html", ".htm"),
        *(".ini", ".db", ".log", ".url", ".xmp", ".aae", ".thm", ".md5", ".sha256", ".py", ".ipynb", ".sh", ".bat"),
        *(".mat", ".npy", ".npz", ".pkl", ".h5", ".pt", ".pth", ".safetensors", ".onnx"),
    }
)
"""Suffixes of files that describe images or lie beside them, and are certainly not images."""
_DOCUMENTS = frozenset({"readme", "license", "licence", "copying", "notice", "authors", "changelog"})
"""Names, without suffix, of files of text."""


def suffix(name: str) -> str:
    """Return the suffix of a file name in lower case, with its dot; empty if there is none."""
    return os.path.splitext(name)[1].lower()


def is_picture(name: str) -> bool:
    """Tell whether a file of that name counts as an image that can be decoded."""
    return suffix(name) in READABLE


def unreadable_format(name: str) -> str | None:
    """Return the format of an image that cannot be decoded, or None for any other name."""
    return UNREADABLE.get(suffix(name))


def may_be_picture(name: str) -> bool:
    """Tell whether a file beside images may be one too: any suffix but those of `OTHER`, or no suffix."""
    ending = suffix(name)
    return ending not in OTHER and bool(ending or os.path.basename(name).lower() not in _DOCUMENTS)


def shown(ending: str) -> str:
    """Return a suffix as messages show it, with its format if that is known."""
    kind = UNREADABLE.get(ending)
    return f"{ending} ({kind})" if kind else ending or "no suffix"
