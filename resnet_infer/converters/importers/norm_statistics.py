"""Compare a network's batch norm statistics with those of real pictures, layer by layer.

Training leaves in every batch norm the mean and variance of what came in. Run as the network it was trained as, on
pictures of the same kind, a network meets them again; run as another one, it does not from the first layer that is
computed in another way. Here is only measured; what follows from it is `weights_check`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.preprocess import Pixels
from resnet_infer.models.architectures import NORM_EPSILON, Conv
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.graph import INPUT, IR_VERSION, OPSET, build_graph
from resnet_infer.models.onnx_tools import add_constant
from resnet_infer.utils.extras import needs

with needs("export", "checking weights on pictures"):
    from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
with needs("cpu", "checking weights on pictures"):
    from resnet_infer.runtimes import ort_session

BATCH_VALUES = 2 * 224 * 224 * 3
"""Most values in a batch of pictures, which bounds the memory."""
CAP = 10.0
"""Largest divergence of a channel in nats: one dead channel must not speak for its layer."""

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerFit:
    """How far the input of the batch norm `name` is from its statistics.

    `divergence` is the Kullback-Leibler divergence in nats of two normal distributions, that of the pictures from the
    stored one. `shift` is the part of it that the means make: half the square of their distance in standard
    deviations, less what so few pictures leave to chance; where they fit it may be a little below 0. Pictures of more
    or less contrast than those of the training make the divergence of a deep network large and leave the shift alone:
    for it the stored variances are first scaled by one factor for the layer. Both are averages over the channels.
    """

    name: str
    divergence: float
    shift: float


def measure(checkpoint: Checkpoint, pictures: Pixels) -> tuple[LayerFit, ...]:
    """The fit of every batch norm of a checkpoint, in order of execution.

    `pictures` are uint8 (N, crop, crop, 3), N >= 2, as the checkpoint's spec prepares them.
    """
    arch = checkpoint.spec.architecture
    assert arch is not None
    convs = list(arch.plan().convs())
    model = build_graph(checkpoint, fused=False)
    del model.graph.output[:]
    _tap(model, convs, checkpoint)
    return tuple(_fits(_session(model), convs, checkpoint, _batches(pictures)))


def measure_stem(checkpoint: Checkpoint, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, LayerFit]:
    """The fit of the first batch norm alone, for each of `inputs`: normalised pixels, float32 (N, H, W, 3)."""
    arch = checkpoint.spec.architecture
    assert arch is not None
    stem = arch.plan().stem
    weight = numpy_helper.from_array(checkpoint.weights[f"{stem.name}.weight"], "weight")
    attributes: dict[str, Any] = {"strides": [stem.stride] * 2, "pads": [stem.padding] * 4}
    node = helper.make_node("Conv", [INPUT, "weight"], [f"{stem.name}.out"], **attributes)
    taken = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", 3, "H", "W"])
    graph = helper.make_graph([node], "stem", [taken], [], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    _tap(model, [stem], checkpoint)
    session = _session(model)
    found = {}
    for name, pixels in inputs.items():
        batches = _batches(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        found[name] = next(_fits(session, [stem], checkpoint, batches))
    return found


def _batches(images: Array) -> Iterator[Array]:
    size = max(1, BATCH_VALUES // images[0].size)
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _tap(model: ModelProto, convs: list[Conv], checkpoint: Checkpoint) -> None:
    """Put out, for each convolution, the mean and the mean square about the stored mean: two of (N, channels)."""
    nodes: list[NodeProto] = []
    for conv in convs:
        name = f"{conv.name}.tap"
        centre = _stored(checkpoint, conv)[0].astype(np.float32).reshape(1, -1, 1, 1)
        add_constant(model.graph, f"{name}.centre", centre)
        nodes.append(helper.make_node("Sub", [f"{conv.name}.out", f"{name}.centre"], [f"{name}.sub"]))
        for kind in ("ReduceMean", "ReduceSumSquare"):
            nodes.append(helper.make_node(kind, [f"{name}.sub"], [f"{name}.{kind}"], axes=[2, 3], keepdims=0))
            output = helper.make_tensor_value_info(f"{name}.{kind}", TensorProto.FLOAT, ["N", conv.out_channels])
            model.graph.output.append(output)
        nodes.append(helper.make_node("Shape", [f"{conv.name}.out"], [f"{name}.Shape"]))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}.Shape", TensorProto.INT64, [4]))
    model.graph.node.extend(nodes)


def _session(model: ModelProto) -> Any:
    return ort_session.open_session(model.SerializeToString(), ort_session.session_options(silent=True))


def _fits(session: Any, convs: list[Conv], checkpoint: Checkpoint, batches: Iterator[Array]) -> Iterator[LayerFit]:
    """The fit of the batch norm behind each of `convs`, which `_tap` prepared, in that order."""
    rows = [session.run(None, {INPUT: batch}) for batch in batches]
    for index, conv in enumerate(convs):
        offsets = np.concatenate([row[3 * index] for row in rows]).astype(np.float64)
        squares = np.concatenate(
            [row[3 * index + 1].astype(np.float64) / row[3 * index + 2][2:].prod() for row in rows]
        )
        variance = _stored(checkpoint, conv)[1]
        yield LayerFit(conv.norm, _divergence(offsets, squares, variance), _shift(offsets, squares, variance))


def _stored(checkpoint: Checkpoint, conv: Conv) -> tuple[Array, Array]:
    mean, variance = (
        checkpoint.weights[f"{conv.norm}.{part}"].astype(np.float64) for part in ("running_mean", "running_var")
    )
    return mean, np.maximum(variance, 0)


def _moments(offsets: Array, squares: Array) -> tuple[Array, Array]:
    """Mean, from the stored one, and variance per channel of pictures of one size: from (N, channels) each."""
    mean = offsets.mean(axis=0)
    return mean, np.maximum(squares.mean(axis=0) - mean**2, 0) + NORM_EPSILON


def _divergence(offsets: Array, squares: Array, variance: Array) -> float:
    stored = variance + NORM_EPSILON
    with np.errstate(all="ignore"):  # nonsense overflows; what it gives is not finite
        mean, found = _moments(offsets, squares)
        value = 0.5 * ((found + mean**2) / stored - 1 - np.log(found / stored))
    return float(_capped(value).mean())


def _shift(offsets: Array, squares: Array, variance: Array) -> float:
    stored = variance + NORM_EPSILON
    with np.errstate(all="ignore"):  # as above
        mean, found = _moments(offsets, squares)
        scaled = stored * np.exp(np.log(found / stored).mean())
        chance = offsets.var(axis=0, ddof=1) / len(offsets)
        value = 0.5 * (mean**2 - chance) / scaled
    return float(_capped(value).mean())


def _capped(value: Array) -> Array:
    return np.where(np.isfinite(value), np.minimum(value, CAP), CAP)
