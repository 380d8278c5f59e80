"""INT8 graphs: what is integer and where, that they answer as their FP32 nets, and that ruined ones do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="INT8 needs onnx (the extra `export`)")
onnxruntime = pytest.importorskip("onnxruntime", reason="INT8 needs onnxruntime (the extra `cpu`)")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from resnet_infer import zoo  # noqa: E402
from resnet_infer.converters.adopt import adopt_onnx  # noqa: E402
from resnet_infer.converters.calibrate import Calibration, calibrate  # noqa: E402
from resnet_infer.converters.guard import GATES, Cost, measure  # noqa: E402
from resnet_infer.converters.placement import Target  # noqa: E402
from resnet_infer.converters.quantize import cpu_weight_bits, layers, quantize  # noqa: E402
from resnet_infer.converters.ranges import Method  # noqa: E402
from resnet_infer.data.synthetic import natural_noise  # noqa: E402
from resnet_infer.errors import ModelError, UsageError  # noqa: E402
from resnet_infer.models.architectures import Architecture, Family, architecture  # noqa: E402
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint  # noqa: E402
from resnet_infer.models.graph import build_graph, set_spec  # noqa: E402
from resnet_infer.models.spec import METADATA_KEY, InputSpec, ModelSpec  # noqa: E402
from resnet_infer.runtimes.base import Images, Logits  # noqa: E402
from resnet_infer.runtimes.onnxruntime import OnnxRuntime  # noqa: E402
from tests.converters.test_adopt import LABELS, OPTIONS, foreign, save  # noqa: E402

Photos = Callable[..., NDArray[np.uint8]]
TARGETS, METHODS = get_args(Target), get_args(Method)
NETS: tuple[tuple[str, dict[str, str]], ...] = (
    *((f"resnet{depth}", {}) for depth in (18, 34, 50, 101, 152)),
    ("resnet18", {"shortcut": "A"}),
    ("resnet50", {"shortcut": "C", "stride_in": "1x1"}),
    ("resnet20", {"shortcut": "A", "padding": "append"}),
    ("resnet20", {"shortcut": "A", "padding": "split"}),
    ("resnet20", {"shortcut": "B"}),
    ("plain20", {}),
)


class Graph:
    """A quantised graph, to ask what is where."""

    def __init__(self, model: Any) -> None:
        self.model, self.nodes = model, list(model.graph.node)
        self.named = {node.name: node for node in self.nodes}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}

    def kind(self, tensor: str) -> str:
        """The operator that makes a tensor."""
        return self.makers[tensor].op_type if tensor in self.makers else "constant"

    def of(self, *kinds: str) -> list[Any]:
        return [node for node in self.nodes if node.op_type in kinds]

    def readers(self, tensor: str) -> list[Any]:
        return [node for node in self.nodes if tensor in node.input]

    def dequantized(self, tensor: str) -> NDArray[Any] | None:
        """The integers behind a tensor that a DequantizeLinear makes of a constant."""
        node = self.makers.get(tensor)
        return self.constants.get(node.input[0]) if node is not None and node.op_type == "DequantizeLinear" else None

    def zero_points(self) -> dict[str, Any]:
        """Of activations: name of the quantised tensor -> zero point."""
        return {node.output[0]: self.constants[node.input[2]] for node in self.of("QuantizeLinear")}


def calibrated(checkpoint: Checkpoint, images: Images) -> tuple[Any, Calibration]:
    model = build_graph(checkpoint)
    return model, calibrate(model, ((str(index), image) for index, image in enumerate(images)))


@cache
def narrow(name: str, options: tuple[tuple[str, str], ...]) -> tuple[Any, Calibration]:
    """A network of full depth with few channels and random weights."""
    with pytest.MonkeyPatch.context() as patch:
        family = Architecture.family.fget  # type: ignore[attr-defined]

        def thin(self: Architecture) -> Family:
            found: Family = family(self)
            return replace(found, widths=tuple(4 * 2**index for index in range(len(found.widths))))

        patch.setattr(Architecture, "family", property(thin))
        arch = architecture(name, 5, **dict(options))
        random = np.random.default_rng(0)
        weights = {
            key: np.full(shape, 0.5)
            if key.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight"))
            else random.normal(0, 0.1 if len(shape) == 1 else np.sqrt(2 / np.prod(shape[1:])), shape)
            for key, shape in arch.plan().shapes().items()
        }
        size = 64 if arch.plan().max_pool else 32
        spec = ModelSpec(name, arch, tuple("abcde"), InputSpec(size, size, np.full(3, 0.5), np.full(3, 0.25)))
        checkpoint = Checkpoint(spec, {key: value.astype(np.float32) for key, value in weights.items()})
        return calibrated(checkpoint, natural_noise(4, size, size))


@pytest.fixture(scope="module")
def trained(photos: Photos) -> tuple[Any, Calibration]:
    """The built-in network."""
    return calibrated(load_checkpoint(zoo.built_in(zoo.DEFAULT, ".safetensors")), photos(48, 32))


def answers(model: Any, images: Images) -> Logits:
    with OnnxRuntime(model.SerializeToString(), device="cpu") as runtime:
        return runtime(images)


def optimised(model: Any, folder: Path) -> Counter[str]:
    """How often each operator is in what ONNX Runtime's CPU provider makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def check_weights(graph: Graph, limit: int = 127) -> None:
    """int8 with a scale per output channel, used to the full; no float weight is left in the file."""
    for node in graph.of("Conv", "Gemm"):
        integers = graph.dequantized(node.input[1])
        assert integers is not None
        assert integers.dtype == np.int8
        channels = np.abs(integers.astype(int)).reshape(len(integers), -1).max(axis=1)
        assert channels.max() == limit
        scale = graph.constants[graph.makers[node.input[1]].input[1]]
        assert scale.shape == channels.shape
        assert not graph.constants[graph.makers[node.input[1]].input[2]].any()
    assert max(value.ndim for value in graph.constants.values() if value.dtype == np.float32) < 4 or all(
        value.shape[1] == 3 for value in graph.constants.values() if value.dtype == np.float32 and value.ndim == 4
    )
    for relu in graph.of("Relu"):
        assert graph.kind(relu.input[0]) in ("Conv", "Add"), "nothing stands between a layer and its ReLU"


