"""`resnet-infer evaluate` when something is mistyped, in the way, interrupted or there twice: nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_infer import zoo
from resnet_infer.evaluation import evaluate as evaluating
from resnet_infer.evaluation import runner
from resnet_infer.models.checkpoint import load_checkpoint, save_checkpoint
from tests.cli.commands.test_evaluate import CHECKPOINT, start, told, write_album
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures."""
    return write_album(tmp_path_factory.mktemp("data") / "album", 3)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Files that are in the way


@pytest.mark.parametrize("option", ["--report", "--answers"])
def test_no_input_is_overwritten(cli: Cli, album: Path, tmp_path: Path, option: str) -> None:
    shutil.copytree(album, tmp_path / "album")
    shutil.copy(ARTIFACT, tmp_path / "model.onnx")
    shutil.copy(ARTIFACT, tmp_path / "reference.onnx")
    (tmp_path / "order.txt").write_text("\n".join(load_checkpoint(CHECKPOINT).spec.classes))
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(tmp_path.glob("album/*/*"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    before = contents(tmp_path)
    arguments = (
        tmp_path / "model.onnx",
        tmp_path / "list.csv",
        "--reference",
        f"onnxruntime:{tmp_path}/reference.onnx",
    )
    for name in ("model.onnx", "reference.onnx", "list.csv", "order.txt"):
        done = cli("evaluate", *arguments, "--class-order", tmp_path / "order.txt", option, tmp_path / name)
        assert (done.code, done.out) == (2, ""), name
        assert f"{option} would overwrite {tmp_path / name}" in done.err
    done = cli("evaluate", *arguments, option, tmp_path / "album" / "cat" / "0000.jpg")
    assert (done.code, done.out) == (2, "")
    assert "is there already and is no" in done.err
    done = cli("evaluate", *arguments, option, tmp_path)
    assert (done.code, done.out) == (2, "")
    assert f"is a folder, and {option} names a file" in done.err
    assert contents(tmp_path) == before


def test_a_report_is_no_file_of_answers(cli: Cli, album: Path, tmp_path: Path) -> None:
    done = cli("evaluate", album, "--report", tmp_path / "x", "--answers", tmp_path / "x")
    assert (done.code, done.out) == (2, "")
    assert "--answers and --report both name" in done.err
    assert cli("evaluate", album, "--report", tmp_path / "r.html", "--answers", tmp_path / "a.jsonl").code == 0
    assert (
        cli("evaluate", album, "--report", tmp_path / "r.html", "--answers", tmp_path / "a.jsonl", "--resume").code == 0
    )
    for option, name in (("--report", "a.jsonl"), ("--answers", "r.html")):
        before = (tmp_path / name).read_bytes()
        assert cli("evaluate", album, option, tmp_path / name).code == 2
        assert (tmp_path / name).read_bytes() == before


def test_a_place_that_cannot_be_written_is_told_before_inference(
    cli: Cli, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "run", None)
    (tmp_path / "file").touch()
    for option in ("--report", "--answers"):
        done = cli("evaluate", album, option, tmp_path / "file" / "x")
        assert (done.code, done.out) == (1, "")
        assert "error: cannot write" in done.err
        assert f"another place with {option}" in done.err


def test_the_table_is_there_though_the_report_fails(
    cli: Cli, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the disk fills in the meantime."""
    place = tmp_path / "new"
    real = runner.run

    def run(*arguments: Any, **options: Any) -> Any:
        place.touch()
        return real(*arguments, **options)

    monkeypatch.setattr(evaluating, "run", run)
    done = cli("evaluate", album, "--report", place / "report.html")
    assert done.code == 1
    assert done.out.startswith("album: 12 pictures")
    assert "error: cannot write" in done.err
    assert "another place with --report" in done.err


# Going on


def test_other_pictures_of_the_same_names_are_not_taken_for_answered(cli: Cli, album: Path, tmp_path: Path) -> None:
    folder, journal = tmp_path / "album", tmp_path / "answers.jsonl"
    shutil.copytree(album, folder)
    first = cli("evaluate", folder, "--answers", journal, "--json")
    moved = tmp_path / "elsewhere" / "album"
    moved.parent.mkdir()
    shutil.move(folder, moved)
    for path in moved.glob("*/*"):
        os.utime(path, (1, 1))
    again = cli("evaluate", moved, "--answers", journal, "--resume", "--json")
    assert told(again)["speed"]["pictures"] == 0
    assert told(again)["results"][0]["top1"] == told(first)["results"][0]["top1"]
    with Image.open(moved / "ship" / "0001.jpg") as picture:
        picture.rotate(180).save(moved / "ship" / "0001.jpg")
    before = journal.read_bytes()
    done = cli("evaluate", moved, "--answers", journal, "--resume")
    assert (done.code, done.out) == (1, "")
    assert "has answers to other pictures: ship/0001.jpg is not what it was (1 of the 12" in done.err
    assert journal.read_bytes() == before


def test_a_damaged_line_costs_one_picture(cli: Cli, album: Path, tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    first = told(cli("evaluate", album, "--answers", journal, "--json"))
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[4] = b"\x00" * 20 + b"\n"
    journal.write_bytes(b"".join(lines))
    done = cli("evaluate", album, "--answers", journal, "--resume", "--json")
    again = told(done)
    assert (again["speed"]["pictures"], again["speed"]["resumed"]) == (1, 11)
    assert again["results"][0]["top1"] == first["results"][0]["top1"]
    assert f"warning: {journal}: 1 line damaged and passed over" in done.err


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupted_it_says_what_is_kept_and_how_to_go_on(tmp_path: Path) -> None:
    folder, journal = write_album(tmp_path / "album", 900), tmp_path / "answers.jsonl"
    process = start(zoo.SMALL, folder, "--answers", journal, "--protocol", "10-crop")
    deadline = time.monotonic() + 120
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 200):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    said = re.search(
        rf"^([\d,]+) of 3,600 pictures are answered in {journal}; the same command with --resume goes on",
        err.decode(),
        re.M,
    )
    assert said
    kept = journal.read_bytes().count(b"\n") - 1
    assert 199 <= kept < 3600
    assert kept - int(said[1].replace(",", "")) in (0, 1)  # one may be written and not yet counted


# Arguments


@pytest.mark.parametrize("model", [zoo.SMALL, "resnet50", "torch:mine", "gone.onnx", str(ARTIFACT), str(CHECKPOINT)])
@pytest.mark.parametrize("first", [(), ("album",)])
def test_a_model_in_the_place_of_the_data_is_told(cli: Cli, album: Path, model: str, first: tuple[str, ...]) -> None:
    done = cli("evaluate", *(album for _ in first), model)
    assert (done.code, done.out) == (2, "")
    assert f"{model} is a model, not labelled pictures" in done.err
    assert "the last argument is the data: resnet-infer evaluate MODEL DATA" in done.err


def test_mistyped_data_is_told(cli: Cli, tmp_path: Path) -> None:
    done = cli("evaluate", zoo.SMALL, tmp_path / "albun")
    assert (done.code, done.out) == (1, "")
    assert "albun does not exist" in done.err
    assert "the last argument is the data" in done.err


@pytest.mark.parametrize("points", ["nan", "inf", "-inf"])
def test_a_gate_is_a_number(cli: Cli, album: Path, points: str) -> None:
    done = cli("evaluate", album, "--reference", zoo.SMALL, f"--max-drop={points}")
    assert (done.code, done.out) == (2, "")
    assert "Invalid value for '--max-drop'" in done.err


@pytest.mark.parametrize(
    "arguments", [("DATA",), ("--protocol", "native"), ("--batch-size", "32"), ("--url", "x"), ("--ensemble",)]
)
def test_the_paper_s_tables_are_shown_alone(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli("evaluate", "--paper", *arguments)
    assert (done.code, done.out) == (2, "")
    assert "--paper shows the paper's tables and evaluates nothing" in done.err


def test_what_is_named_twice_is_evaluated_once(cli: Cli, album: Path) -> None:
    arguments = ("--protocol", "native", "--protocol", "native", "--json")
    done = cli("evaluate", zoo.SMALL, zoo.SMALL, album, *arguments)
    assert done.code == 0
    assert len(told(done)["results"]) == 1
    assert f"warning: the model {zoo.SMALL} is named twice" in done.err
    assert "warning: the protocol native is named twice" in done.err
    done = cli("evaluate", zoo.SMALL, zoo.SMALL, album, "--ensemble")
    assert (done.code, done.out) == (2, "")
    assert "at least two models" in done.err


def test_models_of_equal_names_are_told_apart_everywhere(cli: Cli, album: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(CHECKPOINT)
    for folder, bias in (("first", 0), ("second", 9)):
        weights = {**checkpoint.weights, "fc.bias": checkpoint.weights["fc.bias"] + bias * np.eye(10, dtype="f4")[2]}
        (tmp_path / folder).mkdir()
        save_checkpoint(replace(checkpoint, weights=weights), tmp_path / folder / "model.safetensors")
    pytest.importorskip("torch", reason="runs checkpoints as they are (the extra `train`)")
    models = [tmp_path / folder / "model.safetensors" for folder in ("first", "second")]
    report = tmp_path / "report.html"
    options = ("--runtime", "torch", "--reference", models[0], "--report", report)
    done = cli("evaluate", *models, album, *options)
    names = ["first/model.safetensors", "second/model.safetensors"]
    assert [line.split("  ")[0] for line in done.out.splitlines()[3:6]] == [f"{names[0]} (reference)", *names]
    found = told(cli("evaluate", *models, album, *options, "--json"))["results"]
    assert [item["model"] for item in found] == [names[0], *names]
    assert found[0]["top1"] == found[1]["top1"] != found[2]["top1"]
    text = report.read_text(encoding="utf-8")
    assert all(f"<td>{name}</td>" in text for name in names)


# What stands in the table


@pytest.mark.usefixtures("as_cifar10")
def test_the_table_says_of_which_pictures_the_paper_s_figure_is(cli: Cli, album: Path) -> None:
    done = cli("evaluate", album)
    assert "\npaper: on the whole CIFAR-10 test set (10,000 pictures)\n" in done.out


@pytest.mark.usefixtures("as_cifar10")
def test_an_ensemble_is_no_single_model(cli: Cli, album: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    done = cli("evaluate", zoo.SMALL, CHECKPOINT, album, "--ensemble", "--report", report, "--json")
    *members, both = told(done)["results"]
    assert all(item["precision"] == "fp32" and item["recorded"] and item["architecture"] for item in members)
    for key in ("name", "architecture", "precision", "recorded"):
        assert both[key] is None, key
    assert both["runtime"] == {}
    assert both["runs_on"] == "onnxruntime, cpu"
    assert both["ensemble"] == [zoo.SMALL, CHECKPOINT.name]
    text = report.read_text(encoding="utf-8")
    assert "<td>ensemble of 2</td><td>native</td><td></td>" in text
    assert "<summary>ensemble of 2, native (onnxruntime, cpu)</summary>" in text
    shown = cli("evaluate", zoo.SMALL, CHECKPOINT, album, "--ensemble").out
    line = next(line for line in shown.splitlines() if line.startswith("ensemble"))
    assert "fp32" not in line
    assert "12.07" not in line


def test_one_is_one(cli: Cli, tmp_path: Path) -> None:
    folder = write_album(tmp_path / "album", 1)
    for name in ("automobile", "cat", "ship"):
        shutil.rmtree(folder / name)
    report = tmp_path / "report.html"
    assert cli("evaluate", folder, "--report", report).out.startswith("album: 1 picture\n")
    assert ">1 picture · " in report.read_text(encoding="utf-8")
    (folder / "airplane" / "0000.jpg").write_bytes(b"")
    assert "error: the only picture of album cannot be read:" in cli("evaluate", folder).err


# Pictures that are not counted


def test_pictures_beside_the_class_folders_are_told(cli: Cli, album: Path, tmp_path: Path) -> None:
    shutil.copytree(album, tmp_path / "album")
    for name in ("b.jpg", "a.jpg"):
        shutil.copy(album / "cat" / "0000.jpg", tmp_path / "album" / name)
    done = cli("evaluate", tmp_path / "album", "--json")
    assert "warning: 2 pictures beside the class folders, not counted: a.jpg and 1 more" in done.err
    assert told(done)["data"]["counted"] == 12


def test_a_list_with_a_missing_file(cli: Cli, album: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name}" for path in sorted(album.glob("*/*"))]
    rows.insert(5, f"{album / 'cat' / 'gone.jpg'},cat")
    (tmp_path / "list.csv").write_text("\n".join(["filename,class", *rows]))
    done = cli("evaluate", tmp_path / "list.csv")
    assert (done.code, done.out) == (1, "")
    assert "lists 1 file that is not there" in done.err
    done = cli("evaluate", tmp_path / "list.csv", "--on-error", "skip", "--json")
    assert done.code == 0
    data = told(done)["data"]
    assert (data["pictures"], data["counted"]) == (13, 12)
    assert [Path(item["picture"]).name for item in data["skipped"]] == ["gone.jpg"]
    assert re.search(r"skipped .*gone\.jpg: No such file", done.err)
