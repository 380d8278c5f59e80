"""Foreign ONNX classifiers answer as before with our input in front, and what cannot be adopted is said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="adoption needs onnx (the extra `export`)")
onnxruntime = pytest.importorskip("onnxruntime", reason="adoption needs onnxruntime (the extra `cpu`)")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from resnet_infer.classifier import softmax  # noqa: E402
from resnet_infer.converters.export import ExportConfig, Pictures, export  # noqa: E402
from resnet_infer.converters.importers import onnx_graph  # noqa: E402
from resnet_infer.converters.importers.input_options import InputOptions  # noqa: E402
from resnet_infer.converters.importers.labels import Labels  # noqa: E402
from resnet_infer.converters.importers.onnx import import_onnx  # noqa: E402
from resnet_infer.data.feed import PHOTOGRAPHS  # noqa: E402
from resnet_infer.errors import DataError, ModelError, ParityError, UsageError  # noqa: E402
from resnet_infer.models.spec import METADATA_KEY, ModelSpec, Precision  # noqa: E402
from resnet_infer.runtimes.onnxruntime import OnnxRuntime  # noqa: E402

pytestmark = pytest.mark.usefixtures("notes_on_stderr")

Photos = Callable[..., NDArray[np.uint8]]
SIZE, CLASSES = 24, 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPTIONS = InputOptions(resize=28, mean=MEAN, std=STD)
LABELS = Labels(("a", "b", "c", "d", "e"), None, "labels.txt")
HEADS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "logits": [("Identity", {})],
    "softmax": [("Softmax", {"axis": 1})],
    "softmax-identity": [("Softmax", {"axis": -1}), ("Identity", {})],
    "softmax-flatten": [("Softmax", {"axis": 1}), ("Flatten", {})],
    "log-softmax": [("LogSoftmax", {"axis": 1})],
}


def foreign(
    *,
    batch: int | str = "batch",
    size: int | str = SIZE,
    layout: str = "nchw",
    head: str = "softmax",
    flatten: str = "reshape",
    opset: int = 17,
    input_name: str = "data",
    output_name: str = "probs",
) -> Any:
    """A classifier in a style unlike ours: float input, batch normalisation as nodes, a constant reshape."""
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    initializers: list[Any] = []

    def constant(name: str, value: Any) -> str:
        value = np.asarray(value)
        initializers.append(numpy_helper.from_array(value.astype("f4" if value.dtype.kind == "f" else "i8"), name))
        return name

    def node(kind: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        name = to or f"t{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    x = input_name
    if layout == "nhwc":
        x = node("Transpose", x, perm=[0, 3, 1, 2])
    channels = 3
    for layer, width in enumerate((8, 12)):
        x = node("Conv", x, constant(f"w{layer}", rng.normal(0, 0.3, (width, channels, 3, 3))), pads=[1] * 4)
        parts = (rng.uniform(0.5, 2, width), rng.normal(size=width), rng.normal(size=width), rng.uniform(0.5, 2, width))
        x = node("BatchNormalization", x, *(constant(f"bn{layer}.{i}", part) for i, part in enumerate(parts)))
        x = node("Relu", x)
        x = node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        channels = width
    x = node("GlobalAveragePool", x)
    if flatten == "reshape":
        x = node("Reshape", x, constant("shape", [batch if isinstance(batch, int) else 0, -1]))
    elif flatten == "constant-node":
        value = numpy_helper.from_array(np.array([batch, channels], np.int64))
        x = node("Reshape", x, node("Constant", value=value))
    elif flatten == "mean-over-batch":
        x = node("Flatten", node("Add", x, node("ReduceMean", x, axes=[0], keepdims=1)))
    elif flatten == "across-batch":
        x = node("Reshape", node("Transpose", x, perm=[1, 0, 2, 3]), constant("shape", [batch, -1]))
    else:
        x = node("Flatten", x)
    weight = constant("fc.w", rng.normal(0, 0.1, (channels, CLASSES)))
    x = node("Gemm", x, weight, constant("fc.b", rng.normal(size=CLASSES)))
    last = HEADS.get(head, [(head, {})])
    for index, (kind, attributes) in enumerate(last, start=1):
        x = node(kind, x, to=output_name if index == len(last) else None, **attributes)
    sides = (size, size) if isinstance(size, int) else ("h", "w")
    shape = (batch, 3, *sides) if layout == "nchw" else (batch, *sides, 3)
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, (batch, CLASSES))],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="another program")


def save(model: Any, folder: Path) -> Path:
    path = folder / "foreign.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def answers(path: Path, pictures: NDArray[np.uint8], layout: str = "nchw", batch: int = 1) -> NDArray[np.float32]:
    """What the original says, with the pictures prepared as its own users would."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pixels = (pictures / np.float32(255) - np.array(MEAN, "f4")) / np.array(STD, "f4")
    if layout == "nchw":
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: pixels[i : i + batch]})[0] for i in range(0, len(pixels), batch)]
    return np.concatenate(parts)


