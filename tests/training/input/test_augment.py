from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.models.spec import Interpolation  # noqa: E402
from resnet_infer.training.input.augment import (  # noqa: E402
    BatchSampler,
    Draws,
    boxes,
    colour_shifts,
    crop_boxes,
    mirrored,
    pad_and_crop,
)
from resnet_infer.training.input.pixel_statistics import measure  # noqa: E402
from resnet_infer.training.recipes import get_recipe  # noqa: E402


def draws(count: int, step: int = 0) -> Draws:
    return BatchSampler(count, count, seed=0).sample(step).draws


def positions(count: int, size: int = 8) -> Any:
    """Pictures (count, size, size, 2) whose pixels name their own row and column, from 1."""
    rows = torch.arange(1.0, size + 1).view(size, 1).expand(size, size)
    return torch.stack([rows, rows.T], dim=-1).expand(count, size, size, 2).contiguous()


def test_crops_and_flips_are_uniform_and_independent() -> None:
    """Section 4.2: 4 pixels on each side, so 9 places across and 9 down, and a flip half of the time."""
    count, recipe = 20_000, get_recipe("cifar10-paper")
    out = pad_and_crop(positions(count, 12), recipe.pad, recipe.flip, draws(count))
    assert out.shape == (count, 12, 12, 2)
    centre = out[:, 6, 6]  # never in the border
    top = centre[:, 0] - 7 + 4
    flipped = out[:, 6, 5, 1] > out[:, 6, 6, 1]
    left = torch.where(flipped, out[:, 6, 5, 1], centre[:, 1]) - 7 + 4
    for offset in range(9):
        assert (top == offset).float().mean().item() == pytest.approx(1 / 9, abs=0.01)
        assert (left == offset).float().mean().item() == pytest.approx(1 / 9, abs=0.01)
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.015)
    assert abs(torch.corrcoef(torch.stack([top, left, flipped.float()])).triu(1)).max().item() < 0.03


