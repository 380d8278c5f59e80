"""INT8 graphs answer as their FP32 nets, ruined ones do not, and what is odd is treated with care."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="INT8 needs onnx (the extra `export`)")
pytest.importorskip("onnxruntime", reason="INT8 needs onnxruntime (the extra `cpu`)")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from resnet_infer import zoo  # noqa: E402
from resnet_infer.converters.importers.onnx import import_onnx  # noqa: E402
from resnet_infer.converters.precision.calibration import Calibration, calibrate  # noqa: E402
from resnet_infer.converters.precision.int8 import cpu_weight_bits, layers, quantize  # noqa: E402
from resnet_infer.converters.precision.placement import Target  # noqa: E402
from resnet_infer.converters.precision.ranges import Method  # noqa: E402
from resnet_infer.data.synthetic import natural_noise  # noqa: E402
from resnet_infer.errors import ModelError, UsageError  # noqa: E402
from resnet_infer.models.checkpoint import load_checkpoint  # noqa: E402
from resnet_infer.models.graph import build_graph, set_spec  # noqa: E402
from resnet_infer.models.spec import METADATA_KEY, InputSpec, ModelSpec  # noqa: E402
from resnet_infer.runtimes.base import Images  # noqa: E402
from resnet_infer.verification.gates import judge  # noqa: E402
from resnet_infer.verification.metrics import Cost, measure  # noqa: E402
from resnet_infer.verification.tolerances import GATES  # noqa: E402
from tests.converters.importers.test_onnx import LABELS, OPTIONS, foreign, save  # noqa: E402
from tests.converters.precision.test_placement import Graph, answers, calibrated, check_weights, narrow  # noqa: E402

Photos = Callable[..., NDArray[np.uint8]]
TARGETS, METHODS = get_args(Target), get_args(Method)


@pytest.fixture(scope="module")
def trained(photos: Photos) -> tuple[Any, Calibration]:
    """The built-in network."""
    return calibrated(load_checkpoint(zoo.built_in(zoo.SMALL, ".safetensors")), photos(48, 32))


def cost(trained: tuple[Any, Calibration], images: Images, calibration: Calibration | None = None, **more: Any) -> Cost:
    model, own = trained
    return measure(answers(model, images), answers(quantize(model, calibration or own, **more), images))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", TARGETS)
def test_it_answers_as_the_fp32_net(
    trained: tuple[Any, Calibration], photos: Photos, target: Target, method: Method
) -> None:
    images = photos(64, 32, seed=3)
    found = cost(trained, images, target=target, method=method)
    assert judge(found, GATES["int8"]).passed
    assert found.error < 0.01


@pytest.mark.parametrize("target", TARGETS)
def test_ruined_ranges_ruin_the_answers(trained: tuple[Any, Calibration], photos: Photos, target: Target) -> None:
    """The negative control of every gate."""
    images = photos(64, 32, seed=3)
    calibration = trained[1]
    sound = cost(trained, images, target=target)
    for factor in (0.1, 30):
        ruined = cost(trained, images, calibration.scaled(factor), target=target)
        assert not judge(ruined, GATES["int8"]).passed
        assert ruined.error > 0.2
    one = cost(trained, images, calibration.scaled(0.1, ["layer2.1.relu1.out"]), target=target)
    assert ruined.error > one.error > sound.error + 0.002


@pytest.mark.parametrize("classes", [(3, 5), (1, 9), (2, 6)])
@pytest.mark.parametrize("pictures", [16, 64])
def test_two_of_the_classes_pass_and_fail_as_all_do(
    trained: tuple[Any, Calibration], photos: Photos, classes: tuple[int, int], pictures: int
) -> None:
    """A network of two classes, its two logits one the negative of the other."""
    model, calibration = trained
    images = photos(pictures, 32, seed=3)

    def halved(graph: Any) -> NDArray[np.float32]:
        first, second = (answers(graph, images)[:, number] for number in classes)
        halves: NDArray[np.float32] = np.stack([first - second, second - first], axis=1) / np.float32(2)
        return halves

    reference = halved(model)
    for target in TARGETS:
        assert judge(measure(reference, halved(quantize(model, calibration, target=target))), GATES["int8"]).passed
    for tensor in ("relu1.out", "layer2.0.relu.out", "layer3.2.relu.out"):
        wrong = quantize(model, calibration.scaled(0.1, [tensor]), target="cpu")
        assert not judge(measure(reference, halved(wrong)), GATES["int8"]).passed


def test_seven_bits_do_not_saturate_sixteen(trained: tuple[Any, Calibration], photos: Photos) -> None:
    model, calibration = trained
    graph = Graph(quantize(model, calibration, target="cpu", weight_bits=7))
    check_weights(graph, limit=64)
    assert 2 * 255 * 64 < 2**15
    assert judge(cost(trained, photos(64, 32, seed=3), target="cpu", weight_bits=7), GATES["int8"]).passed


@pytest.mark.parametrize("target", TARGETS)
def test_layers_stay_in_float_if_asked(trained: tuple[Any, Calibration], photos: Photos, target: Target) -> None:
    model, calibration = trained
    images = photos(8, 32)
    names = layers(model)
    assert len(names) == 19 + 9 + 1
    kept = ["conv1", "layer2.0.conv2", "layer3.1.add", "fc"]
    graph = Graph(quantize(model, calibration, target=target, float_nodes=kept))
    for name in ("conv1", "layer2.0.conv2", "fc"):
        assert graph.constants[graph.named[name].input[1]].dtype == np.float32
    assert graph.kind(graph.named["conv1"].input[0]) == "Sub"
    others = [node for node in graph.of("Conv", "Gemm") if node.name not in kept]
    assert all(graph.dequantized(node.input[1]) is not None for node in others)
    assert measure(answers(model, images), answers(graph.model, images)).error < 0.02
    # With everything in float it is the FP32 net again.
    whole = quantize(model, calibration, target=target, float_nodes=names)
    assert np.abs(answers(whole, images) - answers(model, images)).max() < 1e-4
    assert not Graph(whole).of("QuantizeLinear", "DequantizeLinear")
    with pytest.raises(UsageError, match=r"no layer 'layer2\.0\.conv' to leave in float; did you mean layer2\.0\.conv"):
        quantize(model, calibration, target=target, float_nodes=["layer2.0.conv"])


def test_the_bias_makes_up_for_rounded_weights(trained: tuple[Any, Calibration], photos: Photos) -> None:
    """Without the correction, what rounding adds on average goes through all layers."""
    _, calibration = trained
    images = photos(48, 32)
    none = replace(calibration, means={name: (0.0,) * len(means) for name, means in calibration.means.items()})
    costs = [cost(trained, images, ranges, target="cpu", weight_bits=7) for ranges in (calibration, none)]
    assert costs[0].error < 0.8 * costs[1].error


def test_the_spec_says_what_was_done(trained: tuple[Any, Calibration]) -> None:
    model, calibration = trained
    before = {item.key: item.value for item in model.metadata_props}
    result = quantize(model, calibration, target="cpu", method="entropy", weight_bits=7, float_nodes=["fc"])
    after = {item.key: item.value for item in result.metadata_props}
    source, spec = (ModelSpec.loads(values[METADATA_KEY], "graph") for values in (before, after))
    assert (spec.precision, spec.measured, spec.classes) == ("int8", (), source.classes)
    assert spec.provenance["quantization"] == {
        "target": "cpu",
        "method": "entropy",
        "weight_bits": 7,
        "pictures": 48,
        "sha256": calibration.sha256,
        "float_nodes": ["fc"],
    }
    assert {key: value for key, value in spec.provenance.items() if key != "quantization"} == source.provenance
    assert len(result.SerializeToString()) < 0.32 * len(model.SerializeToString())
    with pytest.raises(ModelError, match="is int8 already"):
        quantize(result, calibration, target="cpu")


def test_what_makes_no_sense(trained: tuple[Any, Calibration]) -> None:
    model, calibration = trained
    for wrong in ({"target": "gpu"}, {"target": "cpu", "method": "mean"}, {"target": "cpu", "weight_bits": 4}):
        with pytest.raises(UsageError, match="no quantisation for"):
            quantize(model, calibration, **wrong)
    with pytest.raises(ModelError, match="measured on another net"):
        quantize(model, narrow("resnet18", ())[1], target="cpu")


def test_a_calibration_serves_any_size_of_picture(photos: Photos) -> None:
    checkpoint = load_checkpoint(zoo.built_in(zoo.SMALL, ".safetensors"))
    geometry = replace(checkpoint.spec.input, mean=checkpoint.spec.input.mean.mean(axis=(0, 1)))
    checkpoint = replace(checkpoint, spec=checkpoint.spec.with_(input=geometry))
    calibration = calibrated(checkpoint, photos(32, 32))[1]
    free = build_graph(checkpoint, dynamic_size=True)
    images = photos(16, 57)[:, :40]
    for target in TARGETS:
        found = measure(answers(free, images), answers(quantize(free, calibration, target=target), images))
        assert found.error < 0.02


def test_weights_on_the_edge_of_nothing(trained: tuple[Any, Calibration], photos: Photos) -> None:
    """A channel without weight is its bias; one with hardly any must not overflow its bias."""
    checkpoint = load_checkpoint(zoo.built_in(zoo.SMALL, ".safetensors"))
    weights = {name: value.copy() for name, value in checkpoint.weights.items()}
    for channel, value in enumerate((0, 1e-30, 1e-12, 1e-9)):
        weights["layer1.0.conv1.weight"][channel] *= value
        weights["layer1.0.bn1.running_var"][channel] = 1
        weights["layer1.0.bn1.bias"][channel] = 3
    images = photos(32, 32)
    edge = calibrated(replace(checkpoint, weights=weights), images)
    for target in TARGETS:
        assert cost(edge, images, target=target).error < 0.02


@pytest.mark.parametrize("opset", [11, 17])
def test_an_adopted_graph(tmp_path: Path, opset: int) -> None:
    """Batch norm as nodes, constants that reshape, no names: all of its layers become integer."""
    import_onnx(save(foreign(opset=opset), tmp_path), tmp_path / "adopted.onnx", options=OPTIONS, labels=LABELS)
    model = onnx.load(tmp_path / "adopted.onnx")
    images = natural_noise(32, 24, 24)
    ranges = calibrate(model, ((str(index), image) for index, image in enumerate(images)))
    assert len(layers(model)) == 3
    for target in TARGETS:
        graph = Graph(quantize(model, ranges, target=target))
        assert not graph.of("BatchNormalization")
        assert all(graph.dequantized(node.input[1]) is not None for node in graph.of("Conv", "Gemm", "MatMul"))
        assert measure(answers(model, images), answers(graph.model, images)).error < 0.04


def test_what_is_not_known_stays_in_float(tmp_path: Path) -> None:
    """Clip, Concat and Sigmoid between layers, zeros around numbers of both signs, a MatMul, an addition of int64."""
    random = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "w1": random.normal(size=(8, 3, 3, 3)) / 500,
        "w2": random.normal(size=(6, 16, 1, 1)) / 4,
        "w3": random.normal(size=(6, 4)),
        "low": np.array(0.0),
        "high": np.array(2.0),
    }
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    constants["pads"] = np.array([0, 0, 3, 3, 0, 0, 3, 3])
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", ["images"], "f", {"to": TensorProto.FLOAT}),
        ("Transpose", ["f"], "x", {"perm": [0, 3, 1, 2]}),
        ("Conv", ["x", "w1"], "c1", {"pads": [1, 1, 1, 1]}),
        ("Clip", ["c1", "low", "high"], "r1", {}),
        ("Sigmoid", ["r1"], "s", {}),
        ("Concat", ["r1", "s"], "cat", {"axis": 1}),
        ("Conv", ["cat", "w2"], "c2", {}),
        ("Pad", ["c2", "pads"], "p", {}),
        ("GlobalAveragePool", ["p"], "g", {}),
        ("Shape", ["g"], "shape", {}),
        ("Add", ["shape", "shape"], "twice", {}),
        ("Sub", ["twice", "shape"], "once", {}),
        ("Reshape", ["g", "once"], "same", {}),
        ("Flatten", ["same"], "flat", {}),
        ("MatMul", ["flat", "w3"], "logits", {}),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output], **more) for kind, inputs, output, more in steps],
        "odd",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 16, 16, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    set_spec(model, ModelSpec("odd", None, tuple("abcd"), InputSpec(16, 16, np.zeros(3), np.ones(3))))
    images = natural_noise(32, 16, 16)
    ranges = calibrate(model, ((str(index), image) for index, image in enumerate(images)))
    assert layers(model) == ["c1", "c2", "logits"]
    for target in TARGETS:
        result = quantize(model, ranges, target=target)
        assert measure(answers(model, images), answers(result, images)).error < 0.06
        assert all(Graph(result).dequantized(Graph(result).named[name].input[1]) is not None for name in layers(model))


def test_the_bits_of_weights_follow_the_processor() -> None:
    for flag in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"):
        assert cpu_weight_bits({"fpu", flag}) == 8
    assert cpu_weight_bits({"fpu", "avx2", "avx512f"}) == cpu_weight_bits(()) == 7
    assert cpu_weight_bits() in (7, 8)
