"""Compare the statistics stored in a network's batch norms with those of real images, layer by layer.

During training every batch norm records the mean and variance of its input (`running_mean`, `running_var`). If the
network is computed as in training, on images of the same kind, the inputs have these statistics again. If a layer is
computed in another way, for example with another padding, the statistics differ from that layer on.

This module only measures. `weights_check` holds the thresholds and the conclusions.
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
"""Most values in a batch (two 224x224 RGB images), which bounds the memory for activations."""
CAP = 10.0
"""Upper limit for the divergence and the shift of a channel, in nats: a dead channel must not dominate the average."""

Array = NDArray[Any]
"""Array of any dtype."""


@dataclass(frozen=True)
class LayerFit:
    """Hold how far the input of the batch norm `name` is from the stored statistics, averaged over the channels.

    - `divergence`: Kullback-Leibler divergence, in nats, of the images' distribution from the stored one, both taken as
      normal distributions per channel: `(v + d**2) / s - 1 - log(v / s)`, halved, for the variances `v` of the images
      and `s` of the batch norm, and the distance `d` of the means.
    - `shift`: the part due to the means, in nats: half of `d**2 / s`. The sampling error expected for so few images is
      subtracted, so that the shift of fitting statistics is about 0 and can be negative. The stored variances of a
      layer are first scaled by a common factor to those of the images. Therefore images with another contrast than in
      training, which raise the divergence of a deep network, do not change the shift.
    """

    name: str
    divergence: float
    shift: float


def measure(checkpoint: Checkpoint, pictures: Pixels) -> tuple[LayerFit, ...]:
    """Measure the fit of every batch norm of a checkpoint, in order of execution.

    `pictures` are uint8 (N, crop, crop, 3) RGB, N >= 2, resized and cropped as the checkpoint's spec says.
    """
    arch = checkpoint.spec.architecture
    assert arch is not None
    convs = list(arch.plan().convs())
    model = build_graph(checkpoint, fused=False)
    del model.graph.output[:]
    _tap(model, convs, checkpoint)
    return tuple(_fits(_session(model), convs, checkpoint, _batches(pictures)))


def measure_stem(checkpoint: Checkpoint, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, LayerFit]:
    """Measure the fit of the first batch norm for each of `inputs`, by their names.

    An input holds normalised pixels, float32 (N, H, W, 3), N >= 2, with the channels in the order of the checkpoint.
    """
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
    """Yield the images (N, ...) in batches of at most `BATCH_VALUES` values, or of one image."""
    size = max(1, BATCH_VALUES // images[0].size)
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _tap(model: ModelProto, convs: list[Conv], checkpoint: Checkpoint) -> None:
    """Add three outputs to the graph for each convolution, whose output is the input of a batch norm.

    They are the mean and the sum of squares per image of its difference from the stored mean, float32 (N, channels)
    each, and its shape, int64 (4,). Subtracting the stored mean first keeps float32 accurate.
    """
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
    """Open an ONNX Runtime session on the CPU."""
    return ort_session.open_session(model.SerializeToString(), ort_session.session_options(silent=True))


def _fits(session: Any, convs: list[Conv], checkpoint: Checkpoint, batches: Iterator[Array]) -> Iterator[LayerFit]:
    """Run the batches through a graph from `_tap`, and yield the fit of the batch norm behind each of `convs`."""
    rows = [session.run(None, {INPUT: batch}) for batch in batches]
    for index, conv in enumerate(convs):
        offsets = np.concatenate([row[3 * index] for row in rows]).astype(np.float64)
        squares = np.concatenate(
            [row[3 * index + 1].astype(np.float64) / row[3 * index + 2][2:].prod() for row in rows]
        )
        variance = _stored(checkpoint, conv)[1]
        yield LayerFit(conv.norm, _divergence(offsets, squares, variance), _shift(offsets, squares, variance))


def _stored(checkpoint: Checkpoint, conv: Conv) -> tuple[Array, Array]:
    """Return the stored mean and variance of the batch norm behind `conv`, float64 (channels,) each."""
    mean, variance = (
        checkpoint.weights[f"{conv.norm}.{part}"].astype(np.float64) for part in ("running_mean", "running_var")
    )
    return mean, np.maximum(variance, 0)


def _moments(offsets: Array, squares: Array) -> tuple[Array, Array]:
    """Return mean and variance per channel over all images and pixels, float64 (channels,) each.

    `offsets` and `squares`, (N, channels), are the means per image of the values' differences from the stored mean and
    of their squares. The images have one size. The mean is relative to the stored one; the variance includes batch
    norm's epsilon.
    """
    mean = offsets.mean(axis=0)
    return mean, np.maximum(squares.mean(axis=0) - mean**2, 0) + NORM_EPSILON


def _divergence(offsets: Array, squares: Array, variance: Array) -> float:
    """Return `LayerFit.divergence` for the moments of the images and the stored variance."""
    stored = variance + NORM_EPSILON
    with np.errstate(all="ignore"):  # meaningless weights overflow; `_capped` replaces what is not finite
        mean, found = _moments(offsets, squares)
        value = 0.5 * ((found + mean**2) / stored - 1 - np.log(found / stored))
    return float(_capped(value).mean())


def _shift(offsets: Array, squares: Array, variance: Array) -> float:
    """Return `LayerFit.shift` for the moments of the images and the stored variance."""
    stored = variance + NORM_EPSILON
    with np.errstate(all="ignore"):  # as above
        mean, found = _moments(offsets, squares)
        scaled = stored * np.exp(np.log(found / stored).mean())
        chance = offsets.var(axis=0, ddof=1) / len(offsets)
        value = 0.5 * (mean**2 - chance) / scaled
    return float(_capped(value).mean())


def _capped(value: Array) -> Array:
    """Limit values to `CAP`, which also replaces those that are not finite."""
    return np.where(np.isfinite(value), np.minimum(value, CAP), CAP)
