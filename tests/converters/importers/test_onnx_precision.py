"""An adopted graph is recorded in the precision that it computes in, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="adoption needs onnx (the extra `export`)")
onnxruntime = pytest.importorskip("onnxruntime", reason="adoption needs onnxruntime (the extra `cpu`)")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from resnet_infer.converters.importers.onnx import import_onnx  # noqa: E402
from resnet_infer.converters.importers.onnx_precision import precision_of_graph  # noqa: E402
from resnet_infer.converters.source import open_source  # noqa: E402
from resnet_infer.errors import ModelError, UsageError  # noqa: E402
from resnet_infer.models.graph import get_spec, set_spec  # noqa: E402
from resnet_infer.runtimes.onnxruntime import OnnxRuntime  # noqa: E402
from resnet_infer.verification.comparison import lower_precision  # noqa: E402
from resnet_infer.verification.tolerances import LIMITS  # noqa: E402
from tests.converters.importers.test_onnx import LABELS, OPTIONS, SIZE, foreign, save  # noqa: E402

pytestmark = pytest.mark.usefixtures("notes_on_stderr")

Photos = Callable[..., NDArray[np.uint8]]


class Reader:
    """Pictures for ONNX Runtime's own calibration."""

    def __init__(self, pictures: NDArray[np.uint8]) -> None:
        assert OPTIONS.mean is not None
        assert OPTIONS.std is not None
        pixels = (pictures[:, None].astype(np.float32) / 255 - OPTIONS.mean) / OPTIONS.std
        self._rest = iter([{"data": part.transpose(0, 3, 1, 2).astype(np.float32)} for part in pixels])

    def get_next(self) -> Any:
        return next(self._rest, None)


def quantized(path: Path, pictures: NDArray[np.uint8], form: str) -> Path:
    """The graph as ONNX Runtime's own tools quantise it: weights and activations, in one of its two forms."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    target = path.with_name(f"{form}.onnx")
    if form == "dynamic":
        quantization.quantize_dynamic(path, target)
    else:
        quantization.quantize_static(path, target, Reader(pictures), quant_format=quantization.QuantFormat[form])
    return target


def halved(model: Any) -> Any:
    """The classifier's last layer in float16, between two casts."""
    for tensor in model.graph.initializer:
        if tensor.name.startswith("fc."):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    (place,) = (index for index, node in enumerate(model.graph.node) if node.op_type == "Gemm")
    node = model.graph.node[place]
    before = helper.make_node("Cast", [node.input[0]], ["half.in"], to=TensorProto.FLOAT16)
    after = helper.make_node("Cast", ["half.out"], [node.output[0]], to=TensorProto.FLOAT)
    node.input[0], node.output[0] = "half.in", "half.out"
    model.graph.node.insert(place + 1, after)
    model.graph.node.insert(place, before)
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_what_onnx_runtime_quantised_is_int8(photos: Photos, tmp_path: Path, form: str) -> None:
    source = quantized(save(foreign(head="logits"), tmp_path), photos(12, SIZE), form)
    target = tmp_path / "adopted.onnx"
    adopted = import_onnx(source, target, options=OPTIONS, labels=LABELS)
    assert adopted.spec.precision == get_spec(onnx.load(target)).precision == "int8"
    assert adopted.parity.passed
    with pytest.raises(UsageError, match="is int8 already"):
        open_source(target)
    model = onnx.load(target)
    set_spec(model, adopted.spec.with_(precision="fp32"))
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(ModelError, match="says fp32 and computes in int8"):
        open_source(tmp_path / "old.onnx")
    plain = tmp_path / "fp32.onnx"
    import_onnx(tmp_path / "foreign.onnx", plain, options=OPTIONS, labels=LABELS)
    with OnnxRuntime(target, device="cpu") as own, OnnxRuntime(plain, device="cpu") as other:
        assert (own.spec.precision, other.spec.precision) == ("int8", "fp32")
        assert LIMITS[lower_precision(own, other)] == LIMITS["int8"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_ranges_of_a_whole_batch_are_refused_for_what_they_are(photos: Photos, tmp_path: Path) -> None:
    source = quantized(save(foreign(head="logits"), tmp_path), photos(2, SIZE), "dynamic")
    with pytest.raises(ModelError, match="DynamicQuantizeLinear takes its range from all pictures of a batch"):
        import_onnx(source, tmp_path / "adopted.onnx", options=OPTIONS, labels=LABELS)


def test_half_precision_is_fp16(photos: Photos, tmp_path: Path) -> None:
    source, target = save(halved(foreign(head="logits")), tmp_path), tmp_path / "adopted.onnx"
    assert import_onnx(source, target, options=OPTIONS, labels=LABELS).spec.precision == "fp16"
    with pytest.raises(UsageError, match="is fp16 already"):
        open_source(target)


@pytest.mark.parametrize(
    ("kind", "named"), [(TensorProto.BFLOAT16, "bfloat16"), (TensorProto.FLOAT8E4M3FN, "float8e4m3fn")]
)
def test_what_a_spec_has_no_name_for_is_refused(tmp_path: Path, kind: int, named: str) -> None:
    model = foreign(head="Identity", opset=19)
    if kind == TensorProto.BFLOAT16:
        nodes = [
            helper.make_node("Cast", ["probs"], ["rounded"], to=kind),
            helper.make_node("Cast", ["rounded"], ["logits"], to=TensorProto.FLOAT),
        ]
    else:
        model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "scale"))
        model.graph.initializer.append(helper.make_tensor("zero", kind, [], [0.0]))
        nodes = [
            helper.make_node("QuantizeLinear", ["probs", "scale", "zero"], ["rounded"]),
            helper.make_node("DequantizeLinear", ["rounded", "scale", "zero"], ["logits"]),
        ]
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "logits"
    with pytest.raises(ModelError, match=f"computes in {named}") as caught:
        import_onnx(save(model, tmp_path), tmp_path / "adopted.onnx", options=OPTIONS, labels=LABELS)
    assert "export it in float32" in str(caught.value.hint)
    assert not (tmp_path / "adopted.onnx").exists()


