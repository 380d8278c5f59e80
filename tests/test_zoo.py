"""Any MODEL argument to the file that answers it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.errors import ModelError, ParityError, UsageError
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.runtimes.registry import get_runtime, open_runtime

pytestmark = pytest.mark.usefixtures("notes_on_stderr")

Photos = Callable[..., NDArray[np.uint8]]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RESNET_INFER_CACHE", str(folder))
    return folder


def test_the_built_in_answers_to_none_and_to_its_name(
    capsys: pytest.CaptureFixture[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(zoo.VARIABLE)
    assert zoo.artifact(None) == zoo.artifact(zoo.DEFAULT) == zoo.find(None)
    assert zoo.find(None).suffix == ".onnx"
    assert capsys.readouterr() == ("", "")
    assert not cache.exists()


def test_the_built_in_checkpoint_and_artifact_are_one_model(photos: Photos) -> None:
    checkpoint = zoo.checkpoint(zoo.SMALL)
    with open_runtime(zoo.artifact(zoo.SMALL), device="cpu") as runtime:
        assert runtime.spec.with_(measured=()) == checkpoint.spec.with_(measured=())
        assert len(np.unique(runtime(photos(8, runtime.spec.input.crop)).argmax(1))) > 1


def test_a_path_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my model.onnx"
    shutil.copy(zoo.find(None), path)
    assert zoo.artifact(path) == zoo.artifact(str(path)) == path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert zoo.find("~/my model.onnx") == path


def test_a_runtime_gets_the_file_that_it_opens(tmp_path: Path) -> None:
    artifact, checkpoint = zoo.built_in(zoo.SMALL, ".onnx"), zoo.built_in(zoo.SMALL, ".safetensors")
    for runtime in ("auto", "onnxruntime", "openvino", "null"):
        assert zoo.file_for(zoo.SMALL, runtime) == zoo.load_for(zoo.SMALL, runtime) == artifact
        assert zoo.file_for(checkpoint, runtime).suffix == ".onnx"  # exported
    assert zoo.file_for(zoo.SMALL, "torch") == zoo.file_for(checkpoint, "torch") == checkpoint
    loaded = zoo.load_for(zoo.SMALL, "torch")
    assert isinstance(loaded, Checkpoint)
    assert loaded.spec == zoo.checkpoint(zoo.SMALL).spec
    with pytest.raises(ModelError, match="is an artifact already"):
        zoo.file_for(artifact, "torch")
    with pytest.raises(UsageError, match="unknown runtime 'torhc'; did you mean torch"):
        zoo.file_for(zoo.SMALL, "torhc")


def test_a_file_is_given_as_it_is_to_a_runtime_that_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to one that opens both checkpoints and artifacts."""
    both = replace(get_runtime("torch"), suffixes=(".safetensors", ".onnx"))
    monkeypatch.setattr(zoo, "get_runtime", lambda name: both)
    for suffix in both.suffixes or ():
        path = zoo.built_in(zoo.SMALL, suffix)
        assert zoo.file_for(path, "both") == path
    assert zoo.file_for(zoo.SMALL, "both").suffix == ".safetensors"


def test_the_environment_chooses_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(zoo.checkpoint(None), path)
    monkeypatch.setenv(zoo.VARIABLE, str(path))
    assert zoo.default_model() == str(path)
    assert zoo.find(None) == path
    assert zoo.find(zoo.SMALL) != path
    monkeypatch.setenv(zoo.VARIABLE, "")
    assert zoo.default_model() is None
    assert zoo.find(None) == zoo.find(zoo.DEFAULT)


def test_the_environment_chooses_the_default_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_file: Path
) -> None:
    monkeypatch.setenv(zoo.VARIABLE, str(checkpoint_file))
    assert zoo.checkpoint(None).spec == load_checkpoint(checkpoint_file).spec
    monkeypatch.setenv(zoo.VARIABLE, zoo.SMALL)
    assert zoo.checkpoint(None).spec == zoo.checkpoint(zoo.SMALL).spec


@pytest.mark.parametrize(
    ("name", "close"),
    [("resnet20-cifar", "resnet20-cifar10"), ("resnet20_cifar10", "resnet20-cifar10"), ("qqq", None)],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, close: str | None) -> None:
    for look in (zoo.find, zoo.checkpoint, zoo.artifact):
        with pytest.raises(ModelError, match=f"called {name}") as caught:
            look(name)
        assert ("did you mean" in caught.value.message) == (close is not None)
        if close:
            assert f"did you mean {close}?" in caught.value.message


def test_a_file_of_another_kind_is_sent_to_import(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")
    with pytest.raises(ModelError, match=r"weights\.pth is no checkpoint") as caught:
        zoo.find(path)
    assert f"resnet-infer import {path}" in str(caught.value.hint)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        zoo.find(tmp_path)


def test_an_artifact_has_no_checkpoint() -> None:
    with pytest.raises(ModelError, match="is an artifact already"):
        zoo.checkpoint(zoo.find(None))


def test_a_checkpoint_is_exported_once_for_its_content(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx", reason="the extra `export`")
    path = tmp_path / "model.safetensors"
    shutil.copy(zoo.built_in(zoo.SMALL, ".safetensors"), path)

    first = zoo.artifact(path)
    assert cache in first.parents
    notes = capsys.readouterr()
    assert notes.out == ""
    assert f"exporting {path} once" in notes.err
    assert "parity PASS" in notes.err
    with open_runtime(first, device="cpu") as runtime:
        assert runtime.spec == load_checkpoint(path).spec

    made = first.stat().st_mtime_ns
    path.touch()
    moved = tmp_path / "elsewhere" / "model.safetensors"
    moved.parent.mkdir()
    shutil.copy(path, moved)
    assert zoo.artifact(path) == zoo.artifact(moved) == first
    assert first.stat().st_mtime_ns == made
    assert capsys.readouterr().err == ""

    checkpoint = load_checkpoint(path)
    bias = checkpoint.weights["fc.bias"]
    save_checkpoint(replace(checkpoint, weights={**checkpoint.weights, "fc.bias": bias + 1}), path)
    second = zoo.artifact(path)
    assert second != first
    images = np.zeros((1, *[checkpoint.spec.input.crop] * 2, 3), np.uint8)
    with open_runtime(first, device="cpu") as before, open_runtime(second, device="cpu") as after:
        np.testing.assert_allclose(after(images) - before(images), np.ones((1, len(bias))), atol=1e-3)


def test_an_export_that_fails_leaves_nothing_in_the_cache(tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("onnx", reason="the extra `export`")
    checkpoint: Checkpoint = zoo.checkpoint(None)
    weights = {**checkpoint.weights, "fc.weight": np.zeros_like(checkpoint.weights["fc.weight"])}
    path = tmp_path / "model.safetensors"
    save_checkpoint(replace(checkpoint, weights=weights), path)
    with pytest.raises(ParityError):
        zoo.artifact(path)
    assert not [item for item in cache.rglob("*") if item.is_file() and item.suffix != ".lock"]