def check(model: Any, pictures: NDArray[np.uint8], folder: Path, **shape: Any) -> Any:
    """Adopt, and compare with the original; the adopted model."""
    source, target = save(model, folder), folder / "adopted.onnx"
    adopted = import_onnx(source, target, options=OPTIONS, labels=LABELS)
    assert adopted.parity.passed
    expected = answers(source, pictures, **shape)
    with OnnxRuntime(target, device="cpu") as runtime:
        assert runtime.spec == adopted.spec
        logits = runtime(pictures)
        assert runtime(pictures[:1]).shape == (1, CLASSES)
    assert logits.dtype == np.float32
    is_logits = not np.allclose(expected.sum(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(softmax(logits), softmax(expected) if is_logits else expected, rtol=1e-4, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 0.1  # the pictures are told apart
    result = onnx.load(target)
    onnx.checker.check_model(result, full_check=True)
    return result


def kinds(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("layout", "batch", "flatten"), [("nchw", "batch", "flatten"), ("nhwc", 1, "reshape")])
def test_the_answers_stay(
    photos: Photos, tmp_path: Path, head: str, layout: str, batch: int | str, flatten: str
) -> None:
    original = foreign(head=head, layout=layout, batch=batch, flatten=flatten)
    adopted = check(original, photos(9, SIZE), tmp_path, layout=layout)
    assert kinds(adopted)[:2] == ["Cast", "Sub" if layout == "nhwc" else "Transpose"]
    assert ("Softmax" in kinds(adopted), "Log" in kinds(adopted)) == ((head == "softmax-flatten"),) * 2
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in original.graph.initializer}
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in adopted.graph.initializer}
    for name in before.keys() - {"shape"}:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 17])
@pytest.mark.parametrize(("batch", "flatten"), [("batch", "reshape"), (1, "reshape"), (4, "constant-node")])
def test_any_opset_and_any_batch(photos: Photos, tmp_path: Path, opset: int, batch: int | str, flatten: str) -> None:
    model = foreign(opset=opset, batch=batch, flatten=flatten)
    adopted = check(model, photos(8, SIZE), tmp_path, batch=4 if batch == 4 else 1)
    assert [item.version for item in adopted.opset_import] == [opset]
    (images,), (logits,) = adopted.graph.input, adopted.graph.output
    shapes = [[dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim] for item in (images, logits)]
    assert (images.name, images.type.tensor_type.elem_type) == ("images", TensorProto.UINT8)
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", TensorProto.FLOAT)
    assert shapes == [["N", SIZE, SIZE, 3], ["N", CLASSES]]


def test_weights_that_are_declared_as_inputs(photos: Photos, tmp_path: Path) -> None:
    """As every file before IR version 4 has them."""
    model = foreign(opset=9)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    assert check(model, photos(4, SIZE), tmp_path).ir_version == 4


