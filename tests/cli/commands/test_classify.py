"""`resnet-infer classify`: what is found, in which order, in which form, and what is said of the rest."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_infer import zoo
from resnet_infer.classifier import Classifier
from resnet_infer.models.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import PICTURES, ROOT, Outcome

Cli = Callable[..., Outcome]
CAT, CAR, SHIP, PLANE = (PICTURES / f"{name}.jpg" for name in ("cat", "car", "ship", "airplane"))
CHECKPOINT = zoo.built_in(zoo.SMALL, ".safetensors")
CLASSES = load_checkpoint(CHECKPOINT).spec.classes


def rows(outcome: Outcome) -> list[dict[str, Any]]:
    """The answers of `--format jsonl`."""
    return [json.loads(line) for line in outcome.out.splitlines()]


def sources(outcome: Outcome) -> list[str]:
    return [row["source"] for row in rows(outcome)]


def tops(outcome: Outcome) -> list[str]:
    """The best label of each picture that could be read."""
    return [row["predictions"][0]["label"] for row in rows(outcome) if "error" not in row]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Pictures in nested folders, and what is none."""
    folder = tmp_path / "album"
    for name in ("b.jpg", "a.jpg", "z/c.JPG", "m/deep/d.jpg", "m/e.jpg", ".hidden.jpg", ".cache/f.jpg", "notes.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CAT, path)
    (folder / "notes.txt").write_text("no picture")
    with Image.open(SHIP) as ship:
        ship.save(folder / "m" / "ship.png")
    (folder / "empty").mkdir()
    return folder


ALBUM = ["a.jpg", "b.jpg", "m/e.jpg", "m/ship.png", "m/deep/d.jpg", "z/c.JPG"]


def pipe_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# Inputs


def test_the_pictures_are_recognised(cli: Cli) -> None:
    done = cli("classify", PICTURES, "-f", "jsonl")
    assert done.code == 0
    assert sources(done) == [str(path) for path in (PLANE, CAR, CAT, SHIP)]
    assert tops(done) == ["airplane", "automobile", "cat", "ship"]


def test_a_folder_is_searched_folder_by_folder_sorted(cli: Cli, album: Path) -> None:
    done = cli("classify", album, "-f", "jsonl")
    assert done.code == 0
    assert sources(done) == [str(album / name) for name in ALBUM]
    assert tops(done) == ["cat", "cat", "cat", "ship", "cat", "cat"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("[ab].jp?", ["a.jpg", "b.jpg"]),
        ("*/*.png", ["m/ship.png"]),
        ("**/*.[jp][pn]g", ["a.jpg", "b.jpg", "m/deep/d.jpg", "m/e.jpg", "m/ship.png"]),
    ],
)
def test_globs_are_sorted(cli: Cli, album: Path, pattern: str, names: list[str]) -> None:
    done = cli("classify", album / pattern, "-f", "jsonl")
    assert (done.code, sources(done)) == (0, [str(album / name) for name in names])


def test_a_name_that_looks_like_a_glob_is_a_name_first(cli: Cli, tmp_path: Path) -> None:
    odd = tmp_path / "ship [1].jpg"
    shutil.copy(SHIP, odd)
    shutil.copy(CAT, tmp_path / "ship 1.jpg")
    assert tops(cli("classify", odd, "-f", "jsonl")) == ["ship"]


def test_a_file_named_outright_needs_no_suffix(cli: Cli, tmp_path: Path) -> None:
    bare = tmp_path / "picture"
    shutil.copy(SHIP, bare)
    assert tops(cli("classify", bare, "-f", "jsonl")) == ["ship"]


