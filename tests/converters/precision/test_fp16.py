"""FP16 graphs: valid, in half precision all through, right in their answers, and FP32 where half precision ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="FP16 graphs need onnx (the extra `export`)")
pytest.importorskip("onnxruntime", reason="FP16 graphs need onnxruntime (the extra `cpu`)")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from resnet_infer import zoo  # noqa: E402
from resnet_infer.converters.importers.onnx import import_onnx  # noqa: E402
from resnet_infer.converters.precision import fp16  # noqa: E402
from resnet_infer.converters.precision.canonicalise import canonicalise  # noqa: E402
from resnet_infer.converters.precision.fp16 import to_fp16  # noqa: E402
from resnet_infer.converters.precision.fp16_graph import emulate  # noqa: E402
from resnet_infer.data.synthetic import natural_noise  # noqa: E402
from resnet_infer.errors import ModelError, UsageError  # noqa: E402
from resnet_infer.models.checkpoint import Checkpoint  # noqa: E402
from resnet_infer.models.graph import build_graph  # noqa: E402
from resnet_infer.models.spec import METADATA_KEY, ModelSpec  # noqa: E402
from resnet_infer.runtimes.base import Images, Logits  # noqa: E402
from resnet_infer.runtimes.onnxruntime import OnnxRuntime  # noqa: E402
from resnet_infer.verification.gates import judge  # noqa: E402
from resnet_infer.verification.metrics import Cost, measure  # noqa: E402
from resnet_infer.verification.tolerances import GATES  # noqa: E402
from tests.converters.importers.test_onnx import HEADS, LABELS, OPTIONS, foreign, save  # noqa: E402

Make = Callable[..., Checkpoint]
Photos = Callable[..., NDArray[np.uint8]]
VARIANTS: tuple[Any, ...] = (
    {"shortcut": "A", "padding": "append"},
    {"shortcut": "A", "padding": "split"},
    {"shortcut": "B"},
    {"shortcut": "C"},
    {"per_pixel": True},
    {"name": "plain20"},
    pytest.param({"name": "resnet50", "size": 64, "stride_in": "1x1"}, marks=pytest.mark.slow),
)
LAYER = "layer2.1.conv1"


def answers(model: Any, images: Images) -> Logits:
    with OnnxRuntime(model.SerializeToString(), device="cpu", spin=False) as runtime:
        return runtime(images)


def cost(model: Any, half: Any, images: Images) -> Cost:
    """Of the graph in half precision with every rounding that a CPU would leave out."""
    return measure(answers(model, images), answers(emulate(half), images))


def weights(model: Any) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def kinds(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


def check_sorted(graph: Any) -> None:
    known = {item.name for item in (*graph.input, *graph.initializer)} | {""}
    for node in graph.node:
        assert known.issuperset(node.input), f"{node.name} comes before what it reads"
        known.update(node.output)


def scaled(model: Any, factor: float) -> Any:
    """The same function, but what `LAYER` puts out is `factor` times as large, and the weights that read it smaller."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    block = LAYER.removesuffix(".conv1")
    for tensor in changed.graph.initializer:
        by = {f"{LAYER}.weight": factor, f"{LAYER}.bias": factor, f"{block}.conv2.weight": 1 / factor}.get(tensor.name)
        if by:
            value = numpy_helper.to_array(tensor) * np.float32(by)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return changed


@pytest.fixture(scope="module")
def built_in() -> Any:
    """A trained network."""
    return onnx.load(zoo.built_in(zoo.SMALL, ".onnx"))


@pytest.fixture(scope="module")
def pictures() -> Images:
    return natural_noise(64, 32, 32, seed=3)


