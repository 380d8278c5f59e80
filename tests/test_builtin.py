"""The models that ship in the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resnet_infer.classifier import Classifier
from resnet_infer.data.image import read_image
from resnet_infer.data.preprocess import ten_crops
from resnet_infer.models.checkpoint import load_checkpoint
from resnet_infer.models.spec import imagenet_classes
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.zoo import BUILT_IN, DEFAULT, SMALL, VARIABLE, built_in
from tests.conftest import DEMO, PICTURES, Outcome

ANSWERS = {"airplane.jpg": "airplane", "car.jpg": "automobile", "cat.jpg": "cat", "ship.jpg": "ship"}
DEMO_ANSWERS = {"cat.jpg": ("tabby", "Egyptian cat"), "coffee.jpg": ("espresso",)}


@pytest.mark.parametrize("name", BUILT_IN)
def test_checkpoint_and_artifact_are_one_model_and_say_how_they_were_made(name: str) -> None:
    spec = load_checkpoint(built_in(name, ".safetensors")).spec
    with OnnxRuntime(built_in(name, ".onnx")) as runtime:
        artifact = runtime.spec
    for part in ("name", "architecture", "classes", "class_ids", "input"):
        assert getattr(artifact, part) == getattr(spec, part)
    assert spec.name == name
    assert spec.precision == "fp32"
    for found in (spec, artifact):
        (measured,) = found.measured
        assert measured.pictures == 10_000
        for key in ("recipe", "data", "iterations", "machine", "date", "trained_by", "licence"):
            assert found.provenance[key]


def test_the_default_knows_200_of_imagenets_classes_by_name_and_wordnet_id() -> None:
    spec = load_checkpoint(built_in(DEFAULT, ".safetensors")).spec
    _, wordnet_ids = imagenet_classes()
    assert len(set(spec.classes)) == 200
    assert len(set(spec.class_ids or ()) & set(wordnet_ids)) == 200


def test_the_defaults_errors() -> None:
    spec = load_checkpoint(built_in(DEFAULT, ".safetensors")).spec
    with OnnxRuntime(built_in(DEFAULT, ".onnx")) as runtime:
        for found in (spec, runtime.spec):
            (measured,) = found.measured
            assert (measured.dataset, measured.protocol) == ("tiny-imagenet-200/val", "1-crop")
            assert measured.top1_error <= 47
            assert measured.top5_error is not None
            assert measured.top5_error <= 22
        assert runtime.spec.measured[0].top1_error <= spec.measured[0].top1_error + 0.5


def test_the_defaults_artifact_is_int8_without_a_layer_in_float() -> None:
    onnx = pytest.importorskip("onnx", reason="the graph is read by onnx (the extra `export`)")
    graph = onnx.load(built_in(DEFAULT, ".onnx")).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    additions = [node for node in graph.node if node.op_type == "Add"]
    assert len(layers) == 21  # 17 of 3x3 and 7x7, 3 projections, the last
    assert len(additions) == 8
    for node in layers + additions:
        assert [made_by[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2, node.name


def test_the_defaults_artifact_was_made_of_its_checkpoint() -> None:
    """INT8 differs from the network that it was made of by little, and from another one by much."""
    pytest.importorskip("onnx", reason="the checkpoint is exported (the extra `export`)")
    from resnet_infer.models.graph import build_graph
    from resnet_infer.verification.metrics import measure

    checkpoint = load_checkpoint(built_in(DEFAULT, ".safetensors"))
    paths = [*PICTURES.iterdir(), *DEMO.iterdir()]
    images = np.concatenate([ten_crops(read_image(path), checkpoint.spec.input) for path in paths])
    with (
        OnnxRuntime(build_graph(checkpoint).SerializeToString(), device="cpu") as exact,
        OnnxRuntime(built_in(DEFAULT, ".onnx"), device="cpu") as runtime,
    ):
        assert measure(exact(images), runtime(images)).error < 0.04


def test_what_is_shipped_stays_small() -> None:
    assert sum(path.stat().st_size for path in built_in(DEFAULT, "").parent.iterdir()) < 39e6


def test_they_are_right_about_their_pictures() -> None:
    with Classifier(SMALL) as classifier:
        assert {path.name: classifier.classify(path)[0].label for path in PICTURES.iterdir()} == ANSWERS
    with Classifier(DEFAULT) as classifier:
        answers = {path.name: classifier.classify(path)[0].label for path in DEMO.iterdir()}
    assert answers.keys() == DEMO_ANSWERS.keys()
    for name, label in answers.items():
        assert label in DEMO_ANSWERS[name]


def test_inspect_shows_their_cards(cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    out = cli("inspect").out
    for part in (SMALL, "10,000 pictures", "recipe", "iterations", "machine", "airplane, automobile"):
        assert part in out
    monkeypatch.delenv(VARIABLE)
    out = cli("inspect").out
    for part in (DEFAULT, "int8", "10,000 pictures", "tiny-imagenet", "iterations", "goldfish"):
        assert part in out


@pytest.mark.slow
def test_on_cifar_10_checkpoint_and_artifact_agree_and_the_error_is_what_the_spec_says(data_folder: Path) -> None:
    pytest.importorskip("torch", reason="the checkpoint is run by torch (the extra `train`)")
    from resnet_infer.data.datasets import open_dataset
    from resnet_infer.data.preprocess import centre_crop
    from resnet_infer.runtimes.pytorch import TorchRuntime

    archive = data_folder / "cifar10-jpeg.tar.xz"
    if not archive.exists():
        pytest.skip("needs cifar10-jpeg.tar.xz, CIFAR-10 as JPEG files in class folders")
    artifact, checkpoint = OnnxRuntime(built_in(SMALL, ".onnx")), TorchRuntime(built_in(SMALL, ".safetensors"))
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
