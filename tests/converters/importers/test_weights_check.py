"""Weights are run on photographs: what does not fit their batch norm statistics is told, and what fits is not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("onnxruntime", reason="the check needs onnxruntime (the extra `cpu`)")
pytest.importorskip("onnx", reason="the check needs onnx (the extra `export`)")

from resnet_infer.converters import importers
from resnet_infer.converters.importers.input_options import InputOptions
from resnet_infer.converters.importers.norm_statistics import measure, measure_stem
from resnet_infer.converters.importers.weights import CIFAR_INPUT, Imported, import_weights
from resnet_infer.converters.importers.weights_check import NORMALISATIONS, UNCHECKED
from resnet_infer.data.feed import PHOTOGRAPHS
from resnet_infer.errors import DataError, ModelError, UsageError
from resnet_infer.models.architectures import architecture
from tests.batch_norm import make_busy

SIZE = 32
Fit = Callable[..., Path]


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="the networks are made by torch (the extra `train`)")


@pytest.fixture(scope="module")
def mirrored() -> NDArray[np.uint8]:
    """The photographs of the package as nobody looks at them when checking: mirrored, (16, 32, 32, 3)."""
    crops = [
        Image.open(path).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        for path in sorted(PHOTOGRAPHS.glob("*"))
        if path.suffix == ".jpg"
    ]
    return np.stack([np.asarray(crop)[:, ::-1] for crop in crops])


@pytest.fixture
def fit(torch: Any, mirrored: NDArray[np.uint8], tmp_path: Path) -> Fit:
    """Weights whose statistics are those of photographs, fed as `bgr`, `mean` and `std` say: a file of them."""
    from resnet_infer.models.network import ResNet, set_norm_statistics

    def make(
        name: str = "resnet20", *, seed: int = 0, bgr: bool = False, mean: Any = None, std: Any = None, **options: Any
    ) -> Path:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            network = ResNet(architecture(name, 10, **options))
        with torch.no_grad():  # half of the first filters see colour alone, as in trained networks
            network.conv1.weight[::2] -= network.conv1.weight[::2].mean(dim=1, keepdim=True)
        pixels = torch.tensor((mirrored[..., ::-1] if bgr else mirrored).copy()) / 255
        pixels = (pixels - torch.tensor(mean or CIFAR_INPUT.mean)) / torch.tensor(std or CIFAR_INPUT.std)
        set_norm_statistics(network, [pixels.permute(0, 3, 1, 2)])
        path = tmp_path / "weights.pth"
        torch.save(network.state_dict(), path)
        return path

    return make


def warnings(imported: Imported) -> tuple[str, ...]:
    """The warnings, which are also in the provenance."""
    assert imported.check is not None
    assert imported.checkpoint.spec.provenance.get("warnings", []) == list(imported.check.failures)
    return imported.check.failures


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("padding", ["append", "split"])
def test_the_padding_is_told_by_the_statistics(fit: Fit, padding: Any, seed: int) -> None:
    path = fit(padding=padding, seed=seed)
    imported = import_weights(path, "resnet20")
    assert imported.checkpoint.spec.architecture == architecture("resnet20", 10, padding=padding)
    assert imported.assumed[-1].startswith(f"--padding {padding}: the means in batch norm are shifted by 0.0")
    assert warnings(imported) == ()
    wrong: Any = "split" if padding == "append" else "append"
    (warning,) = warnings(told := import_weights(path, "resnet20", padding=wrong))
    assert f"--padding {padding} fits the batch norm statistics clearly better: from layer2.1.bn1 on" in warning
    assert told.check is not None
    assert told.check.measured.first == "layer2.1.bn1"


@pytest.mark.parametrize("name", ["resnet20", "resnet56", "plain20"])
def test_weights_that_fit_are_not_warned_of(fit: Fit, name: str) -> None:
    options: dict[str, Any] = {} if name.startswith("plain") else {"shortcut": "B"}
    imported = import_weights(fit(name, **options), name)
    assert warnings(imported) == ()
    assert imported.check is not None
    assert imported.check.measured.first is None
    summary = imported.checkpoint.spec.provenance["check"]
    assert summary["pictures"] == "16 of the package's photographs"
    assert summary["unchecked"] == list(UNCHECKED)


@pytest.mark.parametrize(
    ("fed", "said", "options"),
    [
        ({"bgr": True}, "--channels bgr --mean 0.4", InputOptions(channels="bgr")),
        (
            {"mean": (0.5,) * 3, "std": (0.5,) * 3},
            "--channels rgb --mean 0.5 --std 0.5",
            InputOptions(mean=[0.5], std=[0.5]),
        ),
        (
            {"mean": (0.0,) * 3, "std": (1.0,) * 3},
            "--channels rgb --mean 0 --std 1",
            InputOptions(mean=[0], std=[1]),
        ),
        (
            {"bgr": True, "mean": (103.939 / 255, 116.779 / 255, 123.68 / 255), "std": (1 / 255,) * 3},
            "--channels bgr --mean 103.939,116.779,123.68 --std 1 --scale 255",
            InputOptions(mean=[103.939, 116.779, 123.68], std=[1], scale=255, channels="bgr"),
        ),
    ],
)
def test_another_normalisation_is_named(fit: Fit, fed: dict[str, Any], said: str, options: InputOptions) -> None:
    path = fit(shortcut="B", **fed)
    (warning,) = warnings(wrong := import_weights(path, "resnet20"))
    assert said in warning
    assert wrong.check is not None
    assert wrong.check.measured.first == "bn1"
    if "mean" in fed:
        assert warnings(import_weights(path, "resnet20", options=options)) == ()


@pytest.mark.parametrize("activation", ["silu", "gelu", "elu"])
def test_another_activation_is_refused_or_warned_of(
    fit: Fit, torch: Any, monkeypatch: pytest.MonkeyPatch, activation: str
) -> None:
    """The first batch norm behind the first activation is where it parts, or a near one."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "relu", getattr(torch.nn.functional, activation))
        path = fit("resnet32", shortcut="B")
    try:
        (text,) = warnings(import_weights(path, "resnet32"))
    except ModelError as error:
        text = str(error)
    assert "torch.onnx.export" in text
    assert "do not behave as it" in text
    assert "part from pictures at layer1." in text


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("name", "shortcut"), [("resnet20", "A"), ("resnet32", "B"), ("plain20", None)])
def test_busy_statistics_are_warned_of_and_not_refused(
    torch: Any, tmp_path: Path, name: str, shortcut: Any, seed: int
) -> None:
    """Random statistics are no picture's, but nobody mistook another network for this one."""
    from resnet_infer.models.network import ResNet

    arch = architecture(name, 10, shortcut=shortcut)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = ResNet(arch)
        make_busy(torch, network)
    torch.save(network.state_dict(), tmp_path / "busy.pth")
    imported = import_weights(tmp_path / "busy.pth", name, padding=arch.padding)
    (warning,) = warnings(imported)
    assert "such statistics are no photograph's" in warning
    if arch.padding:
        with pytest.raises(UsageError, match="statistics do not tell it either"):
            import_weights(tmp_path / "busy.pth", name)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1e30])
