"""`resnet-infer inspect`: what a file is, eats and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from resnet_infer import zoo
from resnet_infer.models.architectures import Architecture, architecture, count_parameters
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.models.spec import METADATA_KEY, Measured, ModelSpec
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.runtimes.tensorrt.engine_file import sidecar_path
from tests.conftest import Outcome
from tests.runtimes.engines import INFO, write_engine

Cli = Callable[..., Outcome]
Make = Callable[..., Checkpoint]
ARTIFACT, CHECKPOINT = zoo.built_in(zoo.SMALL, ".onnx"), zoo.built_in(zoo.SMALL, ".safetensors")


def shown(outcome: Outcome) -> dict[str, str]:
    """The rows that were printed: name -> value."""
    found: dict[str, str] = {}
    lines = outcome.out.splitlines()
    assert lines[0].startswith("file ")
    width = len(lines[0]) - len(lines[0].removeprefix("file").lstrip())
    name = ""
    for line in lines:
        name = line[:width].strip() or name
        found[name] = f"{found[name]}\n{line[width:]}" if name in found else line[width:]
    return found


def test_it_names_file_size_network_classes_and_geometry(cli: Cli, tmp_path: Path, make_checkpoint: Make) -> None:
    checkpoint = make_checkpoint()
    measured = Measured("CIFAR-10 test", "1-crop", 10_000, 8.75), Measured("more", "10-crop", 50, 25.5, 7.25)
    spec = replace(
        checkpoint.spec,
        measured=measured,
        provenance={"data": "CIFAR-10", "recipe": {"peak_rate": 0.1, "milestones": [32000, 48000]}},
        input=replace(checkpoint.spec.input, exif=False),
    )
    path = tmp_path / "mine.safetensors"
    save_checkpoint(replace(checkpoint, spec=spec), path)
    done = cli("inspect", path)
    assert (done.code, done.err) == (0, "")
    rows = shown(done)
    assert rows["file"] == str(path)
    assert rows["size"] == f"{path.stat().st_size / 1e6:.1f} MB"
    assert rows["name"] == spec.name
    assert rows["architecture"] == "resnet20 (shortcut option A, zero channels: append)"
    assert spec.architecture is not None
    assert rows["parameters"] == f"{count_parameters(spec.architecture):,}"
    assert rows["multiply-adds"].endswith("a picture of 32x32")
    assert rows["precision"] == "fp32"
    assert rows["classes"] == f"10: {', '.join(spec.classes)}"
    resize, mean, exif = rows["input"].splitlines()
    assert resize == "shorter side to 32 (bilinear), centre crop 32x32"
    assert mean == f"mean {', '.join(f'{x:.4g}' for x in spec.input.mean)}; std 0.24, 0.25, 0.26"
    assert exif == "EXIF orientation ignored"
    assert rows["error"].splitlines() == [
        "top-1 8.75% (8.21-9.32) on CIFAR-10 test, 10,000 pictures, 1-crop",
        "top-1 25.5% (15.87-39.55), top-5 7.25% on more, 50 pictures, 10-crop",
    ]
    assert rows["data"] == "CIFAR-10"
    assert rows["recipe"].splitlines() == ["peak rate: 0.1", "milestones: 32000, 48000"]


def artifact(folder: Path, spec: ModelSpec) -> Path:
    """A file that says it is `spec`, with as many logits as that has classes."""
    onnx = pytest.importorskip("onnx", reason="changes an artifact (the extra `export`)")
    model = onnx.load(ARTIFACT)
    count = len(spec.classes)
    last = next(node for node in model.graph.node if node.op_type == "Gemm")
    for tensor in model.graph.initializer:
        if tensor.name in last.input[1:]:
            values = np.resize(onnx.numpy_helper.to_array(tensor), (count, *tensor.dims[1:]))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = count
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.dumps()})
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (architecture("plain20"), "plain20 (no shortcuts)"),
        (architecture("resnet56", shortcut="A", padding="split"), "resnet56 (shortcut option A, zero channels: split)"),
        (architecture("resnet50", stride_in="1x1"), "resnet50 (shortcut option B, stride in the 1x1)"),
    ],
)
def test_a_network_is_told_with_its_options(cli: Cli, tmp_path: Path, network: Architecture, words: str) -> None:
    names = tuple(f"class {i}" for i in range(network.num_classes))
    path = artifact(tmp_path, load_checkpoint(CHECKPOINT).spec.with_(architecture=network, classes=names))
    rows = shown(cli("inspect", path))
    assert rows["architecture"] == words
    assert rows["parameters"] == f"{count_parameters(network):,}"


def test_an_adopted_graph_has_no_architecture(cli: Cli, tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(1000))
    path = artifact(tmp_path, load_checkpoint(CHECKPOINT).spec.with_(architecture=None, classes=names))
    rows = shown(cli("inspect", path))
    assert not {"architecture", "parameters", "multiply-adds"} & set(rows)
    assert rows["classes"] == f"1000: {', '.join(names[:10])}, ..."


def test_a_mean_per_pixel_is_not_spelled_out(cli: Cli, tmp_path: Path, make_checkpoint: Make) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(make_checkpoint(per_pixel=True), path)
    assert "mean per pixel; std" in cli("inspect", path).out


def test_json_is_the_spec_itself_of_artifact_and_checkpoint(cli: Cli) -> None:
    checkpoint = load_checkpoint(CHECKPOINT).spec
    with open_runtime(ARTIFACT, device="cpu") as runtime:
        artifact = runtime.spec
    for path, spec in ((ARTIFACT, artifact), (CHECKPOINT, checkpoint)):
        done = cli("inspect", path, "--json")
        report = json.loads(done.out)
        assert (done.code, done.err) == (0, "")
        assert (report["file"], report["bytes"]) == (str(path), path.stat().st_size)
        assert ModelSpec.loads(json.dumps(report["spec"]), "json") == spec


def test_the_default_is_the_environment_or_the_built_in(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, checkpoint_file: Path
) -> None:
    assert json.loads(cli("inspect", "--json").out)["file"] == str(ARTIFACT)
    assert cli("inspect").out == cli("inspect", zoo.SMALL).out
    monkeypatch.setenv(zoo.VARIABLE, str(checkpoint_file))
    assert json.loads(cli("inspect", "--json").out)["file"] == str(checkpoint_file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", b"no model", "is damaged, or no ONNX file"),
        ("model.safetensors", b"no model", "is damaged"),
        ("model.pth", b"no model", "is no checkpoint"),
        ("model.onnx", None, "there is no file and no model called"),
    ],
)
def test_what_is_no_model_is_named(cli: Cli, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = cli("inspect", path)
    assert (done.code, done.out) == (1, "")
    assert str(path) in done.err
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_bare_safetensors_file_is_sent_to_import(cli: Cli, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "bare.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, path)
    done = cli("inspect", path)
    assert done.code == 1
    assert f"resnet-infer import {path}" in done.err


def test_an_engine_is_told_without_a_gpu_and_without_tensorrt(cli: Cli, tmp_path: Path) -> None:
    path = write_engine(tmp_path, tensorrt="99.1.2")
    done = cli("inspect", path)
    assert (done.code, done.err) == (0, "")
    rows = shown(done)
    assert (rows["file"], rows["name"], rows["precision"]) == (str(path), "small", "int8")
    assert rows["TensorRT"] == "99.1.2"
    assert rows["GPU"] == "NVIDIA Test GPU (compute capability 9.0)"
    assert rows["batch"] == "1 to 64, tuned for 8"
    assert rows["pixels"] == "8x8"
    assert rows["layers"] == "3 int8, 1 other"
    assert rows["made from"] == f"an ONNX graph with SHA-256 {'0' * 64}"


def test_an_engine_says_where_else_it_runs(cli: Cli, tmp_path: Path) -> None:
    rows = shown(cli("inspect", write_engine(tmp_path, version_compatible=True, hardware_compatible=True, layers={})))
    assert rows["TensorRT"] == "10.3.0, and newer versions (version-compatible)"
    assert rows["GPU"].endswith("(compute capability 9.0), and other GPUs from Ampere on (hardware-compatible)")
    assert rows["layers"] == "not told"


def test_json_of_an_engine_has_what_its_sidecar_has(cli: Cli, tmp_path: Path) -> None:
    path = write_engine(tmp_path)
    report = json.loads(cli("inspect", path, "--json").out)
    sidecar = json.loads(sidecar_path(path).read_text())
    assert ModelSpec.loads(json.dumps(report["spec"]), "json") == INFO.spec
    assert report["bytes"] == len(b"an engine")
    assert report["engine"] == {name: value for name, value in sidecar.items() if name not in ("format", "spec")}
    assert "engine" not in json.loads(cli("inspect", ARTIFACT, "--json").out)


def test_an_engine_that_its_sidecar_does_not_tell_of_is_refused(cli: Cli, tmp_path: Path) -> None:
    path = write_engine(tmp_path)
    path.write_bytes(b"another")
    done = cli("inspect", path)
    assert (done.code, done.out) == (1, "")
    assert "belongs to another engine" in " ".join(done.err.split())
    sidecar_path(path).unlink()
    assert "lacks its sidecar" in cli("inspect", path).err


def test_files_that_do_not_fit_their_spec_are_refused(cli: Cli, tmp_path: Path) -> None:
    """A checkpoint without one of its tensors, and a graph whose input has another type."""
    onnx = pytest.importorskip("onnx", reason="what a graph is changed with (the extra `export`)")
    checkpoint = zoo.checkpoint(zoo.SMALL)
    incomplete, graph = tmp_path / "incomplete.safetensors", tmp_path / "float.onnx"
    tensors = {name: value for name, value in checkpoint.weights.items() if name != "bn1.bias"}
    incomplete.write_bytes(save(tensors, metadata={METADATA_KEY: checkpoint.spec.dumps()}))
    model = onnx.load(zoo.built_in(zoo.SMALL, ".onnx"))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(model, graph)
    for path, message in ((incomplete, "missing bn1.bias"), (graph, "its spec")):
        done = cli("inspect", path)
        assert done.code == 1
        assert message in done.err
