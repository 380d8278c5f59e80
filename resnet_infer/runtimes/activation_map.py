"""Compute class activation maps: where in an image a network with global average pooling sees a class.

Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016), section 2: the map of a class is the
sum of the last feature maps, weighted by the last layer's weights for the class. Its mean is the class's logit without
the bias.
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
"""ONNX operators that write global average pooling."""
_PASSED = ("Flatten", "Reshape", "Squeeze", "Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear")
"""ONNX operators allowed between pooling and the last layer: they keep the values, or only round them."""
PROBES = 4
"""Number of synthetic images on which the maps are checked against the logits."""
TOLERANCE = 0.25
"""Largest standard deviation over images of what the maps leave unexplained, as a fraction of that of the logits.

It allows for the rounding of INT8.
"""


class ActivationMaps:
    """Compute the class activation maps of an `.onnx` artifact, in a session of its own on the CPU.

    `size` is the (height, width) that the artifact takes, None for a side that is open.

    Raises `ModelError` unless the network ends in global average pooling and one linear layer. This is read from the
    graph and checked on `PROBES` synthetic images: the means of the maps must equal the logits without the bias.
    """

    def __init__(self, artifact: Path, spec: ModelSpec, size: tuple[int | None, int | None] = (None, None)) -> None:
        content = artifact.read_bytes()
        features, weight = _find(read_graph(content), artifact)
        options = ort_session.session_options(spin=False)
        try:
            self._session = ort_session.open_session(add_outputs(content, [features, weight]), options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this
            raise ModelError(
                f"{artifact} does not show its feature maps", source=artifact, reason="unsupported"
            ) from error
        self._input = self._session.get_inputs()[0].name
        self._features = features
        height, width = (side or spec.input.crop for side in size)
        probes = natural_noise(PROBES, height, width)
        logits, maps, matrix = self._session.run(None, {self._input: probes})
        self._weight = _oriented(np.asarray(matrix, np.float32), np.asarray(maps, np.float32), logits, artifact)

    def __call__(self, view: Images, classes: Sequence[int]) -> NDArray[np.float32]:
        """Return the maps of `classes`, float32 (len(classes), h, w), in units of logits.

        `view` is one uint8 image (1, height, width, 3); h and w are the sides of the last feature maps.
        """
        with CALLS:
            (maps,) = self._session.run([self._features], {self._input: view})
        result: NDArray[np.float32] = np.einsum("kc,chw->khw", self._weight[list(classes)], maps[0].astype(np.float32))
        return result


def _find(graph: Graph, artifact: Path) -> tuple[str, str]:
    """Find the tensor names of the last feature maps and of the last layer's weight. Raises `ModelError`."""
    makers = {output: node for node in graph.nodes for output in node.outputs}

    def above(tensor: str) -> Iterator[Node]:
        """Yield the nodes on the path from `tensor` up to the graph's input, along first inputs."""
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
    raise ModelError(
        f"{artifact} does not end in global average pooling and one linear layer", source=artifact, reason="unsupported"
    )


def _oriented(matrix: Any, maps: Any, logits: Any, artifact: Path) -> NDArray[np.float32]:
    """Return the weight as float32 (classes, channels), transposed if the graph stores (channels, classes).

    `maps` are (N, channels, h, w), `logits` (N, classes). Raises `ModelError` unless the pooled maps times the weight
    are the logits without a constant (the bias), within `TOLERANCE`.
    """
    if maps.ndim == 4 and matrix.ndim == 2:
        pooled = maps.mean(axis=(2, 3))
        for weight in (matrix, matrix.T):
            if weight.shape == (logits.shape[1], pooled.shape[1]):
                bias = logits - pooled @ weight.T
                if bias.std(axis=0).mean() <= TOLERANCE * logits.std(axis=0).mean():
                    return np.ascontiguousarray(weight, np.float32)
    raise ModelError(
        f"the last feature maps of {artifact} do not explain its logits", source=artifact, reason="unsupported"
    )
