"""The model that ships in the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resnet_infer.classifier import Classifier
from resnet_infer.models.checkpoint import load_checkpoint
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.zoo import BUILT_IN, built_in
from tests.conftest import PICTURES, Outcome

ANSWERS = {"airplane.jpg": "airplane", "car.jpg": "automobile", "cat.jpg": "cat", "ship.jpg": "ship"}


@pytest.mark.parametrize("name", BUILT_IN)
def test_checkpoint_and_artifact_carry_the_same_spec_and_say_how_they_were_made(name: str) -> None:
    spec = load_checkpoint(built_in(name, ".safetensors")).spec
    assert OnnxRuntime(built_in(name, ".onnx")).spec == spec
    assert spec.name == name
    (measured,) = spec.measured
    assert measured.pictures == 10_000
    for key in ("recipe", "data", "iterations", "machine", "date", "trained_by"):
        assert spec.provenance[key]


def test_it_is_right_about_the_demos_pictures() -> None:
    assert {path.name for path in PICTURES.iterdir()} == set(ANSWERS)
    with Classifier() as classifier:
        for name, label in ANSWERS.items():
            assert classifier.classify(PICTURES / name)[0].label == label


def test_inspect_shows_its_card(cli: Callable[..., Outcome]) -> None:
    out = cli("inspect").out
    for part in ("resnet20-cifar10", "10,000 pictures", "recipe", "iterations", "machine", "airplane, automobile"):
        assert part in out


@pytest.mark.slow
def test_on_the_test_set_checkpoint_and_artifact_agree_and_the_error_is_what_the_spec_says(data_folder: Path) -> None:
    pytest.importorskip("torch", reason="the checkpoint is run by torch (the extra `train`)")
    from resnet_infer.data.datasets import open_dataset
    from resnet_infer.data.preprocess import centre_crop
    from resnet_infer.runtimes.pytorch import TorchRuntime

    archive = data_folder / "cifar10-jpeg.tar.xz"
    if not archive.exists():
        pytest.skip("needs cifar10-jpeg.tar.xz, CIFAR-10 as JPEG files in class folders")
    (name,) = BUILT_IN
    artifact, checkpoint = OnnxRuntime(built_in(name, ".onnx")), TorchRuntime(built_in(name, ".safetensors"))
    dataset = open_dataset(archive, "test")
    assert dataset.classes == artifact.spec.classes
    images = np.concatenate([centre_crop(sample.image(), artifact.spec.input) for sample in dataset.samples])
    labels = np.array([sample.label for sample in dataset.samples])
    answers = [
        np.concatenate([runtime(images[i : i + 500]) for i in range(0, len(images), 500)]).argmax(1)
        for runtime in (artifact, checkpoint)
    ]
    assert len(labels) == 10_000
    assert np.array_equal(*answers)
    error = 100 * float((answers[0] != labels).mean())
    assert error == pytest.approx(artifact.spec.measured[0].top1_error, abs=0.005)
    assert error <= 16