def test_a_trained_network_answers_alike(built_in: Any, pictures: Images) -> None:
    half = to_fp16(built_in)
    assert not half.kept
    reference, rounded = answers(built_in, pictures), answers(emulate(half.model), pictures)
    relative = np.abs(rounded - reference).max() / np.std(reference - reference.mean(axis=0))
    assert 1e-4 < relative < 2e-2  # half precision is seen, and costs little
    assert judge(measure(reference, rounded), GATES["fp16"]).passed
    with OnnxRuntime(half.model.SerializeToString(), device="cpu", spin=False) as runtime:
        assert runtime.spec.precision == "fp16"
        assert judge(measure(reference, runtime(pictures)), GATES["fp16"]).passed
    assert half.model.ByteSize() < 0.6 * built_in.ByteSize()


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options.values())))
def test_every_kind_of_network_is_in_half_precision_all_through(
    make_checkpoint: Make, photos: Photos, options: dict[str, Any]
) -> None:
    checkpoint = make_checkpoint(**{"name": "resnet20", **options})
    model = build_graph(checkpoint)
    half = to_fp16(model)
    assert not half.kept
    graph = half.model.graph
    onnx.checker.check_model(half.model, full_check=True)
    check_sorted(graph)
    assert [item.version for item in half.model.opset_import] == [17]
    assert [item.type.tensor_type.elem_type for item in (*graph.input, *graph.output)] == [
        TensorProto.UINT8,
        TensorProto.FLOAT,
    ]
    assert {value.dtype for value in weights(half.model).values()} <= {np.dtype("f2"), np.dtype("i8")}
    # TensorRT reads uint8 only where a cast comes first; another cast gives the logits.
    assert kinds(half.model) == [*kinds(model), "Cast"]
    assert (graph.node[0].op_type, graph.node[0].input[0]) == ("Cast", "images")
    found = onnx.shape_inference.infer_shapes(half.model, strict_mode=True).graph.value_info
    assert {item.type.tensor_type.elem_type for item in found} == {TensorProto.FLOAT16}
    assert judge(cost(model, half.model, photos(16, checkpoint.spec.input.crop, seed=1)), GATES["fp16"]).passed


def test_height_and_width_stay_open(make_checkpoint: Make, photos: Photos) -> None:
    model = build_graph(make_checkpoint(), dynamic_size=True)
    half = to_fp16(model, images=photos(4, 40)).model
    for size in (32, 48):
        assert judge(cost(model, half, photos(12, size, seed=1)), GATES["fp16"]).passed


@pytest.mark.parametrize(
    ("factor", "reason"),
    [(2.0**16, "conv1.out reaches"), (2.0**24, "weight reaches"), (2.0**-24, "weight would lose")],
    ids=["activations", "weights", "flushed"],
)
def test_what_leaves_the_range_is_named_and_stays_in_fp32(
    built_in: Any, pictures: Images, monkeypatch: pytest.MonkeyPatch, factor: float, reason: str
) -> None:
    model = scaled(built_in, factor)
    half = to_fp16(model)
    block = LAYER.removesuffix(".conv1")
    assert LAYER in half.kept
    assert half.kept.keys() <= {LAYER, f"{block}.relu1", f"{block}.conv2"}
    assert any(reason in text for text in half.kept.values())
    assert LAYER in str(half)
    check_sorted(half.model.graph)
    assert judge(cost(model, half.model, pictures), GATES["fp16"]).passed
    # The control: the same network without the search.
    monkeypatch.setattr(fp16, "HEADROOM", 0.0)
    monkeypatch.setattr(fp16, "_unfit", lambda name, weight: None)
    with np.errstate(over="ignore"):
        blind = to_fp16(model)
    assert not blind.kept
    assert not judge(cost(model, blind.model, pictures), GATES["fp16"]).passed