def test_a_picture_comes_on_stdin(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_in(monkeypatch, SHIP.read_bytes())
    done = cli("classify", "-", "-f", "jsonl")
    assert (done.code, sources(done), tops(done)) == (0, ["stdin"], ["ship"])
    pipe_in(monkeypatch, b"")
    done = cli("classify", "-")
    assert (done.code, done.out) == (1, "stdin\n  not read: the file is empty\n")
    assert "error: stdin: the file is empty" in done.err


def test_all_kinds_of_input_mix_in_the_order_given(cli: Cli, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_in(monkeypatch, CAR.read_bytes())
    done = cli("classify", SHIP, album / "m", "-", album / "?.jpg", PLANE, SHIP, "-f", "jsonl", "-b", 2)
    inside = [str(album / "m" / name) for name in ("e.jpg", "ship.png", "deep/d.jpg")]
    matched = [str(album / name) for name in ("a.jpg", "b.jpg")]
    assert sources(done) == [str(SHIP), *inside, "stdin", *matched, str(PLANE), str(SHIP)]
    assert tops(done) == ["ship", "cat", "ship", "cat", "automobile", "cat", "cat", "airplane", "ship"]


def test_pictures_that_can_hardly_be_seen_are_noted_once(cli: Cli, tmp_path: Path) -> None:
    for name in "abc":
        Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16) * 30).save(
            tmp_path / f"{name}.png"
        )
    done = cli("classify", CAT, tmp_path, "-f", "jsonl")
    assert [("note" in json.loads(line)) for line in done.out.splitlines()] == [False, True, True, True]
    assert done.err.count("note:") == 1
    assert f"note: {tmp_path / 'a.png'}: its 16-bit samples use only" in done.err
    assert "and 2 more pictures like it" in done.err
    assert "note:" not in cli("classify", CAT).err


