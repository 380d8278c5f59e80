"""`resnet-infer export --format openvino`: an IR that carries its spec and answers as its graph does, or none."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.runtimes.artifacts import check_contents, read_size, read_spec
from resnet_infer.runtimes.registry import open_runtime
from tests.conftest import Outcome

for module, extra in (("openvino", "openvino"), ("onnxruntime", "cpu"), ("onnx", "export")):
    pytest.importorskip(module, reason=f"the extra `{extra}`")

from resnet_infer.converters import openvino as converter  # noqa: E402
from resnet_infer.converters.export import ExportConfig, export  # noqa: E402
from resnet_infer.errors import ParityError  # noqa: E402
from resnet_infer.runtimes import openvino as runtime  # noqa: E402
from resnet_infer.runtimes.openvino_ir import DIGEST_KEY, weights_path  # noqa: E402

Cli = Callable[..., Outcome]
Photos = Callable[..., NDArray[np.uint8]]
NAME = zoo.SMALL
CHECKPOINT = zoo.built_in(NAME, ".safetensors")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the command runs."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def data(photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures to calibrate on."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    for number, image in enumerate(photos(48, 32)):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_ir_is_proven_and_read_by_everything(
    cli: Cli, here: Path, data: Path, photos: Photos, precision: str
) -> None:
    with_data = ("--calibration-data", data) if precision == "int8" else ()
    done = cli("export", NAME, "--format", "openvino", "-p", precision, *with_data, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    stem = NAME if precision == "fp32" else f"{NAME}.{precision}"
    assert (report["file_format"], report["artifact"], report["precision"]) == ("openvino", f"{stem}.xml", precision)
    calibration = {f"{stem}.calibration.json"} if precision == "int8" else set()
    assert set(os.listdir(here)) == {f"{stem}.xml", f"{stem}.bin"} | calibration
    path = here / f"{stem}.xml"
    assert report["bytes"] == sum(os.path.getsize(part) for part in (path, weights_path(path)))
    assert report["parity"]["passed"] is report["openvino_parity"]["passed"] is True
    digest = hashlib.sha256(weights_path(path).read_bytes()).hexdigest()
    assert report["openvino"]["weights_sha256"] == digest
    assert DIGEST_KEY in path.read_text()
    assert digest in path.read_text()

    assert cli("export", NAME, "-p", precision, *with_data).code == 0
    graph = here / f"{stem}.onnx"
    assert read_spec(path) == read_spec(graph)
    assert read_size(path) == (32, 32)
    check_contents(path)
    images = photos(40, 32)
    with open_runtime(path) as opened, open_runtime(graph, runtime="openvino") as same:
        assert (opened.name, opened.spec.precision) == ("openvino", precision)
        assert opened.describe()["computes"] == same.describe()["computes"]
        np.testing.assert_array_equal(opened(images), same(images))
    others = (("compare", path, NAME), ("compare", path, graph), ("classify", data, "-m", path))
    for command in (("inspect", path), *others):
        done = cli(*command)
        assert done.code == 0, done.out + done.err


def test_an_ir_is_the_same_each_time(here: Path) -> None:
    for name in ("one", "two"):
        export(load_checkpoint(CHECKPOINT), here / f"{name}.xml", ExportConfig())
    for suffix in (".xml", ".bin"):
        assert (here / f"one{suffix}").read_bytes() == (here / f"two{suffix}").read_bytes()


def test_any_class_name_survives(here: Path) -> None:
    checkpoint = load_checkpoint(CHECKPOINT)
    names = ("\uffff", "\ufffe", "\n", "<&>\"'", "]]>", "\x7f\x85", "caf\u00e9", "\U0001f431", " ", "\\")
    export(replace(checkpoint, spec=checkpoint.spec.with_(classes=names)), here / "model.xml", ExportConfig())
    assert read_spec(here / "model.xml").classes == names


def test_the_size_may_be_left_open(here: Path, photos: Photos, make_checkpoint: Callable[..., Checkpoint]) -> None:
    path = here / "open.xml"
    export(make_checkpoint(), path, ExportConfig(options={"dynamic_size": True}))
    assert read_size(path) == (None, None)
    with open_runtime(path) as opened:
        assert opened(photos(3, 48)).shape == (3, len(opened.spec.classes))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_wrong_conversion_is_not_kept(here: Path, monkeypatch: pytest.MonkeyPatch, precision: Any) -> None:
    """The negative control: OpenVINO is given the graph of a network with other weights."""
    checkpoint = load_checkpoint(CHECKPOINT)
    earlier = here / "model.xml"
    export(checkpoint, earlier, ExportConfig())
    before = [path.read_bytes() for path in (earlier, weights_path(earlier))]
    real = runtime.CORE

    class Core:
        """A reader of graphs that swaps two classes."""

        def read_model(self, content: bytes) -> Any:
            import onnx

            model = onnx.ModelProto.FromString(content)
            weight = next(item for item in model.graph.initializer if item.name == "fc.weight")
            dtype = np.float16 if precision == "fp16" else np.float32
            values = np.frombuffer(weight.raw_data, dtype).reshape(*weight.dims)
            weight.raw_data = values[::-1].tobytes()
            return real.read_model(model.SerializeToString())

    monkeypatch.setattr(converter, "CORE", Core())
    with pytest.raises(ParityError, match=f"the OpenVINO IR of {NAME} does not answer as its source does"):
        export(checkpoint, earlier, ExportConfig(precision=precision))
    assert sorted(os.listdir(here)) == ["model.bin", "model.xml"]
    assert [path.read_bytes() for path in (earlier, weights_path(earlier))] == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "tensorrt"), "--format openvino is for the target cpu, not tensorrt"),
        (("--target", "auto"), "--format openvino is for the target cpu, not auto"),
        (("--max-batch", "4"), "--max-batch is an option of --format tensorrt, not of openvino"),
        (("-o", "model.onnx"), "a file of the format openvino ends in .xml, not .onnx"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(cli: Cli, here: Path, arguments: tuple[str, ...], message: str) -> None:
    done = cli("export", NAME, "--format", "openvino", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not os.listdir(here)


def test_without_openvino_the_extra_is_named(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for name in ("resnet_infer.converters.openvino", "resnet_infer.runtimes.openvino"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    done = cli("export", NAME, "--format", "openvino")
    assert (done.code, done.out) == (1, "")
    assert 'pip install "resnet-infer[openvino]"' in done.err
    assert not os.listdir(here)
