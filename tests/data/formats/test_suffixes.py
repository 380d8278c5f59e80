"""The table of suffixes agrees with the decoder."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from resnet_infer.data.formats.suffixes import READABLE, UNREADABLE, is_picture, suffix, unreadable_format
from resnet_infer.data.image import SUFFIXES, read_image

KINDS = {"JPEG": "JPEG", "PNG": "PNG", "WebP": "WEBP", "BMP": "BMP", "GIF": "GIF", "TIFF": "TIFF"}


@pytest.mark.parametrize("kind", sorted(set(READABLE.values())))
def test_every_format_of_the_table_is_decoded(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, KINDS[kind])
    assert read_image(file.getvalue()).size == (3, 2)


def test_no_suffix_is_both_and_all_are_in_lower_case() -> None:
    assert not set(READABLE) & set(UNREADABLE)
    assert set(READABLE) == SUFFIXES
    for name in (*READABLE, *UNREADABLE):
        assert name == name.lower()
        assert suffix(f"a.b{name}") == name


def test_names() -> None:
    assert is_picture("photos/IMG_1.JFIF")
    assert not is_picture("IMG_1.HEIC")
    assert unreadable_format("IMG_1.HEIC") == "HEIC"
    assert unreadable_format("IMG_1.jpg") is None
    assert unreadable_format("jpg") is None
