"""Published and recorded figures stand beside the pictures that they were measured on, and beside no others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer import zoo
from resnet_infer.evaluation.data_identity import KNOWN, belongs, identity
from resnet_infer.models.spec import InputSpec, Measured, ModelSpec, imagenet_classes

NAMES, IDS = imagenet_classes()
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
GEOMETRY = InputSpec(resize=8, crop=8, mean=np.zeros(3, np.float32), std=np.ones(3, np.float32))


def spec(classes: tuple[str, ...], ids: tuple[str, ...] | None = None) -> ModelSpec:
    return ModelSpec("net", None, classes, GEOMETRY, class_ids=ids)


SETS = {
    "ImageNet validation": (spec(NAMES, IDS), 50, "imagenet/val"),
    "CIFAR-10 test": (spec(CIFAR10), 1000, "cifar10/test"),
    "Tiny ImageNet validation": (spec(NAMES[:200], IDS[:200]), 50, "tiny-imagenet-200/val"),
}


@pytest.mark.parametrize(
    ("model", "title"),
    [("resnet18-tinyimagenet", "Tiny ImageNet validation"), ("resnet20-cifar10", "CIFAR-10 test")],
)
def test_the_built_in_models_know_their_own_sets(model: str, title: str) -> None:
    known = zoo.checkpoint(model).spec
    assert identity(known, np.repeat(np.arange(len(known.classes)), KNOWN[title].each), "pictures") == title


def test_every_known_set_has_its_pictures() -> None:
    counts = {title: known.each * len(SETS[title][0].classes) for title, known in KNOWN.items()}
    assert counts == {"ImageNet validation": 50_000, "CIFAR-10 test": 10_000, "Tiny ImageNet validation": 10_000}


@pytest.mark.parametrize("title", SETS)
def test_the_whole_set_is_known_in_any_order_and_nothing_else_is(title: str) -> None:
    net, each, name = SETS[title]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(net.classes)), each))
    assert identity(net, labels, name) == title
    assert identity(net, labels, "pictures") == title
    assert identity(net, labels[1:], name) is None  # one was skipped
    assert identity(net, np.append(labels[1:], (labels[0] + 1) % len(net.classes)), name) is None
    assert identity(net, labels[labels < len(net.classes) // 2], name) is None
    assert identity(net, labels, "somewhere/train") is None
    others = spec(tuple(f"class {number}" for number in range(len(net.classes))))
    assert identity(others, labels, name) is None


@given(st.sampled_from(list(SETS)), st.integers(1, 400), st.integers(0, 1000))
def test_a_part_of_a_set_is_not_the_set(title: str, count: int, seed: int) -> None:
    net, _, name = SETS[title]
    labels = np.random.default_rng(seed).integers(0, len(net.classes), count)
    assert identity(net, labels, name) is None


@pytest.mark.parametrize(
    ("dataset", "pictures", "counted", "name", "known", "expected"),
    [
        ("ImageNet validation (published)", 50_000, 50_000, "mine/val", "ImageNet validation", True),
        ("ImageNet validation (published)", 50_000, 50_000, "mine/val", None, False),
        ("ImageNet validation (published)", 50_000, 20, "imagenette/val", None, False),
        ("cifar10/test", 10_000, 10_000, "test", "CIFAR-10 test", True),
        ("cifar10/test", 10_000, 10_000, "other/test", None, False),
        ("cifar10/test", 10_000, 300, "cifar10/test", None, False),
        ("cifar100/test", 10_000, 10_000, "cifar100/test", None, True),
        ("tiny-imagenet-200/val", 10_000, 10_000, "val", "Tiny ImageNet validation", True),
        ("flowers/test", 120, 120, "flowers/test", None, True),
        ("flowers/test", 120, 120, "test", None, True),
        ("flowers/test", 120, 119, "flowers/test", None, False),
        ("flowers/test", 120, 120, "weeds/test", None, False),
    ],
)
def test_a_recorded_error_belongs_to_its_own_pictures(
    dataset: str, pictures: int, counted: int, name: str, known: str | None, expected: bool
) -> None:
    assert belongs(Measured(dataset, "1-crop", pictures, 10.0), counted, name, known) is expected
