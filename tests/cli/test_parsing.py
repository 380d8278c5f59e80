"""Texts of the command line are read alike in every command."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import resnet_infer
from resnet_infer.cli import parsing
from resnet_infer.errors import UsageError
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
COMMANDS = Path(resnet_infer.__file__).parent / "cli" / "commands"


def splits_text(source: str) -> bool:
    """Whether a module takes a list apart, or reads a file of lines, itself."""
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return any(call.endswith(".split(',')") or call.startswith(("read_text(", "read_lines(")) for call in calls)


def test_no_command_parses_by_itself() -> None:
    assert [path.name for path in sorted(COMMANDS.glob("*.py")) if splits_text(path.read_text(encoding="utf-8"))] == []
    assert splits_text("parts = text.split(',')")
    assert splits_text("lines = read_text(path, 'utf-8-sig').splitlines()")


def test_numbers() -> None:
    mistake = "--batch-size takes numbers, not {text}"
    assert parsing.numbers(None, int, mistake) is None
    assert parsing.numbers("1, 8,32", int, mistake) == (1, 8, 32)
    assert parsing.numbers("0.5", float, mistake) == (0.5,)
    for text in ("", "1,", "1,x", "1;2", "1.5"):
        with pytest.raises(UsageError) as caught:
            parsing.numbers(text, int, mistake)
        assert caught.value.message == f"--batch-size takes numbers, not {text!r}"


def test_numbers_with_a_bound() -> None:
    assert parsing.bounded_numbers("--rate", None, float, 9) == ()
    assert parsing.bounded_numbers("--rate", "1,9", float, 9) == (1.0, 9.0)
    for text, value in (("1,10", "10"), ("inf", "inf"), ("nan", "nan")):
        with pytest.raises(UsageError, match=f"each number of --rate is at most 9, not {value}"):
            parsing.bounded_numbers("--rate", text, float, 9)
    with pytest.raises(UsageError, match="--rate takes numbers with commas between them, not 'a'"):
        parsing.bounded_numbers("--rate", "a", float, 9)


def test_two_numbers() -> None:
    assert parsing.any_numbers("0.5,100") == (0.5, 100.0)
    assert parsing.two_numbers(None, int) is None
    assert parsing.two_numbers("256,480", int) == (256, 480)
    for text in ("256", "1,2,3"):
        with pytest.raises(UsageError, match="is not two numbers with a comma between them"):
            parsing.two_numbers(text, int)
    for text in ("a,b", "1.5,2"):
        with pytest.raises(UsageError, match="is no list of numbers with commas between them"):
            parsing.two_numbers(text, int)


def test_a_value_for_every_channel() -> None:
    assert parsing.channel_values(None) is None
    assert parsing.channel_values("0.5") == [0.5]
    assert parsing.channel_values("1,2,3") == [1, 2, 3]
    assert parsing.is_channel_values("1,2,3") == "1,2,3"
    for text in ("1,2", "a", ""):
        with pytest.raises(typer.BadParameter, match="is not one number, or three with commas between them"):
            parsing.is_channel_values(text)


def test_a_number_is_a_number() -> None:
    assert (parsing.number(None), parsing.number(0.5), parsing.number(math.inf)) == (None, 0.5, math.inf)
    with pytest.raises(typer.BadParameter, match="NaN"):
        parsing.number(math.nan)


def test_a_choice_is_guessed() -> None:
    check = parsing.choice("fail", "skip")
    assert (check(None), check("skip")) == (None, "skip")
    with pytest.raises(typer.BadParameter, match=r"did you mean skip\? 'skp' is not one of fail, skip"):
        check("skp")


def test_names() -> None:
    assert parsing.names(None) == parsing.names("") == ()
    assert parsing.names("conv1, layer1.0.conv2,,") == ("conv1", "layer1.0.conv2")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_class_order_is_a_rule_or_the_lines_of_a_file(tmp_path: Path, encoding: str, end: str) -> None:
    file = tmp_path / "order.txt"
    file.write_bytes(end.join(["犬", " cat ", "", "8 petals", ""]).encode(encoding))
    assert parsing.class_order(None, "string") is None
    assert parsing.class_order("string", "string", "natural") == "string"
    assert parsing.class_order(str(file), "string", "natural") == ("犬", "cat", "8 petals")


def test_a_class_order_that_is_neither(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("bär\n".encode("latin-1"))
    for name in ("latin.txt", "none.txt", "numbers"):
        with pytest.raises(UsageError, match="is neither string, natural nor a file of class names"):
            parsing.class_order(str(tmp_path / name), "string", "natural")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_every_command_takes_a_class_order_with_a_byte_order_mark(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """As Notepad and PowerShell write it."""
    seen: list[object] = []

    def stop(*given: Any, class_order: object = None, **_: object) -> None:
        seen.append(class_order or given[-1].class_order)
        raise UsageError("seen")

    if command == "train":
        pytest.importorskip("torch", reason="the extra `train`")
        monkeypatch.setattr("resnet_infer.training.input.splits.open_splits", stop)
    monkeypatch.setattr("resnet_infer.evaluation.evaluate.evaluate", stop)
    file = tmp_path / "order.txt"
    file.write_text("cat\ndog\n", encoding="utf-8-sig")
    data = tmp_path / "data"
    data.mkdir()
    place = ("-o", tmp_path / "run", "--device", "cpu") if command == "train" else ()
    models = () if command == "train" else ("resnet20-cifar10",)
    done = cli(command, *models, data, "--class-order", file, *place)
    assert (done.code, seen) == (2, [("cat", "dog")]), done.err