@pytest.mark.parametrize(("name", "options"), NETS, ids=["-".join([name, *more.values()]) for name, more in NETS])
def test_for_the_cpu_everything_is_integer(name: str, options: dict[str, str], tmp_path: Path) -> None:
    model, calibration = narrow(name, tuple(options.items()))
    graph = Graph(quantize(model, calibration, target="cpu"))
    check_weights(graph)
    blocks = sum(node.op_type == "Add" for node in model.graph.node)
    assert blocks == (0 if "plain" in name else sum(f".add{end}" in f"{n.name}$" for n in graph.nodes for end in "$"))
    for node in graph.of("Conv", "Gemm"):
        assert graph.kind(node.input[0]) == "DequantizeLinear"
        bias = graph.dequantized(node.input[2])
        assert bias is not None
        assert bias.dtype == np.int32
    for node in graph.of("Add"):
        assert [graph.kind(name) for name in node.input] == ["DequantizeLinear"] * 2
    for relu in graph.of("Relu"):
        assert [node.op_type for node in graph.readers(relu.output[0])] == ["QuantizeLinear"]
        assert graph.zero_points()[f"{relu.output[0]}.quantized"] == 0
    assert {value.dtype for value in graph.zero_points().values()} == {np.dtype(np.uint8)}
    # What ONNX Runtime makes of it has no float between the pictures' mean and the last layer.
    found = optimised(graph.model, tmp_path)
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert (found["QLinearConv"], found["QLinearAdd"], found["QGemm"]) == (convolutions, blocks, 1)
    assert found["QLinearGlobalAveragePool"] == found["QuantizeLinear"] == 1
    assert not found.keys() & {"Conv", "FusedConv", "Add", "Relu", "Gemm", "DequantizeLinear", "GlobalAveragePool"}


