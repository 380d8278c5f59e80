"""Class activation maps: where in a picture a network that ends in global pooling sees a class.

Zhou et al., "Learning Deep Features for Discriminative Localization" (2016), section 2: the last feature maps, weighted
by the last layer's weights for the class. Their mean is the class's logit, up to its bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import ModelError
from resnet_infer.models.onnx_file import Graph, Node, add_outputs, read_graph
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Images
from resnet_infer.utils.extras import needs
from resnet_infer.utils.lifetime import CALLS

with needs("cpu", "drawing class activation maps"):
    from resnet_infer.runtimes import ort_session

_POOLS = ("GlobalAveragePool", "ReduceMean")
_PASSED = ("Flatten", "Reshape", "Squeeze", "Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear")
"""Operators between pooling and the last layer, and before a weight, that change no value or hardly any."""
PROBES = 4
TOLERANCE = 0.25
"""How much of what the logits of different pictures differ by the maps may leave unexplained: INT8 rounds."""


class ActivationMaps:
    """A second session of an `.onnx` artifact, on the CPU, that puts out the last feature maps.

    Raises `ModelError` for a network that is not global average pooling and one linear layer at its end: on a few
    pictures, the maps must explain the logits.
    """

    def __init__(self, artifact: Path, spec: ModelSpec, size: tuple[int | None, int | None] = (None, None)) -> None:
        content = artifact.read_bytes()
        features, weight = _find(read_graph(content), artifact)
        options = ort_session.session_options(spin=False)
        try:
            self._session = ort_session.open_session(add_outputs(content, [features, weight]), options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this
            raise ModelError(f"{artifact} does not show its feature maps") from error
        self._input = self._session.get_inputs()[0].name
        self._features = features
        height, width = (side or spec.input.crop for side in size)
        probes = natural_noise(PROBES, height, width)
        logits, maps, matrix = self._session.run(None, {self._input: probes})
        self._weight = _oriented(np.asarray(matrix, np.float32), np.asarray(maps, np.float32), logits, artifact)

    def __call__(self, view: Images, classes: Sequence[int]) -> NDArray[np.float32]:
        """The maps (classes, h, w) of one view, uint8 (1, height, width, 3), in units of logits."""
        with CALLS:
            (maps,) = self._session.run([self._features], {self._input: view})
        result: NDArray[np.float32] = np.einsum("kc,chw->khw", self._weight[list(classes)], maps[0].astype(np.float32))
        return result


def _find(graph: Graph, artifact: Path) -> tuple[str, str]:
    """The names of the last feature maps and of the last layer's weight."""
    makers = {output: node for node in graph.nodes for output in node.outputs}

    def above(tensor: str) -> Iterator[Node]:
        while tensor in makers:
            yield makers[tensor]
            tensor = makers[tensor].inputs[0] if makers[tensor].inputs else ""

    linear: Node | None = None
    for node in above(graph.outputs[0] if graph.outputs else ""):
        if node.op in ("Gemm", "MatMul") and linear is None:
            linear = node
        elif node.op in _POOLS and linear is not None:
            return node.inputs[0], linear.inputs[1]
        elif node.op not in _PASSED and not (node.op == "Add" and linear is None):
            break
    raise ModelError(f"{artifact} does not end in global average pooling and one linear layer")


def _oriented(matrix: Any, maps: Any, logits: Any, artifact: Path) -> NDArray[np.float32]:
    """The weight as (classes, channels), if the maps and it give the logits but for a constant: the bias."""
    if maps.ndim == 4 and matrix.ndim == 2:
        pooled = maps.mean(axis=(2, 3))
        for weight in (matrix, matrix.T):
            if weight.shape == (logits.shape[1], pooled.shape[1]):
                bias = logits - pooled @ weight.T
                if bias.std(axis=0).mean() <= TOLERANCE * logits.std(axis=0).mean():
                    return np.ascontiguousarray(weight, np.float32)
    raise ModelError(f"the last feature maps of {artifact} do not explain its logits")
