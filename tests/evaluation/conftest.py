"""Labelled pictures for the built-in model, and models whose answers are known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.datasets import Dataset, Sample
from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime
from tests.conftest import PICTURES

CLASSES = {"airplane": "airplane", "car": "automobile", "cat": "cat", "ship": "ship"}
"""Demo picture -> class of the built-in model."""


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 24 parts of each of the tests' pictures, of many sizes, as JPEG and PNG."""
    folder = tmp_path_factory.mktemp("album")
    generator = np.random.default_rng(0)
    for name, label in CLASSES.items():
        (folder / label).mkdir()
        with Image.open(PICTURES / f"{name}.jpg") as file:
            picture = file.convert("RGB")
        for number in range(24):
            side = int(generator.integers(min(picture.size) // 4, min(picture.size)))
            left, top = (int(generator.integers(0, full - side + 1)) for full in picture.size)
            width, height = (int(size) for size in generator.integers(32, 80, 2))
            part = picture.resize((width, height), box=(left, top, left + side, top + side))
            part.save(folder / label / f"{number:02d}.{'png' if number % 3 else 'jpg'}")
    return folder


class Reds(Runtime):
    """As many classes as told; the answer is the class whose number is the red of the middle pixel.

    Its confidence is the green, of 255. It remembers how many rows came at a time.
    """

    name = "reds"

    def __init__(self, classes: int = 12, *, names: tuple[str, ...] | None = None, **geometry: Any) -> None:
        shape = {"resize": 8, "crop": 8, "mean": np.zeros(3), "std": np.ones(3), **geometry}
        spec = ModelSpec("reds", None, names or tuple(map(str, range(classes))), InputSpec(**shape))
        super().__init__(spec, "cpu", (None, None))
        self.rows: list[int] = []

    def _run(self, images: Images) -> Logits:
        self.rows.append(len(images))
        count = len(self.spec.classes)
        middle = images[:, images.shape[1] // 2, images.shape[2] // 2].astype(np.float64)
        confidence = 1 / count + (1 - 1 / count) * np.clip(middle[:, 1] / 255, 0.01, 0.99)
        probabilities = np.repeat((1 - confidence)[:, None] / (count - 1), count, axis=1)
        probabilities[np.arange(len(images)), middle[:, 0].astype(int) % count] = confidence
        return np.log(probabilities).astype(np.float32)


def plain_picture(red: int, green: int = 200) -> NDArray[np.uint8]:
    """A picture that `Reds` answers with `red`; its blue makes it differ from others in nothing that counts."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = red, green
    return pixels


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    """A data set of plain pictures: `answers` are what `Reds` says of them, `labels` what they are."""

    def make(answers: list[int], labels: list[int], classes: int = 12) -> Dataset:
        samples = []
        for number, (answer, label) in enumerate(zip(answers, labels, strict=True)):
            pixels = plain_picture(answer, number % 256)
            pixels[0, 0] = number % 256, number // 256 % 256, number // 65536
            samples.append(Sample(f"{label}/{number}.png", label, lambda pixels=pixels: pixels))  # type: ignore[misc]
        return Dataset("plain", tuple(map(str, range(classes))), samples, "given")

    return make
