"""Parity of module and graph for every architecture and option, and the ways in which it must fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_infer.converters.export import export_onnx
from resnet_infer.converters.parity import Reference, compare
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import ParityError
from resnet_infer.models.architectures import IMAGENET, IMAGENET_PLAIN, architecture
from resnet_infer.models.checkpoint import Checkpoint

Make = Callable[..., Checkpoint]
Photos = Callable[..., NDArray[np.uint8]]
SHORTCUTS = (
    {"shortcut": "A", "padding": "append"},
    {"shortcut": "A", "padding": "split"},
    {"shortcut": "B"},
    {"shortcut": "C"},
)


def variants() -> list[tuple[str, dict[str, str]]]:
    """Every network of the paper with every option it has."""
    found: list[tuple[str, dict[str, str]]] = []
    for depth in IMAGENET:
        strides = ({"stride_in": "1x1"}, {"stride_in": "3x3"}) if depth >= 50 else ({},)
        found += [(f"resnet{depth}", {**a, **b}) for a, b in itertools.product(SHORTCUTS, strides)]
    found += [(f"resnet{depth}", dict(option)) for depth in (20, 32, 44, 56, 110, 1202) for option in SHORTCUTS]
    found += [(f"plain{depth}", {}) for depth in (*IMAGENET_PLAIN, 20, 32, 44, 56, 110)]
    return found


def is_quick(name: str, options: dict[str, str]) -> bool:
    """In the everyday tests: all that is shallow, and one of each option of a bottleneck."""
    corner = options in ({"shortcut": "B", "stride_in": "3x3"}, {"shortcut": "C", "stride_in": "1x1"})
    return architecture(name).depth < 50 or name == "plain56" or (name == "resnet50" and corner)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(n, o, marks=[] if is_quick(n, o) else pytest.mark.slow, id="-".join([n, *o.values()]))
        for n, o in variants()
    ],
)
def test_module_and_graph_agree(
    make_checkpoint: Make, photos: Photos, tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    imagenet = architecture(name).family.stem == "imagenet"
    size = 64 if imagenet else 32
    checkpoint = make_checkpoint(name, size=size, **options)
    parity = export_onnx(checkpoint, tmp_path / "model.onnx", images=photos(16, size, seed=1))
    assert parity.reference == "the torch module in float64"
    assert parity.relative_delta <= 1e-4
    assert parity.agreement == 1.0


@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("options", [*SHORTCUTS, {"stride_in": "1x1"}])
def test_without_torch_the_unfused_graph_is_the_reference(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], per_pixel: bool
) -> None:
    name, size = ("resnet50", 64) if "stride_in" in options else ("resnet20", 32)
    checkpoint = make_checkpoint(name, size=size, per_pixel=per_pixel, **options)
    monkeypatch.setattr("resnet_infer.converters.parity.find_spec", lambda module: None)
    parity = export_onnx(checkpoint, tmp_path / "model.onnx")
    assert parity.reference == "the unfused graph in float64"
    assert parity.passed


def test_one_changed_weight_fails_the_export(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the graph is built from weights of which one is not the checkpoint's."""
    from resnet_infer.converters import export

    checkpoint = make_checkpoint()
    weights = {name: value.copy() for name, value in checkpoint.weights.items()}
    weights["layer2.1.conv2.weight"][3, 4, 1, 1] += 0.05
    real = export.build_graph
    monkeypatch.setattr(
        export, "build_graph", lambda _, **options: real(replace(checkpoint, weights=weights), **options)
    )
    target = tmp_path / "model.onnx"
    target.write_bytes(b"the artifact of yesterday")
    with pytest.raises(ParityError, match="does not answer as its source does"):
        export_onnx(checkpoint, target)
    assert target.read_bytes() == b"the artifact of yesterday"
    assert list(tmp_path.iterdir()) == [target]


def test_a_network_that_says_the_same_of_everything_proves_nothing(make_checkpoint: Make, tmp_path: Path) -> None:
    good = make_checkpoint()
    weights = {**good.weights, "fc.weight": np.zeros_like(good.weights["fc.weight"])}
    with pytest.raises(ParityError, match="nothing can be compared"):
        export_onnx(replace(good, weights=weights), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e-3])
def test_one_wrong_logit_is_seen(value: float) -> None:
    images = natural_noise(9, 8, 8)
    logits = np.random.default_rng(0).normal(size=(9, 10)).astype(np.float32)
    served: dict[str, int] = {"expected": 0, "actual": 0}

    def answer(who: str, table: NDArray[np.float32]) -> Callable[[Any], NDArray[np.float32]]:
        def predict(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            start = served[who]
            served[who] += len(batch)
            return table[start : served[who]]

        return predict

    wrong = logits.copy()
    wrong[7, 3] += value
    assert not compare(Reference("x", answer("expected", logits)), answer("actual", wrong), images).passed
    served.update(expected=0, actual=0)
    assert compare(Reference("x", answer("expected", logits)), answer("actual", logits), images).passed
