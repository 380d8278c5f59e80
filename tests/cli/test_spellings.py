"""Spellings that are understood: devices, formats, and suffixes in capital letters."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer import Classifier, export, read_spec, zoo
from resnet_infer.cli.parsing import device_name
from resnet_infer.errors import ModelError, UsageError
from tests.conftest import PICTURES, Outcome

Cli = Callable[..., Outcome]
CAT = PICTURES / "cat.jpg"


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        *(("auto", "auto"), ("cpu", "cpu"), ("CPU", "cpu"), ("cuda", "cuda"), ("gpu", "cuda"), ("0", "cuda:0")),
        *(("1", "cuda:1"), ("gpu:1", "cuda:1"), ("cuda:0", "cuda:0"), ("CUDA:2", "cuda:2")),
    ],
)
def test_a_device_is_named_as_the_library_states_it(typed: str, name: str) -> None:
    assert device_name(typed) == name


@pytest.mark.parametrize("typed", ["", "gpus", "cpu:0", "-1", "cuda:", "cuda:x", "0x1", "1.0", "\u0663", "9" * 30])
def test_another_device_is_refused(cli: Cli, typed: str) -> None:
    with pytest.raises(UsageError):
        device_name(typed)
    done = cli("classify", CAT, f"--device={typed}")
    assert (done.code, done.out) == (2, "")
    assert f"there is no device {typed!r}" in done.err


def test_training_reads_devices_in_the_same_way() -> None:
    pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
    from resnet_infer.training.distributed import choose_device

    assert choose_device("CPU", None).type == "cpu"
    for wrong in ("gpus", "cpu:0"):
        with pytest.raises(UsageError, match="there is no device"):
            choose_device(wrong, None)


def test_suffixes_in_capital_letters_are_the_same(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(zoo.built_in(zoo.SMALL, ".onnx"), "MODEL.ONNX")
    shutil.copy(zoo.built_in(zoo.SMALL, ".safetensors"), "MODEL.SafeTensors")
    with Classifier(zoo.SMALL) as known, Classifier("MODEL.ONNX") as found:
        assert found.classify(CAT) == known.classify(CAT)
    for model in ("MODEL.ONNX", "MODEL.SafeTensors"):
        assert cli("inspect", model).code == 0
    pytest.importorskip("onnx", reason="exporting needs onnx (the extra `export`)")
    done = cli("export", "MODEL.SafeTensors", "-o", "OWN.Onnx", "--format", "ONNX")
    assert (done.code, done.out.split()[0]) == (0, "OWN.Onnx")
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"MODEL.ONNX", "MODEL.SafeTensors", "OWN.Onnx"}
    assert cli("classify", CAT, "-m", "OWN.Onnx").out == cli("classify", CAT, "-m", "MODEL.SafeTensors").out
    assert cli("export", "MODEL.ONNX", "-o", "half.ONNX", "-p", "fp16").code == 0
    done = cli("export", "MODEL.SafeTensors", "-f", "onnx", "-o", "x.engine")
    assert (done.code, "ends in .onnx, not .engine" in done.err) == (2, True)
    with pytest.raises(ModelError, match="is an artifact already"):
        export("MODEL.ONNX", "again.onnx")
    with pytest.raises(ModelError, match="does not exist"):
        read_spec("NONE.ONNX")


def test_the_suffix_of_the_output_is_the_format(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("export", zoo.SMALL, "-o", "model.Engine", "--dynamic-size")
    assert done.code == 2
    assert "--dynamic-size is an option of --format onnx and openvino, not of tensorrt" in done.err
    done = cli("export", zoo.SMALL, "-o", "model.engine", "--target", "auto")
    assert done.code == 2
    assert "--format tensorrt is for the target" in done.err
