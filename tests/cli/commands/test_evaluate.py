"""`resnet-infer evaluate`: the table, JSON, exit codes, what is said of bad pictures, and going on after a kill."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_infer import zoo
from resnet_infer.converters.source import export_onnx
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.conftest import PICTURES, ROOT, Outcome

Cli = Callable[..., Outcome]
CHECKPOINT = zoo.built_in(zoo.SMALL, ".safetensors")
CLASSES = {"airplane": "airplane", "car": "automobile", "cat": "cat", "ship": "ship"}


def write_album(folder: Path, each: int) -> Path:
    """Class folders with `each` parts of every picture of the tests, small JPEGs."""
    generator = np.random.default_rng(1)
    for name, label in CLASSES.items():
        (folder / label).mkdir(parents=True)
        with Image.open(PICTURES / f"{name}.jpg") as file:
            picture = file.convert("RGB").resize((96, 96))
        for number in range(each):
            left, top = (int(offset) for offset in generator.integers(0, 48, 2))
            picture.crop((left, top, left + 48, top + 48)).save(folder / label / f"{number:04d}.jpg")
    return folder


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred pictures."""
    return write_album(tmp_path_factory.mktemp("data") / "album", 25)


def told(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(outcome.out)
    return found


# The table


@pytest.mark.usefixtures("as_cifar10")
def test_the_table_has_the_error_its_interval_and_the_paper_s(cli: Cli, album: Path) -> None:
    done = cli("evaluate", zoo.SMALL, album)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "album: 100 pictures"
    assert re.split(r"  +", lines[2]) == (
        ["model", "runs on", "precision", "protocol", "top-1 error", "95%", "top-5 error", "95%", "paper", "recorded"]
    )
    cells = re.split(r"  +", lines[3])
    assert cells[:4] == [zoo.SMALL, "onnxruntime, cpu", "fp32", "native"]
    (result,) = told(cli("evaluate", zoo.SMALL, album, "--json"))["results"]
    assert cells[4] == f"{result['top1']['error']:.2f}%"
    assert cells[5] == "{:.2f}-{:.2f}".format(*result["top1"]["interval"])
    assert cells[-2:] == ["8.75", "12.07%"]
    assert re.search(r"^[\d,.]+ pictures/s \(100 in [\d.]+ s\)$", done.out, re.MULTILINE)
    assert re.search(r"^ms a picture +decode +resize +inference$", done.out, re.MULTILINE)


def test_without_a_model_the_default_is_evaluated(cli: Cli, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(cli("evaluate", album, "--json"))["results"][0]["model"] == zoo.SMALL
    monkeypatch.setenv(zoo.VARIABLE, "nowhere.onnx")
    done = cli("evaluate", album)
    assert (done.code, done.out) == (1, "")
    assert "nowhere.onnx" in done.err


def test_protocols_models_and_the_ensemble_in_one_run(cli: Cli, album: Path) -> None:
    done = cli(
        "evaluate",
        zoo.SMALL,
        CHECKPOINT,
        album,
        "--protocol",
        "native",
        "--protocol",
        "10-crop",
        "--ensemble",
        "--json",
    )
    assert [(item["model"], item["protocol"]) for item in told(done)["results"]] == [
        (name, protocol) for protocol in ("native", "10-crop") for name in (zoo.SMALL, CHECKPOINT.name, "ensemble of 2")
    ]


def test_multi_scale_of_an_artifact_of_open_size(
    cli: Cli, album: Path, make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="the extra `export`")
    checkpoint = make_checkpoint("resnet8")
    spec = checkpoint.spec.with_(classes=load_checkpoint(CHECKPOINT).spec.classes)
    checkpoint = replace(checkpoint, spec=spec)
    export_onnx(checkpoint, tmp_path / "open.onnx", dynamic_size=True)
    export_onnx(checkpoint, tmp_path / "fixed.onnx")
    save_checkpoint(checkpoint, tmp_path / "model.safetensors")
    options = ("--protocol", "multi-scale", "--scales", "32,40", "--json")
    models = (tmp_path / "open.onnx", f"torch:{tmp_path / 'model.safetensors'}")
    first, second = told(cli("evaluate", *models, album, *options))["results"]
    assert first["scales"] == second["scales"] == [32, 40]
    assert first["top1"] == second["top1"]
    done = cli("evaluate", tmp_path / "fixed.onnx", album, *options)
    assert (done.code, done.out) == (2, "")
    assert "takes pictures of 32 x 32 pixels only" in done.err
    assert "--dynamic-size" in done.err


def test_the_paper_s_tables_are_shown_whole(cli: Cli) -> None:
    done = cli("evaluate", "--paper")
    assert (done.code, done.err) == (0, "")
    for number in range(2, 7):
        assert f"Table {number}: " in done.out
    for row in (
        "VGG-16 +28.07 +9.33",
        "GoogLeNet +- +9.15",
        "PReLU-net +24.27 +7.38",
        "ResNet-152 +19.38 +4.49",
        r"ResNet \(ILSVRC'15\), six models +3.57",
        "Maxout +9.38",
        "ResNet-110 +6.43 +6.61 ± 0.16",
        "ResNet-50 +24.70 +7.80",
    ):
        assert re.search(f"^{row}$", done.out, re.MULTILINE), row
    tables = json.loads(cli("evaluate", "--paper", "--json").out)["tables"]
    assert sum(len(table["rows"]) for table in tables) == 4 + 10 + 10 + 6 + 12 + 3 + 5 + 5


# Bad pictures


@pytest.fixture
def spoilt(album: Path, tmp_path: Path) -> Path:
    """The album with three of its hundred pictures damaged."""
    folder = tmp_path / "album"
    shutil.copytree(album, folder)
    (folder / "cat" / "0003.jpg").write_bytes(b"")
    (folder / "ship" / "0010.jpg").write_bytes(b"no picture")
    whole = folder / "ship" / "0024.jpg"
    whole.write_bytes(whole.read_bytes()[:400])
    return folder


def test_three_corrupt_files_among_a_hundred_are_named(cli: Cli, spoilt: Path) -> None:
    done = cli("evaluate", zoo.SMALL, spoilt)
    assert (done.code, done.out) == (1, "")
    assert "error: 3 of the 100 pictures of album cannot be read:" in done.err
    for name in (
        "cat/0003.jpg: the file is empty",
        "ship/0010.jpg: unsupported: text",
        "ship/0024.jpg: damaged or truncated JPEG",
    ):
        assert name in done.err
    assert "--on-error skip" in done.err


def test_with_skip_ninety_seven_are_counted(cli: Cli, spoilt: Path, album: Path) -> None:
    done = cli("evaluate", zoo.SMALL, spoilt, "--on-error", "skip")
    assert done.code == 0
    assert done.out.startswith("album: 97 pictures, 3 skipped\n")
    assert done.err.count("skipped ") == 3
    found = told(cli("evaluate", zoo.SMALL, spoilt, "--on-error", "skip", "--json"))
    assert (found["data"]["pictures"], found["data"]["counted"]) == (100, 97)
    assert [item["picture"] for item in found["data"]["skipped"]] == ["cat/0003.jpg", "ship/0010.jpg", "ship/0024.jpg"]
    for name in ("cat/0003.jpg", "ship/0010.jpg", "ship/0024.jpg"):
        (spoilt / name).unlink()
    without = told(cli("evaluate", zoo.SMALL, spoilt, "--json"))
    assert without["results"][0]["top1"] == found["results"][0]["top1"]
    assert without["results"][0]["pictures"] == 97


def test_a_picture_that_is_there_twice_is_told(cli: Cli, album: Path, tmp_path: Path) -> None:
    folder = tmp_path / "album"
    shutil.copytree(album, folder)
    shutil.copy(folder / "cat" / "0000.jpg", folder / "cat" / "copy.jpg")
    done = cli("evaluate", zoo.SMALL, folder, "--json")
    assert "warning: the same picture is counted again once: cat/0000.jpg = cat/copy.jpg" in done.err
    assert told(done)["data"]["duplicates"] == [["cat/0000.jpg", "cat/copy.jpg"]]
    assert told(done)["data"]["counted"] == 101


def test_a_picture_in_two_classes_is_told_before_those_that_are_there_twice(
    cli: Cli, album: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "album"
    shutil.copytree(album, folder)
    for number in range(4):
        shutil.copy(folder / "airplane" / f"{number:04d}.jpg", folder / "airplane" / f"copy-{number}.jpg")
    shutil.copy(folder / "ship" / "0000.jpg", folder / "cat" / "copy.jpg")
    done = cli("evaluate", zoo.SMALL, folder)
    assert (
        "warning: 1 picture under more than one label, of which one is wrong: cat/copy.jpg = ship/0000.jpg" in done.err
    )


def test_shuffled_labels_are_told(cli: Cli, album: Path, tmp_path: Path) -> None:
    paths = sorted(album.glob("*/*"))
    labels = np.random.default_rng(0).permutation([path.parent.name for path in paths])
    rows = [f"{path},{label}" for path, label in zip(paths, labels, strict=True)]
    (tmp_path / "shuffled.csv").write_text("\n".join(["path,label", *rows]))
    done = cli("evaluate", zoo.SMALL, tmp_path / "shuffled.csv")
    assert done.code == 0
    assert f"warning: {zoo.SMALL}, native: the answers are no better than guessing" in done.err


# The gate


def test_a_model_that_lost_too_much_does_not_pass(cli: Cli, album: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra `export`")
    checkpoint = load_checkpoint(CHECKPOINT)
    weights = {**checkpoint.weights, "fc.bias": checkpoint.weights["fc.bias"] + 9 * np.eye(10)[2].astype(np.float32)}
    save_checkpoint(replace(checkpoint, weights=weights), tmp_path / "worse.safetensors")
    worse = tmp_path / "worse.safetensors"
    done = cli("evaluate", worse, album, "--reference", zoo.SMALL, "--max-drop", 1)
    assert done.code == 1
    assert f"against {zoo.SMALL}:\n  worse.safetensors, native: " in done.out
    assert re.search(r"McNemar's p [\d.e-]+", done.out)
    assert "error: more than +1 points of top-1 error against resnet20-cifar10: worse.safetensors, native: " in done.err
    passed = cli("evaluate", worse, album, "--reference", zoo.SMALL, "--max-drop", 100, "--json")
    assert passed.code == 0
    assert told(passed)["gate"] == {"max_drop": 100, "passed": True}
    difference = told(passed)["results"][1]["difference"]
    assert difference["top1"] > 1
    assert difference["p"] < 0.05
    better = cli("evaluate", zoo.SMALL, album, "--reference", worse, "--max-drop", 0)
    assert better.code == 0


# Usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to evaluate on"),
        (("--protocol", "10-crops"), "did you mean 10-crop"),
        (("--on-error", "skp"), "did you mean skip"),
        (("--max-drop", "1"), "name it with --reference"),
        (("--scales", "a,b"), "the scales are numbers"),
        (("--ensemble",), "at least two models"),
        (("--class-order", "nowhere"), "neither numbers, string, natural nor a file"),
        (("--batch-size", "0"), ""),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(cli: Cli, album: Path, arguments: tuple[str, ...], message: str) -> None:
    done = cli("evaluate", *([album] if arguments else []), *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "Traceback" not in done.err


def test_numbered_folders_are_refused_with_the_trap_named(cli: Cli, album: Path, tmp_path: Path) -> None:
    for number, name in enumerate(sorted(CLASSES.values())):
        shutil.copytree(album / name, tmp_path / "numbered" / str(9 + number))
    done = cli("evaluate", zoo.SMALL, tmp_path / "numbered")
    assert (done.code, done.out) == (1, "")
    assert '"10" comes before "2"' in done.err
    assert "--class-order numbers" in done.err
    for number, name in enumerate(("airplane", "automobile", "cat", "ship")):
        place = load_checkpoint(CHECKPOINT).spec.classes.index(name)
        shutil.copytree(tmp_path / "numbered" / str(9 + number), tmp_path / "right" / str(place))
    done = cli("evaluate", zoo.SMALL, tmp_path / "right", "--class-order", "numbers", "--json")
    assert told(done)["results"][0]["top1"] == told(cli("evaluate", album, "--json"))["results"][0]["top1"]


# The report


def test_a_report_is_written_beside_the_table(cli: Cli, album: Path, tmp_path: Path) -> None:
    done = cli("evaluate", album, "--report", tmp_path / "new" / "report.html")
    assert done.code == 0
    assert done.out.startswith("album: 100 pictures")
    assert done.err == f"wrote {tmp_path / 'new' / 'report.html'}\n"
    assert "Confusion matrix" in (tmp_path / "new" / "report.html").read_text(encoding="utf-8")


# Going on


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "resnet_infer", "evaluate", *map(str, arguments), "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_killed_at_random_points_and_resumed_it_has_the_same_totals(tmp_path: Path) -> None:
    folder = write_album(tmp_path / "album", 600)
    out, err = start(zoo.SMALL, folder).communicate(timeout=120)
    expected = json.loads(out)
    assert b"Traceback" not in err
    generator = np.random.default_rng()
    journal = tmp_path / "answers.jsonl"
    killed = 0
    for share in sorted(generator.uniform(0.02, 0.6, 3)):
        process = start(zoo.SMALL, folder, "--answers", journal, "--resume")
        enough = int(share * 2400)
        deadline = time.monotonic() + 120
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < enough):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        killed += process.returncode == -signal.SIGKILL
    assert killed
    before = journal.read_bytes()
    assert 1 < before.count(b"\n") < 2401
    out, err = start(zoo.SMALL, folder, "--answers", journal, "--resume").communicate(timeout=120)
    found = json.loads(out)
    assert re.search(rb"^[\d,]+ of 2,400 pictures are answered in ", err, re.MULTILINE)
    assert 0 < found["speed"]["resumed"] == 2400 - found["speed"]["pictures"]
    assert found["data"] == expected["data"]
    (first,), (second,) = expected["results"], found["results"]
    for key in ("top1", "top5", "pictures", "not_finite"):
        assert first[key] == second[key]
    assert first["calibration_error"] == pytest.approx(second["calibration_error"], abs=1e-3)
    assert journal.read_bytes().startswith(before[: before.rindex(b"\n") + 1])


def test_answers_of_other_models_data_or_protocols_are_not_taken(cli: Cli, album: Path, tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    first = cli("evaluate", zoo.SMALL, album, "--answers", journal, "--json")
    again = cli("evaluate", zoo.SMALL, album, "--answers", journal, "--resume", "--json", "-b", 3)
    assert told(again)["speed"]["pictures"] == 0
    assert told(again)["results"][0]["top1"] == told(first)["results"][0]["top1"]
    assert "no picture was left" in cli("evaluate", zoo.SMALL, album, "--answers", journal, "--resume").out
    other = tmp_path / "other"
    shutil.copytree(album, other)
    (other / "cat" / "0000.jpg").rename(other / "cat" / "9999.jpg")
    pytest.importorskip("torch", reason="the extra `train`")
    for arguments, what in (
        ((f"torch:{zoo.SMALL}", album), "the models"),
        ((zoo.SMALL, other), "the data"),
        ((zoo.SMALL, album, "--protocol", "10-crop"), "the protocols"),
    ):
        done = cli("evaluate", *arguments, "--answers", journal, "--resume")
        assert (done.code, done.out) == (1, "")
        assert f"belongs to another evaluation: {what} differ" in done.err


# A fresh process


def test_it_needs_neither_torch_nor_onnx(album: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'tensorrt', 'bentoml', 'matplotlib'): sys.modules[name] = None\n"
        "from resnet_infer.cli.main import app\n"
        f"app(['evaluate', {str(album)!r}, '--report', {str(tmp_path / 'report.html')!r}])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.startswith("album: 100 pictures")
