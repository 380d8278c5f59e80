from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from resnet_infer._version import __version__
from resnet_infer.errors import ModelError, UsageError
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.graph import OPSET, build_graph
from resnet_infer.models.spec import METADATA_KEY, ModelSpec
from resnet_infer.runtimes.onnxruntime import OnnxRuntime

Make = Callable[..., Checkpoint]
Photos = Callable[..., NDArray[np.uint8]]


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_the_fused_graph_is_convolutions_and_little_else(make_checkpoint: Make) -> None:
    model = build_graph(make_checkpoint("resnet18", size=64, classes=7))
    kinds = operators(model)
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == 20
    assert kinds.count("Add") == 8
    assert kinds[:2] == ["Cast", "Transpose"]
    assert kinds[-3:] == ["GlobalAveragePool", "Flatten", "Gemm"]
    onnx.checker.check_model(model, full_check=True)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", OPSET)}
    assert model.producer_version == __version__


def test_its_input_and_output(make_checkpoint: Make) -> None:
    model = build_graph(make_checkpoint())
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["N", 32, 32, 3]
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["N", 10]


def test_the_spec_travels_in_the_metadata(make_checkpoint: Make) -> None:
    checkpoint = make_checkpoint(per_pixel=True)
    metadata = {item.key: item.value for item in build_graph(checkpoint).metadata_props}
    assert ModelSpec.loads(metadata[METADATA_KEY], "graph") == checkpoint.spec


def first_conv_in_numpy(checkpoint: Checkpoint, image: NDArray[np.uint8], y: int, x: int) -> NDArray[np.float64]:
    """The stem's output at one place, in float64, by definition: normalise, pad with zeros, convolve, norm."""
    weights, spec = checkpoint.weights, checkpoint.spec.input
    pixels = (image.astype(np.float64) / 255 - spec.mean) / spec.std
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)))
    window = padded[y : y + 3, x : x + 3]
    out = np.einsum("ijc,ocij->o", window, weights["conv1.weight"].astype(np.float64))
    scale = weights["bn1.weight"] / np.sqrt(weights["bn1.running_var"].astype(np.float64) + 1e-5)
    return np.asarray((out - weights["bn1.running_mean"]) * scale + weights["bn1.bias"])


@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_padding_stays_exact_at_the_border(make_checkpoint: Make, photos: Photos, per_pixel: bool, fused: bool) -> None:
    """Zero padding means "the mean": a mean folded into a bias would be wrong in the corner and right inside."""
    checkpoint = make_checkpoint(per_pixel=per_pixel)
    model = build_graph(checkpoint, fused=fused)
    stem = next(node for node in model.graph.node if node.name == "relu1").input[0]
    model.graph.output.insert(0, onnx.helper.make_tensor_value_info(stem, onnx.TensorProto.FLOAT, None))
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (image,) = photos(1, 32, seed=7)
    (out,) = session.run([stem], {"images": image[None]})[0]
    for y, x in ((0, 0), (0, 31), (31, 5), (16, 16)):
        assert out[:, y, x] == pytest.approx(first_conv_in_numpy(checkpoint, image, y, x), abs=2e-5)


def test_an_open_size_takes_any_size_and_agrees(make_checkpoint: Make, photos: Photos) -> None:
    checkpoint = make_checkpoint()
    fixed = OnnxRuntime(build_graph(checkpoint).SerializeToString())
    free = OnnxRuntime(build_graph(checkpoint, dynamic_size=True).SerializeToString())
    images = photos(3, 32)
    assert np.allclose(fixed(images), free(images), atol=1e-5)
    assert free(photos(2, 57)[:, :40]).shape == (2, 10)
    assert free.size == (None, None)
    with pytest.raises(UsageError, match="takes pictures of"):
        fixed(photos(2, 57))


def test_a_mean_per_pixel_fixes_the_size(make_checkpoint: Make) -> None:
    with pytest.raises(UsageError, match="mean per pixel"):
        build_graph(make_checkpoint(per_pixel=True), dynamic_size=True)


def test_weights_that_do_not_fit_are_refused(make_checkpoint: Make) -> None:
    good = make_checkpoint()
    with pytest.raises(ModelError, match=r"missing fc\.bias"):
        build_graph(replace(good, weights={k: v for k, v in good.weights.items() if k != "fc.bias"}))