@pytest.mark.parametrize(("name", "options"), NETS, ids=["-".join([name, *more.values()]) for name, more in NETS])
def test_for_tensorrt_convolution_addition_and_relu_stay_together(name: str, options: dict[str, str]) -> None:
    model, calibration = narrow(name, tuple(options.items()))
    graph = Graph(quantize(model, calibration, target="tensorrt"))
    check_weights(graph)
    for node in graph.of("Conv", "Gemm"):
        assert graph.kind(node.input[0]) == "DequantizeLinear"
        assert graph.constants[node.input[2]].dtype == np.float32
    for node in graph.of("Add"):
        block = node.name.removesuffix(".add")
        main, shortcut = node.input
        assert graph.makers[main].op_type == "Conv"
        assert len(graph.readers(main)) == 1
        assert graph.kind(shortcut) == "DequantizeLinear"
        source = shortcut.removesuffix(".dequantized")
        if f"{block}.downsample.0" in graph.named:
            assert source == f"{block}.downsample.0.out"
        elif f"{block}.shortcut.pad" in graph.named:
            assert source == f"{block}.shortcut.pad.out"
        else:
            assert shortcut == graph.named[f"{block}.conv1"].input[0]
    assert all(value.dtype == np.int8 and not value for value in graph.zero_points().values())
    for relu in graph.of("Relu"):
        # Of the last one floats are averaged.
        kinds = {node.op_type for node in graph.readers(relu.output[0])}
        assert kinds in ({"QuantizeLinear"}, {"MaxPool"}, {"GlobalAveragePool"})
    onnx.checker.check_model(graph.model, full_check=True)
    assert answers(
        graph.model, natural_noise(2, *[model.graph.input[0].type.tensor_type.shape.dim[1].dim_value] * 2)
    ).any()


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
    assert found.passes(GATES["int8"])
    assert found.cosine > 0.995


@pytest.mark.parametrize("target", TARGETS)
def test_ruined_ranges_ruin_the_answers(trained: tuple[Any, Calibration], photos: Photos, target: Target) -> None:
    """The negative control of every gate."""
    images = photos(64, 32, seed=3)
    calibration = trained[1]
    sound = cost(trained, images, target=target)
    for factor in (0.1, 30):
        ruined = cost(trained, images, calibration.scaled(factor), target=target)
        assert not ruined.passes(GATES["int8"])
        assert ruined.cosine < 0.9
    one = cost(trained, images, calibration.scaled(0.1, ["layer2.1.relu1.out"]), target=target)
    assert ruined.cosine < one.cosine < sound.cosine - 0.001


def test_seven_bits_do_not_saturate_sixteen(trained: tuple[Any, Calibration], photos: Photos) -> None:
    model, calibration = trained
    graph = Graph(quantize(model, calibration, target="cpu", weight_bits=7))
    check_weights(graph, limit=64)
    assert 2 * 255 * 64 < 2**15
    assert cost(trained, photos(64, 32, seed=3), target="cpu", weight_bits=7).passes(GATES["int8"])


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
    assert measure(answers(model, images), answers(graph.model, images)).cosine > 0.99
    # With everything in float it is the FP32 net again.
    whole = quantize(model, calibration, target=target, float_nodes=names)
    assert np.abs(answers(whole, images) - answers(model, images)).max() < 1e-4
    assert not Graph(whole).of("QuantizeLinear", "DequantizeLinear")
    with pytest.raises(UsageError, match=r"no layer 'layer2\.0\.conv' to leave in float; did you mean layer2\.0\.conv"):
        quantize(model, calibration, target=target, float_nodes=["layer2.0.conv"])


def test_the_bias_makes_up_for_rounded_weights(photos: Photos) -> None:
    """Without the correction, what rounding adds on average goes through all layers."""
    model, calibration = narrow("resnet50", ())
    images = natural_noise(8, 64, 64, seed=5)
    none = replace(calibration, means={name: (0.0,) * len(means) for name, means in calibration.means.items()})
    shifts = []
    for ranges in (calibration, none):
        found = answers(quantize(model, ranges, target="tensorrt", weight_bits=7), images)
        shifts.append(np.abs((found - answers(model, images)).mean(axis=0)).mean())
    assert shifts[0] < 0.5 * shifts[1]


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
            quantize(model, calibration, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="measured on another net"):
        quantize(model, narrow("resnet18", ())[1], target="cpu")


