"""Parity of module and graph for every architecture and option, and the ways in which it must fail."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_infer.converters.source import export_onnx
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import ParityError
from resnet_infer.models.architectures import architecture
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.families import published_families
from resnet_infer.models.graph import build_graph
from resnet_infer.models.spec import InputSpec, ModelSpec, Precision
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.verification.metrics import spread
from resnet_infer.verification.parity import Parity, Reference, compare, open_reference
from resnet_infer.verification.tolerances import ENGINES, PARITY, Tolerance, Verdict

Make = Callable[..., Checkpoint]
Photos = Callable[..., NDArray[np.uint8]]
SHORTCUTS = (
    {"shortcut": "A", "padding": "append"},
    {"shortcut": "A", "padding": "split"},
    {"shortcut": "B"},
    {"shortcut": "C"},
)


def variants() -> list[tuple[str, dict[str, str]]]:
    """Every published network with every option it has."""
    found: list[tuple[str, dict[str, str]]] = []
    for family in published_families():
        shortcuts = ({},) if family.plain else SHORTCUTS
        strides = ({"stride_in": "1x1"}, {"stride_in": "3x3"}) if family.block == "bottleneck" else ({},)
        found += [(family.name, {**a, **b}) for a, b in itertools.product(shortcuts, strides)]
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
    assert parity.measured.reference == "the torch module in float64"
    assert parity.measured.relative_delta <= 1e-4
    assert parity.measured.agreement == 1.0


@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("options", [*SHORTCUTS, {"stride_in": "1x1"}])
def test_without_torch_the_unfused_graph_is_the_reference(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], per_pixel: bool
) -> None:
    name, size = ("resnet50", 64) if "stride_in" in options else ("resnet20", 32)
    checkpoint = make_checkpoint(name, size=size, per_pixel=per_pixel, **options)
    monkeypatch.setattr("resnet_infer.verification.parity.find_spec", lambda module: None)
    parity = export_onnx(checkpoint, tmp_path / "model.onnx")
    assert parity.measured.reference == "the unfused graph in float64"
    assert parity.passed


def test_one_changed_weight_fails_the_export(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the graph is built from weights of which one is not the checkpoint's."""
    from resnet_infer.converters import source

    checkpoint = make_checkpoint()
    weights = {name: value.copy() for name, value in checkpoint.weights.items()}
    weights["layer2.1.conv2.weight"][3, 4, 1, 1] += 0.05
    real = build_graph
    monkeypatch.setattr(
        source, "build_graph", lambda _, **options: real(replace(checkpoint, weights=weights), **options)
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


# The reference is float64


def busy(seed: int, classes: int, flatness: float, gamma: tuple[float, float]) -> Checkpoint:
    """A small network with random batch-norm statistics. `flatness` is how little its logits differ by picture."""
    random = np.random.default_rng(seed)
    arch = architecture("resnet20", classes)
    weights = {}
    for name, shape in arch.plan().shapes().items():
        if name.endswith("running_mean") or ("bn" in name and name.endswith("bias")):
            value = random.normal(0, 0.1, shape)
        elif name.endswith("running_var"):
            value = random.uniform(0.5, 1.5, shape)
        elif len(shape) == 1 and name.endswith("weight"):
            value = random.uniform(*gamma, shape)
        else:
            value = random.normal(0, (2 / max(int(np.prod(shape[1:])), 1)) ** 0.5, shape)
        weights[name] = value.astype(np.float32)
    weights["fc.weight"] *= np.float32(flatness)
    spec = ModelSpec(
        "busy", arch, tuple(map(str, range(classes))), InputSpec(32, 32, np.full(3, 0.45), np.full(3, 0.25))
    )
    return Checkpoint(spec, weights)


def remembered(predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A reference that runs the same pictures once."""
    answers: dict[bytes, Any] = {}

    def answer(images: NDArray[np.uint8]) -> Any:
        key = images.tobytes()
        if key not in answers:
            answers[key] = predict(images)
        return answers[key]

    return answer


def judged(checkpoint: Checkpoint, *graphs: dict[str, NDArray[np.float32]]) -> list[Verdict[Parity]]:
    """Parity of the graph of the checkpoint with each of the changes to its weights, on twelve pictures."""
    images, found = natural_noise(12, 32, 32), []
    with open_reference(checkpoint) as opened:
        assert opened.exact is not None
        reference = Reference(opened.name, remembered(opened.source), remembered(opened.exact))
        for changes in graphs:
            graph = build_graph(replace(checkpoint, weights={**checkpoint.weights, **changes}))
            with OnnxRuntime(graph.SerializeToString(), device="cpu", threads=1) as candidate:
                found.append(compare(reference, candidate, images))
    return found


def faults(checkpoint: Checkpoint, place: int) -> dict[str, dict[str, NDArray[np.float32]]]:
    """What may be wrong with one convolution of a graph, and with all."""
    assert checkpoint.spec.architecture is not None
    convs = list(checkpoint.spec.architecture.plan().convs())
    conv, weights = convs[place], checkpoint.weights
    kernel, variance = weights[f"{conv.name}.weight"], weights[f"{conv.norm}.running_var"]
    swapped = kernel.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    variances = {f"{item.norm}.running_var": weights[f"{item.norm}.running_var"] for item in convs}
    return {
        "a kernel a thousandth too large": {f"{conv.name}.weight": kernel * np.float32(1.001)},
        "two channels in each other's place": {f"{conv.name}.weight": swapped},
        "a mean that is not folded in": {f"{conv.norm}.running_mean": np.zeros_like(variance)},
        "a deviation where the variance belongs": {f"{conv.norm}.running_var": np.sqrt(variance)},
        "an epsilon of 1e-3": {name: value + np.float32(1e-3 - 1e-5) for name, value in variances.items()},
    }


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    classes=st.sampled_from([2, 10, 100]),
    flatness=st.sampled_from([1.0, 3e-2, 3e-3]),
    gamma=st.sampled_from([(0.3, 0.9), (0.0, 0.9), (1.0, 1.0)]),
    torch_there=st.booleans(),
    place=st.integers(0, 18),
)
def test_a_right_graph_passes_whatever_the_statistics_and_a_wrong_one_does_not(
    seed: int, classes: int, flatness: float, gamma: tuple[float, float], torch_there: bool, place: int
) -> None:
    if torch_there:
        pytest.importorskip("torch", reason="the extra `train`")
    with pytest.MonkeyPatch.context() as patch:
        if not torch_there:
            patch.setattr("resnet_infer.verification.parity.find_spec", lambda module: None)
        checkpoint = busy(seed, classes, flatness, gamma)
        planted = faults(checkpoint, place)
        right, *wrong = judged(checkpoint, {}, *planted.values())
    assert right.passed, right
    assert right.measured.reference.endswith("in float64")
    assert [name for name, found in zip(planted, wrong, strict=True) if found.passed] == []


def test_the_source_s_own_error_sets_the_tolerance() -> None:
    """Logits that are nearly the same for every picture: float32 is further from the truth than 1e-4 of the spread."""
    flat = busy(0, 10, 1e-4, (0.3, 0.9))
    found, wrong = judged(flat, {}, {"fc.weight": flat.weights["fc.weight"] * np.float32(1.003)})
    own = found.measured.deviation.own_error
    assert own is not None
    assert own > 1e-4
    assert found.measured.largest_delta == pytest.approx(3 * own)
    assert found.passed
    assert f"the source's own in float32 {own:.1e}" in str(found)
    plain = json.loads(json.dumps(found.to_json()))
    assert (plain["own_error"], plain["tolerance"], plain["passed"]) == (own, found.measured.largest_delta, True)
    assert not wrong.passed


def test_numpy_and_torch_evaluate_alike() -> None:
    pytest.importorskip("torch", reason="the extra `train`")
    from resnet_infer.runtimes.pytorch import Float64Network
    from resnet_infer.verification.float64 import Float64Graph

    images = natural_noise(3, 64, 64)
    for name, options in (("resnet20", {}), ("resnet20", {"shortcut": "C"}), ("resnet50", {}), ("plain18", {})):
        size = 32 if name == "resnet20" else 64
        checkpoint = replaced(name, size, options)
        pictures = images[:, :size, :size]
        exact = Float64Network(checkpoint)(pictures)
        for fused, apart in ((False, 1e-8), (True, 1e-4)):
            found = Float64Graph(build_graph(checkpoint, fused=fused))(pictures)
            assert found.dtype == np.float64
            spread = np.std(exact - exact.mean(axis=0))
            assert np.abs(found - exact).max() < apart * max(spread, np.abs(exact).max())


def replaced(name: str, size: int, options: dict[str, Any]) -> Checkpoint:
    arch = architecture(name, 10, **options)
    random = np.random.default_rng(0)
    weights = {
        key: (
            random.uniform(0.5, 1.0, shape) if len(shape) == 1 else random.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        ).astype(np.float32)
        for key, shape in arch.plan().shapes().items()
    }
    spec = ModelSpec(name, arch, tuple("abcdefghij"), InputSpec(size, size, np.full(3, 0.45), np.full(3, 0.25)))
    return Checkpoint(spec, weights)


def test_where_float64_cannot_be_trusted_float32_must_be_met() -> None:
    """A reference in float64 that is not what the source computes must not widen the tolerance."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(9, 10)).astype(np.float32)
    images = np.arange(9, dtype=np.uint8).repeat(12).reshape(9, 2, 2, 3)

    def rows(table: NDArray[Any]) -> Callable[[Any], NDArray[Any]]:
        return lambda batch: table[batch[:, 0, 0, 0]]

    wrong = Reference("x", rows(logits), rows(logits + 0.5 * random.normal(size=logits.shape)))
    found = compare(wrong, rows(logits), images)
    assert found.passed
    assert (found.measured.largest_delta, found.measured.deviation.own_error) == (1e-4, None)
    assert "float64 is more than 0.01 of the spread away" in found.measured.reference
    assert not compare(wrong, rows((logits + 1e-3).astype(np.float32)), images).passed


def test_a_tie_in_the_reference_is_no_disagreement() -> None:
    logits = np.random.default_rng(0).normal(size=(9, 10)).astype(np.float32)
    logits[4, :2] = 9.0
    images = np.arange(9, dtype=np.uint8).repeat(12).reshape(9, 2, 2, 3)
    moved = logits.copy()
    moved[4, 1] += 1e-5
    found = compare(
        Reference("x", lambda batch: logits[batch[:, 0, 0, 0]]), lambda batch: moved[batch[:, 0, 0, 0]], images
    )
    assert (found.passed, found.measured.agreement) == (True, 1.0)


NEAR = 1e-4
"""The difference that PARITY allows, in standard deviations of the logits."""


def exchanged(gap: float, delta: float, own: float = 0.0, tolerance: Tolerance = PARITY) -> Verdict[Parity]:
    """Parity where two classes of one picture change places; all in standard deviations of the logits.

    In the reference they are the first, `gap` apart; the candidate moves each by `delta` towards the other's side. With
    `own` the reference is float64, and the source itself is that far from it.
    """
    logits = np.random.default_rng(0).normal(size=(7, 10))
    logits[4, :2] = 5.0
    unit = spread(logits)
    logits[4, 0] += gap * unit
    moved, source = logits.copy(), logits.copy()
    moved[4, :2] += np.array([-delta, delta]) * unit
    source[0, 5] += own * unit
    assert (logits[4].argmax(), moved[4].argmax()) == (0, 1)
    images = np.arange(7, dtype=np.uint8).repeat(12).reshape(7, 2, 2, 3)
    single, candidate = source.astype(np.float32), moved.astype(np.float32)
    reference = Reference(
        "x", lambda batch: single[batch[:, 0, 0, 0]], (lambda batch: logits[batch[:, 0, 0, 0]]) if own else None
    )
    return compare(reference, lambda batch: candidate[batch[:, 0, 0, 0]], images, tolerance=tolerance)


@pytest.mark.parametrize(
    ("gap", "delta", "own"),
    [
        (0.5 * NEAR, 0.9 * NEAR, 0.0),
        (1.7 * NEAR, 0.9 * NEAR, 0.0),  # each moves as far as is allowed
        (5.0 * NEAR, 2.7 * NEAR, NEAR),  # three times the source's own error is allowed
    ],
)
def test_two_classes_that_the_allowed_differences_exchange_agree(gap: float, delta: float, own: float) -> None:
    found = exchanged(gap, delta, own)
    assert (found.passed, found.measured.agreement) == (True, 1.0), found


@pytest.mark.parametrize(("gap", "delta", "own"), [(2.2 * NEAR, 1.2 * NEAR, 0.0), (9.0 * NEAR, 4.6 * NEAR, NEAR)])
def test_two_classes_that_are_further_apart_disagree(gap: float, delta: float, own: float) -> None:
    found = exchanged(gap, delta, own)
    assert found.measured.agreement == pytest.approx(6 / 7)
    assert [reason for reason in found.failures if "85.71% of the answers agree" in reason]


def test_where_less_than_full_agreement_is_asked_for_every_exchange_counts() -> None:
    found = exchanged(0.5 * NEAR, 0.9 * NEAR, tolerance=replace(PARITY, agreement=0.8))
    assert found.passed
    assert found.measured.agreement == pytest.approx(6 / 7)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_of_another_program_only_clear_answers_count(precision: Precision) -> None:
    """Where several answers are near ties, a sound engine gives another for more than a tenth of the images."""
    limits = ENGINES[precision]
    assert limits.delta
    logits = np.random.default_rng(0).normal(size=(20, 10))
    logits[:5, :2] = 4.0
    logits[5:, 2] = 4.0
    unit = spread(logits)
    logits[:5, 0] += 0.4 * limits.delta * unit
    moved = logits.copy()
    moved[:5, 1] += 0.6 * limits.delta * unit  # a quarter of the answers, none of them clear
    images = np.arange(20, dtype=np.uint8).repeat(12).reshape(20, 2, 2, 3)

    def judged(candidate: Any) -> Verdict[Parity]:
        values = [rows.astype(np.float32) for rows in (logits, candidate)]
        source, other = (lambda batch, rows=rows: rows[batch[:, 0, 0, 0]] for rows in values)
        return compare(Reference("x", source), other, images, tolerance=limits)

    found = judged(moved)
    assert found.passed, found
    assert (found.measured.agreement, found.measured.clear) == (1.0, 15)
    assert "top-1 agreement 100.0% of 15 clear answers" in str(found)
    assert found.to_json()["clear"] == 15
    moved[5:8, 3] = 9.0  # three clear answers, which no rounding changes
    wrong = judged(moved)
    assert not wrong.passed
    assert [reason for reason in wrong.failures if "80.00% of the 15 clear answers agree" in reason]


def test_where_no_answer_is_clear_the_differences_alone_decide() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 10)).astype(np.float32)
    logits[:, 1] = logits[:, 0] = 9
    images = np.arange(5, dtype=np.uint8).repeat(12).reshape(5, 2, 2, 3)
    for added, passed in ((0.0, True), (3.0, False)):
        found = compare(
            Reference("x", lambda batch: logits[batch[:, 0, 0, 0]]),
            lambda batch, added=added: logits[batch[:, 0, 0, 0]] + np.float32(added),  # type: ignore[misc]
            images,
            tolerance=ENGINES["int8"],
        )
        assert (found.passed, found.measured.clear, found.measured.agreement) == (passed, 0, 1.0)
