"""No command writes over what it reads, and none takes - for a file's name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from resnet_infer import zoo
from resnet_infer.cli.main import COMMANDS, app
from tests.conftest import PICTURES, Outcome

Cli = Callable[..., Outcome]

CALLS: dict[tuple[str, str], list[tuple[str, list[str]]]] = {
    ("classify", "--output"): [
        ("photo.jpg", ["photo.jpg"]),
        ("photo.jpg", ["."]),
        ("photo.jpg", ["*.jpg"]),
        ("model.onnx", ["photo.jpg", "-m", "model.onnx"]),
        ("link", ["photo.jpg"]),
    ],
    ("export", "--output"): [
        ("model.onnx", ["model.onnx", "-p", "fp16"]),
        ("./model.onnx", ["model.onnx", "-p", "fp16"]),
        ("data.csv", ["model.safetensors", "-p", "int8", "--calibration-data", "data.csv"]),
    ],
    ("export", "--timing-cache"): [],  # read and written by design, and for GPUs only
    ("import", "--output"): [
        ("model.safetensors", ["model.safetensors", "--arch", "resnet20"]),
        ("model.onnx", ["model.onnx"]),
        ("labels.txt", ["model.onnx", "--labels", "labels.txt"]),
    ],
    ("evaluate", "--output"): [
        ("data.csv", ["model.onnx", "data.csv"]),
        ("page.html", ["model.onnx", "page.html"]),
        ("saved.json", ["model.onnx", "data.csv", "--class-order", "saved.json"]),
    ],
    ("compare", "--output"): [("saved.json", ["model.onnx", "model.safetensors", "saved.json"])],
    ("inspect", "--output"): [("theirs.json", ["model.onnx"])],
    ("env", "--output"): [("theirs.json", [])],
    ("models", "--output"): [("theirs.json", []), ("data.csv", [])],
    ("cache", "--output"): [("theirs.json", ["list"]), ("theirs.json", ["clear"])],
    ("evaluate", "--report"): [
        ("data.csv", ["model.onnx", "data.csv"]),
        ("photo.jpg", ["model.onnx", "data.csv"]),
        ("model.onnx", ["model.onnx", "data.csv"]),
        ("page.html", ["model.onnx", "page.html"]),
    ],
    ("evaluate", "--answers"): [
        ("data.csv", ["model.onnx", "data.csv"]),
        ("photo.jpg", ["model.onnx", "data.csv"]),
        ("model.onnx", ["torch:model.onnx", "data.csv"]),
        ("labels.txt", ["model.onnx", "data.csv", "--class-order", "labels.txt"]),
    ],
    ("benchmark", "--output"): [
        ("model.onnx", ["model.onnx"]),
        ("saved.json", ["model.onnx", "--photos", "saved.json"]),
        ("saved.json", ["model.onnx", "--scenario", "offline", "--data", "saved.json"]),
    ],
    ("benchmark", "--report"): [
        ("model.onnx", ["model.onnx"]),
        ("page.html", ["torch:page.html"]),
        ("page.html", ["model.onnx", "--scenario", "offline", "--data", "page.html"]),
    ],
    ("benchmark", "--logs"): [],  # a folder of logs with names of their own
    ("train", "--output"): [
        ("run", ["data.csv", "--from", "run/best.safetensors"]),
        ("run", ["run/metrics.csv"]),
    ],
    ("curves", "--output"): [("run/curves.png", ["run/curves.png"])],
}
"""What is to be written, and the call that reads it, by command and option."""
OUTPUTS = {"--output", "--report", "--answers", "--logs", "--timing-cache"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with something of everything that commands read."""
    place = tmp_path / "work"
    (place / "run").mkdir(parents=True)
    for suffix in (".onnx", ".safetensors"):
        shutil.copy(zoo.built_in(zoo.SMALL, suffix), place / f"model{suffix}")
    shutil.copy(PICTURES / "cat.jpg", place / "photo.jpg")
    shutil.copy(place / "model.safetensors", place / "run" / "best.safetensors")
    shutil.copy(place / "photo.jpg", place / "run" / "curves.png")
    (place / "run" / "metrics.csv").write_text("path,label\n../photo.jpg,cat\n")
    (place / "data.csv").write_text("path,label\nphoto.jpg,cat\n")
    (place / "labels.txt").write_text("cat\n")
    (place / "saved.json").write_text("{}")
    (place / "theirs.json").write_text('{"name": "a package"}')
    (place / "page.html").write_text("<html>")
    (place / "link").symlink_to("photo.jpg")
    monkeypatch.chdir(place)
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def options(command: str) -> list[Any]:
    group: Any = typer.main.get_command(app)
    found: list[Any] = group.get_command(None, command).params
    return found