def test_nonsense_in_the_statistics_is_a_finite_divergence(fit: Fit, mirrored: NDArray[np.uint8], value: float) -> None:
    path = fit(shortcut="B")
    checkpoint = import_weights(path, "resnet20").checkpoint
    ruined = {**checkpoint.weights, "layer1.0.bn1.running_var": np.full(16, value, np.float32)}
    layers = measure(replace(checkpoint, weights=ruined), mirrored)
    assert all(np.isfinite(layer.divergence) for layer in layers)
    assert layers[0].divergence < 0.05
    assert layers[1].divergence > 5


def test_without_the_packages_nothing_is_claimed(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fit(padding="split")
    for module in ("converters.importers.weights_check", "converters.importers.norm_statistics", "models.graph"):
        monkeypatch.delitem(sys.modules, f"resnet_infer.{module}")
    # `from package import module` finds a module that was imported before as an attribute.
    for module in ("weights_check", "norm_statistics"):
        monkeypatch.delattr(importers, module)
    monkeypatch.setitem(sys.modules, "onnx", None)
    imported = import_weights(path, "resnet20", padding="split")
    assert imported.check is None
    assert "that the weights are of resnet20" in imported.assumed[-1]
    with pytest.raises(UsageError, match="--padding"):
        import_weights(path, "resnet20")


def test_a_handful_of_pictures_does_not_do(fit: Fit, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (40, 40)).save(folder / f"{index}.png")
    with pytest.raises(DataError, match="has 3 pictures; weights are checked on 16 or more"):
        import_weights(fit(shortcut="B"), "resnet20", check_data=folder)


def test_what_is_measured_is_the_divergence_of_what_torch_computes(
    fit: Fit, torch: Any, mirrored: NDArray[np.uint8]
) -> None:
    """Layer by layer, against hooks in the torch module; and the first layer alone gives the same."""
    from resnet_infer.models.network import ResNet

    checkpoint = import_weights(fit(padding="split"), "resnet20", padding="append").checkpoint
    arch = checkpoint.spec.architecture
    assert arch is not None
    network = ResNet(arch).eval()
    network.load_state_dict({key: torch.tensor(value) for key, value in checkpoint.weights.items()}, strict=False)
    expected = {}

    def hook(name: str) -> Any:
        def record(norm: Any, inputs: Any, _output: Any) -> None:
            x = inputs[0].double()
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0) + norm.eps
            width = norm.running_var.double() + norm.eps
            ratio = variance / width
            value = 0.5 * (ratio + (mean - norm.running_mean.double()) ** 2 / width - 1 - ratio.log())
            expected[name] = float(value.clamp(max=10).mean())

        return record

    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(hook(name))
    pixels = (mirrored / np.float32(255) - checkpoint.spec.input.mean) / checkpoint.spec.input.std
    with torch.inference_mode():
        network(torch.tensor(pixels).permute(0, 3, 1, 2))
    found = measure(checkpoint, mirrored)
    assert {fit.name: fit.divergence for fit in found} == pytest.approx(expected, rel=1e-3, abs=1e-5)
    alone = measure_stem(checkpoint, {"as it is": pixels})["as it is"]
    assert alone.name == "bn1"
    assert alone.divergence == pytest.approx(found[0].divergence, rel=1e-3)


def test_normalisations_are_written_as_the_command_reads_them() -> None:
    """Each means as options what it does to pictures."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    for row in NORMALISATIONS:
        words = str(row).split()
        given = dict(zip(words[::2], words[1::2], strict=True))
        mean, std = ([float(x) for x in given[name].split(",")] for name in ("--mean", "--std"))
        options = InputOptions(
            mean=mean, std=std, scale=int(given.get("--scale", 1)), channels="bgr" if row.channels == "bgr" else None
        )
        spec = options.over(CIFAR_INPUT)
        expected = (pictures / np.float32(255) - spec.mean) / spec.std
        turned = expected[..., ::-1] if row.channels == "bgr" else expected
        np.testing.assert_allclose(row.apply(pictures), turned, rtol=1e-5, atol=1e-5)
