"""What the comparisons with torchvision and timm share; `make parity` runs them in an environment of their own."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

NETS_VARIABLE = "RESNET_INFER_CIFAR_NETS"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="session")
def torch() -> Any:
    """The module torch, on one thread, so that two runs give the same bits."""
    module = pytest.importorskip("torch", reason="the references are torch modules: make parity")
    module.set_num_threads(1)
    return module


@pytest.fixture(scope="session")
def torchvision(torch: Any) -> Any:
    """The module torchvision. Its compiled operators may not fit torch's build; no ResNet needs them."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision: make parity")
    sys.modules.setdefault("torchvision._meta_registrations", ModuleType("torchvision._meta_registrations"))
    return importlib.import_module("torchvision")


@pytest.fixture(scope="session")
def timm(torchvision: Any) -> Any:
    """The module timm."""
    return pytest.importorskip("timm", reason="needs timm: make parity")


@pytest.fixture(scope="session")
def imagenet_photos(data_folder: Path) -> NDArray[np.uint8]:
    """Photos of ImageNet's classes as networks see them: uint8 (N, 224, 224, 3), shorter side 256, centre crop."""
    files = sorted((data_folder / "imagenet-sample").glob("*.JPEG"))
    if not files:
        pytest.skip(f"{data_folder} has no imagenet-sample")
    crops = []
    for path in files:
        image = Image.open(path).convert("RGB")
        width, height = (round(side * 256 / min(image.size)) for side in image.size)
        left, top = (width - 224) // 2, (height - 224) // 2
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        crops.append(np.asarray(resized.crop((left, top, left + 224, top + 224))))
    return np.stack(crops)


@pytest.fixture(scope="session")
def cifar_nets() -> Path:
    """A checkout of pytorch_resnet_cifar10 with its trained networks: $RESNET_INFER_CIFAR_NETS."""
    folder = os.environ.get(NETS_VARIABLE)
    if not folder:
        pytest.skip(f"needs pytorch_resnet_cifar10 with its trained networks: set {NETS_VARIABLE} to its folder")
    return Path(folder)


def normalise(torch: Any, pictures: NDArray[np.uint8], mean: Any = IMAGENET_MEAN, std: Any = IMAGENET_STD) -> Any:
    """Pictures as torch's networks take them: float32 (N, 3, H, W)."""
    pixels = (torch.tensor(pictures).float() / 255 - torch.tensor(mean)) / torch.tensor(std)
    return pixels.permute(0, 3, 1, 2).contiguous()