def test_pictures_that_overflow_are_seen_in_any_batch(built_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((11, 32, 32, 3), np.uint8)
    images[10] = natural_noise(1, 32, 32)[0]
    monkeypatch.setattr(fp16, "BATCH", 4)
    reached = fp16.largest(built_in, ["relu1.out"], images)["relu1.out"]
    assert reached == pytest.approx(fp16.largest(built_in, ["relu1.out"], images[10:])["relu1.out"], rel=1e-5)
    assert reached > 1.5 * fp16.largest(built_in, ["relu1.out"], images[:10])["relu1.out"]


def test_a_network_that_does_not_fit_at_all_is_refused(built_in: Any) -> None:
    layers = [node.name for node in built_in.graph.node if node.op_type in ("Conv", "Gemm")]
    with pytest.raises(ModelError, match=r"no layer of resnet20-cifar10 fits FP16 \(.*asked for"):
        to_fp16(built_in, keep=layers)


def test_layers_can_be_kept(built_in: Any, pictures: Images) -> None:
    half = to_fp16(built_in, keep=["conv1", "fc"])
    assert half.kept == {"conv1": "asked for", "fc": "asked for"}
    names = weights(half.model)
    assert names["conv1.weight"].dtype == names["fc.weight"].dtype == np.float32
    assert names["layer1.0.conv1.weight"].dtype == np.float16
    # In front of and behind the first layer, and in front of the last.
    assert len(half.model.graph.node) == len(built_in.graph.node) + 3
    assert judge(cost(built_in, half.model, pictures), GATES["fp16"]).passed


def test_what_makes_no_sense_is_refused(built_in: Any) -> None:
    with pytest.raises(UsageError, match=r"no node 'conv2'; did you mean"):
        to_fp16(built_in, keep=["conv2"])
    with pytest.raises(UsageError, match="is fp16 already"):
        to_fp16(to_fp16(built_in).model)
    with pytest.raises(ModelError, match="no model spec"):
        to_fp16(helper.make_model(built_in.graph))


@pytest.mark.parametrize("head", HEADS)
def test_adopted_graphs(tmp_path: Path, photos: Photos, head: str) -> None:
    target = tmp_path / "adopted.onnx"
    import_onnx(save(foreign(head=head), tmp_path), target, options=OPTIONS, labels=LABELS)
    model = onnx.load(target)
    half = to_fp16(model)
    check_sorted(half.model.graph)
    images = photos(24, 24)
    assert judge(cost(model, half.model, images), GATES["fp16"]).passed
    left = {"softmax-flatten": ["Softmax", "Flatten", "Max", "Log"], "log-softmax": ["LogSoftmax", "Identity"]}.get(
        head, []
    )
    operators = {node.name: node.op_type for node in canonicalise(model).graph.node}
    assert [operators[name] for name in half.kept] == left


def test_the_emulation_is_what_the_definition_of_onnx_gives(tmp_path: Path, photos: Photos) -> None:
    target = tmp_path / "adopted.onnx"
    import_onnx(save(foreign(head="logits"), tmp_path), target, options=OPTIONS, labels=LABELS)
    model = onnx.load(target)
    half = to_fp16(model).model
    images = photos(4, 24)
    (defined,) = ReferenceEvaluator(half).run(None, {"images": images})
    assert isinstance(defined, np.ndarray)
    emulated, exact = answers(emulate(half), images), answers(model, images)
    assert defined.dtype == np.float32
    # They differ where a sum, taken in another order, is rounded to the other neighbour.
    assert np.abs(emulated - defined).mean() < 0.5 * np.abs(emulated - exact).mean()


def custom(spec: ModelSpec) -> Any:
    """A graph with an operator of another domain, a branch that reads from outside, and a constant among the nodes."""
    rng = np.random.default_rng(0)
    branch = (
        [helper.make_node("Add", ["t1", "shift"], ["shifted"])],
        [helper.make_node("Mul", ["t1", "t1"], ["squared"])],
    )
    open_shape = helper.make_tensor_value_info
    then, other = (
        helper.make_graph(nodes, name, [], [open_shape(name, TensorProto.FLOAT, ["N", 4, 32, 32])])
        for nodes, name in zip(branch, ("shifted", "squared"), strict=True)
    )
    nodes = [
        helper.make_node("Cast", ["images"], ["t0"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["t0"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w0"], ["t1"], pads=[1] * 4),
        helper.make_node("If", ["yes"], ["t2"], then_branch=then, else_branch=other),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Mul", ["t2", "half"], ["t3"]),
        helper.make_node("Conv", ["t3", "w1"], ["t4"]),
        helper.make_node("Celu", ["t4"], ["t5"]),
        helper.make_node("GlobalAveragePool", ["t5"], ["t6"]),
        helper.make_node("QuickGelu", ["t6"], ["t7"], domain="com.microsoft", alpha=1.0),
        helper.make_node("Flatten", ["t7"], ["logits"]),
    ]
    values = {
        "w0": rng.normal(0, 0.01, (4, 3, 3, 3)).astype("f4"),
        "w1": rng.normal(0, 0.3, (len(spec.classes), 4, 3, 3)).astype("f4"),
        "shift": np.array(0.25, "f4"),
        "yes": np.array(True),
    }
    graph = helper.make_graph(
        nodes,
        "custom",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(spec.classes)])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: spec.dumps()})
    return model


def test_what_has_no_half_form_stays_in_fp32(built_in: Any, pictures: Images) -> None:
    text = next(item.value for item in built_in.metadata_props if item.key == METADATA_KEY)
    model = custom(ModelSpec.loads(text, "the built-in").with_(architecture=None))
    half = to_fp16(model)
    # What the branch reads, the branch, an operator of ONNX for float32 alone, one of another domain.
    assert half.kept.keys() >= {"t1", "t2", "t5", "t7"}
    assert weights(half.model)["w1"].dtype == np.float16
    check_sorted(half.model.graph)
    assert judge(cost(model, half.model, pictures), GATES["fp16"]).passed
