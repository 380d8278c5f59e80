"""What every format becomes: labelled pictures in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.formats.suffixes import shown
from resnet_infer.data.image import read_image

SHOWN = 5
"""Classes that a remark names."""
Content = bytes | NDArray[np.uint8]
"""A picture file as it is, or decoded pixels: uint8, (height, width, 3), RGB."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture. `label` indexes `Dataset.classes`.

    `read` returns the bytes of a picture file, or pixels (uint8, HWC, RGB) where the format stores no files. It raises
    `PictureError` if the file cannot be read.
    """

    name: str
    label: int
    read: Callable[[], Content]

    def image(self, *, exif: bool = False) -> Image.Image:
        """The decoded picture, RGB. Raises `PictureError`, naming it, if it cannot be read or decoded."""
        content = self.read()
        return read_image(content, self.name, exif=exif) if isinstance(content, bytes) else Image.fromarray(content)


@dataclass(frozen=True)
class Skipped:
    """Files below the class folder `folder` that are not read, by suffix, beside `read` pictures that are."""

    folder: str
    read: int
    suffixes: Mapping[str, int]

    @property
    def count(self) -> int:
        return sum(self.suffixes.values())

    def __str__(self) -> str:
        kinds = ", ".join(f"{shown(ending)} {count:,}" for ending, count in sorted(self.suffixes.items()))
        return f"{self.folder} {self.count:,} of {self.read + self.count:,}: {kinds}"


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures in a fixed order: by class, then by name; CIFAR's and manifests' in the order of their files.

    `classes` are readable names. `class_ids` (WordNet ids) stand beside them where the data set has such. `class_order`
    says what numbers the classes: `string` or `natural` (sorted names, or sorted ids where there are ids), `given` by
    the caller, `published` with the data, `numbered` in the data itself, or `classes.txt`. `unlabelled` are pictures
    that lie beside the class folders and have no label; they are passed over. `skipped` counts files in class folders
    that are not read. `notes` are sentences on what else is passed over or taken for granted.
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
        """Return a line for everything that is not used: `notes`, and `skipped` with the worst classes first."""
        lines = list(self.notes)
        if self.skipped:
            worst = sorted(self.skipped, key=lambda item: (-item.count / (item.read + item.count), item.folder))
            total = sum(item.count for item in worst)
            files = "1 file is" if total == 1 else f"{total:,} files are"
            more = f"; and {len(worst) - SHOWN} more classes" if len(worst) > SHOWN else ""
            lines.append(f"{self.name}: {files} not read: {'; '.join(map(str, worst[:SHOWN]))}{more}")
        return lines
