"""Published ImageNet weights that can be downloaded by name: torchvision's, for the five networks of the paper.

The preprocessing belongs to the weights, not to the network: V1 and V2 of one network differ in it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from resnet_infer.models.architectures import architecture
from resnet_infer.models.spec import InputSpec, Interpolation, Measured, ModelSpec, imagenet_classes

URL_VARIABLE = "RESNET_INFER_WEIGHTS_URL"
PUBLISHED_AT = "https://download.pytorch.org/models"


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights, how pictures are prepared for it, and the error its publisher measured.

    `sha256_prefix`: the first 8 hexadecimal digits of the file's SHA-256. `resize` and `crop` in pixels; `mean` and
    `std` in units of the full range. Errors in percent of ImageNet's 50,000 validation pictures, one centre crop.
    """

    name: str
    arch: str
    sha256_prefix: str
    resize: int
    top1_error: float
    top5_error: float
    source: str
    crop: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    licence: str = "BSD-3-Clause"

    @property
    def filename(self) -> str:
        return f"{self.arch}-{self.sha256_prefix}.pth"

    @property
    def published_url(self) -> str:
        """Where the publisher has it."""
        return f"{PUBLISHED_AT}/{self.filename}"

    @property
    def url(self) -> str:
        """Where to download it: a mirror's folder in `$RESNET_INFER_WEIGHTS_URL` goes first."""
        return f"{(os.environ.get(URL_VARIABLE) or PUBLISHED_AT).rstrip('/')}/{self.filename}"


def _torchvision(depth: int, version: int, sha256_prefix: str, top1: float, top5: float) -> PublishedWeights:
    """A row from the accuracies in percent that torchvision states."""
    return PublishedWeights(
        name=f"resnet{depth}.v{version}",
        arch=f"resnet{depth}",
        sha256_prefix=sha256_prefix,
        resize={1: 256, 2: 232}[version],
        top1_error=round(100 - top1, 3),
        top5_error=round(100 - top5, 3),
        source=f"torchvision IMAGENET1K_V{version}",
    )


PUBLISHED = (
    _torchvision(18, 1, "f37072fd", 69.758, 89.078),
    _torchvision(34, 1, "b627a593", 73.314, 91.420),
    _torchvision(50, 1, "0676ba61", 76.130, 92.862),
    _torchvision(50, 2, "11ad3fa6", 80.858, 95.434),
    _torchvision(101, 1, "63fe2227", 77.374, 93.546),
    _torchvision(101, 2, "cd907fc2", 81.886, 95.780),
    _torchvision(152, 1, "394f9c45", 78.312, 94.046),
    _torchvision(152, 2, "f82ba261", 82.284, 96.002),
)
"""From torchvision's table of weights, a network's versions in order of age."""

_BY_NAME = {weights.arch: weights for weights in PUBLISHED} | {weights.name: weights for weights in PUBLISHED}


def find_published(name: str) -> PublishedWeights | None:
    """The weights called `name`, e.g. `resnet50.v1`; a network's name alone, `resnet50`, is the newest it has.

    Case does not matter, and `resnet-50` is `resnet50`. None for a name that is not in the table.
    """
    return _BY_NAME.get(name.strip().lower().replace("resnet-", "resnet", 1))


def spec_of(weights: PublishedWeights) -> ModelSpec:
    """The spec that belongs to `weights` (stride in the 3x3, as torchvision has it)."""
    names, wordnet_ids = imagenet_classes()
    return ModelSpec(
        name=weights.name,
        architecture=architecture(weights.arch, len(names)),
        classes=names,
        class_ids=wordnet_ids,
        input=InputSpec(
            resize=weights.resize,
            crop=weights.crop,
            mean=np.array(weights.mean, np.float32),
            std=np.array(weights.std, np.float32),
            interpolation=weights.interpolation,
        ),
        provenance={
            "source": weights.source,
            "licence": weights.licence,
            "url": weights.published_url,
            "sha256_prefix": weights.sha256_prefix,
        },
        measured=(
            Measured(
                "ImageNet validation (published)", "1-crop", 50_000, weights.top1_error, weights.top5_error, "torch"
            ),
        ),
    )


__all__ = ["PUBLISHED", "PublishedWeights", "find_published", "spec_of"]
