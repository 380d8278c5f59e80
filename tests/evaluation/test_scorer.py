"""Apply the protocols, held to slow implementations: PIL for geometry, plain convolutions for the network."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.classifier import Classifier
from resnet_infer.converters.source import export_onnx
from resnet_infer.data.datasets import Sample
from resnet_infer.data.image import read_image
from resnet_infer.data.preprocess import whole_views
from resnet_infer.data.protocols import NAMES
from resnet_infer.errors import PictureError, UsageError
from resnet_infer.evaluation.scorer import PAPER_SCALES, LocalScorer, OpenPicture
from resnet_infer.models.checkpoint import Checkpoint, save_checkpoint
from resnet_infer.models.spec import InputSpec
from tests.conftest import PICTURES, photographs
from tests.evaluation.conftest import Reds

Array = NDArray[Any]
SCALES = (40, 32, 56)
DEPTH = "resnet8"


# The reference: a picture, its views and the network, one after the other and by definition


def reference_resize(picture: Image.Image, size: int) -> Image.Image:
    """torchvision's Resize(size) of a PIL picture: the longer side is truncated; the right size is left alone."""
    short, long = sorted(picture.size)
    target = (size, int(size * long / short)) if picture.width <= picture.height else (int(size * long / short), size)
    return picture if picture.size == target else picture.resize(target, Image.Resampling.BILINEAR)


def reference_ten(pixels: Array, size: int) -> list[Array]:
    """torchvision's TenCrop(size)."""
    views = []
    for image in (pixels, pixels[:, ::-1]):
        height, width = image.shape[:2]
        middle = (round((height - size) / 2.0), round((width - size) / 2.0))
        for y, x in [(0, 0), (0, width - size), (height - size, 0), (height - size, width - size), middle]:
            views.append(image[y : y + size, x : x + size])
    return views


def reference_probabilities(checkpoint: Checkpoint, pixels: Array) -> Array:
    """A CIFAR ResNet of three basic blocks with option A (paper, section 4.2), on one picture of any size, float64."""
    import torch

    weights = {name: torch.tensor(value, dtype=torch.float64) for name, value in checkpoint.weights.items()}
    geometry = checkpoint.spec.input

    def conv(x: Any, name: str, norm: str, stride: int) -> Any:
        x = torch.nn.functional.conv2d(x, weights[f"{name}.weight"], stride=stride, padding=1)
        scale, shift, mean, variance = (
            weights[f"{norm}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    x = torch.tensor((pixels / 255 - geometry.mean) / geometry.std, dtype=torch.float64).permute(2, 0, 1)[None]
    x = conv(x, "conv1", "bn1", 1).relu()
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        block = f"layer{stage}.0"
        y = conv(conv(x, f"{block}.conv1", f"{block}.bn1", stride).relu(), f"{block}.conv2", f"{block}.bn2", 1)
        x = x[:, :, ::stride, ::stride]
        x = (y + torch.cat([x, torch.zeros_like(y)[:, x.shape[1] :]], dim=1)).relu()
    scores = x.mean(dim=(2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]
    answer: Array = torch.softmax(scores[0], dim=0).numpy()
    return answer


DEFINED = ("native", "1-crop", "10-crop", "multi-scale")
"""The protocols of which `reference_answer` has a definition of its own. The views of others are tested beside them."""


def reference_answer(checkpoint: Checkpoint, protocol: str, picture: Image.Image) -> Array:
    geometry = checkpoint.spec.input
    if protocol == "multi-scale":
        means = []
        for side in SCALES:
            pixels = np.asarray(reference_resize(picture, side))
            both = [reference_probabilities(checkpoint, view) for view in (pixels, pixels[:, ::-1])]
            means.append(np.mean(both, axis=0))
        mean: NDArray[Any] = np.mean(means, axis=0)
        return mean
    views = reference_ten(np.asarray(reference_resize(picture, geometry.resize)), geometry.crop)
    if protocol != "10-crop":
        views = views[4:5]
    found: NDArray[Any] = np.mean([reference_probabilities(checkpoint, view) for view in views], axis=0)
    return found


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Checkpoint]) -> Checkpoint:
    """Eight layers, which see 28 pixels of 32; made so sure of itself that probabilities differ."""
    made = make_checkpoint(DEPTH, classes=6)
    spec = made.spec.input
    geometry = replace(spec, resize=32, crop=28)
    weights = {**made.weights, "fc.weight": made.weights["fc.weight"] * 6}
    return replace(made, weights=weights, spec=made.spec.with_(input=geometry))


@pytest.fixture(scope="module")
def artifact(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="the extra `export`")
    path = tmp_path_factory.mktemp("artifact") / "open.onnx"
    export_onnx(checkpoint, path, dynamic_size=True)
    return path


@pytest.fixture(scope="module")
def pictures() -> list[Sample]:
    """Of several sizes, two of them alike."""
    samples = []
    for number, size in enumerate([(48, 36), (36, 48), (48, 36), (33, 90), (32, 32)]):
        with Image.open(sorted(PICTURES.iterdir())[number % 4]) as file:
            pixels = np.asarray(file.convert("RGB").resize(size))
        samples.append(Sample(f"picture {number}", 0, lambda pixels=pixels: pixels))  # type: ignore[misc]
    return samples


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint, pictures: list[Sample]) -> dict[str, list[Array]]:
    """The reference's answers by protocol."""
    torch = pytest.importorskip("torch", reason="convolves (the extra `train`)")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network is soonest done by one
    answers = {
        protocol: [reference_answer(checkpoint, protocol, sample.image()) for sample in pictures]
        for protocol in DEFINED
    }
    torch.set_num_threads(threads)
    return answers


