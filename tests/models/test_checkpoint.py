from __future__ import annotations

import hashlib
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from resnet_infer.errors import ModelError, ResnetInferError
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, model_digest, save_checkpoint

Make = Callable[..., Checkpoint]


def test_a_checkpoint_comes_back_as_it_was(make_checkpoint: Make, tmp_path: Path) -> None:
    before = replace(make_checkpoint(per_pixel=True), extra={"momentum": np.arange(3)}, notes={"iteration": "7"})
    save_checkpoint(before, tmp_path / "new" / "model.safetensors")
    after = load_checkpoint(tmp_path / "new" / "model.safetensors")
    assert after.spec == before.spec
    assert after.notes == before.notes
    assert after.weights.keys() == before.weights.keys()
    assert all(np.array_equal(after.weights[name], value) for name, value in before.weights.items())
    assert np.array_equal(after.extra["momentum"], np.arange(3))


def test_kernels_may_be_kept_in_half_precision_and_come_back_as_float32(make_checkpoint: Make, tmp_path: Path) -> None:
    before, whole, half = make_checkpoint(), tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_checkpoint(before, whole)
    save_checkpoint(before, half, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    for name, value in load_checkpoint(half).weights.items():
        exact = before.weights[name]
        assert value.dtype == np.float32
        assert np.array_equal(value, exact.astype(np.float16) if value.ndim > 1 else exact)


def test_a_weight_too_large_for_half_precision_is_named(make_checkpoint: Make, tmp_path: Path) -> None:
    before = make_checkpoint()
    weights = {**before.weights, "fc.weight": 1e6 * np.ones_like(before.weights["fc.weight"])}
    with pytest.raises(ModelError, match=r"half precision.*fc\.weight is not finite"):
        save_checkpoint(replace(before, weights=weights), tmp_path / "half.safetensors", half=True)
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_model_error(
    checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut off anywhere, or with a byte changed in the header: an error that names the file, and nothing else."""
    content = bytearray(checkpoint_file.read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
        must_fail = True
    else:
        content[data.draw(st.integers(0, header - 1))] ^= data.draw(st.integers(1, 255))
        must_fail = False  # a changed letter in a name of the spec still reads
    path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    path.write_bytes(content)
    message = None
    try:
        load_checkpoint(path)
    except ModelError as error:
        message = error.message
    assert str(path) in message if message else not must_fail


def test_foreign_files_say_how_to_import_them(tmp_path: Path) -> None:
    save_file({"fc.weight": np.zeros(3, np.float32)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelError, match="without a model spec") as caught:
        load_checkpoint(tmp_path / "foreign.safetensors")
    assert "resnet-infer import" in str(caught.value.hint)
    with pytest.raises(ModelError, match="does not exist"):
        load_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(ModelError):
        load_checkpoint(tmp_path)


def test_weights_that_do_not_fit_are_named_and_not_written(make_checkpoint: Make, tmp_path: Path) -> None:
    good = make_checkpoint()
    weights = dict(good.weights)
    weights["fc.bias"] = np.full(10, np.nan, np.float32)
    weights["conv1.weight"] = weights["conv1.weight"][:, :2]
    weights["extra"] = weights.pop("bn1.bias")
    with pytest.raises(ModelError) as caught:
        save_checkpoint(Checkpoint(good.spec, weights), tmp_path / "bad.safetensors")
    for part in (
        "missing bn1.bias",
        "left over extra",
        "conv1.weight is (16, 2, 3, 3), not (16, 3, 3, 3)",
        "fc.bias is not finite",
    ):
        assert part in caught.value.message
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(make_checkpoint: Make, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(make_checkpoint(), path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ResnetInferError, match="cannot write"):
            save_checkpoint(make_checkpoint(per_pixel=True), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_digest_is_of_the_file_or_of_the_spec_and_weights(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    (tmp_path / "a.onnx").write_bytes(b"an artifact")
    assert model_digest(tmp_path / "a.onnx") == hashlib.sha256(b"an artifact").hexdigest()
    backwards = replace(checkpoint, weights=dict(reversed([*checkpoint.weights.items()])), notes={"iteration": "7"})
    changed = {name: value.copy() for name, value in checkpoint.weights.items()}
    changed["fc.bias"][0] += 1
    found = [model_digest(item) for item in (checkpoint, backwards, replace(checkpoint, weights=changed))]
    named = model_digest(replace(checkpoint, spec=checkpoint.spec.with_(name="another")))
    assert found[0] == found[1]
    assert len({*found, named}) == 3
