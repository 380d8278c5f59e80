"""Two models side by side: what is measured, what passes, and where two graphs part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.data.feed import Feed, open_feed
from resnet_infer.errors import ModelError, UsageError
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime

onnx = pytest.importorskip("onnx", reason="the extra `export`")

from resnet_infer.models.graph import build_graph  # noqa: E402
from resnet_infer.runtimes.onnxruntime import OnnxRuntime  # noqa: E402
from resnet_infer.verification.comparison import (  # noqa: E402
    Comparison,
    compare,
    judge_logits,
    lower_precision,
    require_comparable,
)
from resnet_infer.verification.layers import compare_layers, literal_graph, open_graph  # noqa: E402
from resnet_infer.verification.tolerances import LAYER_LIMITS, LIMITS, Verdict  # noqa: E402
from tests.conftest import PICTURES  # noqa: E402

ARTIFACT, CHECKPOINT = zoo.built_in(zoo.SMALL, ".onnx"), zoo.built_in(zoo.SMALL, ".safetensors")
Make = Callable[..., Checkpoint]
Table = NDArray[np.float32]


def logits_of(seed: int = 0, pictures: int = 40, classes: int = 10) -> Table:
    return np.random.default_rng(seed).normal(size=(pictures, classes)).astype(np.float32)


def against(reference: Table, model: Table, precision: str = "fp32") -> Verdict[Comparison]:
    names = [f"{index}.jpg" for index in range(len(reference))]
    classes = [f"class {index}" for index in range(reference.shape[1])]
    return judge_logits(model, reference, names=names, classes=classes, limits=LIMITS[precision])


# What is measured


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 50.0]), shift=st.sampled_from([0.0, 7.0, -90.0]))
def test_all_is_relative_to_the_spread_of_the_reference(seed: int, scale: float, shift: float) -> None:
    reference, noise = logits_of(seed), logits_of(seed + 5000)
    plain = against(reference, reference + 0.01 * noise)
    factor, moved = np.float32(scale), np.float32(shift)
    scaled = against(factor * (reference + moved), factor * (reference + np.float32(0.01) * noise + moved))
    assert scaled.measured.relative_max == pytest.approx(plain.measured.relative_max, rel=2e-2)
    assert scaled.measured.relative_mean == pytest.approx(plain.measured.relative_mean, rel=2e-2)
    assert scaled.measured.error == pytest.approx(plain.measured.error, rel=2e-2)
    assert scaled.measured.clear == plain.measured.clear
    assert plain.measured.max_delta == pytest.approx(0.01 * np.abs(noise).max(), rel=1e-4)
    assert plain.measured.spread == pytest.approx(np.std(reference - reference.mean(axis=0)), rel=1e-5)


def test_the_same_logits_pass_whatever_the_precision() -> None:
    for precision in LIMITS:
        same = against(logits_of(), logits_of(), precision)
        assert (same.passed, same.failures, same.measured.disagreements) == (True, (), ())
        assert (same.measured.max_delta, same.measured.agreement, same.measured.clear_agreement) == (0, 1, 1)
        assert same.measured.error == same.measured.largest_error == 0


@pytest.mark.parametrize(
    ("noise", "passing"),
    [
        (1e-5, {"fp32", "tf32", "fp16", "bf16", "int8"}),
        (1e-3, {"tf32", "fp16", "bf16", "int8"}),
        (2e-2, {"bf16", "int8"}),
        (1e-1, {"int8"}),
        (5e-1, set()),
    ],
)
def test_each_precision_allows_what_it_costs_and_no_more(noise: float, passing: set[str]) -> None:
    reference = logits_of(pictures=500)
    model = reference + noise * logits_of(seed=1, pictures=500)
    assert {precision for precision in LIMITS if against(reference, model, precision).passed} == passing


def test_an_answer_that_hangs_on_rounding_may_change_and_is_told() -> None:
    reference = logits_of()
    order = reference[7].argsort()
    reference[7, order[-2]] = reference[7, order[-1]] - 1e-4
    model = reference.copy()
    model[7, order[-2]] += 3e-4
    found = against(reference, model, "fp16")
    assert found.passed
    assert (found.measured.agreement, found.measured.clear_agreement) == (39 / 40, 1)
    (told,) = found.measured.disagreements
    assert (told.picture, told.reference, told.model) == ("7.jpg", f"class {order[-1]}", f"class {order[-2]}")
    assert told.margin == pytest.approx(1e-4, rel=0.1)


def test_a_clear_answer_that_changes_fails_however_close_all_others_are() -> None:
    reference = logits_of(pictures=4000)
    clearest = int(np.ptp(np.sort(reference, axis=1)[:, -2:], axis=1).argmax())
    model = reference.copy()
    model[clearest] = np.roll(model[clearest], 1)
    found = against(reference, model, "fp16")
    assert found.measured.error < 2e-3
    assert not found.passed
    assert "of the" in found.failures[-1]
    assert found.measured.disagreements[0].picture == f"{clearest}.jpg"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", LIMITS)
def test_logits_that_are_not_finite_never_pass_and_make_valid_json(value: float, precision: str) -> None:
    wrong = logits_of()
    wrong[3, 2] = value
    for reference, model, message in (
        (logits_of(), wrong, "the model's logits are not finite"),
        (wrong, logits_of(), "nothing can be compared"),
        (wrong, wrong, "nothing can be compared"),
    ):
        found = against(reference, model, precision)
        assert not found.passed
        assert message in found.failures[0]
        plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert (plain["passed"], plain["max_delta"]) == (False, None)
    assert "3.jpg" in [item.picture for item in against(logits_of(), wrong, precision).measured.disagreements]


def test_a_reference_that_says_the_same_of_everything_proves_nothing() -> None:
    same = np.repeat(logits_of(pictures=1), 12, axis=0)
    found = against(same, same)
    assert not found.passed
    assert "nothing can be compared" in found.failures[0]


def test_the_verdict_is_in_words_and_in_json() -> None:
    reference = logits_of()
    found = against(reference, reference + 0.5 * logits_of(1))
    assert str(found).startswith("FAIL on 40 pictures: max |logit delta| ")
    assert "1e-04 is allowed" in str(found)
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["relative_max"] == found.measured.relative_max
    assert plain["limits"] == {"delta": 1e-4, "error": None, "agreement": 1.0, "own_error": True}
    assert plain["disagreements"][0].keys() == {"picture", "reference", "model", "margin"}
    assert str(against(reference, reference)).startswith("PASS on 40 pictures")


# Two runtimes


class Watched(Runtime):
    """A runtime that notes what it is given."""

    name: ClassVar[str] = "watched"

    def __init__(self, runtime: Runtime, precision: str | None = None) -> None:
        super().__init__(runtime.spec, runtime.device, runtime.size, precision)
        self.runtime, self.seen = runtime, list[Images]()
        self.described = {"precision": precision} if precision else {}

    def _run(self, images: Images) -> Logits:
        self.seen.append(images)
        return self.runtime(images)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), **self.described}


@pytest.fixture
def feed() -> Feed:
    return open_feed(None, load_checkpoint(CHECKPOINT).spec, count=21)


def test_both_are_given_the_same_pictures_once(feed: Feed) -> None:
    done: list[int] = []
    with (
        OnnxRuntime(ARTIFACT, device="cpu", threads=1) as fast,
        OnnxRuntime(ARTIFACT, device="cpu", threads=1, optimize=False) as literal,
    ):
        first, second = Watched(fast), Watched(literal)
        found = compare(first, second, feed, batch_size=8, advance=done.append)
    assert found.passed
    assert (found.measured.pictures, found.measured.limits) == (21, LIMITS["fp32"])
    assert [len(batch) for batch in first.seen] == done == [8, 8, 5]
    for own, other in zip(first.seen, second.seen, strict=True):
        np.testing.assert_array_equal(own, other)


def test_the_lower_precision_of_the_two_sets_the_limits(feed: Feed) -> None:
    with OnnxRuntime(ARTIFACT, device="cpu", threads=1) as runtime:
        for own, other, lower in (
            (None, None, "fp32"),
            ("tf32", None, "tf32"),
            (None, "fp16", "fp16"),
            ("int8", "bf16", "int8"),
        ):
            pair = Watched(runtime, own), Watched(runtime, other)
            assert lower_precision(*pair) == lower_precision(*reversed(pair)) == lower
            assert compare(*pair, feed).measured.limits == LIMITS[lower]


def test_two_pictures_are_the_least() -> None:
    with (
        OnnxRuntime(ARTIFACT, device="cpu", threads=1) as runtime,
        pytest.raises(UsageError, match="at least two pictures"),
    ):
        compare(runtime, runtime, open_feed(None, runtime.spec, count=1))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_torch_in_every_precision_passes_its_own_limits(feed: Feed, precision: Any) -> None:
    pytest.importorskip("torch", reason="the extra `train`")
    from resnet_infer.runtimes.pytorch import TorchRuntime

    with (
        TorchRuntime(CHECKPOINT, device="cpu", precision=precision, fused=True) as model,
        OnnxRuntime(ARTIFACT, device="cpu", threads=1) as reference,
    ):
        found = compare(model, reference, feed)
        assert found.passed, found
        assert found.measured.limits == LIMITS[precision]
        assert (found.measured.relative_max > 1e-4) == (precision != "fp32")


# What cannot be compared


def spec() -> ModelSpec:
    return load_checkpoint(CHECKPOINT).spec


def test_other_classes_are_an_error_that_names_them() -> None:
    own = spec()
    other = own.with_(architecture=None, classes=("airplane", *own.classes[1:-1], "lorry"))
    with pytest.raises(UsageError, match="only the first knows truck; only the second knows lorry"):
        require_comparable(own, other)
    with pytest.raises(UsageError, match="the same, but in another order"):
        require_comparable(own, own.with_(classes=own.classes[::-1]))
    require_comparable(own, own)


def test_ids_go_before_names() -> None:
    ids = tuple(f"n{index:08}" for index in range(10))
    names = tuple(f"another {index}" for index in range(10))
    own = spec().with_(class_ids=ids)
    require_comparable(own, own.with_(classes=names))
    with pytest.raises(UsageError, match="only the first knows n00000009"):
        require_comparable(own, own.with_(class_ids=(*ids[:9], "n00000042")))
    with pytest.raises(UsageError, match="different classes"):
        require_comparable(own, spec().with_(classes=names))


@pytest.mark.parametrize(
    "change", [{"resize": 36}, {"resize": 48, "crop": 40}, {"interpolation": "bicubic"}, {"exif": False}]
)
def test_another_geometry_is_an_error_that_shows_both(change: dict[str, Any]) -> None:
    own = spec().with_(input=replace(spec().input, mean=np.zeros(3)))
    other = own.with_(input=replace(own.input, **change))
    with pytest.raises(UsageError, match="see different parts of a picture: shorter side to 32") as caught:
        require_comparable(own, other)
    assert caught.value.message.count("crop") == 2
    # What the graph does to the pixels is part of what is compared.
    require_comparable(own, own.with_(input=replace(own.input, mean=np.full(3, 0.5), std=np.full(3, 2.0))))


# Layer by layer


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def album(checkpoint: Checkpoint) -> Feed:
    return open_feed(PICTURES, checkpoint.spec, count=2)


@pytest.mark.parametrize("options", [{}, {"shortcut": "C", "per_pixel": True}])
def test_every_layer_of_the_fused_graph_is_found_in_the_literal_one(
    make_checkpoint: Make, options: dict[str, Any]
) -> None:
    checkpoint = make_checkpoint("resnet8", **options)
    feed = open_feed(PICTURES, checkpoint.spec)
    done: list[int] = []
    found = compare_layers(
        build_graph(checkpoint), literal_graph(checkpoint), feed, limit=LAYER_LIMITS["fp32"], advance=done.append
    )
    assert done == [1] * found.measured.pictures == [1] * 4
    assert found.measured.first is None
    assert all(layer.relative < 1e-5 and layer.cosine > 0.99999 for layer in found.measured.layers)
    assert checkpoint.spec.architecture is not None
    names = [layer.name for layer in found.measured.layers]
    convs = [conv.name for conv in checkpoint.spec.architecture.plan().convs()]
    assert [name for name in names if name in convs] == convs
    assert names[-1] == "logits"
    assert {"subtract_mean.scaled", "divide_std", "conv1.raw"} <= set(found.measured.unmatched)


@pytest.mark.parametrize("place", ["conv1", "layer2.1.conv2", "fc"])
def test_one_changed_weight_is_found_at_its_layer(checkpoint: Checkpoint, album: Feed, place: str) -> None:
    weights = {name: value.copy() for name, value in checkpoint.weights.items()}
    weights[f"{place}.weight"].flat[-1] += 0.05 * np.abs(weights[f"{place}.weight"]).max() + 0.02
    wrong = build_graph(replace(checkpoint, weights=weights))
    for reference in (build_graph(checkpoint), literal_graph(checkpoint)):
        found = compare_layers(wrong, reference, album, limit=LAYER_LIMITS["fp32"])
        assert found.measured.first is not None
        assert found.measured.first.name == ("logits" if place == "fc" else place)
    before = [layer for layer in found.measured.layers if layer.relative <= LAYER_LIMITS["fp32"]]
    assert found.measured.layers[: len(before)] == tuple(before)  # whatever comes after it differs too


def test_what_is_not_finite_differs_and_makes_valid_json(checkpoint: Checkpoint, album: Feed) -> None:
    model = build_graph(checkpoint)
    (bias,) = (item for item in model.graph.initializer if item.name == "layer2.0.conv1.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] = np.nan
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    found = compare_layers(model, build_graph(checkpoint), album, limit=0.5)
    assert found.measured.first is not None
    assert found.measured.first.name == "layer2.0.conv1"
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["first"] == "layer2.0.conv1"


def quantised(model: Any, tensor: str, scale: float) -> Any:
    """`model` with the tensor through 8 bits before the next nodes see it."""
    model = type(model).FromString(model.SerializeToString())
    helper = onnx.helper
    values = {f"{tensor}.scale": np.float32(scale), f"{tensor}.zero": np.int8(0)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v), name) for name, v in values.items())
    place = next(index for index, node in enumerate(model.graph.node) if tensor in node.output) + 1
    for node in list(model.graph.node)[place:]:
        for index, name in enumerate(node.input):
            if name == tensor:
                node.input[index] = f"{tensor}.float"
    model.graph.node.insert(place, helper.make_node("QuantizeLinear", [tensor, *values], [f"{tensor}.int"]))
    back = helper.make_node("DequantizeLinear", [f"{tensor}.int", *values], [f"{tensor}.float"])
    model.graph.node.insert(place + 1, back)
    return model


@pytest.mark.parametrize(("scale", "passes"), [(0.05, True), (2.0, False)])
def test_a_quantised_tensor_is_compared_as_the_next_layer_sees_it(
    checkpoint: Checkpoint, album: Feed, scale: float, passes: bool
) -> None:
    graph = build_graph(checkpoint)
    model = quantised(graph, "layer1.1.relu.out", scale)
    onnx.checker.check_model(model)
    found = compare_layers(model, graph, album, limit=LAYER_LIMITS["int8"])
    relative = {layer.name: layer.relative for layer in found.measured.layers}
    assert (found.measured.first is None) == passes
    if not passes:
        assert found.measured.first is not None
        assert found.measured.first.name == "layer1.1.relu"
    assert relative["layer1.1.add"] == 0 < relative["layer1.1.relu"]
    # A quantised reference is read in the same way.
    assert all(layer.relative == 0 for layer in compare_layers(model, model, album, limit=0).measured.layers)


def test_half_precision_is_compared_as_numbers(checkpoint: Checkpoint, album: Feed) -> None:
    graph = build_graph(checkpoint)
    model = type(graph).FromString(graph.SerializeToString())
    fc = next(index for index, node in enumerate(model.graph.node) if node.name == "fc")
    node = model.graph.node[fc]
    for name in node.input[1:]:
        (weight,) = (item for item in model.graph.initializer if item.name == name)
        half = onnx.numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(onnx.numpy_helper.from_array(half, name))
    make, kind = onnx.helper.make_node, onnx.TensorProto
    before = make("Cast", [node.input[0]], ["flatten.half"], to=kind.FLOAT16)
    node.input[0], node.output[0] = "flatten.half", "fc.half"
    model.graph.node.insert(fc, before)
    model.graph.node.append(make("Cast", ["fc.half"], ["logits"], to=kind.FLOAT))
    found = compare_layers(model, graph, album, limit=LAYER_LIMITS["fp16"])
    assert found.measured.first is None
    assert 1e-5 < found.measured.layers[-1].relative < 1e-2
    assert found.measured.layers[-2].relative == 0


def test_layers_of_another_shape_or_name_have_no_counterpart(make_checkpoint: Make, album: Feed) -> None:
    ten, seven = (build_graph(make_checkpoint("resnet8", classes=count)) for count in (10, 7))
    found = compare_layers(seven, ten, album, limit=1.0)
    assert found.measured.unmatched == ("logits",)
    for node in seven.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}.other" if name.endswith(".out") or name == "logits" else name for name in names]
    seven.graph.output[0].name = "logits.other"
    with pytest.raises(UsageError, match="no tensor of the same name"):
        compare_layers(seven, ten, album, limit=1.0)


def test_a_graph_is_opened_from_an_artifact_or_a_checkpoint(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(checkpoint, tmp_path / "model.safetensors")
    kinds = [
        [node.op_type for node in islice(open_graph(path).graph.node, 8)]
        for path in (ARTIFACT, tmp_path / "model.safetensors")
    ]
    assert "BatchNormalization" not in kinds[0]
    assert "BatchNormalization" in kinds[1]
    with pytest.raises(UsageError, match=r"model\.engine has no layers to be seen"):
        open_graph(tmp_path / "model.engine")
    (tmp_path / "damaged.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match=r"damaged\.onnx: its graph is damaged"):
        open_graph(tmp_path / "damaged.onnx")
