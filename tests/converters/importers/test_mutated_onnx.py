"""Damaged ONNX files: whatever is done with one, it works or is an error of ours, never one of a library."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_infer import zoo
from resnet_infer.errors import ResnetInferError
from resnet_infer.models.spec import METADATA_KEY
from resnet_infer.runtimes.registry import open_runtime
from tests.conftest import Outcome

onnx = pytest.importorskip("onnx", reason="the extra `export`")
pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")
Cli = Callable[..., Outcome]
CROP = ("--resize", "32", "--crop", "32", "--mean", "0", "--std", "1")
UNEXPECTED = "this should not happen"


def foreign() -> bytes:
    """The built-in network as another program would write it: float pictures in planes, and no spec."""
    model = onnx.load(zoo.built_in(zoo.SMALL, ".onnx"))
    kept = [item for item in model.metadata_props if item.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    graph = model.graph
    first = next(index for index, node in enumerate(graph.node) if node.op_type == "Conv")
    images = onnx.helper.make_tensor_value_info(graph.node[first].input[0], onnx.TensorProto.FLOAT, ["N", 3, 32, 32])
    graph.input[0].CopyFrom(images)
    del graph.node[:first]
    return bytes(model.SerializeToString())


def structure(content: bytes) -> list[int]:
    """The places of all bytes but the insides of weights, where a change damages no more than the answer."""
    inside = bytearray(len(content))
    for tensor in onnx.load_from_string(content).graph.initializer:
        place = content.find(tensor.raw_data) if len(tensor.raw_data) > 64 else -1
        if place >= 0:
            inside[place + 16 : place + len(tensor.raw_data)] = b"\1" * (len(tensor.raw_data) - 16)
    return [place for place, value in enumerate(inside) if not value]


def mutate(content: bytes, places: list[int], seed: int) -> bytes:
    """Flip, replace, cut, repeat or exchange a few bytes."""
    chance, data = random.Random(seed), bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        place, how = chance.choice(places), chance.choice(["bit", "byte", "cut", "swap", "repeat"])
        if place + 1 >= len(data):
            continue
        if how == "bit":
            data[place] ^= 1 << chance.randrange(8)
        elif how == "byte":
            data[place] = chance.randrange(256)
        elif how == "cut":
            del data[place : place + chance.choice([1, 3, 50])]
        elif how == "repeat":
            data[place:place] = data[place : place + chance.choice([1, 4])]
        else:
            data[place], data[place + 1] = data[place + 1], data[place]
    return bytes(data)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_damaged_artifact_is_opened_and_run_or_refused(runtime: str, tmp_path: Path) -> None:
    if find_spec(runtime) is None:
        pytest.skip(f"needs the package {runtime}")
    content = zoo.built_in(zoo.SMALL, ".onnx").read_bytes()
    places, path = structure(content), tmp_path / "model.onnx"
    for seed in range(120):
        path.write_bytes(mutate(content, places, seed))
        with suppress(ResnetInferError), open_runtime(path, runtime=runtime, device="cpu", threads=1) as opened:
            assert opened(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, len(opened.spec.classes))


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_artifact_is_converted_or_refused(seed: int, cli: Cli, tmp_path: Path) -> None:
    content = zoo.built_in(zoo.SMALL, ".onnx").read_bytes()
    path, target = tmp_path / "model.onnx", tmp_path / "half.onnx"
    path.write_bytes(mutate(content, structure(content), seed))
    for command in (
        ("export", path, "--precision", "fp16", "-o", target),
        ("inspect", path),
    ):
        done = cli(*command)
        assert UNEXPECTED not in done.err
        assert "Usage: " not in done.err
    if not target.exists():
        done = cli("compare", path, path, "--layers", "-n", "2")
        assert UNEXPECTED not in done.err
        assert "Usage: " not in done.err


def weight_of_another_size(model: Any) -> None:
    tensor = next(item for item in model.graph.initializer if len(item.dims) == 1)
    tensor.dims[0] += 32


def weight_of_no_type(model: Any) -> None:
    model.graph.initializer[0].data_type = 77


def node_without_inputs(model: Any) -> None:
    del next(node for node in model.graph.node if node.op_type == "Conv").input[:]


def node_without_outputs(model: Any) -> None:
    del next(node for node in model.graph.node if node.op_type == "Relu").output[:]


def name_that_is_not_there(model: Any) -> None:
    model.graph.node[-1].input[0] = "nowhere"


def input_of_no_type(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


def no_output(model: Any) -> None:
    del model.graph.output[:]


@pytest.mark.parametrize(
    "change",
    [
        weight_of_another_size,
        weight_of_no_type,
        node_without_inputs,
        node_without_outputs,
        name_that_is_not_there,
        input_of_no_type,
        no_output,
    ],
)
def test_a_graph_that_contradicts_itself_is_refused(change: Callable[[Any], None], cli: Cli, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {index}" for index in range(10)))
    for content, command in (
        (zoo.built_in(zoo.SMALL, ".onnx").read_bytes(), ("export", "FILE", "--precision", "fp16")),
        (zoo.built_in(zoo.SMALL, ".onnx").read_bytes(), ("compare", "FILE", zoo.SMALL, "--layers", "-n", "2")),
        (foreign(), ("import", "FILE", "--labels", labels, *CROP)),
    ):
        model = onnx.load_from_string(content)
        change(model)
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        output = () if command[0] == "compare" else ("-o", tmp_path / "new.onnx")
        done = cli(*(path if item == "FILE" else item for item in command), *output)
        assert done.code in (1, 2), command
        assert "error: " in done.err
        assert UNEXPECTED not in done.err
        assert "Usage: " not in done.err


def test_a_damaged_foreign_graph_is_imported_or_refused(cli: Cli, tmp_path: Path) -> None:
    content = foreign()
    places, path, labels = structure(content), tmp_path / "model.onnx", tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class {index}" for index in range(10)))
    for seed in range(40):
        path.write_bytes(mutate(content, places, seed))
        done = cli("import", path, "--labels", labels, *CROP, "-o", tmp_path / "new.onnx")
        assert UNEXPECTED not in done.err, seed
        assert "Usage: " not in done.err
