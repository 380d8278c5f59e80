"""Where graphs are quantised: read in the graph, for every network, and in what ONNX Runtime makes of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="INT8 needs onnx (the extra `export`)")
onnxruntime = pytest.importorskip("onnxruntime", reason="INT8 needs onnxruntime (the extra `cpu`)")

from onnx import numpy_helper  # noqa: E402

from resnet_infer.converters.precision.calibration import Calibration, calibrate  # noqa: E402
from resnet_infer.converters.precision.int8 import quantize  # noqa: E402
from resnet_infer.converters.precision.placement import Target  # noqa: E402
from resnet_infer.data.synthetic import natural_noise  # noqa: E402
from resnet_infer.models.architectures import Architecture, architecture  # noqa: E402
from resnet_infer.models.checkpoint import Checkpoint  # noqa: E402
from resnet_infer.models.families import Family  # noqa: E402
from resnet_infer.models.graph import build_graph  # noqa: E402
from resnet_infer.models.spec import InputSpec, ModelSpec  # noqa: E402
from resnet_infer.runtimes.base import Images, Logits  # noqa: E402
from resnet_infer.runtimes.onnxruntime import OnnxRuntime  # noqa: E402

TARGETS = get_args(Target)
NETS: tuple[tuple[str, dict[str, str]], ...] = (
    *((f"resnet{depth}", {}) for depth in (18, 34, 50, 101, 152)),
    ("resnet18", {"shortcut": "A"}),
    ("resnet50", {"shortcut": "C", "stride_in": "1x1"}),
    ("resnet20", {"shortcut": "A", "padding": "append"}),
    ("resnet20", {"shortcut": "A", "padding": "split"}),
    ("resnet20", {"shortcut": "B"}),
    ("plain20", {}),
)
BLOCKS = {"resnet18": 8, "resnet34": 16, "resnet50": 16, "resnet101": 33, "resnet152": 50, "resnet20": 9, "plain20": 0}


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
        given: dict[str, Any] = dict(options)
        arch = architecture(name, 5, **given)
        random = np.random.default_rng(0)
        weights = {
            key: np.full(shape, 0.5)
            if key.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight"))
            else random.normal(0, 0.1 if len(shape) == 1 else np.sqrt(2 / np.prod(shape[1:])), shape)
            for key, shape in arch.plan().shapes().items()
        }
        size = 64 if arch.plan().max_pool else 32
        spec = ModelSpec(name, arch, tuple("abcde"), InputSpec(size, size, np.full(3, 0.5), np.full(3, 0.25)))
        # Fewer candidates are quicker, and where the graph is quantised does not depend on them.
        patch.setattr("resnet_infer.converters.precision.ranges.SHRINKS", np.array([1, 0.5]))
        checkpoint = Checkpoint(spec, {key: value.astype(np.float32) for key, value in weights.items()})
        return calibrated(checkpoint, natural_noise(4, size, size))


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
    for relu in graph.of("Relu"):
        assert graph.kind(relu.input[0]) in ("Conv", "Add"), "nothing stands between a layer and its ReLU"


@pytest.mark.parametrize(("name", "options"), NETS, ids=["-".join([name, *more.values()]) for name, more in NETS])
def test_for_the_cpu_everything_is_integer(name: str, options: dict[str, str], tmp_path: Path) -> None:
    model, calibration = narrow(name, tuple(options.items()))
    graph = Graph(quantize(model, calibration, target="cpu"))
    check_weights(graph)
    assert len(graph.of("Add")) == BLOCKS[name]
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
    assert (found["QLinearConv"], found["QLinearAdd"], found["QGemm"]) == (convolutions, BLOCKS[name], 1)
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
    assert len(graph.of("Add")) == BLOCKS[name]
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
