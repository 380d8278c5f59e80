"""Define the common form of every data set: labelled images in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.formats.suffixes import shown
from resnet_infer.data.image import read_image

SHOWN = 5
"""Most classes that a remark names."""
Content = bytes | NDArray[np.uint8]
"""Content of an image file, or decoded pixels: uint8, (height, width, 3), RGB."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Hold one labelled image. `label` is an index into `Dataset.classes`.

    `read` returns the bytes of an image file, or pixels (uint8, HWC, RGB) if the format stores no files. It raises
    `PictureError` if the file cannot be read.
    """

    name: str
    label: int
    read: Callable[[], Content]

    def image(self, *, exif: bool = False) -> Image.Image:
        """Read and decode the image as 8-bit RGB. `exif` applies the EXIF orientation.

        Raises `PictureError`, naming the image, if it cannot be read or decoded.
        """
        content = self.read()
        return read_image(content, self.name, exif=exif) if isinstance(content, bytes) else Image.fromarray(content)


@dataclass(frozen=True)
class Skipped:
    """Count the files below the class folder `folder` that are not read, by suffix, beside `read` images that are."""

    folder: str
    read: int
    suffixes: Mapping[str, int]

    @property
    def count(self) -> int:
        """Return the number of files that are not read."""
        return sum(self.suffixes.values())

    def __str__(self) -> str:
        """Format the counts for a remark."""
        kinds = ", ".join(f"{shown(ending)} {count:,}" for ending, count in sorted(self.suffixes.items()))
        return f"{self.folder} {self.count:,} of {self.read + self.count:,}: {kinds}"


@dataclass(frozen=True)
class Dataset:
    """Hold labelled images in a fixed order: by class, then by name; CIFAR and lists keep the order of their files.

    - `classes`: readable names. `class_ids`: WordNet ids in the same order, if the data set has them.
    - `class_order`: what decided the order of the classes: `string` or `natural` (sorted names, or sorted ids if there
      are ids), `given` by the caller, `published` with the data, `numbered` in the data itself, or `classes.txt`.
    - `unlabelled`: images beside the class folders, which have no label and are skipped.
    - `skipped`: counts of files in class folders that are not read.
    - `notes`: sentences on other files that are skipped, and on assumptions.
    """

    name: str
    classes: tuple[str, ...]
    samples: Sequence[Sample]
    class_order: str
    class_ids: tuple[str, ...] | None = None
    unlabelled: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    def remarks(self) -> list[str]:
        """Return a line for everything that is not used: `notes`, then `skipped` with the worst classes first."""
        lines = list(self.notes)
        if self.skipped:
            worst = sorted(self.skipped, key=lambda item: (-item.count / (item.read + item.count), item.folder))
            total = sum(item.count for item in worst)
            files = "1 file is" if total == 1 else f"{total:,} files are"
            more = f"; and {len(worst) - SHOWN} more classes" if len(worst) > SHOWN else ""
            lines.append(f"{self.name}: {files} not read: {'; '.join(map(str, worst[:SHOWN]))}{more}")
        return lines
