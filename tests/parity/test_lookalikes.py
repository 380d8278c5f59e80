"""Networks with a ResNet's names and shapes, and what `import` says of them."""

from __future__ import annotations

from typing import Any


def test_the_libraries_are_there(torchvision: Any, timm: Any) -> None:
    assert callable(torchvision.models.resnet18)
    assert "resnet50" in timm.list_models("resnet50*")