def test_names_that_are_ours_inside_a_branch_too(photos: Photos, tmp_path: Path) -> None:
    model = foreign(head="Identity", input_name="images", output_name="logits")
    last = model.graph.node[-1]
    inner, last.output[0] = last.input[0], "unused"
    results = [helper.make_tensor_value_info(f"branch{i}", TensorProto.FLOAT, None) for i in range(2)]
    branches = [
        helper.make_graph([helper.make_node("Identity", [inner], ["branch0"])], "then", [], results[:1]),
        helper.make_graph(
            [
                helper.make_node("ReduceMax", ["images"], ["most"], axes=[1, 2, 3]),
                helper.make_node("Flatten", ["most"], ["shift"]),
                helper.make_node("Add", [inner, "shift"], ["branch1"]),
            ],
            "else",
            [],
            results[1:],
        ),
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.array(False), "yes"))
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["logits"], then_branch=branches[0], else_branch=branches[1])
    )
    adopted = check(model, photos(4, SIZE), tmp_path)
    assert "unused" not in [name for node in adopted.graph.node for name in node.output]


def test_an_open_size_stays_open(photos: Photos, tmp_path: Path) -> None:
    source, target = save(foreign(size="side"), tmp_path), tmp_path / "adopted.onnx"
    with pytest.raises(UsageError, match="--crop must be given"):
        import_onnx(source, target, options=OPTIONS, labels=LABELS)
    options = InputOptions(resize=28, crop=20, mean=MEAN, std=STD)
    import_onnx(source, target, options=options, labels=LABELS)
    with OnnxRuntime(target, device="cpu") as runtime:
        assert (runtime.spec.input.crop, runtime.size) == (20, (None, None))
        for size in (20, 32):
            pictures = photos(3, size)
            np.testing.assert_allclose(softmax(runtime(pictures)), answers(source, pictures), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 255])
def test_pixels_as_they_are(photos: Photos, tmp_path: Path, scale: int) -> None:
    """A graph that has its own normalisation inside takes pixels up to 1 or up to 255, and gets nothing else."""
    source, target = save(foreign(head="logits"), tmp_path), tmp_path / "adopted.onnx"
    options = InputOptions(resize=28, mean=(0,), std=(1,), scale=scale)
    import_onnx(source, target, options=options, labels=LABELS)
    assert kinds(onnx.load(target))[:3] == ["Cast", "Transpose", "Div" if scale == 1 else "Conv"]
    pictures = photos(4, SIZE)
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    pixels = pictures.astype(np.float32).transpose(0, 3, 1, 2) / (255 if scale == 1 else 1)
    with OnnxRuntime(target, device="cpu") as runtime:
        np.testing.assert_allclose(runtime(pictures), session.run(None, {"data": pixels})[0], rtol=1e-4, atol=1e-4)


def test_the_spec_and_what_is_assumed(tmp_path: Path) -> None:
    model = foreign()
    helper.set_model_props(model, {"note": "kept"})
    source, target = save(model, tmp_path), tmp_path / "adopted.onnx"
    options = InputOptions(resize=30, mean=MEAN, std=STD, interpolation="bicubic", exif=False)
    adopted = import_onnx(source, target, options=options, labels=LABELS, name="mine")
    properties = {item.key: item.value for item in onnx.load(target).metadata_props}
    spec = ModelSpec.loads(properties[METADATA_KEY], "adopted")
    assert properties["note"] == "kept"
    assert adopted.assumed == ()
    assert (spec.name, spec.architecture, spec.classes) == ("mine", None, LABELS.names)
    assert (spec.input.resize, spec.input.crop, spec.input.interpolation, spec.input.exif) == (
        30,
        SIZE,
        "bicubic",
        False,
    )
    assert spec.provenance["source"] == "an adopted ONNX graph of another program"
    assert spec.provenance["source_file"] == "foreign.onnx"
    assert len(spec.provenance["source_sha256"]) == 64


def test_weights_in_a_file_of_their_own_are_taken_in(photos: Photos, tmp_path: Path) -> None:
    source, target = tmp_path / "foreign.onnx", tmp_path / "adopted.onnx"
    onnx.save(foreign(), source, save_as_external_data=True, location="foreign.data", size_threshold=64)
    expected = answers(source, photos(3, SIZE))
    import_onnx(source, target, options=OPTIONS, labels=LABELS)
    (tmp_path / "foreign.data").unlink()
    with OnnxRuntime(target, device="cpu") as runtime:
        np.testing.assert_allclose(softmax(runtime(photos(3, SIZE))), expected, rtol=1e-4, atol=1e-6)
    target.unlink()
    with pytest.raises(ModelError, match="keeps in another file cannot be read"):
        import_onnx(source, target, options=OPTIONS, labels=LABELS)


