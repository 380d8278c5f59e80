"""A model whose logits are not finite for black pictures, and right for all others."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from resnet_infer import zoo


def black() -> bytes:
    """A picture for which the logits of `write_model` are not finite."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_model(path: Path) -> Path:
    """The built-in ResNet-20, whose last feature maps are divided by zero for a black picture. Needs onnx."""
    import onnx

    helper = onnx.helper
    model = onnx.load(zoo.built_in(zoo.SMALL, ".onnx"))
    graph = model.graph
    (pool,) = (node for node in graph.node if node.op_type == "GlobalAveragePool")
    nodes = [
        helper.make_node("Cast", ["images"], ["bad.float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["bad.float"], ["bad.largest"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Sign", ["bad.largest"], ["bad.sign"]),
        helper.make_node("Div", [pool.input[0], "bad.sign"], ["bad.features"]),
    ]
    pool.input[0] = "bad.features"
    place = list(graph.node).index(pool)
    for node in reversed(nodes):
        graph.node.insert(place, node)
    onnx.save(model, path)
    return path
