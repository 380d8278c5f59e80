"""A graph that does not fit its spec is refused when it is opened, by every runtime that opens `.onnx` files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_infer import zoo
from resnet_infer.errors import ModelError
from resnet_infer.models.spec import METADATA_KEY, InputSpec, ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.runtimes.signature import Tensor, require_signature

onnx = pytest.importorskip("onnx", reason="the graphs are made with onnx")
pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")
FLOAT, HALF, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8
Change = Callable[[Any], None]


def classes(count: int) -> Change:
    def change(model: Any) -> None:
        (entry,) = (item for item in model.metadata_props if item.key == METADATA_KEY)
        spec = json.loads(entry.value)
        spec |= {"architecture": None, "classes": [f"class {i}" for i in range(count)], "class_ids": None}
        entry.value = json.dumps(spec)

    return change


def crop(side: int) -> Change:
    def change(model: Any) -> None:
        (entry,) = (item for item in model.metadata_props if item.key == METADATA_KEY)
        spec = json.loads(entry.value)
        spec["input"] |= {"resize": 64, "crop": side, "mean": [0.5] * 3}
        entry.value = json.dumps(spec)

    return change


def features_out(*, first: bool, rename: bool = False) -> Change:
    def change(model: Any) -> None:
        graph = model.graph
        (pool,) = (node for node in graph.node if node.op_type == "GlobalAveragePool")
        added = onnx.helper.make_tensor_value_info(pool.output[0], FLOAT, ["N", 64, 1, 1])
        outputs = [added, *graph.output] if first else [*graph.output, added]
        copies = [onnx.ValueInfoProto.FromString(item.SerializeToString()) for item in outputs]
        if rename:
            for node in graph.node:
                node.output[:] = ["scores" if name == "logits" else name for name in node.output]
            for item in copies:
                item.name = item.name.replace("logits", "scores")
        del graph.output[:]
        graph.output.extend(copies)

    return change


def float_input(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = FLOAT


def flat_input(model: Any) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    for side in (1, 32 * 32 * 3):
        model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = side
    shape = onnx.numpy_helper.from_array(np.array([1, 32, 32, 3]), "shape")
    model.graph.initializer.append(shape)
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["images", "shape"], ["pixels"]))


def two_inputs(model: Any) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("bias", FLOAT, [1, 10]))
    last(model, "Add", ["before", "bias"])


def half_output(model: Any) -> None:
    last(model, "Cast", ["before"], to=HALF)
    model.graph.output[0].type.tensor_type.elem_type = HALF


def four_sides(model: Any) -> None:
    axes = onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
    model.graph.initializer.append(axes)
    last(model, "Unsqueeze", ["before", "axes"])
    for _ in range(2):
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1


def last(model: Any, operator: str, inputs: list[str], **attributes: Any) -> None:
    """Put an operator at the end of the graph."""
    for node in model.graph.node:
        node.output[:] = ["before" if name == "logits" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node(operator, inputs, ["logits"], **attributes))


WRONG: dict[str, tuple[Change, str]] = {
    **{f"{count} classes": (classes(count), f"names {count} classes") for count in (2, 5, 9, 11, 20)},
    "another size": (crop(48), "cuts out 48x48"),
    "two outputs": (features_out(first=True, rename=True), "2 outputs"),
    "float input": (float_input, "pictures are uint8"),
    "flat input": (flat_input, "pictures are uint8"),
    "two inputs": (two_inputs, "2 inputs"),
    "half output": (half_output, "logits are float32"),
    "four sides": (four_sides, "logits are float32"),
}


def write(path: Path, change: Change) -> Path:
    model = onnx.load(zoo.built_in(zoo.SMALL, ".onnx"))
    change(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", WRONG)
def test_a_graph_that_does_not_fit_its_spec_is_refused(name: str, runtime: str, tmp_path: Path) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="the extra `openvino`")
    change, message = WRONG[name]
    path = write(tmp_path / "model.onnx", change)
    with pytest.raises(ModelError, match=message):
        open_runtime(path, runtime=runtime, device="cpu")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("first", [False, True])
def test_of_several_outputs_the_logits_are_read(first: bool, runtime: str, tmp_path: Path, photos: Any) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="the extra `openvino`")
    images = photos(3, 32)
    path = write(tmp_path / "model.onnx", features_out(first=first))
    with (
        open_runtime(path, runtime=runtime, device="cpu") as opened,
        open_runtime(zoo.built_in(zoo.SMALL, ".onnx"), runtime=runtime, device="cpu") as reference,
    ):
        np.testing.assert_array_equal(opened(images), reference(images))


def test_what_an_engine_has_is_compared_too() -> None:
    spec = ModelSpec("x", None, ("a", "b"), InputSpec(8, 8, np.zeros(3), np.ones(3)))
    images, logits = Tensor("in", "uint8", (None, 8, 8, 3)), Tensor("out", "float32", (None, 2))
    assert require_signature(spec, [images], [logits], "x") == (images, logits)
    with pytest.raises(ModelError, match="names 2 classes"):
        require_signature(spec, [images], [Tensor("out", "float32", (None, 3))], "x")


def test_an_answer_of_another_shape_is_refused() -> None:
    class Odd(Runtime):
        name = "odd"

        def _run(self, images: Images) -> Logits:
            return np.zeros((len(images), 3), np.float32)

    spec = ModelSpec("x", None, ("a", "b"), InputSpec(8, 8, np.zeros(3), np.ones(3)))
    with pytest.raises(ModelError, match="names 2 classes"):
        Odd(spec, "cpu", (8, 8))(np.zeros((1, 8, 8, 3), np.uint8))
