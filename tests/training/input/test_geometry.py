"""What a network is trained on looks as what it is measured by and serves: grain shows which filter made a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.data.datasets import Sample  # noqa: E402
from resnet_infer.errors import PictureError, TrainingError  # noqa: E402
from resnet_infer.models.spec import InputSpec, Interpolation  # noqa: E402
from resnet_infer.training.input import sources  # noqa: E402
from resnet_infer.training.input.augment import BatchSampler  # noqa: E402
from resnet_infer.training.input.sources import DataIn, FromFiles, InMemory, open_batches  # noqa: E402
from resnet_infer.training.input.views import views  # noqa: E402
from resnet_infer.training.recipes import get_recipe  # noqa: E402

COUNT, RESIZE, CROP = 8, 40, 32
SIZES = {
    "native": [(40, 40)],
    "twice": [(80, 80)],
    "large": [(256, 256)],
    "small": [(24, 24)],
    "wide": [(200, 120)],
    "mixed": [(256, 256), (90, 130), (40, 40), (120, 60)],
}


def grain(sizes: Sequence[tuple[int, int]], count: int = COUNT) -> list[Sample]:
    """Pictures of these sizes in turn, (width, height), all noise: neighbours differ most where nothing is averaged."""
    generator = np.random.default_rng(0)

    def sample(index: int) -> Sample:
        width, height = sizes[index % len(sizes)]
        pixels = np.clip(generator.normal(128, 40, (height, width, 3)), 0, 255).astype(np.uint8)
        return Sample(f"{index}.png", 0, lambda: pixels)

    return [sample(index) for index in range(count)]


def geometry(resize: int = RESIZE, crop: int = CROP, interpolation: Interpolation = "bilinear") -> InputSpec:
    return InputSpec(resize, crop, np.zeros(3), np.ones(3), interpolation)


def trained(
    samples: list[Sample], place: DataIn, view: InputSpec, crop: int, epochs: int = 6, **values: Any
) -> NDArray[np.float32]:
    """Views that are trained on, float32 in levels, in the order of the steps."""
    recipe = get_recipe("finetune", batch_size=len(samples), **values)
    sampler = BatchSampler(len(samples), len(samples), seed=0)
    source = open_batches(samples, view, recipe, sampler, torch.device("cpu"), place, 0)
    return np.concatenate([images.float().numpy() for images, _, _ in source.batches(0, epochs, crop)])


def roughness(images: NDArray[np.float32]) -> float:
    """The mean difference of neighbours."""
    return float(np.abs(np.diff(images, axis=1)).mean() + np.abs(np.diff(images, axis=2)).mean()) / 2


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("place", ["memory", "files"])
@pytest.mark.parametrize(("resize", "crop"), [(RESIZE, CROP), (28, 24)], ids=["largest", "another stage"])
def test_trained_and_served_views_are_as_rough(
    sizes: list[tuple[int, int]], place: DataIn, resize: int, crop: int
) -> None:
    """Where crops are as much reduced as what is served; `view` is the largest of a run of several sizes."""
    for size in sizes if place == "files" else [None]:
        samples = grain(sizes if size is None else [size])
        served = np.concatenate([images for images, _ in views(samples, geometry(resize, crop))]).astype(np.float32)
        scale = trained(samples, place, geometry(), crop, augmentation="scale", scales=(resize, resize))
        assert roughness(scale) == pytest.approx(roughness(served), rel=0.05)
        if sizes == SIZES["large"]:  # less reduced, crops of all sizes and aspects fall between pixels
            share = (crop / resize) ** 2
            area = trained(samples, place, geometry(), crop, area=(share, share))
            assert roughness(area) == pytest.approx(roughness(served), rel=0.05)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("augmentation", ["area", "scale", "pad", "none"])
def test_memory_and_files_give_the_same_views(sizes: list[tuple[int, int]], augmentation: str) -> None:
    values: dict[str, Any] = {"scale": {"scales": (RESIZE, 80)}}.get(augmentation, {})
    places: tuple[DataIn, DataIn] = ("memory", "files")
    memory, files = (
        trained(grain(sizes), place, geometry(), CROP, augmentation=augmentation, **values) for place in places
    )
    assert memory.shape == files.shape
    if augmentation in ("pad", "none"):
        assert np.array_equal(memory, files)
    assert abs(memory - files).max() <= 1
    assert roughness(memory) == pytest.approx(roughness(files), rel=0.005)


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos", "box", "nearest"])
def test_the_models_own_filter_is_used(interpolation: Interpolation) -> None:
    ways: list[tuple[DataIn, Interpolation]]
    ways = [("memory", interpolation), ("files", interpolation), ("memory", "bilinear")]
    memory, files, bilinear = (
        roughness(trained(grain([(90, 90)]), place, geometry(interpolation=kind), CROP)) for place, kind in ways
    )
    assert memory == pytest.approx(files, rel=0.02)
    assert abs(memory / bilinear - 1) > 0.05


def opened(samples: list[Sample], place: DataIn) -> sources.BatchSource:
    recipe = get_recipe("finetune", batch_size=4)
    return open_batches(samples, geometry(), recipe, BatchSampler(len(samples), 4, 0), torch.device("cpu"), place, 0)


def test_every_picture_decides_whether_all_are_alike() -> None:
    """130 squares, of which any that is another shape counts."""
    samples = grain([(50, 50)], 130)
    assert isinstance(opened(samples, "auto"), InMemory)
    for odd in (0, 1, 65, 129):
        mixed = [*samples]
        mixed[odd] = replace(grain([(50, 40)], 1)[0], name="odd.png")
        assert isinstance(opened(mixed, "auto"), FromFiles)
        kept = opened(mixed, "memory")
        assert isinstance(kept, FromFiles)
        assert kept.decoded


def test_what_does_not_fit_into_memory_stays_in_files_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = grain([(50, 50), (50, 40)], 20)
    monkeypatch.setattr(sources, "free_memory", lambda: 20 * 45 * 50 * 3)
    assert isinstance(opened(samples, "memory"), FromFiles)
    monkeypatch.setattr(sources, "free_memory", lambda: 20 * 45 * 50 * 3 - 1)
    with pytest.raises(TrainingError, match="do not fit") as error:
        opened(samples, "memory")
    assert "--data-in files" in str(error.value)
    assert isinstance(opened(grain([(50, 50)], 20), "auto"), FromFiles)


@pytest.mark.parametrize("augmentation", ["none", "pad"])
def test_a_picture_too_narrow_to_resize_is_named(augmentation: str) -> None:
    """One pixel wide: its view of 40 pixels would be 2,400,000 high."""
    line = Sample("line.png", 0, lambda: np.zeros((60_000_000 // 400, 1, 3), np.uint8))
    with pytest.raises(PictureError, match=r"line.png: 1x150000 pixels are too narrow"):
        list(views([line], geometry(RESIZE, CROP)))
    with pytest.raises(PictureError, match="too narrow"):
        trained([line], "files", geometry(), CROP, 1, augmentation=augmentation)