def test_every_result_is_a_window_of_the_zero_padded_picture() -> None:
    pictures = torch.randn(64, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    out = pad_and_crop(pictures, 3, True, draws(64, 5))
    padded = torch.nn.functional.pad(pictures, (0, 0, 3, 3, 3, 3))
    for picture, result in zip(padded, out, strict=True):
        windows = [picture[y : y + 8, x : x + 8] for y in range(7) for x in range(7)]
        assert sum(torch.equal(result, w) or torch.equal(result, w.flip(1)) for w in windows) >= 1


def test_a_step_draws_the_same_again_and_another_step_something_else() -> None:
    pictures = positions(32)
    first, again, other = (pad_and_crop(pictures, 2, True, draws(32, step)) for step in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_padding_and_no_flip_changes_nothing() -> None:
    pictures = positions(4)
    assert torch.equal(pad_and_crop(pictures, 0, False, draws(4)), pictures)


def test_an_epoch_shows_every_picture_once_and_several_processes_share_a_batch() -> None:
    whole = BatchSampler(100, 20, seed=3)
    epochs = [np.concatenate([whole.sample(step).indices for step in range(5 * e, 5 * e + 5)]) for e in (0, 1)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(BatchSampler(100, 20, seed=4).sample(0).indices, whole.sample(0).indices)
    parts = [BatchSampler(100, 20, 3, rank, 4).sample(7) for rank in range(4)]
    assert np.array_equal(np.concatenate([part.indices for part in parts]), whole.sample(7).indices)
    assert np.array_equal(np.concatenate([part.draws.uniform for part in parts]), whole.sample(7).draws.uniform)


def test_imagenet_crops_come_from_shorter_sides_of_256_to_480() -> None:
    """Section 3.4: the shorter side is uniform in [256, 480], the 224 crop anywhere in the picture."""
    count, size = 20_000, (500, 375)
    windows = boxes(get_recipe("imagenet-paper"), 224, np.tile(size, (count, 1)), draws(count))
    assert np.array_equal(windows[:, 2], windows[:, 3])
    shorter = 224 * 375 / windows[:, 2]
    assert np.allclose(shorter, np.round(shorter))
    values, counts = np.unique(np.round(shorter), return_counts=True)
    assert (values.min(), values.max(), len(values)) == (256, 480, 225)
    assert counts.max() / count < 2.5 / 225
    for side in (0, 1):
        room = windows[:, side] / (size[side] - windows[:, 2])
        assert room.min() >= 0
        assert room.max() <= 1 + 1e-9
        assert np.histogram(np.minimum(room, 1), 4, (0, 1))[0] / count == pytest.approx([0.25] * 4, abs=0.015)


def test_area_crops_have_the_areas_and_aspects_they_should() -> None:
    count = 20_000
    recipe = get_recipe("tiny-imagenet", area=(0.35, 1.0))
    left, top, width, height = boxes(recipe, 56, np.tile((64, 64), (count, 1)), draws(count)).T
    inside = (width < 64) & (height < 64)
    share, aspect = width * height / 64**2, np.log(width / height)
    assert inside.mean() > 0.75
    assert share.max() <= 1
    rounding = 1 / 64  # sides of 33 pixels and more are whole
    assert share[inside].min() >= 0.35 * (1 - 2 * rounding)
    assert abs(aspect).max() <= np.log(4 / 3) + 2 * rounding
    assert np.array_equal(np.stack([left, top, width, height]) % 1, np.zeros((4, count)))
    assert share.mean() == pytest.approx(0.675, abs=0.02)
    assert aspect.mean() == pytest.approx(0, abs=0.01)
    assert (left + width).max() <= 64
    assert (top + height).max() <= 64


@pytest.mark.parametrize("shape", [(48, 48), (97, 200), (130, 61)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"])
def test_windows_are_cut_and_resized_as_pil_does(shape: tuple[int, int], interpolation: Interpolation) -> None:
    """On noise, of which every pixel counts; enlarged and reduced."""
    height, width = shape
    pictures = np.random.default_rng(0).integers(0, 256, (6, height, width, 3)).astype(np.uint8)
    some = draws(6)
    windows = boxes(get_recipe("tiny-imagenet", area=(0.1, 0.9)), 40, np.tile((width, height), (6, 1)), some)
    windows = 0.97 * windows + [0.3, 0.3, 0, 0]  # on whole pixels box and nearest have ties
    out = crop_boxes(torch.from_numpy(pictures), windows, 40, interpolation, mirrored(some))
    for picture, (left, top, across, down), flip, result in zip(pictures, windows, mirrored(some), out, strict=True):
        box = (left, top, min(left + across, width), min(top + down, height))
        filter_ = Image.Resampling[interpolation.upper()]
        expected = np.asarray(Image.fromarray(picture).resize((40, 40), filter_, box=box)).astype(float)
        expected = expected[:, ::-1] if flip else expected
        found = abs(result.numpy() - expected)
        assert found.max() <= 1 if interpolation not in ("bicubic", "lanczos") else found.mean() < 1
    assert out.dtype == torch.float32


def test_colour_shifts_lie_along_the_principal_components_in_proportion_to_the_eigenvalues() -> None:
    """AlexNet, section 4.1: components times eigenvalues times normal numbers of deviation 0.1."""
    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    colours = 0.5 + (generator.normal(size=(40_000, 3)) * [0.10, 0.05, 0.02]) @ turn.T
    pictures = np.clip(colours * 255, 0, 255).astype(np.uint8).reshape(10, 80, 50, 3)
    statistics = measure([pictures[:4], pictures[4:]])
    scaled = pictures.reshape(-1, 3) / 255
    assert statistics.covariance == pytest.approx(np.cov(scaled.T), abs=1e-6)
    shifts = colour_shifts(statistics.colours(), 0.1, draws(50_000))
    expected = turn @ np.diag([0.1 * value**2 for value in (0.10, 0.05, 0.02)]) @ turn.T
    assert np.cov(shifts.T) == pytest.approx(expected @ expected, rel=0.1, abs=2e-9)
    assert abs(shifts.mean(axis=0)).max() < 5e-5


@pytest.mark.parametrize("kind", ["pixel", "channel"])
def test_mean_and_deviation(kind: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3)).astype(np.uint8)
    mean, std = measure([images[:5], images[5:]]).normalisation(kind)
    scaled = images / 255
    if kind == "pixel":
        assert mean == pytest.approx(scaled.mean(0), abs=1e-6)
        assert std.tolist() == [1, 1, 1]
    else:
        assert mean == pytest.approx(scaled.mean((0, 1, 2)), abs=1e-6)
        assert std == pytest.approx(scaled.std((0, 1, 2)), abs=1e-6)
