"""Networks with a ResNet's names and shapes, and what `import` says of them.

The networks are the libraries' own with random weights, their batch norm statistics taken from photographs of ImageNet
as training would leave them. `import` sees other photographs, its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_infer.converters.importers.input_options import InputOptions
from resnet_infer.converters.importers.weights import Imported, import_weights
from resnet_infer.errors import ModelError
from tests.batch_norm import make_busy
from tests.parity.conftest import IMAGENET_MEAN, IMAGENET_STD, normalise

Fit = Callable[..., Path]
CIFAR_NETS = ("resnet20-12fca82f", "resnet32-d509ac18", "resnet44-014dd654", "resnet56-4bfd9763")


@pytest.fixture
def fit(torch: Any, imagenet_photos: NDArray[np.uint8], tmp_path: Path) -> Fit:
    """A file with the weights of a network, once its statistics are those of 16 photographs."""

    def make(build: Callable[[], Any], *, seed: int = 5, first: int = 0, bgr: bool = False, **norm: Any) -> Path:
        torch.manual_seed(seed)
        network = build()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
                torch.nn.init.uniform_(module.weight, 0.3, 0.9)
                torch.nn.init.normal_(module.bias, 0, 0.1)
        photos = imagenet_photos[first : first + 16]
        with torch.no_grad():
            network.train()(normalise(torch, photos[..., ::-1].copy() if bgr else photos, **norm))
        path = tmp_path / "weights.pth"
        torch.save(network.state_dict(), path)
        return path

    return make


def warnings(imported: Imported) -> tuple[str, ...]:
    assert imported.check is not None
    return imported.check.failures


@pytest.mark.parametrize("first", [0, 60])
@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_networks_themselves_are_not_warned_of(
    fit: Fit, torchvision: Any, timm: Any, library: str, depth: int, first: int
) -> None:
    name = f"resnet{depth}"
    build = getattr(torchvision.models, name) if library == "torchvision" else partial(timm.create_model, name)
    assert warnings(import_weights(fit(build, first=first), name)) == ()


def _replaced(torch: Any, network: Any, activation: str) -> Any:
    """The network with another activation in place of every ReLU."""
    for module in network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, getattr(torch.nn, activation)())
    return network


def _stem(network: Any, pool: Any) -> Any:
    """The network with another pooling behind its first convolution."""
    network.maxpool = pool
    return network


LOOKALIKES: dict[str, tuple[str, Callable[[Any, Any, Any], Any], str]] = {
    "blur pool": ("resnet50", lambda _torch, _models, timm: timm.create_model("resnetblur50"), "layer2.0.bn3"),
    "average pool": ("resnet50", lambda _torch, _models, timm: timm.create_model("resnetaa50"), "layer1.0"),
    "SiLU": ("resnet50", lambda torch, models, _: _replaced(torch, models.resnet50(), "SiLU"), "layer1.0"),
    "GELU": ("resnet50", lambda torch, models, _: _replaced(torch, models.resnet50(), "GELU"), "layer1."),
    "ELU": ("resnet18", lambda torch, models, _: _replaced(torch, models.resnet18(), "ELU"), "layer1.0"),
    "no max-pool": ("resnet18", lambda torch, models, _: _stem(models.resnet18(), torch.nn.Identity()), "layer1.0"),
    "average stem": (
        "resnet18",
        lambda torch, models, _: _stem(models.resnet18(), torch.nn.AvgPool2d(3, 2, 1)),
        "layer1.0.bn1",
    ),
}
"""What is warned of or refused, the network it looks like, and where it begins to be another one."""


@pytest.mark.parametrize("seed", [5, 6])
@pytest.mark.parametrize("kind", LOOKALIKES)
def test_a_lookalike_is_refused_or_warned_of(
    fit: Fit, torch: Any, torchvision: Any, timm: Any, kind: str, seed: int
) -> None:
    name, build, where = LOOKALIKES[kind]
    path = fit(lambda: build(torch, torchvision.models, timm), seed=seed, first=20 * (seed - 5))
    try:
        (text,) = warnings(import_weights(path, name))
    except ModelError as error:
        text = error.message
    assert "do not behave as it" in text
    assert f"part from pictures at {where}" in text


@pytest.mark.parametrize(
    ("fed", "said"),
    [
        ({"bgr": True}, "--channels bgr --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"),
        ({"mean": (0.5,) * 3, "std": (0.5,) * 3}, "--channels rgb --mean 0.5 --std 0.5"),
        ({"mean": (0.0,) * 3, "std": (1.0,) * 3}, "--channels rgb --mean 0 --std 1"),
        (
            {"bgr": True, "mean": (103.939 / 255, 116.779 / 255, 123.68 / 255), "std": (1 / 255,) * 3},
            "--channels bgr --mean 103.939,116.779,123.68 --std 1 --scale 255",
        ),
    ],
)
def test_another_normalisation_is_named(fit: Fit, torchvision: Any, fed: Any, said: str) -> None:
    (warning,) = warnings(import_weights(fit(torchvision.models.resnet18, **fed), "resnet18"))
    assert said in warning
    assert "fits the first batch norm clearly better" in warning


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_busy_statistics_are_warned_of_and_not_refused(
    torch: Any, torchvision: Any, tmp_path: Path, name: str, seed: int
) -> None:
    torch.manual_seed(seed)
    network = getattr(torchvision.models, name)()
    make_busy(torch, network)
    torch.save(network.state_dict(), tmp_path / "busy.pth")
    (warning,) = warnings(import_weights(tmp_path / "busy.pth", name))
    assert "such statistics are no photograph's" in warning


@pytest.mark.parametrize("file", CIFAR_NETS)
def test_trained_networks_with_option_a(cifar_nets: Path, file: str) -> None:
    """Their code pads before and after the channels, and normalises as for ImageNet."""
    path = cifar_nets / "pretrained_models" / f"{file}.th"
    name = file.partition("-")[0]
    options = InputOptions(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    told = import_weights(path, name, options=options)
    arch = told.checkpoint.spec.architecture
    assert arch is not None
    assert (arch.padding, warnings(told)) == ("split", ())
    assert warnings(import_weights(path, name, options=options, padding="split")) == ()
    (warning,) = warnings(import_weights(path, name, options=options, padding="append"))
    assert warning.startswith("--padding split fits the batch norm statistics clearly better: from layer2.1.bn1 on")


@pytest.mark.parametrize("file", CIFAR_NETS)
def test_trained_networks_fed_with_bgr(cifar_nets: Path, file: str) -> None:
    """They take RGB, and their first layer tells."""
    path = cifar_nets / "pretrained_models" / f"{file}.th"
    options = InputOptions(mean=IMAGENET_MEAN, std=IMAGENET_STD, channels="bgr")
    (warning,) = warnings(import_weights(path, file.partition("-")[0], options=options))
    assert "--channels rgb --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in warning
    assert "fits the first batch norm clearly better" in warning