# What cannot be read


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("broken.jpg", "broken.jpg: damaged or truncated JPEG"),
        ("text.png", "text.png: unsupported: text"),
        ("nowhere.jpg", "nowhere.jpg: No such file"),
        ("empty", "empty: no pictures there"),
        ("*.tiff", "*.tiff: no pictures there"),
    ],
)
@pytest.mark.parametrize(("skip", "code"), [((), 1), (("--on-error", "fail"), 1), (("--on-error", "skip"), 0)])
def test_what_cannot_be_read_is_named_and_the_rest_answered(
    cli: Cli, tmp_path: Path, kind: str, message: str, skip: tuple[str, ...], code: int
) -> None:
    (tmp_path / "broken.jpg").write_bytes(CAT.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    done = cli("classify", CAT, tmp_path / kind, SHIP, "-f", "jsonl", *skip)
    assert (done.code, tops(done)) == (code, ["cat", "ship"])
    assert f"error: {tmp_path / message}" in done.err
    assert done.err.count("error:") == 1
    (row,) = [row for row in rows(done) if "error" in row]
    assert rows(done).index(row) == 1
    assert row["error"].startswith(str(tmp_path / message))


def test_every_format_has_a_row_for_every_input(cli: Cli, album: Path) -> None:
    (album / "b.jpg").write_bytes(CAT.read_bytes()[:2000])
    (album / "c.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (album / "empty.png").touch()
    arguments = ("classify", SHIP, album / "none.jpg", album, album / "?.tiff", CAT, "-k", 2)
    expected = rows(cli(*arguments, "-f", "jsonl"))
    broken = {str(album / name) for name in ("none.jpg", "b.jpg", "c.heic", "empty.png", "?.tiff")}
    inside = [str(album / name) for name in ("a.jpg", "b.jpg", "c.heic", "empty.png", *ALBUM[2:])]
    order = [str(SHIP), str(album / "none.jpg"), *inside, str(album / "?.tiff"), str(CAT)]
    assert [row["source"] for row in expected] == order
    assert {row["source"] for row in expected if "error" in row} == broken
    assert all(set(row) == {"source", "error" if row["source"] in broken else "predictions"} for row in expected)
    assert json.loads(cli(*arguments, "-f", "json").out) == {"format": 1, "answers": expected}
    table = list(csv.DictReader(io.StringIO(cli(*arguments, "-f", "csv").out)))
    assert [(row["source"], row["error"]) for row in table if row["rank"] in ("", "1")] == [
        (row["source"], row.get("error", "")) for row in expected
    ]
    assert all(not row["label"] for row in table if row["error"])
    blocks = [block.splitlines() for block in cli(*arguments).out.split("\n\n")]
    assert [block[0] for block in blocks] == order
    for block, row in zip(blocks, expected, strict=True):
        assert ("error" in row) == block[1].startswith("  not read: ")


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
def test_where_nothing_can_be_read_the_result_is_valid(cli: Cli, tmp_path: Path, format: str) -> None:
    done = cli("classify", tmp_path, tmp_path / "none.jpg", "--format", format)
    assert done.code == 1
    assert done.err.count("error:") == 2
    if format == "json":
        assert [row["source"] for row in json.loads(done.out)["answers"]] == [str(tmp_path), str(tmp_path / "none.jpg")]
    if format == "csv":
        assert done.out.splitlines()[0] == "source,rank,label,probability,index,id,error"
    assert str(tmp_path / "none.jpg") in done.out


def test_without_a_picture_no_model_is_opened(cli: Cli, tmp_path: Path) -> None:
    done = cli("classify", tmp_path, "-m", "there is none")
    assert (done.code, done.out) == (1, f"{tmp_path}\n  not read: no pictures there\n")


# What is found


def test_a_folder_gives_what_can_be_read_and_says_what_else_is_there(cli: Cli, tmp_path: Path) -> None:
    for name in ("a.jfif", "b.JPE", "c.mpo", "bare", "odd.download"):
        shutil.copy(CAT, tmp_path / name)
    with Image.open(CAT) as photo:
        photo.save(tmp_path / "d.apng", "PNG")
    for name in ("x.HEIC", "y.heic", "z.avif"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftyp" + (b"avif" if "avif" in name else b"heic") + bytes(20))
    (tmp_path / "heic without suffix").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    for name in ("1.txt", "2.txt", ".hidden.jpg"):
        (tmp_path / name).write_text("no picture")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")  # opened, it would wait for ever
        os.mkfifo(tmp_path / "pipe")
    done = cli("classify", tmp_path, "-f", "jsonl")
    assert done.code == 1
    read = [Path(row["source"]).name for row in rows(done) if "error" not in row]
    assert read == ["a.jfif", "b.JPE", "bare", "c.mpo", "d.apng", "odd.download"]
    refused = {Path(row["source"]).name: row["error"].rpartition(": ")[2] for row in rows(done) if "error" in row}
    assert refused == {
        "x.HEIC": "HEIC is not supported",
        "y.heic": "HEIC is not supported",
        "z.avif": "AVIF is not supported",
        "heic without suffix": "HEIC is not supported",
    }
    special = "; 1 without a suffix, 1 .jpg: no regular files" if hasattr(os, "mkfifo") else ""
    assert done.err.splitlines()[-1] == (
        "not read: 2 .heic, 1 without a suffix, 1 .avif: not supported; 2 .txt: no pictures" + special + "; 1 hidden"
    )
    assert cli("classify", tmp_path, "--on-error", "skip").code == 0


def test_what_is_no_picture_is_no_error(cli: Cli, album: Path) -> None:
    done = cli("classify", album, "-f", "jsonl")
    assert (done.code, len(rows(done))) == (0, len(ALBUM))
    assert done.err.splitlines()[-1] == "not read: 1 .txt: no pictures; 2 hidden"


@pytest.mark.skipif(os.name != "posix", reason="makes links")
def test_folders_that_links_lead_to_are_entered_once(cli: Cli, album: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(SHIP, outside / "far.jpg")
    (outside / "back").symlink_to(album)
    for name in ("self", "z/self", "m/deep/up"):
        (album / name).symlink_to(album)
    (album / "again").symlink_to(album / "m")
    (album / "k").symlink_to(outside)
    (album / "l").symlink_to(outside)
    (album / "m" / "circle").symlink_to("circle")
    expected = [*ALBUM[:2], "k/far.jpg", *ALBUM[2:]]
    for argument in (album, album / "**", album / "**" / "*"):
        found = sources(cli("classify", argument, "-f", "jsonl", "--on-error", "skip"))
        pictures = [name for name in found if "." in Path(name).name and not name.endswith(".txt")]
        assert sorted(pictures) == sorted(str(album / name) for name in expected)
    assert sources(cli("classify", album / "**" / "*.jpg", "-f", "jsonl")) == sorted(
        str(album / name) for name in expected if name.endswith(".jpg")
    )


@pytest.mark.parametrize("pattern", ["*", "[ab]*", "m/*", "*/*", "?", "*.jpg", "*m*", ".*", "z/*.JPG", "nothing*"])
def test_a_pattern_stands_for_what_a_shell_makes_of_it(cli: Cli, album: Path, pattern: str) -> None:
    shell = subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {pattern}"], cwd=album, capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    names = sorted(str(album / name) for name in shell if name not in (".", ".."))
    quoted, unquoted = (cli("classify", *inputs, "-f", "jsonl") for inputs in ([album / pattern], names))
    assert (quoted.code, rows(quoted), quoted.err) == (unquoted.code, rows(unquoted), unquoted.err)


def test_what_is_no_regular_file_is_not_opened(cli: Cli, tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("the system has no named pipes")
    os.mkfifo(tmp_path / "pipe.jpg")
    for argument in (tmp_path / "pipe.jpg", tmp_path / "*.jpg"):
        done = cli("classify", argument, CAT, "-f", "jsonl")
        assert (done.code, tops(done)) == (1, ["cat"])
        assert "pipe.jpg: not a regular file" in done.err


def test_an_address_on_the_web_is_said_to_be_one(cli: Cli) -> None:
    done = cli("classify", "https://host/cat.jpg?size=*", "-f", "jsonl")
    assert (done.code, sources(done)) == (1, ["https://host/cat.jpg?size=*"])
    assert "curl" in done.err


def pictures_of(*formats: str) -> list[bytes]:
    made = []
    for format in formats:
        file = io.BytesIO()
        with Image.open(CAT) as photo:
            photo.save(file, format)
        made.append(file.getvalue())
    return made


@pytest.mark.parametrize("first", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("second", ["JPEG", "PNG", "TIFF"])
def test_a_second_picture_on_stdin_is_refused(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    one, two = pictures_of(first, second)
    pipe_in(monkeypatch, one + two)
    done = cli("classify", "-", "-f", "jsonl")
    assert (done.code, tops(done)) == (1, [])
    assert "more than one picture" in done.err
    for trailing in (b"", bytes(100), b"some trailer"):
        pipe_in(monkeypatch, one + trailing)
        done = cli("classify", "-", "-f", "jsonl")
        assert (done.code, tops(done)) == (0, ["cat"])


def test_a_closed_stdin_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    done = cli("classify", "-", CAT, "-f", "jsonl")
    assert (done.code, tops(done)) == (1, ["cat"])
    assert "error: stdin: standard input is closed" in done.err


# Where the result goes


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.csv", "csv"), ("a.JSON", "json"), ("a.jsonl", "jsonl"), ("a.ndjson", "jsonl"), ("a.txt", "table")],
)
def test_the_form_follows_the_name(cli: Cli, tmp_path: Path, name: str, form: str) -> None:
    target = tmp_path / name
    done = cli("classify", CAT, "-o", target)
    assert (done.code, done.err) == (0, "")
    assert target.read_text(encoding="utf-8") == cli("classify", CAT, "-f", form).out
    done = cli("classify", CAT, "-o", target, "-f", "jsonl")
    assert ("note:" in done.err) == (form != "jsonl")
    assert target.read_text(encoding="utf-8") == cli("classify", CAT, "-f", "jsonl").out
    for form in ("csv", "json", "table", "table"):  # each result may be replaced by the next
        assert cli("classify", CAT, "-o", target, "-f", form).code == 0


def test_a_minus_is_standard_output(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("classify", CAT, "-o", "-", "-f", "csv").out == cli("classify", CAT, "-f", "csv").out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        *(b"source: notes of mine\n", b"[1, 2]\n", b'{"other": 1}\n', b"\x08\x07onnx"),
        *(b"My list\n  Milk   50.0%\n  Eggs   50.0%\n", b"Sales\n  north  50.0%  ###\n", b"Books\n  not read: Dune\n"),
        *(
            b'{"source": "a web page"}\n',
            b'[\n  {"source": "a web page"}\n]\n',
            b"source,rank,label,probability,index,id,x\n",
        ),
    ],
)
def test_a_file_that_is_no_result_is_not_replaced(cli: Cli, tmp_path: Path, content: bytes) -> None:
    target = tmp_path / "there"
    target.write_bytes(content)
    done = cli("classify", CAT, "-o", target)
    assert (done.code, done.out) == (2, "")
    assert target.read_bytes() == content


@pytest.mark.parametrize("name", ["photo.jpg", "photo.HEIC", "photo.tiff"])
def test_the_name_of_a_picture_is_none_of_a_result(cli: Cli, tmp_path: Path, name: str) -> None:
    done = cli("classify", CAT, "-o", tmp_path / name)
    assert (done.code, list(tmp_path.glob("*.*"))) == (2, [])
    assert "is the name of a picture" in done.err


def test_an_empty_name_is_refused(cli: Cli) -> None:
    done = cli("classify", "")
    assert (done.code, done.out) == (2, "")


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="a path longer than the system takes is made with dir_fd")
def test_a_folder_that_cannot_be_listed_is_named(cli: Cli, tmp_path: Path) -> None:
    """Its path is too long, which not even an administrator may list."""
    top = tmp_path / "deep"
    top.mkdir()
    shutil.copy(CAT, top / "cat.jpg")
    folder = os.open(top, os.O_DIRECTORY)
    try:
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=folder)
            inner = os.open("d" * 250, os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        done = cli("classify", top, "-f", "jsonl")
    finally:
        os.close(folder)
        shutil.rmtree(top)
    assert (done.code, tops(done)) == (1, ["cat"])
    assert ": cannot list it (" in done.err


# Forms


def test_the_table_shows_labels_percentages_and_bars(cli: Cli) -> None:
    done = cli("classify", CAT, SHIP, "-k", 3)
    first, second = done.out.split("\n\n")
    for block, path, label in ((first, CAT, "cat"), (second, SHIP, "ship")):
        head, *lines = block.strip("\n").split("\n")
        assert head == str(path)
        assert len(lines) == 3
        assert lines[0].split()[0] == label
        percentages = [float(line.split()[1].removesuffix("%")) for line in lines]
        assert percentages == sorted(percentages, reverse=True)
        assert 0 < sum(percentages) <= 100.2
        bars = [len("".join(line.split()[2:])) for line in lines]
        assert all(abs(length - 24 * percent / 100) <= 1.1 for length, percent in zip(bars, percentages, strict=True))
        assert "█" in lines[0]


def test_every_format_says_the_same(cli: Cli) -> None:
    expected = rows(cli("classify", PICTURES, "--format", "jsonl"))
    assert [len(row["predictions"]) for row in expected] == [5] * 4
    as_json = cli("classify", PICTURES, "--format", "json")
    assert json.loads(as_json.out)["answers"] == expected
    table = list(csv.DictReader(io.StringIO(cli("classify", PICTURES, "--format", "csv").out)))
    flat = [(row["source"], rank, item) for row in expected for rank, item in enumerate(row["predictions"], start=1)]
    assert len(table) == len(flat)
    for line, (source, rank, item) in zip(table, flat, strict=True):
        assert (line["source"], line["rank"], line["label"]) == (source, str(rank), item["label"])
        assert (line["index"], line["id"]) == (str(item["index"]), item["id"] or "")
        assert float(line["probability"]) == pytest.approx(item["probability"], abs=1e-6)


def test_odd_names_survive_every_format(cli: Cli, tmp_path: Path) -> None:
    odd = tmp_path / 'a "b", c\n; é 猫.jpg' if os.name == "posix" else tmp_path / "a, c; é 猫.jpg"
    shutil.copy(CAT, odd)
    assert json.loads(cli("classify", odd, "-f", "json").out)["answers"][0]["source"] == str(odd)
    assert sources(cli("classify", odd, "-f", "jsonl")) == [str(odd)]
    assert next(csv.DictReader(io.StringIO(cli("classify", odd, "-f", "csv").out, newline="")))["source"] == str(odd)


def test_top_k_larger_than_the_classes_shows_all(cli: Cli) -> None:
    (row,) = rows(cli("classify", CAT, "-f", "jsonl", "--top-k", 10_000))
    assert sorted(item["label"] for item in row["predictions"]) == sorted(CLASSES)
    assert sum(item["probability"] for item in row["predictions"]) == pytest.approx(1)


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
def test_the_result_goes_to_a_file_instead(cli: Cli, tmp_path: Path, format: str) -> None:
    shown = cli("classify", PICTURES, "--format", format)
    target = tmp_path / "new" / "result"
    done = cli("classify", PICTURES, "--format", format, "-o", target)
    assert (done.code, done.out) == (0, "")
    assert target.read_text(encoding="utf-8") == shown.out
    assert os.listdir(target.parent) == ["result"]


def test_a_run_that_fails_leaves_the_old_result(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "result.json"
    assert cli("classify", CAT, "-o", target).code == 0
    old = target.read_text()

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resnet_infer.classifier.softmax", stop)
    done = cli("classify", PICTURES, "-f", "json", "-o", target)
    assert (done.code, done.out) == (130, "")
    assert target.read_text() == old
    assert os.listdir(tmp_path) == ["result.json"]


def test_nothing_is_running_any_more_when_the_model_is_closed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[list[str]] = []

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def close(_: Classifier) -> None:
        running.append([thread.name for thread in threading.enumerate() if thread.name.startswith("decode")])

    monkeypatch.setattr("resnet_infer.cli.answers.bar", stop)
    monkeypatch.setattr(Classifier, "close", close)
    assert cli("classify", *[CAT] * 500).code == 130
    assert running == [[]]


def test_a_result_that_cannot_be_written_is_an_error(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = cli("classify", CAT, "-o", tmp_path / "file" / "result.json")
    assert (done.code, done.out) == (1, "")
    assert f"error: cannot write {tmp_path / 'file' / 'result.json'}: " in done.err


def test_where_stdout_is_ascii_json_is_escaped(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "é.jpg"
    shutil.copy(CAT, odd)
    screen = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    assert cli("classify", odd, "-f", "json").code == 0
    (row,) = json.loads(screen.buffer.getvalue())["answers"]
    assert row["source"] == str(odd)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are always text")
@pytest.mark.parametrize(("encoding", "shown"), [("ascii", r"caf\xe9 \udcff.jpg"), ("utf-8", r"café \udcff.jpg")])
def test_no_name_is_too_odd_to_be_shown(tmp_path: Path, encoding: str, shown: str) -> None:
    shutil.copy(CAT, tmp_path / os.fsdecode("café ".encode() + b"\xff.jpg"))
    process = start("classify", ".", "-k", 1, cwd=tmp_path, PYTHONIOENCODING=encoding)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, b"Traceback" in err) == (0, False)
    name, line = out.decode(encoding).splitlines()
    assert name == shown
    assert line.split()[0] == "cat"
    assert ("#" in line) == (encoding == "ascii")


# Options


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("crops", [1, 10])
def test_batches_do_not_change_answers(cli: Cli, album: Path, batch: int, crops: int) -> None:
    (album / "n.jpg").write_bytes(b"broken")
    done = cli("classify", album, PICTURES, "-f", "jsonl", "-b", batch, "--crops", crops)
    assert done.code == 1
    with Classifier(zoo.SMALL, device="cpu") as classifier:
        for row in rows(done):
            if "error" in row:
                assert row["source"] == str(album / "n.jpg")
                continue
            expected = classifier.classify(row["source"], crops=1 if crops == 1 else 10)
            found = {item["label"]: item["probability"] for item in row["predictions"]}
            assert found == pytest.approx({item.label: item.probability for item in expected}, abs=1e-5)
    assert len(rows(done)) == len(ALBUM) + 5


def test_threads_do_not_change_answers(cli: Cli) -> None:
    one, two = (rows(cli("classify", PICTURES, "-f", "jsonl", "-k", 1, "--threads", threads)) for threads in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a["predictions"][0]["label"] == b["predictions"][0]["label"]
        assert a["predictions"][0]["probability"] == pytest.approx(b["predictions"][0]["probability"], abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "close"),
    [
        (("--format", "jsno"), "json"),
        (("--format", "tabel"), "table"),
        (("--on-error", "skp"), "skip"),
        (("--runtime", "onxruntime"), "onnxruntime"),
        (("--runtime", "pytorch"), "torch"),
        (("--crops", "100"), "10"),
        (("--device", "cdua"), "cuda"),
    ],
)
def test_a_mistyped_choice_is_answered_with_the_nearest(cli: Cli, wrong: tuple[str, str], close: str) -> None:
    done = cli("classify", CAT, *wrong)
    assert (done.code, done.out) == (2, "")
    assert f"did you mean {close}?" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "wrong", [("-b", "0"), ("-k", "0"), ("--threads", "0"), ("-b", "many"), ("--format", "zzz"), ("--nonsense",)]
)
def test_what_makes_no_sense_is_a_usage_error(cli: Cli, wrong: tuple[str, ...]) -> None:
    done = cli("classify", CAT, *wrong)
    assert (done.code, done.out) == (2, "")
    assert "did you mean" not in done.err


def test_no_input_is_a_usage_error(cli: Cli) -> None:
    assert cli("classify").code == 2


# Models, runtimes, devices


def test_the_environment_names_the_model(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tmp_path / "other.onnx"
    shutil.copy(zoo.find(zoo.SMALL), artifact)
    monkeypatch.setenv("RESNET_INFER_MODEL", str(artifact))
    done = cli("classify", CAT, "-f", "jsonl")
    assert (done.code, tops(done), done.err) == (0, ["cat"], "")
    artifact.unlink()
    done = cli("classify", CAT)
    assert (done.code, done.out) == (1, "")
    assert str(artifact) in done.err
    assert cli("classify", CAT, "-m", zoo.SMALL).code == 0


def test_a_checkpoint_is_exported_once_and_then_silent(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra `export`")
    checkpoint = load_checkpoint(CHECKPOINT)
    path = tmp_path / "mine.safetensors"
    names = tuple(name.upper() for name in checkpoint.spec.classes)
    save_checkpoint(replace(checkpoint, spec=checkpoint.spec.with_(classes=names)), path)
    first = cli("classify", CAT, "-m", path, "-f", "jsonl")
    assert (first.code, tops(first)) == (0, ["CAT"])
    assert f"exporting {path} once" in first.err
    assert "parity PASS" in first.err
    second = cli("classify", CAT, "-m", path, "-f", "jsonl")
    assert (second.code, second.out, second.err) == (0, first.out, "")


def test_an_unknown_model_is_answered_with_the_nearest(cli: Cli) -> None:
    done = cli("classify", CAT, "-m", "resnet20-cifra10")
    assert (done.code, done.out) == (1, "")
    assert "did you mean resnet20-cifar10?" in done.err


def test_torch_runs_the_checkpoint(cli: Cli) -> None:
    pytest.importorskip("torch", reason="the extra `train`")
    by_torch = cli("classify", PICTURES, "--runtime", "torch", "-f", "jsonl", "-m", zoo.SMALL)
    by_default = cli("classify", PICTURES, "-f", "jsonl", "-m", zoo.SMALL)
    assert (by_torch.code, by_torch.err, tops(by_torch)) == (0, "", tops(by_default))
    for a, b in zip(rows(by_torch), rows(by_default), strict=True):
        assert a["predictions"][0]["probability"] == pytest.approx(b["predictions"][0]["probability"], abs=1e-4)
    done = cli("classify", CAT, "--runtime", "torch", "-m", zoo.find(zoo.SMALL))
    assert (done.code, done.out) == (1, "")
    assert "give the checkpoint" in done.err


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime", "torch"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_named_is_never_replaced(cli: Cli, runtime: str, device: str) -> None:
    if runtime == "torch":
        torch = pytest.importorskip("torch", reason="the extra `train`")
        here = torch.cuda.is_available()
    else:
        import onnxruntime

        here = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if here:
        pytest.skip("CUDA is here")
    done = cli("classify", CAT, "--device", device, "--runtime", runtime)
    assert (done.code, done.out) == (1, "")
    assert f"error: {device} was asked for" in done.err
    assert "hint:" in done.err


# Processes


def start(*arguments: object, cwd: Path = PICTURES, **environment: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own, with buffers as users have them."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "resnet_infer", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_a_stream_at_once() -> None:
    # More than a pipe holds, so that it cannot come to its end before it is read.
    process = start("classify", *["cat.jpg"] * 3000, "-f", "jsonl")
    assert process.stdout is not None
    assert process.stdout.read(100).startswith(b'{"source": "cat.jpg"')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().splitlines()[-1] == "interrupted"
    assert b"Traceback" not in err
    assert out.count(b"\n") < 3000


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_leaves_no_half_result_under_its_name(tmp_path: Path) -> None:
    process = start("classify", *["cat.jpg"] * 50_000, "-f", "jsonl", "-o", tmp_path / "result.jsonl")
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, b"Traceback" in err) == (130, False)
    assert os.listdir(tmp_path) == ["result.part.jsonl"]


def test_a_reader_that_goes_away_is_no_error_to_talk_about() -> None:
    """As in `resnet-infer classify ... | head -1`."""
    process = start("classify", *["cat.jpg"] * 3000, "-f", "csv")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"source,")
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(timeout=60) == 1
    process.stderr.close()
    assert err == ""
