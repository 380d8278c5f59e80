"""Batch norm is folded into a convolution, unless what the convolution puts out is wanted too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="graphs in canonical form need onnx (the extra `export`)")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from resnet_infer.converters.precision.canonicalise import canonicalise  # noqa: E402

IMAGES = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)


def graph(*outputs: str) -> Any:
    """A convolution, a batch norm of it, and a ReLU of that; `outputs` are the graph's."""
    random = np.random.default_rng(0)
    constants = {
        "weight": random.normal(size=(4, 3, 3, 3)),
        "gamma": random.uniform(0.5, 2, 4),
        "beta": random.normal(size=4),
        "mean": random.normal(size=4),
        "variance": random.uniform(0.5, 2, 4),
    }
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["conv"]),
        helper.make_node("BatchNormalization", ["conv", "gamma", "beta", "mean", "variance"], ["norm"]),
        helper.make_node("Relu", ["norm"], ["relu"]),
    ]
    made = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, IMAGES.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 4, 6, 6)) for name in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("outputs", "operators"),
    [
        (("relu",), ["Conv", "Relu"]),
        (("relu", "norm"), ["Conv", "Relu"]),
        (("relu", "conv"), ["Conv", "BatchNormalization", "Relu"]),
    ],
)
def test_a_norm_is_folded_unless_the_convolution_is_an_output_of_the_graph(
    outputs: tuple[str, ...], operators: list[str]
) -> None:
    model = graph(*outputs)
    found = canonicalise(model)
    onnx.checker.check_model(found, full_check=True)
    assert [node.op_type for node in found.graph.node] == operators
    assert [item.name for item in found.graph.output] == list(outputs)
    before, after = (ReferenceEvaluator(one).run(None, {"images": IMAGES}) for one in (model, found))
    for expected, actual in zip(before, after, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