@pytest.mark.parametrize(
    ("kind", "named"),
    [(TensorProto.INT16, "int16"), (TensorProto.INT4, "int4"), (TensorProto.FLOAT8E4M3FN, "float8e4m3fn")],
)
@pytest.mark.parametrize("place", ["weight", "output_dtype"])
def test_types_are_known_without_a_zero_point(kind: int, named: str, place: str) -> None:
    scale = numpy_helper.from_array(np.array(1, np.float32), "scale")
    if place == "weight":
        tensors = [scale, helper.make_tensor("stored", kind, [2], [0, 0])]
        nodes = [helper.make_node("DequantizeLinear", ["stored", "scale"], ["y"])]
    else:
        tensors = [scale]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale"], ["rounded"], output_dtype=kind),
            helper.make_node("DequantizeLinear", ["rounded", "scale"], ["y"]),
        ]
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "graph", floats[:1], floats[1:], tensors))
    with pytest.raises(ModelError, match=f"computes in {named}"):
        precision_of_graph(model, "model.onnx")


def optimised(path: Path, level: str) -> Path:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(path.with_name(f"{level}.onnx"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return path.with_name(f"{level}.onnx")


def test_what_was_optimised_for_one_processor_is_refused(tmp_path: Path) -> None:
    model = foreign(head="logits")
    node = next(node for node in model.graph.node if node.op_type == "GlobalAveragePool")
    node.domain = "com.microsoft.nchwc"
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    with pytest.raises(ModelError, match=r"for the processor it was saved on \(com\.microsoft\.nchwc\.Glob") as caught:
        import_onnx(save(model, tmp_path), tmp_path / "adopted.onnx", options=OPTIONS, labels=LABELS)
    assert "ORT_ENABLE_BASIC" in str(caught.value.hint)


def test_operators_of_onnx_runtime_alone_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = optimised(save(foreign(head="logits"), tmp_path), "ORT_ENABLE_EXTENDED")
    target = tmp_path / "adopted.onnx"
    adopted = import_onnx(source, target, options=OPTIONS, labels=LABELS)
    assert adopted.spec.provenance["operators"] == ["com.microsoft.FusedConv"]
    assert "float32 (com.microsoft.FusedConv is no operator of ONNX's own)" in adopted.parity.measured.reference
    assert "operators of ONNX Runtime's own (com.microsoft.FusedConv)" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"holds com\.microsoft\.FusedConv"):
        open_source(target)
    # Less optimised, nothing is in the way.
    plain = import_onnx(
        optimised(tmp_path / "foreign.onnx", "ORT_ENABLE_BASIC"), target, options=OPTIONS, labels=LABELS
    )
    assert "float64" in plain.parity.measured.reference
    open_source(target)
