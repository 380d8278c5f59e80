"""The spec and size of a file, read without a session, a device, or the libraries that would run it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnet_infer import zoo
from resnet_infer.errors import ModelError
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, model_digest, save_checkpoint
from resnet_infer.runtimes.artifacts import (
    ONNX_READER,
    digest,
    model_parts,
    read_details,
    read_onnx_spec,
    read_size,
    read_spec,
)
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.runtimes.tensorrt.engine_file import sidecar_path
from resnet_infer.utils.files import sha256
from tests.runtimes.engines import INFO

ONNX, CHECKPOINT = zoo.built_in(zoo.SMALL, ".onnx"), zoo.built_in(zoo.SMALL, ".safetensors")


def test_a_checkpoint_and_an_artifact_have_the_spec_that_their_runtimes_have() -> None:
    assert read_spec(CHECKPOINT) == load_checkpoint(CHECKPOINT).spec
    pytest.importorskip("onnxruntime", reason="opens the artifact (the extra `cpu` or `gpu`)")
    for name in zoo.BUILT_IN:
        path = zoo.built_in(name, ".onnx")
        with open_runtime(path, device="cpu", threads=1) as opened:
            assert (read_spec(path), read_size(path)) == (opened.spec, opened.size)
            assert read_onnx_spec(path.read_bytes()) == opened.spec


def test_an_engine_is_read_whatever_built_it_and_wherever_it_would_run(engine: Path) -> None:
    for tensorrt in ("8.6.1", "99.0"):
        replace(INFO, tensorrt=tensorrt, gpu="NVIDIA of another day").save(sidecar_path(engine))
        assert read_spec(engine) == INFO.spec
        assert read_size(engine) == (8, 8)


def test_no_session_is_opened(monkeypatch: pytest.MonkeyPatch, engine: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    for path in (ONNX, CHECKPOINT, engine):
        assert read_spec(path).classes
        with open_runtime(path, runtime="null") as opened:
            assert opened.spec == read_spec(path)
            assert opened.size == read_size(path)


def test_no_package_of_an_extra_is_imported(engine: Path) -> None:
    """Also where none is installed: a name that is None in `sys.modules` cannot be imported."""
    code = (
        "import sys; from pathlib import Path\n"
        "sys.modules.update(dict.fromkeys(('onnx', 'onnxruntime', 'tensorrt', 'cuda', 'torch', 'openvino')))\n"
        "from resnet_infer.runtimes.artifacts import read_size, read_spec\n"
        "for path in map(Path, sys.argv[1:]):\n    print(read_spec(path).name, read_size(path))\n"
    )
    command = [sys.executable, "-c", code, str(ONNX), str(CHECKPOINT), str(engine)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (
        [f"{zoo.SMALL} (32, 32)", f"{zoo.SMALL} (None, None)", "small (8, 8)"],
        "",
    )


def test_the_weights_of_a_checkpoint_are_not_read(tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(make_checkpoint(), path)
    content = bytearray(path.read_bytes())
    content[-4:] = b"\xff\xff\xff\x7f"  # a float32 that is none
    path.write_bytes(content)
    assert read_spec(path) == make_checkpoint().spec
    with pytest.raises(ModelError, match="is not finite"):
        load_checkpoint(path)


def test_every_suffix_that_a_runtime_opens_is_read(tmp_path: Path) -> None:
    """A file that is not there is missing, and not of a kind that is unknown."""
    with pytest.raises(ModelError) as caught:
        open_runtime(tmp_path / "model.unknown")
    suffixes = str(caught.value.hint).removeprefix("it would have to end in ").split(" or ")
    assert {".onnx", ".engine", ".safetensors"} <= set(suffixes)
    for suffix in suffixes:
        for read in (read_spec, read_size):
            with pytest.raises(ModelError, match=rf"absent\{suffix} does not exist"):
                read(tmp_path / f"absent{suffix}")
    with pytest.raises(ModelError, match=r"model\.unknown: no runtime opens it") as caught:
        read_spec(tmp_path / "model.unknown")
    assert str(caught.value.hint) == f"it would have to end in {' or '.join(suffixes)}"


@pytest.mark.parametrize(
    "content", [b"", b"no model", b"\x80" * 1000, ONNX.read_bytes()[:-100_000], ONNX.read_bytes()[:5000]]
)
def test_a_damaged_onnx_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    for read in (read_spec, read_size):
        with pytest.raises(ModelError, match=r"damaged\.onnx is damaged, or no ONNX file"):
            read(path)
    with pytest.raises(ModelError, match="the model is damaged, or no ONNX file"):
        read_onnx_spec(content)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for suffix in (".onnx", ".safetensors", ".engine"):
        (tmp_path / f"model{suffix}").mkdir()
        with pytest.raises(ModelError, match=rf"model\{suffix}"):
            read_spec(tmp_path / f"model{suffix}")


def test_a_graph_without_a_spec_is_to_be_adopted(foreign: Path) -> None:
    with pytest.raises(ModelError, match=r"foreign\.onnx carries no model spec") as caught:
        read_spec(foreign)
    assert f"resnet-infer import {foreign}" in str(caught.value.hint)


def test_a_graph_that_does_not_fit_its_spec_has_no_size(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="changes an artifact (the extra `export`)")
    model = onnx.load(ONNX)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    path = tmp_path / "float.onnx"
    onnx.save(model, path)
    assert read_spec(path).name == zoo.SMALL
    with pytest.raises(ModelError, match=r"its input is images, float32 \[any, 32, 32, 3\], and pictures are uint8"):
        read_size(path)


def test_an_engine_without_its_sidecar_says_so(engine: Path) -> None:
    sidecar_path(engine).unlink()
    with pytest.raises(ModelError, match=r"lacks its sidecar model\.engine\.json"):
        read_spec(engine)


def test_the_files_of_a_model_decide_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of file that keeps its weights in another file beside it."""
    assert model_parts(ONNX) == (ONNX,)
    assert digest(ONNX) == sha256(ONNX)
    assert digest(load_checkpoint(CHECKPOINT)) == model_digest(load_checkpoint(CHECKPOINT))
    reader = replace(ONNX_READER, parts=lambda path: (path, path.with_suffix(".bin")))
    monkeypatch.setattr("resnet_infer.runtimes.artifacts.ONNX_READER", reader)
    path = tmp_path / "a.onnx"
    found = []
    for graph, weights in (("graph", "one"), ("graph", "two"), ("grap", "hone")):
        path.write_text(graph, encoding="utf-8")
        path.with_suffix(".bin").write_text(weights, encoding="utf-8")
        found.append(digest(path))
    assert len(set(found)) == 3
    assert digest(path) == found[-1]


def test_only_an_engine_says_more_than_its_spec(engine: Path) -> None:
    assert read_details(ONNX) is read_details(CHECKPOINT) is None
    details = read_details(engine)
    assert details is not None
    assert (details.key, details.values["gpu"]) == ("engine", INFO.gpu)
    assert [name for name, _ in details.rows][:2] == ["TensorRT", "GPU"]
