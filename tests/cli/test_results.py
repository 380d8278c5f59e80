"""`-o`: the form follows from the suffix, the file is whole, and nobody else's file is replaced."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_infer.utils import strict_json
from tests.conftest import PICTURES, Outcome

Cli = Callable[..., Outcome]
SMALL = "resnet20-cifar10"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """By command: a quick call, and the suffixes of its result."""
    monkeypatch.chdir(tmp_path)
    lines = [f"{PICTURES / name}.jpg,{label}" for name, label in (("cat", "cat"), ("ship", "ship"))]
    (tmp_path / "data.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    return {
        "models": ((), (".json", ".jsonl", ".csv", ".md")),
        "inspect": ((SMALL,), (".json", ".md")),
        "cache": ((), (".json", ".jsonl", ".csv", ".md")),
        "compare": ((SMALL, f"{SMALL}", "-n", "2", "--reference-runtime", "onnxruntime"), (".json", ".md")),
        "evaluate": ((SMALL, "data.csv"), (".json", ".jsonl", ".csv", ".md", ".html")),
    }


@pytest.mark.parametrize("command", ["models", "inspect", "cache", "compare", "evaluate"])
def test_each_form_is_written_beside_what_is_printed(command: str, calls: Any, cli: Cli, tmp_path: Path) -> None:
    arguments, suffixes = calls[command]
    for suffix in (*suffixes, suffixes[0].upper()):
        file = tmp_path / f"result{suffix}"
        for _ in range(2):  # its own result is replaced
            done = cli(command, *arguments, "-o", file, "--json")
            assert done.code == 0, done.err
            assert f"wrote {file}" in done.err
        printed, text = json.loads(done.out), file.read_text(encoding="utf-8")
        assert next(iter(printed)) == "format"
        if suffix.lower() == ".json":
            assert list(json.loads(text)) == list(printed)
        elif suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines()]
            assert len({tuple(row) for row in rows}) <= 1
        elif suffix == ".csv":
            read = list(csv.DictReader(text.splitlines()))
            assert [list(row) for row in read] == [list(row) for row in rows]
            assert len(read) == len(rows)
        elif suffix == ".md":
            assert text.startswith(f"<!-- resnet-infer {command} -->\n\n| ")
            assert len({line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}) == 1
        else:
            assert text.startswith("<!doctype html>")
    assert not list(tmp_path.glob(".*.part*"))


@pytest.mark.parametrize("command", ["models", "inspect", "cache", "compare", "evaluate", "benchmark"])
@pytest.mark.parametrize("name", ["result.xlsx", "result", "result.txt"])
def test_another_suffix_is_refused_with_the_list(command: str, name: str, calls: Any, cli: Cli, tmp_path: Path) -> None:
    arguments, suffixes = calls.get(command, ((), (".json", ".html")))
    done = cli(command, *arguments, "-o", name)
    assert (done.code, done.out) == (2, "")
    why = "ends in {}, which is no form" if "." in name else "has no suffix, which chooses the form"
    assert f"{name} {why.format(Path(name).suffix)} of the result of {command}" in done.err
    assert f"hint: let it end in {', '.join(suffixes)}" in done.err
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("command", ["models", "inspect", "cache", "compare", "evaluate"])
@pytest.mark.parametrize(
    "text", ['{"name": "a package", "format": 1}', "[]", "a,b\n1,2\n", "# Notes\n", "not even\0text"]
)
def test_a_file_of_others_is_not_replaced(command: str, text: str, calls: Any, cli: Cli, tmp_path: Path) -> None:
    arguments, suffixes = calls[command]
    for suffix in suffixes:
        file = tmp_path / f"theirs{suffix}"
        file.write_text(text)
        done = cli(command, *arguments, "-o", file)
        assert (done.code, done.out) == (2, "")
        assert f"{file} is there already and is no result of {command}" in done.err
        assert file.read_text() == text


@pytest.mark.parametrize("command", ["models", "inspect", "cache", "compare", "evaluate"])
def test_a_document_of_another_command_is_not_replaced(command: str, calls: Any, cli: Cli, tmp_path: Path) -> None:
    texts = [json.dumps({"format": 1, **fields}) for fields in ({}, {"name": "finetune"}, {"format": 3, "mine": []})]
    for other, (arguments, _) in calls.items():
        if other != command:
            assert cli(other, *arguments, "-o", "other.json").code == 0
            texts.append((tmp_path / "other.json").read_text())
            (tmp_path / "other.json").unlink()
    for text in texts:
        (tmp_path / "theirs.json").write_text(text)
        done = cli(command, *calls[command][0], "-o", "theirs.json")
        assert (done.code, done.out, (tmp_path / "theirs.json").read_text()) == (2, "", text)


def test_the_file_is_whole_though_nobody_reads_what_is_printed(
    calls: Any, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("resnet_infer.cli.results.show", broken)
    assert cli("models", "-o", "models.json").code == 1
    assert strict_json.dumps(json.loads((tmp_path / "models.json").read_text()))


def test_classify_takes_the_form_from_the_suffix_and_refuses_others(cli: Cli, tmp_path: Path) -> None:
    cat = PICTURES / "cat.jpg"
    done = cli("classify", cat, "-m", SMALL, "-o", tmp_path / "answers.xlsx")
    assert done.code == 2
    assert "let it end in .json, .jsonl, .ndjson, .csv, .txt, or name the form with --format" in done.err
    assert cli("classify", cat, "-m", SMALL, "-o", tmp_path / "answers.xlsx", "--format", "csv").code == 0
    assert cli("classify", cat, "-m", SMALL, "-o", tmp_path / "answers.TXT").code == 0
    printed = cli("classify", cat, "-m", SMALL)
    assert (tmp_path / "answers.TXT").read_text(encoding="utf-8") == printed.out
    assert cli("classify", cat, "-m", SMALL, "--json").out == cli("classify", cat, "-m", SMALL, "-f", "json").out
    assert "exclude each other" in cli("classify", cat, "--json", "-f", "csv").err