def test_one_of_several_outputs(photos: Photos, tmp_path: Path) -> None:
    model = foreign(head="softmax")
    before = model.graph.node[-1].input[0]
    model.graph.output.append(helper.make_tensor_value_info(before, TensorProto.FLOAT, ("batch", CLASSES)))
    auxiliary = helper.make_node("Mul", [before, "fc.b2"], ["auxiliary"])
    model.graph.node.append(auxiliary)
    model.graph.output.append(helper.make_tensor_value_info("auxiliary", TensorProto.FLOAT, ("batch", CLASSES)))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(CLASSES, np.float32), "fc.b2"))
    source, target = save(model, tmp_path), tmp_path / "adopted.onnx"
    with pytest.raises(UsageError, match="3 outputs"):
        import_onnx(source, target, options=OPTIONS, labels=LABELS)
    with pytest.raises(UsageError, match="no output other; it has probs"):
        import_onnx(source, target, options=OPTIONS, labels=LABELS, output_name="other")
    import_onnx(source, target, options=OPTIONS, labels=LABELS, output_name="probs")
    adopted = onnx.load(target)
    assert "fc.b2" not in [tensor.name for tensor in adopted.graph.initializer]
    with OnnxRuntime(target, device="cpu") as runtime:
        expected = answers(source, photos(3, SIZE))
        np.testing.assert_allclose(softmax(runtime(photos(3, SIZE))), expected, rtol=1e-4, atol=1e-6)


def retyped(kind: int, *shape: Any) -> Any:
    model = foreign()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("data", kind, shape))
    return model


def with_a_second_input() -> Any:
    model = foreign()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, (1,)))
    return model


def with_an_output_of(kind: str) -> Any:
    model = foreign()
    last = model.graph.node[-1]
    last.CopyFrom(helper.make_node(kind, [last.input[0]], ["probs"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("probs", TensorProto.INT64, None))
    return model


@pytest.mark.parametrize(
    ("model", "changes", "error", "message"),
    [
        (with_a_second_input, {}, ModelError, r"2 inputs \(data, mask\)"),
        (lambda: retyped(TensorProto.UINT8, 1, 3, 24, 24), {}, ModelError, r"is uint8 of shape \(1, 3, 24, 24\)"),
        (lambda: retyped(TensorProto.FLOAT, 1, 3), {}, ModelError, "only float of four dimensions"),
        (lambda: retyped(TensorProto.FLOAT, 1, 1, 24, 24), {}, ModelError, "takes no pictures of 3 channels"),
        (lambda: retyped(TensorProto.FLOAT, 1, 3, 24, 32), {}, ModelError, "only square ones"),
        (lambda: retyped(TensorProto.FLOAT, 1, 3, 24, 3), {}, UsageError, "does not tell where the channels are"),
        (lambda: retyped(TensorProto.FLOAT, 1, "c", "h", "w"), {}, UsageError, "does not tell where the channels are"),
        (foreign, {"layout": "nhwc"}, ModelError, "takes no nhwc pictures"),
        (foreign, {"options": InputOptions()}, UsageError, "--resize, --mean, --std must be given"),
        (foreign, {"options": InputOptions(28, 32, MEAN, STD)}, UsageError, "so --crop is 24, not 32"),
        (foreign, {"options": InputOptions(20, None, MEAN, STD)}, UsageError, "at most the resize"),
        (foreign, {"labels": None}, UsageError, "5 classes, and nothing names them"),
        (foreign, {"labels": Labels(("a", "b"), None, "l.txt")}, DataError, r"l\.txt names 2 classes; the model has 5"),
        (lambda: foreign(opset=8), {}, ModelError, "uses opset 8; 9 or newer"),
        (lambda: foreign(head="Sigmoid"), {}, ModelError, "ends in a sigmoid"),
        (lambda: with_an_output_of("ArgMax"), {}, ModelError, r"int64 of shape \(3, 5\) for 3 pictures"),
        (lambda: with_an_output_of("Nonsense"), {}, ModelError, "ONNX Runtime cannot load it"),
        (lambda: foreign(flatten="mean-over-batch"), {}, ModelError, "in batches of any size"),
        (lambda: foreign(batch=1, flatten="across-batch"), {}, ModelError, "in batches of any size"),
    ],
)
def test_what_cannot_be_adopted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], model: Any, changes: Any, error: Any, message: str
) -> None:
    source, target = save(model(), tmp_path), tmp_path / "adopted.onnx"
    with pytest.raises(error, match=message) as caught:
        import_onnx(source, target, **{"options": OPTIONS, "labels": LABELS, **changes})
    assert str(source) in caught.value.message or error is DataError or "resize" in message
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("content", "message"), [(b"no graph", "damaged"), (b"", "0 inputs|opset 0"), (None, "exist")])
def test_files_that_are_no_graph(tmp_path: Path, content: bytes | None, message: str) -> None:
    source = tmp_path / "x.onnx"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        import_onnx(source, tmp_path / "adopted.onnx", options=OPTIONS, labels=LABELS)