@pytest.mark.parametrize("protocol", DEFINED)
@pytest.mark.parametrize("kind", ["onnxruntime", "torch"])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_every_protocol_is_what_it_is_by_definition(
    checkpoint: Checkpoint,
    artifact: Path,
    pictures: list[Sample],
    expected: dict[str, list[Array]],
    protocol: str,
    kind: str,
    batch_size: int,
    tmp_path: Path,
) -> None:
    path = artifact
    if kind == "torch":
        path = tmp_path / "model.safetensors"
        save_checkpoint(checkpoint, path)
    scales = SCALES if protocol == "multi-scale" else None
    with Classifier(path, runtime=kind, device="cpu", throughput=True) as classifier:
        scorer = LocalScorer(classifier, protocol, scales=scales, batch_size=batch_size)
        found = scorer.score([scorer.prepare(OpenPicture(sample)) for sample in pictures])
    np.testing.assert_allclose(found, expected[protocol], rtol=0, atol=1e-5)


def test_that_test_tells_protocols_and_pictures_apart(expected: dict[str, list[Array]]) -> None:
    """Its negative control: these differ by much more than it allows."""
    for first, second in itertools.combinations(DEFINED[1:], 2):
        assert np.abs(np.subtract(expected[first], expected[second])).max() > 1e-2
    assert np.ptp(expected["1-crop"], axis=0).max() > 1e-2


# Geometry, to the byte

SPEC = InputSpec(32, 28, np.zeros(3), np.ones(3), exif=False)


def whole(content: bytes | Array, side: int) -> Array:
    """The whole picture and its mirror image, as the scorer makes them."""
    return whole_views(OpenPicture(Sample("picture", 0, lambda: content)).resized(side, SPEC), SPEC)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60))
def test_whole_views_are_resize_and_its_mirror(width: int, height: int, side: int) -> None:
    noise = np.random.default_rng(width * 100 + height).integers(0, 256, (height, width, 3), np.uint8)
    views = whole(noise, side)
    expected = np.asarray(reference_resize(Image.fromarray(noise), side))
    assert views.dtype == np.uint8
    assert min(views.shape[1:3]) == side
    assert np.array_equal(views, np.stack([expected, expected[:, ::-1]]))