def test_every_option_that_names_a_place_is_in_the_table() -> None:
    found = {
        (command, name)
        for command in COMMANDS
        for parameter in options(command)
        for name in parameter.opts
        if name in OUTPUTS
    }
    assert found == set(CALLS)


@pytest.mark.parametrize(
    ("command", "option", "target", "arguments"),
    [(command, option, target, arguments) for (command, option), calls in CALLS.items() for target, arguments in calls],
)
def test_what_is_read_is_never_written_over(
    cli: Cli, folder: Path, command: str, option: str, target: str, arguments: list[str]
) -> None:
    if command == "train":
        pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
    before = contents(folder)
    done = cli(command, *arguments, option, target)
    assert (done.code, done.out) == (2, "")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("command", "option"),
    [pair for pair in CALLS if pair not in {("classify", "--output"), ("export", "--timing-cache")}],
)
def test_a_minus_names_no_file(cli: Cli, folder: Path, command: str, option: str) -> None:
    if command == "train":
        pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
    arguments = {
        "export": ["model.safetensors"],
        "import": ["model.safetensors", "--arch", "resnet20"],
        "evaluate": ["model.onnx", "data.csv"],
        "benchmark": ["model.onnx", *(["--scenario", "offline"] if option == "--logs" else [])],
        "train": ["data.csv"],
        "curves": ["run"],
        "compare": ["model.onnx", "model.onnx"],
        "inspect": [],
        "models": [],
        "env": [],
        "cache": [],
    }[command]
    before = contents(folder)
    done = cli(command, *arguments, option, "-")
    assert (done.code, done.out) == (2, "")
    assert contents(folder) == before


@pytest.mark.parametrize("arguments", [("export", "model.safetensors"), ("import", "model.onnx")])
def test_a_model_of_others_is_not_replaced(cli: Cli, folder: Path, arguments: tuple[str, ...]) -> None:
    (folder / "theirs.onnx").write_bytes(b"\x08\x07\x12\x04onnx")
    done = cli(*arguments, "-o", "theirs.onnx")
    assert done.code == 2
    assert (folder / "theirs.onnx").read_bytes() == b"\x08\x07\x12\x04onnx"
    assert "is there already and is no" in done.err


@pytest.mark.parametrize(("command", "option"), [pair for pair in CALLS if pair[1] != "--timing-cache"])
def test_a_place_that_cannot_be_written_is_said_before_the_work(
    cli: Cli, folder: Path, command: str, option: str
) -> None:
    """So early that the model is not looked for: there is none of that name."""
    if command == "train":
        pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
    arguments, suffix = {
        "classify": (["photo.jpg", "-m", "absent"], ".csv"),
        "export": (["absent"], ".onnx"),
        "import": (["absent.pth", "--arch", "resnet20"], ".safetensors"),
        "evaluate": (["absent", "data.csv"], ".html"),
        "benchmark": (["absent", *(["--scenario", "offline"] if option == "--logs" else [])], ".json"),
        "train": (["absent"], ""),
        "curves": (["absent"], ".png"),
        "compare": (["absent", "absent"], ".json"),
        "inspect": (["absent"], ".json"),
        "models": (["absent"], ".json"),
        "env": ([], ".json"),
        "cache": (["verify"], ".md"),
    }[command]
    before = contents(folder)
    for place in (f"labels.txt/result{suffix}", f"labels.txt/below/result{suffix}"):
        done = cli(command, *arguments, option, place)
        assert (done.code, done.out) == (1, "")
        assert f"cannot write {place}" in done.err
        assert "absent" not in done.err
    assert contents(folder) == before
