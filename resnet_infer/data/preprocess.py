"""Resize and crop images: the only module that changes an image's geometry.

The paper is He et al., "Deep Residual Learning for Image Recognition" (2015).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.image import require_resizable
from resnet_infer.models.spec import InputSpec, Interpolation

Pixels = NDArray[np.uint8]
"""uint8, (..., height, width, 3), RGB."""


def resize_shorter_side(picture: Image.Image, size: int, interpolation: Interpolation) -> Image.Image:
    """Scale an image so that its shorter side has `size` pixels.

    The longer side is truncated to whole pixels, as in torchvision's `Resize`. Raises `PictureError` for an image that
    is too narrow for that (`image.is_resizable`).
    """
    require_resizable(picture, size, "picture")
    shorter, longer = sorted(picture.size)
    if shorter == size:
        return picture
    length = int(size * longer / shorter)
    target = (size, length) if picture.width <= picture.height else (length, size)
    return picture.resize(target, Image.Resampling[interpolation.upper()])


def centre_box(width: int, height: int, crop: int) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom of the central `crop` x `crop` square, in pixels.

    Half pixels are rounded to even, as in torchvision's `CenterCrop`.

    >>> centre_box(341, 256, 224)
    (58, 16, 282, 240)
    """
    left, top = round((width - crop) / 2.0), round((height - crop) / 2.0)
    return left, top, left + crop, top + crop


def centre_crop(picture: Image.Image, spec: InputSpec) -> Pixels:
    """Return the single view of the 1-crop protocol: uint8, (1, crop, crop, 3).

    The image is resized to `spec.resize` first. Raises `PictureError` for an image that is too narrow for that.
    """
    resized = resize_shorter_side(picture, spec.resize, spec.interpolation)
    return np.asarray(resized.crop(centre_box(*resized.size, spec.crop)))[None]


def ten_crops(picture: Image.Image, spec: InputSpec) -> Pixels:
    """Return the ten views of the 10-crop protocol (paper, section 3.4): uint8, (10, crop, crop, 3).

    The order is that of torchvision's `TenCrop`: top left, top right, bottom left, bottom right and centre, then the
    same of the mirrored image. Raises `PictureError` for an image that is too narrow to resize.
    """
    resized = resize_shorter_side(picture, spec.resize, spec.interpolation)
    (width, height), crop = resized.size, spec.crop
    right, bottom = width - crop, height - crop
    left, top = centre_box(width, height, crop)[:2]
    places = ((0, 0), (right, 0), (0, bottom), (right, bottom), (left, top))
    whole = np.asarray(resized)
    return np.stack([view[y : y + crop, x : x + crop] for view in (whole, whole[:, ::-1]) for x, y in places])


def whole_views(picture: Image.Image, spec: InputSpec) -> Pixels:
    """Return the whole image as it is, and its mirror image: uint8, (2, height, width, 3).

    These are the views of the fully convolutional protocol at one scale (paper, section 3.4). The views do not depend
    on `spec`, which every function of a protocol takes.
    """
    whole = np.asarray(picture)
    return np.stack([whole, whole[:, ::-1]])