def test_all_photos_at_the_paper_s_scales() -> None:
    for number, path in enumerate(photographs()):
        side = PAPER_SCALES[number % len(PAPER_SCALES)]
        with Image.open(path) as file:
            expected = np.asarray(reference_resize(file.convert("RGB"), side))
        views = whole(path.read_bytes(), side)
        assert np.array_equal(views, np.stack([expected, expected[:, ::-1]])), path.name


# One picture for all


def test_a_picture_is_read_decoded_and_resized_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"read": 0, "decode": 0, "resize": 0}
    content = (PICTURES / "cat.jpg").read_bytes()
    resize = Image.Image.resize

    def read() -> bytes:
        calls["read"] += 1
        return content

    def counted_resize(*arguments: Any, **options: Any) -> Any:
        calls["resize"] += 1
        return resize(*arguments, **options)

    def decode(*arguments: Any, **options: Any) -> Any:
        calls["decode"] += 1
        return read_image(*arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", counted_resize)
    monkeypatch.setattr("resnet_infer.evaluation.scorer.read_image", decode)
    classifiers = [Classifier(Reds(exif=False)), Classifier(Reds(3, exif=False))]
    scorers = [
        LocalScorer(classifier, protocol, scales=(8, 12, 20) if protocol == "multi-scale" else None)
        for classifier in classifiers
        for protocol in NAMES
    ]
    picture = OpenPicture(Sample("cat", 0, read))
    for scorer in scorers:
        scorer.score([scorer.prepare(picture)])
    assert calls == {"read": 1, "decode": 1, "resize": 3}
    turned = LocalScorer(Classifier(Reds(exif=True)), "1-crop")
    turned.score([turned.prepare(picture)])
    assert calls == {"read": 1, "decode": 2, "resize": 4}


def test_batches_hold_no_more_pixels_than_crops_would() -> None:
    runtime = Reds()
    scorer = LocalScorer(Classifier(runtime), "multi-scale", scales=(8, 16), batch_size=8)
    sample = Sample("square", 0, lambda: np.zeros((20, 20, 3), np.uint8))
    scorer.score([scorer.prepare(OpenPicture(sample)) for _ in range(10)])
    assert runtime.rows == [8, 8, 4, *[2] * 10]


# What cannot be done


def test_a_picture_too_narrow_is_refused_at_every_size() -> None:
    line = Sample("line", 0, lambda: np.zeros((1, 60_000, 3), np.uint8))
    scorer = LocalScorer(Classifier(Reds()), "multi-scale", scales=(8, 256))
    with pytest.raises(PictureError, match=r"^line: 60000x1 pixels are too narrow"):
        scorer.prepare(OpenPicture(line))


@pytest.mark.parametrize(
    ("geometry", "size", "scales", "message"),
    [
        ({"mean": np.zeros((8, 8, 3))}, (None, None), (8,), "its mean is one value for each pixel of 8x8"),
        ({}, (8, 8), (8,), "takes pictures of 8 x 8 pixels only"),
        ({}, (None, None), None, "the paper's scales belong to crops of 224"),
        ({}, (None, None), (8, 8), "distinct"),
        ({}, (None, None), (), "distinct"),
        ({}, (None, None), (0, 8), "distinct"),
    ],
)
def test_scales_that_a_model_has_not_are_refused(
    geometry: dict[str, Any], size: tuple[int | None, int | None], scales: tuple[int, ...] | None, message: str
) -> None:
    runtime = Reds(**geometry)
    runtime.size = size
    with pytest.raises(UsageError, match=message):
        LocalScorer(Classifier(runtime), "multi-scale", scales=scales)


def test_the_paper_s_scales_are_the_default() -> None:
    scorer = LocalScorer(Classifier(Reds(resize=256, crop=224)), "multi-scale")
    assert scorer.scales == (224, 256, 384, 480, 640)


def test_a_mistyped_protocol_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 10-crop"):
        LocalScorer(Classifier(Reds()), "10-crops")
