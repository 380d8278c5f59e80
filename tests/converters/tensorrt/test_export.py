"""Engines are built as each version of TensorRT wants it, proven, and written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_infer.errors import ModelError, ParityError, RuntimeUnavailableError, UsageError
from resnet_infer.models.spec import Precision
from resnet_infer.runtimes.tensorrt.engine_file import read_engine, sidecar_path

onnx = pytest.importorskip("onnx", reason="the extra `export`")
pytest.importorskip("onnxruntime", reason="answers for the engines (the extra `cpu`)")

from resnet_infer.converters.tensorrt.engine_graph import graph_for  # noqa: E402
from tests.tensorrt import machine as machines  # noqa: E402
from tests.tensorrt.fake_driver import Code  # noqa: E402
from tests.tensorrt.graphs import SIZE, small  # noqa: E402
from tests.tensorrt.machine import Machine  # noqa: E402

pytestmark = pytest.mark.usefixtures("notes_on_stderr")

VERSIONS = ("8.6.1", "10.3.0", "10.16.1.11", "11.4.0.106")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
PICTURES = np.random.default_rng(0).integers(0, 256, (17, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield from machines.install(monkeypatch)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.engine"


def build(model: bytes | Path, target: Path, precision: Precision = "fp32", **arguments: Any) -> Any:
    from resnet_infer.converters.tensorrt.export import BuildOptions, build_engine

    names = BuildOptions.__dataclass_fields__
    options = BuildOptions(**{key: value for key, value in arguments.items() if key in names})
    rest = {key: value for key, value in arguments.items() if key not in names}
    return build_engine(model, target, precision=precision, options=options, **rest)


def graph(precision: Precision, major: int) -> bytes:
    kind = graph_for(precision, major)
    return small(half=kind.half, quantized=kind.quantized)


# What is built


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_is_built_as_its_version_wants_it_and_answers(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, target: Path, version: str, precision: Precision
) -> None:
    machines.set_version(machine, monkeypatch, version)
    from resnet_infer.converters.tensorrt.export import prove, require_tensorrt

    major = require_tensorrt()
    assert major == int(version.partition(".")[0])
    model = graph(precision, major)
    parities = []
    info = build(model, target, precision, prove=lambda path: parities.append(prove(path, model)))

    (built,) = machine.built
    assert built.network.flags == {8: 1 << 0, 10: 1 << 1, 11: 0}[major]
    flags = {"TF32"} if precision != "fp32" else set()
    flags |= {"fp32": set(), "fp16": {"FP16"}, "int8": {"INT8"}}[precision] if major == 8 else set()
    assert built.names == flags
    assert built.profiles[0].shapes == {"images": ((1, 8, 8, 3), (8, 8, 8, 3), (64, 8, 8, 3))}

    assert [parity.passed for parity in parities] == [True]
    assert sorted(path.name for path in target.parent.iterdir()) == ["model.engine", "model.engine.json"]
    assert read_engine(target) == (target.read_bytes(), info)
    sidecar = json.loads(sidecar_path(target).read_text())
    assert sidecar["precision"] == sidecar["spec"]["precision"] == info.spec.precision == precision
    assert sidecar["tensorrt"] == version
    assert (sidecar["gpu"], sidecar["compute_capability"]) == ("NVIDIA Test GPU", [9, 0])
    assert sidecar["onnx_sha256"] == hashlib.sha256(model).hexdigest()
    assert sidecar["batch"] == [1, 8, 64]
    assert sidecar["layers"][precision] >= 1
    assert json.loads(json.dumps(info.to_json())) == {
        key: value for key, value in sidecar.items() if key not in ("spec", "format")
    }
    machine.assert_clean()


def test_an_open_size_is_fixed_to_the_crop_and_said(
    machine: Machine, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = build(small(open_size=True), target)
    assert info.size == (SIZE, SIZE)
    assert "takes pictures of any size; the engine takes 8x8" in capsys.readouterr().err


def test_a_path_is_as_good_as_bytes(machine: Machine, target: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(small())
    assert build(tmp_path / "model.onnx", target).onnx_sha256 == hashlib.sha256(small()).hexdigest()


# The precision that was asked for


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
def test_an_engine_in_another_precision_is_not_kept(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, target: Path, precision: Precision, version: str
) -> None:
    machines.set_version(machine, monkeypatch, version)
    other = {"fp32": "Half", "fp16": "Float", "int8": "Half"}[precision]
    machine.layers = lambda layers: [{**layer, "Weights": {"Type": other}} for layer in layers]
    target.write_bytes(b"the old one")
    with pytest.raises(ModelError, match=f"does not run in {precision} as it was asked to: of its 2 layers 2 in"):
        build(graph(precision, machine.major), target, precision)
    assert [path.read_bytes() for path in target.parent.iterdir()] == [b"the old one"]
    machine.assert_clean()


def test_an_engine_that_tells_nothing_is_not_kept(machine: Machine, target: Path) -> None:
    for told in ("nothing", ["conv1 + relu1"], None):
        machine.layers = lambda layers, told=told: told  # type: ignore[misc]
        with pytest.raises(ModelError, match="account of the engine's layers cannot be read"):
            build(small(), target)
    machine.layers = lambda layers: []
    with pytest.raises(ModelError, match="does not run in fp32"):
        build(small(), target)
    assert not list(target.parent.iterdir())


# What goes wrong


def test_a_proof_that_fails_leaves_what_was_there(machine: Machine, target: Path) -> None:
    from resnet_infer.converters.tensorrt.export import prove

    old = {target: b"an engine", sidecar_path(target): b"its sidecar"}
    for path, content in old.items():
        path.write_bytes(content)

    def check(path: Path) -> None:
        assert path != target
        prove(path, small(seed=1), PICTURES)

    with pytest.raises(ParityError, match="the engine of small does not answer as its source does"):
        build(small(), target, prove=check)
    assert {path: path.read_bytes() for path in target.parent.iterdir()} == old
    machine.assert_clean()


@pytest.mark.parametrize("call", ["cuCtxPushCurrent", "cuStreamCreate", "cuDevicePrimaryCtxRetain", "cuDeviceGetName"])
def test_a_driver_that_fails_leaves_nothing(machine: Machine, target: Path, call: str) -> None:
    machine.driver.failing[call] = Code.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(RuntimeUnavailableError, match=f"{call} gave CUDA_ERROR_ILLEGAL_ADDRESS"):
        build(small(), target)
    machine.assert_clean()


def test_without_a_gpu_nothing_of_tensorrt_is_touched(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, target: Path
) -> None:
    from resnet_infer.converters.tensorrt.export import require_tensorrt

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(RuntimeUnavailableError, match="built and run on an NVIDIA GPU only"):
        require_tensorrt("cpu")
    machine.driver.devices.clear()
    for act in (require_tensorrt, lambda: build(small(), target)):
        with pytest.raises(RuntimeUnavailableError, match="there is no GPU 0"):
            act()
    machine.assert_clean()


def test_hardware_compatibility_begins_with_ampere(machine: Machine, target: Path) -> None:
    machine.driver.devices = [("NVIDIA Old GPU", (7, 5))]
    with pytest.raises(RuntimeUnavailableError, match="needs an Ampere GPU or newer, not NVIDIA Old GPU"):
        build(small(), target, hardware_compatible=True)


# The whole road of `export`


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_export_takes_the_steps_in_order(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, target: Path, tmp_path: Path, version: str, precision: Precision
) -> None:
    from resnet_infer.converters.export import ExportConfig, Pictures, export

    machines.set_version(machine, monkeypatch, version)
    (tmp_path / "model.onnx").write_bytes(small())
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(np.random.default_rng(1).integers(0, 256, (40, SIZE, SIZE, 3), np.uint8)):
        Image.fromarray(image).save(folder / f"{number}.png")
    pictures = Pictures(calibration=folder if precision == "int8" else None)
    options = {"max_batch": 16, "workspace": 3, "optimization_level": 2}
    config = ExportConfig(precision=precision, pictures=pictures, options=options)
    done = export(tmp_path / "model.onnx", target, config).to_json()
    (built,) = machine.built
    assert built.profiles[0].shapes == {"images": ((1, 8, 8, 3), (8, 8, 8, 3), (16, 8, 8, 3))}
    assert built.pools == {"WORKSPACE": 3 << 20}
    assert done["engine_parity"]["passed"] is True
    assert done["engine"]["batch"] == (1, 8, 16)
    content, info = read_engine(target)
    assert done["bytes"] == len(content)
    assert info.spec.precision == precision
    made = {"model.engine", "model.engine.json"} | ({"model.calibration.json"} if precision == "int8" else set())
    assert {path.name for path in target.parent.iterdir()} == made
    machine.assert_clean()


def test_export_that_is_not_proven_leaves_what_was_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, target: Path, tmp_path: Path
) -> None:
    from resnet_infer.converters.export import ExportConfig, export
    from resnet_infer.converters.tensorrt import export as tensorrt

    old = {target: b"an engine", sidecar_path(target): b"its sidecar"}
    for path, content in old.items():
        path.write_bytes(content)
    (tmp_path / "model.onnx").write_bytes(small())
    real = tensorrt.build_engine
    monkeypatch.setattr(tensorrt, "build_engine", lambda model, path, **more: real(small(seed=1), path, **more))
    with pytest.raises(ParityError, match="does not answer as its source does"):
        export(tmp_path / "model.onnx", target, ExportConfig())
    assert {path: path.read_bytes() for path in target.parent.iterdir()} == old


@pytest.mark.parametrize(
    "options", [{"min_batch": 9, "max_batch": 4}, {"optimization_level": 6}, {"workspace": 0}], ids=str
)
def test_export_checks_the_builder_before_it_reads_the_model(
    machine: Machine, target: Path, tmp_path: Path, options: dict[str, int]
) -> None:
    from resnet_infer.converters.export import ExportConfig, export

    with pytest.raises(UsageError):
        export(tmp_path / "there-is-none.onnx", target, ExportConfig(options=options))
    assert not machine.driver.held
