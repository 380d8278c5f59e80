"""Rows for the table of architectures that the package does not have, and a way to add them for a test."""

from __future__ import annotations

import pytest

from resnet_infer.models import families
from resnet_infer.models.families import Family

WIDTHS = (64, 128, 256, 512)
RESNEXT50 = Family("resnext50_32x4d", "imagenet", "bottleneck", (3, 4, 6, 3), WIDTHS, "B", cardinality=32, width=4)
WIDE_RESNET50 = Family("wide_resnet50_2", "imagenet", "bottleneck", (3, 4, 6, 3), WIDTHS, "B", width=128)
SMALL = Family(
    "small4x4d", "cifar", "bottleneck", (2, 1, 1), (16, 32, 64), "B", cardinality=4, width=16, num_classes=10
)
"""A small network with groups."""


def add_rows(patch: pytest.MonkeyPatch, *rows: Family) -> None:
    """Put rows behind those of the table."""
    patch.setattr(families, "FAMILIES", (*families.FAMILIES, *rows))
