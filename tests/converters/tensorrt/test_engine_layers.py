"""The precision of an engine's layers, out of what the versions of TensorRT write of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resnet_infer.errors import ModelError

pytest.importorskip("onnx", reason="the extra `export`")

from resnet_infer.converters.tensorrt.engine_layers import Layer, count_layers, read_layers, require_precision


def convolution(**more: Any) -> dict[str, Any]:
    dynamic = [{"Name": "x", "Dimensions": [-1, 64, 56, 56], "Format/Datatype": "N/A due to dynamic shapes"}]
    return {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": dynamic, "Outputs": dynamic, **more}


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (convolution(Weights={"Type": "Int8", "Count": 9}), "int8"),
        (convolution(Weights={"Type": "Half", "Count": 9}), "fp16"),
        (convolution(Weights={"Type": "Float", "Count": 9}), "fp32"),
        (convolution(TacticName="sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32"), "int8"),
        (convolution(TacticName="sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc"), "fp16"),
        (convolution(TacticName="sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nchw"), "fp32"),
        (convolution(), None),
        (convolution(Inputs=[{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}]), "int8"),
        (convolution(Inputs=[{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]), "fp16"),
        (convolution(Inputs=[{"Format/Datatype": "Row major linear FP32"}]), "fp32"),
        (convolution(Inputs=[{"Format/Datatype": "Half"}]), "fp16"),
        (convolution(Inputs=[{"DataType": "Int8", "Format": "Row major linear"}]), "int8"),
        (convolution(Inputs=[{"DataType": "Float", "Format": "Row major linear FP32 format (kLINEAR)"}]), "fp32"),
        (convolution(Inputs=[{"DataType": "BFloat16"}]), None),
        (convolution(Inputs=[{"DataType": "UInt8"}]), None),
        (convolution(Inputs=[{"Format/Datatype": "Row major linear UINT8 format"}]), None),
        (convolution(Metadata="[ONNX Layer: a]\x1e[ONNX Layer: b]", Weights={"Type": "Half"}), "fp16"),
        (convolution(Inputs=[{"DataType": "Int32"}]), None),
    ],
)
def test_a_layer_tells_its_precision_in_one_way_or_another(layer: dict[str, Any], expected: str | None) -> None:
    (read,) = read_layers(json.dumps({"Layers": [layer]}).replace("\\u001e", "\x1e"))
    assert (read.precision, read.convolution) == (expected, True)


def test_what_runs_wider_than_it_may_is_counted_against_the_graph() -> None:
    def engine(*types: str) -> Any:
        layers = [convolution(Name=f"conv{i}", Weights={"Type": word}) for i, word in enumerate(types)]
        return read_layers(json.dumps({"Layers": [*layers, {"Name": "pool", "LayerType": "Pooling"}]}))

    assert count_layers(engine("Int8", "Half")) == {"fp16": 1, "int8": 1, "other": 1}
    require_precision(engine("Int8", "Half"), "int8", {"int8": 1, "fp32": 1}, 10)
    with pytest.raises(ModelError, match="not so conv2"):
        require_precision(engine("Int8", "Half", "Float"), "int8", {"int8": 2, "fp32": 1}, 10)
    require_precision(engine("Half", "Float"), "fp16", {"fp32": 2}, 8)  # TensorRT 8 may choose
    with pytest.raises(ModelError, match="does not run in fp16"):
        require_precision([*engine("Float"), Layer("reformat", "fp16", False)], "fp16", {"fp32": 1}, 8)
    require_precision([Layer("all of it", "int8", False)], "int8", {"int8": 1}, 10)
    with pytest.raises(ModelError, match="not so conv1"):
        require_precision(engine("Half", "Float"), "fp16", {"fp16": 2}, 10)
    with pytest.raises(ModelError, match="does not run in fp32"):
        require_precision([Layer("conv", "fp32", True, "sm80_xmma_fprop_tf32f32")], "fp32", {"fp32": 1}, 10)