def test_a_calibration_serves_any_size_of_picture(trained: tuple[Any, Calibration], photos: Photos) -> None:
    _, calibration = trained
    checkpoint = load_checkpoint(zoo.built_in(zoo.DEFAULT, ".safetensors"))
    free = build_graph(checkpoint, dynamic_size=True)
    images = photos(16, 57)[:, :40]
    for target in TARGETS:
        found = measure(answers(free, images), answers(quantize(free, calibration, target=target), images))
        assert found.cosine > 0.95


def test_weights_on_the_edge_of_nothing(trained: tuple[Any, Calibration], photos: Photos) -> None:
    """A channel without weight is its bias; one with hardly any must not overflow its bias."""
    checkpoint = load_checkpoint(zoo.built_in(zoo.DEFAULT, ".safetensors"))
    weights = {name: value.copy() for name, value in checkpoint.weights.items()}
    for channel, value in enumerate((0, 1e-30, 1e-12, 1e-9)):
        weights["layer1.0.conv1.weight"][channel] *= value
        weights["layer1.0.bn1.running_var"][channel] = 1
        weights["layer1.0.bn1.bias"][channel] = 3
    images = photos(32, 32)
    edge = calibrated(replace(checkpoint, weights=weights), images)
    for target in TARGETS:
        assert cost(edge, images, target=target).cosine > 0.99


@pytest.mark.parametrize("opset", [11, 17])
def test_an_adopted_graph(tmp_path: Path, opset: int) -> None:
    """Batch norm as nodes, constants that reshape, no names: all of its layers become integer."""
    adopt_onnx(save(foreign(opset=opset), tmp_path), tmp_path / "adopted.onnx", options=OPTIONS, labels=LABELS)
    model = onnx.load(tmp_path / "adopted.onnx")
    images = natural_noise(32, 24, 24)
    ranges = calibrate(model, ((str(index), image) for index, image in enumerate(images)))
    assert len(layers(model)) == 3
    for target in TARGETS:
        graph = Graph(quantize(model, ranges, target=target))
        assert not graph.of("BatchNormalization")
        assert all(graph.dequantized(node.input[1]) is not None for node in graph.of("Conv", "Gemm", "MatMul"))
        assert measure(answers(model, images), answers(graph.model, images)).cosine > 0.98


def test_what_is_not_known_stays_in_float(tmp_path: Path) -> None:
    """Clip, Concat and Sigmoid between layers, a MatMul, and an addition of int64."""
    random = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "w1": random.normal(size=(8, 3, 3, 3)) / 500,
        "w2": random.normal(size=(6, 16, 1, 1)) / 4,
        "w3": random.normal(size=(6, 4)),
        "low": np.array(0.0),
        "high": np.array(2.0),
    }
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", ["images"], "f", {"to": TensorProto.FLOAT}),
        ("Transpose", ["f"], "x", {"perm": [0, 3, 1, 2]}),
        ("Conv", ["x", "w1"], "c1", {"pads": [1, 1, 1, 1]}),
        ("Clip", ["c1", "low", "high"], "r1", {}),
        ("Sigmoid", ["r1"], "s", {}),
        ("Concat", ["r1", "s"], "cat", {"axis": 1}),
        ("Conv", ["cat", "w2"], "c2", {}),
        ("Relu", ["c2"], "r2", {}),
        ("GlobalAveragePool", ["r2"], "g", {}),
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
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    set_spec(model, ModelSpec("odd", None, tuple("abcd"), InputSpec(16, 16, np.zeros(3), np.ones(3))))
    images = natural_noise(32, 16, 16)
    ranges = calibrate(model, ((str(index), image) for index, image in enumerate(images)))
    assert layers(model) == ["c1", "c2", "logits"]
    for target in TARGETS:
        result = quantize(model, ranges, target=target)
        assert measure(answers(model, images), answers(result, images)).cosine > 0.97
        assert all(Graph(result).dequantized(Graph(result).named[name].input[1]) is not None for name in layers(model))


def test_the_bits_of_weights_follow_the_processor() -> None:
    for flag in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"):
        assert cpu_weight_bits({"fpu", flag}) == 8
    assert cpu_weight_bits({"fpu", "avx2", "avx512f"}) == cpu_weight_bits(()) == 7
    assert cpu_weight_bits() in (7, 8)
