import re

import numpy as np
import pytest

from resnet_infer.models.architectures import architecture, count_parameters
from resnet_infer.models.spec import ModelSpec
from resnet_infer.models.weights.published import PUBLISHED, PublishedWeights, find_published, spec_of

EACH = pytest.mark.parametrize("weights", PUBLISHED, ids=lambda weights: weights.name)


def _find(name: str) -> PublishedWeights:
    found = find_published(name)
    assert found is not None
    return found


def test_names_and_hashes_are_distinct() -> None:
    assert len({weights.name for weights in PUBLISHED}) == len(PUBLISHED) == 8
    assert len({weights.sha256_prefix for weights in PUBLISHED}) == 8


@EACH
def test_row(weights: PublishedWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESNET_INFER_WEIGHTS_URL", raising=False)
    assert re.fullmatch(r"[0-9a-f]{8}", weights.sha256_prefix)
    assert weights.url == f"https://download.pytorch.org/models/{weights.arch}-{weights.sha256_prefix}.pth"
    assert count_parameters(architecture(weights.arch)) > 11e6
    assert weights.name.startswith(weights.arch)
    assert 0 < weights.top5_error < weights.top1_error < 31
    assert find_published(weights.name) is weights


def test_errors_are_the_published_accuracies() -> None:
    errors = {weights.name: (weights.top1_error, weights.top5_error) for weights in PUBLISHED}
    assert errors["resnet18.v1"] == (30.242, 10.922)
    assert errors["resnet50.v2"] == (19.142, 4.566)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_deeper_and_newer_is_better_and_a_bare_name_is_the_newest(depth: int) -> None:
    versions = [weights for weights in PUBLISHED if weights.arch == f"resnet{depth}"]
    assert find_published(f"resnet{depth}") is versions[-1] is min(versions, key=lambda weights: weights.top1_error)
    shallower = [w for w in PUBLISHED if int(w.arch[6:]) < depth and w.name[-2:] == versions[0].name[-2:]]
    assert all(versions[0].top1_error < weights.top1_error for weights in shallower)


def test_versions_differ_in_preprocessing() -> None:
    assert (_find("resnet50.v1").resize, _find("resnet50.v2").resize) == (256, 232)
    assert _find(" ResNet-50.V2 ") is _find("resnet50")


@pytest.mark.parametrize("name", ["", "resnet20", "resnet18.v2", "resnet50.v3", "resnet50x", "vgg16"])
def test_unknown_names_find_nothing(name: str) -> None:
    assert find_published(name) is None


def test_a_mirror_takes_the_place_of_the_publisher(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = _find("resnet50.v1")
    monkeypatch.setenv("RESNET_INFER_WEIGHTS_URL", "http://mirror.example/weights/")
    assert weights.url == "http://mirror.example/weights/resnet50-0676ba61.pth"
    assert spec_of(weights).provenance["url"] == "https://download.pytorch.org/models/resnet50-0676ba61.pth"


@EACH
def test_spec(weights: PublishedWeights) -> None:
    spec = spec_of(weights)
    assert ModelSpec.loads(spec.dumps(), "spec") == spec
    assert spec.architecture is not None
    assert spec.architecture.stride_in == ("3x3" if int(weights.arch[6:]) >= 50 else None)
    assert (spec.name, len(spec.classes), spec.classes[1]) == (weights.name, 1000, "goldfish")
    assert spec.class_ids is not None
    assert spec.class_ids[1] == "n01443537"
    assert (spec.input.resize, spec.input.crop, spec.input.exif) == (weights.resize, 224, True)
    assert spec.input.interpolation == "bilinear"
    np.testing.assert_allclose(spec.input.mean, [0.485, 0.456, 0.406], rtol=1e-6)
    np.testing.assert_allclose(spec.input.std, [0.229, 0.224, 0.225], rtol=1e-6)
    (measured,) = spec.measured
    assert (measured.protocol, measured.pictures) == ("1-crop", 50_000)
    assert (measured.top1_error, measured.top5_error) == (weights.top1_error, weights.top5_error)
    assert spec.provenance["licence"] == "BSD-3-Clause"
    assert spec.provenance["source"] == f"torchvision IMAGENET1K_{weights.name[-2:].upper()}"
    assert spec.provenance["sha256_prefix"] == weights.sha256_prefix