def test_a_model_that_is_ours_already(tmp_path: Path) -> None:
    target = tmp_path / "adopted.onnx"
    import_onnx(save(foreign(), tmp_path), target, options=OPTIONS, labels=LABELS)
    with pytest.raises(ModelError, match="carries a model spec already"):
        import_onnx(target, tmp_path / "again.onnx", options=OPTIONS, labels=LABELS)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_graph_that_takes_bgr(photos: Any, tmp_path: Path, layout: str) -> None:
    """It is fed as its own users feed it, mean and std in its order; also where it is made smaller afterwards."""
    pictures = photos(8, SIZE)
    source = save(foreign(layout=layout, head="logits"), tmp_path)
    options = InputOptions(resize=28, mean=MEAN, std=STD, channels="bgr")
    adopted = import_onnx(source, tmp_path / "adopted.onnx", options=options, labels=LABELS)
    assert adopted.parity.passed
    assert adopted.spec.input.mean.tolist() == pytest.approx(MEAN[::-1])
    expected = answers(source, pictures[..., ::-1], layout)
    with OnnxRuntime(tmp_path / "adopted.onnx", device="cpu") as runtime:
        np.testing.assert_allclose(runtime(pictures), expected, rtol=1e-4, atol=1e-5)
    shares: dict[Precision, float] = {"fp16": 0.01, "int8": 0.2}
    for precision, share in shares.items():
        target = tmp_path / f"{precision}.onnx"
        data = Pictures(calibration=PHOTOGRAPHS) if precision == "int8" else Pictures()
        export(tmp_path / "adopted.onnx", target, ExportConfig(precision=precision, pictures=data))
        with OnnxRuntime(target, device="cpu") as runtime:
            assert np.abs(runtime(pictures) - expected).max() < share * np.ptp(expected)


@pytest.mark.parametrize("head", ["Identity", "Sigmoid"])
def test_one_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    monkeypatch.setattr(sys.modules[__name__], "CLASSES", 1)
    with pytest.raises(ModelError, match="one output") as caught:
        import_onnx(
            save(foreign(head=head), tmp_path),
            tmp_path / "adopted.onnx",
            options=OPTIONS,
            labels=Labels(("x",), None, "labels.txt"),
        )
    assert "two outputs" in (caught.value.hint or "")


def test_other_answers_are_not_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_graph.replace_input

    def wrong(model: Any, name: str, layout: Any, spec: Any, size: Any, **more: Any) -> None:
        right(model, name, layout, type(spec)(**{**spec.to_json(), "std": [0.225, 0.224, 0.229]}), size, **more)

    monkeypatch.setattr(onnx_graph, "replace_input", wrong)
    with pytest.raises(ParityError, match="does not answer as its source does"):
        import_onnx(save(foreign(), tmp_path), tmp_path / "adopted.onnx", options=OPTIONS, labels=LABELS)
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]
