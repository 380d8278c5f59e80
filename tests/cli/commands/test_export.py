"""`resnet-infer export`: an artifact that is proven, or none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.models import graph
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.runtimes.registry import open_runtime
from tests.conftest import PICTURES, Outcome

pytest.importorskip("onnx", reason="the extra `export`")

Cli = Callable[..., Outcome]
Make = Callable[..., Checkpoint]
CHECKPOINT = zoo.built_in(zoo.SMALL, ".safetensors")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the command runs."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_artifact_is_called_after_the_model(cli: Cli, here: Path) -> None:
    spec = load_checkpoint(CHECKPOINT).spec
    done = cli("export")
    assert done.code == 0
    assert os.listdir(here) == [f"{spec.name}.onnx"]
    artifact = here / f"{spec.name}.onnx"
    assert done.out == f"{artifact.name}  {artifact.stat().st_size / 1e6:.1f} MB\n"
    assert done.err.startswith("parity PASS against ")
    with open_runtime(artifact, device="cpu") as runtime:
        assert runtime.spec == spec
        assert runtime.size == (spec.input.crop, spec.input.crop)


def test_the_artifact_classifies_as_the_built_in_does(cli: Cli, here: Path) -> None:
    assert cli("export", CHECKPOINT, "-o", here / "new" / "folder" / "mine.onnx").code == 0
    expected = cli("classify", PICTURES, "-m", zoo.SMALL, "-f", "csv").out
    assert cli("classify", PICTURES, "-m", here / "new" / "folder" / "mine.onnx", "-f", "csv").out == expected


def test_the_environment_names_the_model(cli: Cli, monkeypatch: pytest.MonkeyPatch, checkpoint_file: Path) -> None:
    monkeypatch.setenv(zoo.VARIABLE, str(checkpoint_file))
    done = cli("export")
    assert (done.code, done.out.split()[0]) == (0, f"{load_checkpoint(checkpoint_file).spec.name}.onnx")


def test_json_holds_the_proof(cli: Cli, here: Path) -> None:
    done = cli("export", zoo.SMALL, "--json", "-o", "model.onnx")
    assert done.code == 0
    report = json.loads(done.out)
    assert (report["format"], report["file_format"]) == (1, "onnx")
    assert report["artifact"] == "model.onnx"
    assert report["bytes"] == (here / "model.onnx").stat().st_size
    parity = report["parity"]
    assert parity["passed"] is True
    assert parity["agreement"] == 1
    assert parity["pictures"] >= 2
    assert parity["max_delta"] <= parity["tolerance"] * parity["spread"]
    assert "parity PASS" in done.err


def test_the_size_may_be_left_open(
    cli: Cli, checkpoint_file: Path, make_checkpoint: Make, photos: Callable[..., NDArray[np.uint8]]
) -> None:
    pytest.importorskip("torch", reason="the module takes any size (the extra `train`)")
    assert cli("export", checkpoint_file, "--dynamic-size", "-o", "open.onnx").code == 0
    with (
        open_runtime(Path("open.onnx"), device="cpu") as artifact,
        open_runtime(make_checkpoint(), device="cpu") as module,
    ):
        assert artifact.size == (None, None)
        for size in (32, 48, 33):
            images = photos(4, size)[:, :, : size - 1]
            expected = module(images)
            np.testing.assert_allclose(artifact(images), expected, rtol=0, atol=1e-4 * expected.std())


def test_a_mean_per_pixel_has_a_size(cli: Cli, here: Path, make_checkpoint: Make, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(make_checkpoint(per_pixel=True), path)
    done = cli("export", path, "--dynamic-size", "-o", "model.onnx")
    assert (done.code, done.out) == (2, "")
    assert "leave --dynamic-size out" in done.err
    assert cli("export", path, "-o", "model.onnx").code == 0
    assert os.listdir(here) == ["model.onnx"]


@pytest.mark.parametrize("name", ["model.engine", "model", "folder/", "model.onnx.txt"])
def test_an_artifact_has_its_suffix(cli: Cli, here: Path, name: str) -> None:
    done = cli("export", "-f", "onnx", "-o", name)
    assert (done.code, done.out) == (2, "")
    ending = "and {} has no suffix" if "." not in name else "not ."
    assert f"error: a file of the format onnx ends in .onnx, {ending.format(Path(name))}" in done.err
    if name != "model.engine":
        done = cli("export", "-o", name)
        assert (done.code, done.out) == (2, "")
        assert ("error: no format ends in" if "." in name else "has no suffix\n  hint: an artifact ends in") in done.err
    assert not os.listdir(here)


@pytest.mark.parametrize(("wrong", "close"), [("onxn", "onnx"), ("ONNX1", None)])
def test_a_mistyped_format_is_a_usage_error(cli: Cli, here: Path, wrong: str, close: str | None) -> None:
    done = cli("export", "--format", wrong)
    assert done.code == 2
    assert ("did you mean" in done.err) == (close is not None)
    assert close is None or f"did you mean {close}?" in done.err
    assert not os.listdir(here)


def test_an_artifact_that_answers_otherwise_is_not_left(
    cli: Cli, here: Path, make_checkpoint: Make, checkpoint_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the graph is built from weights of which one is not the checkpoint's."""
    from resnet_infer.converters import source

    checkpoint = make_checkpoint()
    weights = {name: value.copy() for name, value in checkpoint.weights.items()}
    weights["layer1.0.conv1.weight"][1, 2, 0, 1] += 0.05
    real = graph.build_graph

    def build(_: Checkpoint, **options: Any) -> Any:
        return real(replace(checkpoint, weights=weights), **options)

    monkeypatch.setattr(source, "build_graph", build)
    for form in ((), ("--json",)):
        done = cli("export", checkpoint_file, "-o", "model.onnx", *form)
        assert (done.code, done.out) == (1, "")
        assert "does not answer as its source does: parity FAIL" in done.err
        assert not os.listdir(here)
    yesterdays = zoo.built_in(zoo.SMALL, ".onnx").read_bytes()
    (here / "model.onnx").write_bytes(yesterdays)
    assert cli("export", checkpoint_file, "-o", "model.onnx").code == 1
    assert os.listdir(here) == ["model.onnx"]
    assert (here / "model.onnx").read_bytes() == yesterdays


