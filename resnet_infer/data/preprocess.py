"""Resize and crops: the only place where a picture's geometry changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.image import require_resizable
from resnet_infer.models.spec import InputSpec, Interpolation

Pixels = NDArray[np.uint8]
"""uint8, (..., height, width, 3), RGB."""


def resize_shorter_side(picture: Image.Image, size: int, interpolation: Interpolation) -> Image.Image:
    """Scale so that the shorter side is `size`; the longer one is truncated to whole pixels, as torchvision does.

    Raises `PictureError` for a picture that is too narrow for that.
    """
    require_resizable(picture, size, "picture")
    shorter, longer = sorted(picture.size)
    if shorter == size:
        return picture
    length = int(size * longer / shorter)
    target = (size, length) if picture.width <= picture.height else (length, size)
    return picture.resize(target, Image.Resampling[interpolation.upper()])


def centre_box(width: int, height: int, crop: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the central square; half pixels are rounded to even, as torchvision does."""
    left, top = round((width - crop) / 2.0), round((height - crop) / 2.0)
    return left, top, left + crop, top + crop


def centre_crop(picture: Image.Image, spec: InputSpec) -> Pixels:
    """The single view of the 1-crop protocol: (1, crop, crop, 3)."""
    resized = resize_shorter_side(picture, spec.resize, spec.interpolation)
    return np.asarray(resized.crop(centre_box(*resized.size, spec.crop)))[None]


def ten_crops(picture: Image.Image, spec: InputSpec) -> Pixels:
    """Four corners and centre, then those of the mirrored picture (paper section 3.4): (10, crop, crop, 3).

    In the order of torchvision's TenCrop: top left, top right, bottom left, bottom right, centre.
    """
    resized = resize_shorter_side(picture, spec.resize, spec.interpolation)
    (width, height), crop = resized.size, spec.crop
    right, bottom = width - crop, height - crop
    left, top = centre_box(width, height, crop)[:2]
    places = ((0, 0), (right, 0), (0, bottom), (right, bottom), (left, top))
    whole = np.asarray(resized)
    return np.stack([view[y : y + crop, x : x + crop] for view in (whole, whole[:, ::-1]) for x, y in places])


def whole_views(picture: Image.Image, side: int, interpolation: Interpolation) -> Pixels:
    """All of the picture with its shorter side at `side`, and its mirror image (paper section 3.4): (2, H, W, 3)."""
    whole = np.asarray(resize_shorter_side(picture, side, interpolation))
    return np.stack([whole, whole[:, ::-1]])
