"""Resize and crops, held to the byte against what torchvision's transforms do to a PIL picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.classifier import Classifier, Picture
from resnet_infer.data.datasets import Sample
from resnet_infer.data.feed import Feed
from resnet_infer.data.image import MAX_PIXELS, is_resizable, read_image
from resnet_infer.data.preprocess import centre_box, centre_crop, resize_shorter_side, ten_crops
from resnet_infer.errors import PictureError
from resnet_infer.evaluation.scorer import OpenPicture
from resnet_infer.models.spec import InputSpec, Interpolation
from resnet_infer.training.input.views import served_view
from tests.conftest import photographs

FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Array = NDArray[np.uint8]


# torchvision.transforms, restated for PIL pictures


def reference_resize(picture: Image.Image, size: int, interpolation: Interpolation) -> Image.Image:
    """Resize(size): the longer side is the exact product, truncated; a picture that has the size is left alone."""
    short, long = sorted(picture.size)
    new_long = int(size * long / short)
    target = (size, new_long) if picture.width <= picture.height else (new_long, size)
    return picture if picture.size == target else picture.resize(target, FILTERS[interpolation])


def reference_centre(pixels: Array, size: int) -> Array:
    """CenterCrop(size): the offset is half the margin, rounded by Python's round."""
    height, width = pixels.shape[:2]
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return pixels[top : top + size, left : left + size]


def reference_five(pixels: Array, size: int) -> list[Array]:
    """FiveCrop(size): top left, top right, bottom left, bottom right, centre."""
    height, width = pixels.shape[:2]
    corners = [pixels[y : y + size, x : x + size] for y in (0, height - size) for x in (0, width - size)]
    return [*corners, reference_centre(pixels, size)]


def reference_ten(pixels: Array, size: int) -> list[Array]:
    """TenCrop(size): the five of the picture, then the five of the mirrored picture."""
    return reference_five(pixels, size) + reference_five(pixels[:, ::-1], size)


# Pictures and specs


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def make_spec(resize: int, crop: int, interpolation: Interpolation = "bilinear") -> InputSpec:
    return InputSpec(resize, crop, np.zeros(3, np.float32), np.ones(3, np.float32), interpolation)


sides = st.integers(1, 90)
extreme = st.tuples(st.integers(1, 3), st.integers(90, 400))
sizes = st.one_of(st.tuples(sides, sides), extreme, extreme.map(lambda size: size[::-1]), sides.map(lambda n: (n, n)))
specs = st.builds(
    lambda crop, margin, interpolation: make_spec(crop + margin, crop, interpolation),
    st.integers(1, 48),
    st.integers(0, 16),
    st.sampled_from(sorted(FILTERS)),
)


@settings(deadline=None, max_examples=150)
@given(sizes, specs)
@example((500, 375), make_spec(256, 224))
@example((375, 500), make_spec(232, 224, "bicubic"))
@example((300, 256), make_spec(256, 224))  # already of the size: not resampled
@example((32, 32), make_spec(32, 32))
@example((31, 64), make_spec(31, 28))  # an odd margin: half a pixel rounds to even, here up
@example((29, 64), make_spec(29, 28))  # and here down
def test_one_crop_is_resize_and_centercrop(size: tuple[int, int], spec: InputSpec) -> None:
    picture = noise(*size)
    resized = np.asarray(reference_resize(picture, spec.resize, spec.interpolation))
    assert np.array_equal(np.asarray(resize_shorter_side(picture, spec.resize, spec.interpolation)), resized)
    got = centre_crop(picture, spec)
    assert got.dtype == np.uint8
    assert got.shape == (1, spec.crop, spec.crop, 3)
    assert np.array_equal(got[0], reference_centre(resized, spec.crop))


@settings(deadline=None, max_examples=100)
@given(sizes, specs)
@example((500, 375), make_spec(256, 224))
@example((40, 31), make_spec(31, 28))
def test_ten_crops_are_resize_and_tencrop(size: tuple[int, int], spec: InputSpec) -> None:
    picture = noise(*size)
    resized = np.asarray(reference_resize(picture, spec.resize, spec.interpolation))
    expected = reference_ten(resized, spec.crop)
    got = ten_crops(picture, spec)
    assert got.dtype == np.uint8
    assert np.array_equal(got, np.stack(expected))


@given(st.integers(1, 5000), st.integers(0, 1000), st.integers(0, 1000))
def test_centre_box_is_within_and_central(crop: int, extra_width: int, extra_height: int) -> None:
    left, top, right, bottom = centre_box(crop + extra_width, crop + extra_height, crop)
    assert (right - left, bottom - top) == (crop, crop)
    assert abs(left - (extra_width - left)) <= 1
    assert abs(top - (extra_height - top)) <= 1
    assert min(left, top) >= 0


def test_photos_from_file_to_crop() -> None:
    spec = make_spec(256, 224)
    for path in photographs():
        with Image.open(path) as picture:
            resized = np.asarray(reference_resize(picture.convert("RGB"), 256, "bilinear"))
        got = centre_crop(read_image(path, exif=False), spec)
        assert np.array_equal(got[0], reference_centre(resized, 224)), path.name
        ten = ten_crops(read_image(path, exif=False), spec)
        assert np.array_equal(ten, np.stack(reference_ten(resized, 224))), path.name


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1)])
@pytest.mark.parametrize("side", [16, 256])
def test_no_road_resizes_a_small_file_to_what_fills_the_memory(
    size: tuple[int, int], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refuses before it resizes; what PIL is asked for is never more than the limit."""
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    content = file.getvalue()
    assert len(content) < 1000
    spec, picture = InputSpec(side, side, np.zeros(3), np.ones(3)), Image.new("RGB", size)
    sample = Sample("line.png", 0, lambda: content)
    resize = Image.Image.resize

    def watched(self: Image.Image, target: tuple[int, int], *arguments: Any, **options: Any) -> Image.Image:
        assert target[0] * target[1] <= MAX_PIXELS
        return resize(self, target, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    with Classifier() as classifier:
        monkeypatch.setattr(classifier.runtime, "spec", classifier.spec.with_(input=spec))
        answered = classifier.views(Picture("line.png", content))
    roads: list[Callable[[], object]] = [
        lambda: centre_crop(picture, spec),
        lambda: ten_crops(picture, spec),
        lambda: resize_shorter_side(picture, side, "bilinear"),
        lambda: OpenPicture(sample).resized(side, spec),
        lambda: list(Feed("folder", [sample], spec).crops()),
        lambda: served_view(sample, spec),
    ]
    too_narrow = not is_resizable(*size, side)
    assert isinstance(answered, PictureError) == too_narrow
    if too_narrow:
        for road in roads:
            with pytest.raises(PictureError, match=f"{size[0]}x{size[1]} pixels are too narrow to resize"):
                road()
    assert too_narrow == (side == 256)
