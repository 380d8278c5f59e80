"""List the published ImageNet weights that can be downloaded by name: torchvision's, for five networks of the paper.

The preprocessing belongs to the weights, not to the network: V1 and V2 of one network differ in it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from resnet_infer.models.architectures import architecture
from resnet_infer.models.spec import InputSpec, Interpolation, Measured, ModelSpec, imagenet_classes

URL_VARIABLE = "RESNET_INFER_WEIGHTS_URL"
"""Environment variable with the address of a mirror's folder."""
PUBLISHED_AT = "https://download.pytorch.org/models"
"""Address of the folder with torchvision's weights."""


@dataclass(frozen=True)
class PublishedWeights:
    """Describe a file of weights, the preprocessing it needs, and the errors that its publisher measured.

    `sha256_prefix` is the first 8 hexadecimal digits of the file's SHA-256. `resize` and `crop` are in pixels, `mean`
    and `std` in units of the full range. Errors are in percent of ImageNet's 50,000 validation images, with one centre
    crop.
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
        """Return the name of the file."""
        return f"{self.arch}-{self.sha256_prefix}.pth"

    @property
    def published_url(self) -> str:
        """Return the publisher's address of the file."""
        return f"{PUBLISHED_AT}/{self.filename}"

    @property
    def url(self) -> str:
        """Return the address to download from. A mirror in `$RESNET_INFER_WEIGHTS_URL` takes precedence."""
        return f"{(os.environ.get(URL_VARIABLE) or PUBLISHED_AT).rstrip('/')}/{self.filename}"


def _torchvision(arch: str, version: int, sha256_prefix: str, top1: float, top5: float) -> PublishedWeights:
    """Create a row from the accuracies in percent that torchvision states."""
    return PublishedWeights(
        name=f"{arch}.v{version}",
        arch=arch,
        sha256_prefix=sha256_prefix,
        resize={1: 256, 2: 232}[version],
        top1_error=round(100 - top1, 3),
        top5_error=round(100 - top5, 3),
        source=f"torchvision IMAGENET1K_V{version}",
    )


PUBLISHED = (
    _torchvision("resnet18", 1, "f37072fd", 69.758, 89.078),
    _torchvision("resnet34", 1, "b627a593", 73.314, 91.420),
    _torchvision("resnet50", 1, "0676ba61", 76.130, 92.862),
    _torchvision("resnet50", 2, "11ad3fa6", 80.858, 95.434),
    _torchvision("resnet101", 1, "63fe2227", 77.374, 93.546),
    _torchvision("resnet101", 2, "cd907fc2", 81.886, 95.780),
    _torchvision("resnet152", 1, "394f9c45", 78.312, 94.046),
    _torchvision("resnet152", 2, "f82ba261", 82.284, 96.002),
)
"""Torchvision's table of weights; the versions of a network in order of age."""

_BY_NAME = {weights.arch: weights for weights in PUBLISHED} | {weights.name: weights for weights in PUBLISHED}


def find_published(name: str) -> PublishedWeights | None:
    """Return the weights called `name`, e.g. `resnet50.v1`. The name of a network alone means its newest weights.

    Case does not matter, and `resnet-50` is `resnet50`. Returns None for a name that is not in the table.

    >>> find_published("resnet50").source
    'torchvision IMAGENET1K_V2'
    """
    return _BY_NAME.get(name.strip().lower().replace("resnet-", "resnet", 1))


def spec_of(weights: PublishedWeights) -> ModelSpec:
    """Return the spec that belongs to `weights`, with the stride in the 3x3 convolution, as torchvision has it."""
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