def test_a_place_that_cannot_be_written_is_named(cli: Cli, here: Path) -> None:
    (here / "file").touch()
    done = cli("export", "-o", here / "file" / "model.onnx")
    assert (done.code, done.out) == (1, "")
    assert f"error: cannot write {here / 'file' / 'model.onnx'}: " in done.err
    assert "Traceback" not in done.err


def damage(kind: str) -> bytes:
    content = CHECKPOINT.read_bytes()
    return {"empty": b"", "truncated": content[:-1000], "other": b"\x80" * 5000}[kind]


@pytest.mark.parametrize("kind", ["empty", "truncated", "other"])
def test_a_damaged_checkpoint_is_named(cli: Cli, here: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damage(kind))
    done = cli("export", path)
    assert (done.code, done.out) == (1, "")
    assert f"error: {path} is damaged" in done.err
    assert "Traceback" not in done.err
    assert not os.listdir(here)


def test_weights_that_say_nothing_are_not_exported(cli: Cli, here: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(CHECKPOINT)
    weights = {**checkpoint.weights, "fc.weight": np.zeros_like(checkpoint.weights["fc.weight"])}
    path = tmp_path / "silent.safetensors"
    save_checkpoint(replace(checkpoint, weights=weights), path)
    done = cli("export", path)
    assert done.code == 1
    assert "nothing can be compared" in done.err
    assert not os.listdir(here)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (str(zoo.find(zoo.SMALL)), "is an artifact already"),
        ("resnet20-cifar", "did you mean resnet20-cifar10?"),
        ("nowhere.safetensors", "there is no file and no model called nowhere.safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_named(cli: Cli, here: Path, model: str, message: str) -> None:
    done = cli("export", model)
    assert (done.code, done.out) == (1, "")
    assert message in done.err
    assert not os.listdir(here)
