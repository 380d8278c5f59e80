"""`resnet-infer export` to FP16, INT8 and TensorRT: guarded, gated, and refused where it must be."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnet_infer import zoo
from resnet_infer.runtimes.registry import open_runtime
from tests.conftest import PICTURES, Outcome

pytest.importorskip("onnx", reason="the extra `export`")

Cli = Callable[..., Outcome]
NAME = zoo.SMALL
COUNT = 160


@pytest.fixture(scope="module")
def pictures(photos: Callable[..., NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 32-pixel pictures, each in the folder of the class that the built-in takes it for."""
    folder = tmp_path_factory.mktemp("pictures")
    images = photos(COUNT, 32)
    with open_runtime(zoo.artifact(NAME), device="cpu") as runtime:
        answers = runtime(images).argmax(1)
        classes = runtime.spec.classes
    for index, (image, answer) in enumerate(zip(images, answers, strict=True)):
        (folder / classes[answer]).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / classes[answer] / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def calibration(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved calibration of the built-in."""
    from resnet_infer.converters.precision.calibration import calibrate
    from resnet_infer.converters.source import open_source
    from resnet_infer.data.feed import open_feed

    source = open_source(zoo.find(NAME))
    path = tmp_path_factory.mktemp("calibration") / "saved.json"
    calibrate(source.graph.model, open_feed(pictures, source.graph.spec, count=64).crops()).save(path)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the command runs."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def int8(cli: Cli, data: Path, *more: object) -> Outcome:
    return cli("export", "--precision", "int8", "--calibration-data", data, *more)


def ruined(saved: Path, to: Path, tensors: list[str] | None = None) -> Path:
    from resnet_infer.converters.precision.calibration import Calibration

    Calibration.load(saved).scaled(0.1, tensors).save(to)
    return to


def test_int8_from_a_folder(cli: Cli, here: Path, pictures: Path) -> None:
    done = int8(cli, pictures, "--calibration-pictures", 64, "--json")
    assert done.code == 0, done.err
    assert sorted(os.listdir(here)) == [f"{NAME}.int8.calibration.json", f"{NAME}.int8.onnx"]
    report = json.loads(done.out)
    assert (report["precision"], report["artifact"]) == ("int8", f"{NAME}.int8.onnx")
    assert report["calibration"]["pictures"] == 64
    accuracy = report["accuracy"]
    assert accuracy["float_layers"] == {}
    assert accuracy["cost"]["pictures"] == COUNT - 64
    assert accuracy["cost"]["error"] < 0.02
    assert "parity PASS" in done.err
    assert "int8 against fp32" in done.err
    assert report["bytes"] < 0.4 * zoo.artifact(NAME).stat().st_size
    with open_runtime(here / f"{NAME}.int8.onnx", device="cpu") as runtime:
        assert runtime.spec.precision == "int8"
        (measured,) = runtime.spec.measured
        quantization = runtime.spec.provenance["quantization"]
    assert (quantization["target"], quantization["method"], quantization["pictures"]) == ("cpu", "mse", 64)
    assert quantization["sha256"] == report["calibration"]["sha256"]
    # The labels of the pictures that were left give the error.
    assert measured.pictures == COUNT - 64
    assert measured.top1_error == accuracy["cost"]["difference"]["model"]["top1"]


@pytest.mark.parametrize(("more", "which"), [((), "all"), (("--calibration-pictures", 11), "nearly all")])
def test_pictures_that_all_calibrate_measure_the_cost_with_their_labels(
    cli: Cli, here: Path, tmp_path: Path, more: tuple[object, ...], which: str
) -> None:
    data = tmp_path / "flowers"
    for name in ("cat", "ship"):
        (data / name).mkdir(parents=True)
        for number in range(6):
            shutil.copy(PICTURES / f"{name}.jpg", data / name / f"{number}.jpg")
    done = int8(cli, data, zoo.SMALL, "-o", "small.onnx", *more)
    assert done.code == 0
    assert f"{which} pictures of {data} calibrate, so the same ones measure the cost" in done.err
    assert "without labels" not in done.err
    assert "top-1 error 0.00 -> 0.00%" in done.err


def test_a_calibration_is_used_again(cli: Cli, here: Path, pictures: Path, calibration: Path) -> None:
    check = ("--check-data", pictures)
    fresh = int8(cli, pictures, "--calibration-pictures", 64, *check, "-o", "fresh.onnx")
    assert fresh.code == 0, fresh.err
    again = int8(cli, here / "fresh.calibration.json", *check, "-o", "again.onnx")
    assert again.code == 0, again.err
    assert (here / "fresh.onnx").read_bytes() == (here / "again.onnx").read_bytes()
    assert (here / "fresh.calibration.json").read_text() == (here / "again.calibration.json").read_text()
    assert len(json.loads(calibration.read_text())["pictures"]) == 64


def test_an_artifact_is_as_good_a_source_as_its_checkpoint(cli: Cli, here: Path, calibration: Path) -> None:
    assert cli("export", NAME, "-o", "net.onnx").code == 0
    assert int8(cli, calibration, NAME, "-o", "one.onnx").code == 0
    done = int8(cli, calibration, "net.onnx")
    assert done.code == 0, done.err
    assert (here / "net.int8.onnx").read_bytes() == (here / "one.onnx").read_bytes()
    assert int8(cli, calibration, "net.onnx", "-o", "net.onnx").code == 2
    again = int8(cli, calibration, "net.int8.onnx", "-o", "twice.onnx")
    assert again.code == 2
    assert "net.int8.onnx is int8 already" in again.err


def test_labels_give_the_error(cli: Cli, here: Path, pictures: Path, calibration: Path) -> None:
    done = int8(cli, calibration, "--check-data", pictures, "--max-drop", "50", "-o", "net.onnx", "--json")
    assert done.code == 0, done.err
    difference = json.loads(done.out)["accuracy"]["cost"]["difference"]
    assert (difference["reference"]["top1"], difference["pictures"]) == (0, COUNT)
    with open_runtime(here / "net.onnx", device="cpu") as runtime:
        (measured,) = runtime.spec.measured
    assert (measured.top1_error, measured.pictures) == (difference["model"]["top1"], COUNT)
    assert difference["model"]["top1"] == difference["top1"] < 15


def test_ruined_ranges_fail(cli: Cli, here: Path, pictures: Path, calibration: Path) -> None:
    """The negative control."""
    earlier = zoo.built_in(zoo.SMALL, ".onnx").read_bytes()
    (here / "net.onnx").write_bytes(earlier)
    bad = ruined(calibration, here / "bad.json")
    done = int8(cli, bad, "--check-data", pictures, "-o", "net.onnx", "--json")
    assert (done.code, done.out) == (1, "")
    assert "costs too much accuracy" in done.err
    assert sorted(os.listdir(here)) == ["bad.json", "net.onnx"]
    assert (here / "net.onnx").read_bytes() == earlier


def test_one_ruined_layer_is_named_and_left_in_float(cli: Cli, here: Path, pictures: Path, calibration: Path) -> None:
    bad = ruined(calibration, here / "bad.json", ["layer2.1.relu1.out"])
    done = int8(cli, bad, "--check-data", pictures, "-o", "net.onnx", "--json")
    assert done.code == 0, done.err
    accuracy = json.loads(done.out)["accuracy"]
    # The two convolutions at the ruined activation.
    assert set(accuracy["float_layers"]) <= {"layer2.1.conv1", "layer2.1.conv2"}
    assert "layer2.1.conv2" in accuracy["float_layers"]
    assert {item["layer"] for item in accuracy["layer_costs"][:2]} == {"layer2.1.conv1", "layer2.1.conv2"}
    assert "left in float: layer2.1.conv2 (alone it costs" in done.err
    with open_runtime(here / "net.onnx", device="cpu") as runtime:
        assert "layer2.1.conv2" in runtime.spec.provenance["quantization"]["float_nodes"]


def test_the_gate_is_the_rise_of_the_error(cli: Cli, here: Path, pictures: Path, calibration: Path) -> None:
    bad = ruined(calibration, here / "bad.json")
    done = int8(cli, bad, "--check-data", pictures, "--max-drop", "1.5", "-o", "net.onnx")
    assert done.code == 1
    assert "at most +1.50 points of top-1 error" in done.err
    assert os.listdir(here) == ["bad.json"]


def test_fp16(cli: Cli, here: Path, pictures: Path) -> None:
    done = cli("export", "-p", "fp16", "--check-data", pictures, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["artifact"] == f"{NAME}.fp16.onnx"
    assert report["accuracy"]["cost"]["error"] < 2e-4
    assert report["bytes"] < 0.6 * zoo.artifact(NAME).stat().st_size
    assert "FP16 is for GPUs" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-p", "int8"), "INT8 needs pictures"),
        (("-p", "int8", "--calibration-data", "SAVED", "--max-drop", "1"), "--max-drop needs pictures with"),
        (("--calibration-data", "SAVED"), "--calibration-data is for --precision int8"),
        (("-p", "fp16", "--float-layers", "conv1"), "--float-layers is for --precision int8"),
        (("--max-drop", "1"), "FP32 costs nothing"),
        (("--max-batch", "4"), "--max-batch is an option of --format tensorrt"),
        (("--format", "tensorrt", "--dynamic-size"), "--dynamic-size is an option of --format onnx"),
        (("--format", "tensorrt", "--target", "cpu"), "--format tensorrt is for the target tensorrt"),
        (("--format", "tensorrt", "--target", "auto"), "--format tensorrt is for the target tensorrt, not auto"),
        (("--format", "tensort"), "did you mean tensorrt?"),
        (
            ("-p", "int8", "--calibration-data", "SAVED", "--float-layers", "layer2.1.conv"),
            "did you mean layer2.1.conv",
        ),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    cli: Cli, here: Path, calibration: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = cli("export", *(calibration if part == "SAVED" else part for part in arguments))
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not os.listdir(here)


@pytest.mark.parametrize("spelt", ["tensorrt", "trensorrt", "trt", "TensorRT", "engine"])
def test_tensorrt_needs_a_gpu(cli: Cli, here: Path, spelt: str) -> None:
    from resnet_infer.converters.formats import FORMATS

    assert FORMATS["tensorrt"].suffix == ".engine"
    try:
        import cuda.bindings.driver as driver

        if driver.cuInit(0)[0] == 0:
            pytest.skip("here is a GPU")
    except ImportError:
        pass
    done = cli("export", "--format", spelt)
    assert (done.code, done.out) == (1, "")
    assert (f"{spelt}: taken as tensorrt" in done.err) == (spelt.lower() != "tensorrt")
    assert "error: " in done.err
    assert 'pip install "resnet-infer[tensorrt]"' in done.err
    assert not os.listdir(here)


def test_another_nets_calibration_is_refused(
    cli: Cli, here: Path, calibration: Path, checkpoint_file: Path, tmp_path: Path
) -> None:
    done = int8(cli, calibration, checkpoint_file)
    assert done.code == 1
    assert "other" in done.err
    (tmp_path / "broken.json").write_text("{}")
    done = int8(cli, tmp_path / "broken.json")
    assert done.code == 1
    assert "broken.json is no calibration" in done.err
    assert not os.listdir(here)


def test_the_fastest_on_this_machine(cli: Cli, here: Path, pictures: Path, calibration: Path) -> None:
    done = cli(
        *("export", "--target", "auto", "--calibration-data", calibration, "--check-data", pictures),
        *("--opt-batch", 1, "-o", "best.onnx", "--json"),
    )
    assert done.code == 0, done.err
    report = json.loads(done.out)
    trials = [item for item in report["trials"] if item["failure"] is None]
    assert {item["precision"] for item in trials} >= {"fp32", "int8"}
    assert report["tuned"]["ms"] <= 1.03 * min(item["ms"] for item in trials) + 0.001
    assert "chosen" in done.err
    with open_runtime(here / "best.onnx", device="cpu") as runtime:
        assert runtime.spec.precision == report["precision"]
        assert runtime.spec.provenance["tuned"] == report["tuned"]
    kept = {"best.onnx"} | ({"best.calibration.json"} if report["precision"] == "int8" else set())
    assert set(os.listdir(here)) == kept


def test_what_costs_too_much_is_not_kept_however_fast(cli: Cli, here: Path, pictures: Path, calibration: Path) -> None:
    bad = ruined(calibration, here / "bad.json")
    done = cli(
        "export", "--target", "auto", "--calibration-data", bad, "--check-data", pictures, "-o", "best.onnx", "--json"
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["precision"] == "fp32"
    assert "int8 is out" in done.err
