"""Names of files, classes and members of archives reach a terminal without what would work on it (CWE-150)."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from resnet_infer import zoo
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import fail, pairs, printable, show, table, write
from tests.conftest import PICTURES, Outcome

Cli = Callable[..., Outcome]
BIDI = [0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
UNSAFE = "".join(map(chr, [*range(1, 0x20), *range(0x7F, 0xA0), *BIDI]))
"""C0 but NUL, DEL, C1, the ends of lines and paragraphs, and what turns the direction of text."""
FORGED = "x\nerror: the disk is on fire\x1b[31m\x9b31m\u202egpj"
posix = pytest.mark.skipif(os.name != "posix", reason="names have no such characters elsewhere")


def unsafe(text: str) -> set[str]:
    """What must not reach a terminal, but for the ends of our own lines."""
    return {char for char in text if char != "\n" and (unicodedata.category(char) in ("Cc", "Cs") or char in UNSAFE)}


@given(st.text() | st.text(UNSAFE + "a\0"))
@example(FORGED)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_is_printable(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert not unsafe(printable(text))
    assert "\n" not in printable(text)
    assert printable(printable(text)) == printable(text)
    write(text)
    fail(text, text)
    show(text)
    show(table(("a", "b"), [(text, "1")]))
    show(pairs([("a", text)]))
    captured = capsys.readouterr()
    assert not unsafe(captured.out + captured.err)
    assert json.loads(strict_json.dumps([text], ensure_ascii=False)) == [text]
    assert not unsafe(strict_json.dumps([text], ensure_ascii=False)) - set(map(chr, range(0xD800, 0xE000)))


@given(st.text(UNSAFE + "ab", max_size=30))
@example(FORGED)
def test_no_name_begins_a_line_of_its_own(text: str) -> None:
    lines = table(("name", "n"), [(text, "1")]).splitlines()
    assert len(lines) == 2


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / f"cache {FORGED}"))
    return tmp_path


NAME = "a" + UNSAFE
"""A name with all of them."""
CALLS: dict[str, list[str]] = {
    "a picture": ["classify", "PICTURE", "-k", "1"],
    "a folder": ["classify", "FOLDER"],
    "a damaged picture": ["classify", "BAD"],
    "a missing picture": ["classify", "MISSING.jpg"],
    "no such format": ["classify", "TEXT"],
    "a form": ["classify", "PICTURE", "-f", "jsonl", "-o", "NAME.csv"],
    "a picture as output": ["classify", "PICTURE", "-o", "NAME.png"],
    "a url": ["classify", "http://NAME/x.jpg"],
    "an option": ["classify", "--NAME"],
    "an option before the command": ["--NAME"],
    "a command": ["NAME"],
    "a value": ["classify", "PICTURE", "--runtime", "NAME"],
    "a model": ["classify", "PICTURE", "-m", "NAME"],
    "no model": ["inspect", "TEXT"],
    "import": ["import", "TEXT.pth", "--arch", "resnet20"],
    "import onnx": ["import", "TEXT.onnx"],
    "labels": ["import", "MODEL", "--labels", "TEXT"],
    "export": ["export", "MODEL", "-o", "NAME.onxn"],
    "data": ["evaluate", "MODEL", "FOLDER"],
    "an archive": ["evaluate", "MODEL", "ARCHIVE"],
    "a member": ["compare", "MODEL", "MODEL", "ARCHIVE"],
    "a class order": ["evaluate", "MODEL", "FOLDER", "--class-order", "TEXT"],
    "compare": ["compare", "MODEL", "MODEL", "FOLDER"],
    "photos": ["benchmark", "MODEL", "--photos", "ARCHIVE"],
    "a result": ["benchmark", "MODEL", "--include", "TEXT", "--report", "x.html"],
    "inspect": ["inspect", "MODEL"],
    "curves": ["curves", "FOLDER"],
    "cache": ["cache"],
}


@posix
@pytest.mark.parametrize("call", CALLS)
def test_no_command_shows_what_works_on_a_terminal(cli: Cli, work: Path, call: str) -> None:
    folder = work / f"folder{NAME}"
    (folder / f"class{NAME}").mkdir(parents=True)
    for index in range(2):
        shutil.copy(PICTURES / "cat.jpg", folder / f"class{NAME}" / f"{index}{NAME}.jpg")
    (folder / f"class{NAME}" / f"{NAME}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + NAME.encode())
    (work / f"text{NAME}").write_text(f"[{NAME}")
    for suffix in (".pth", ".onnx"):
        (work / f"text{NAME}{suffix}").write_text(NAME)
    with zipfile.ZipFile(work / f"archive{NAME}.zip", "w") as archive:
        for index in range(2):
            archive.writestr(f"x{NAME}/{index}{NAME}.jpg", b"\xff\xd8\xff" + NAME.encode())
    values = {
        "PICTURE": f"folder{NAME}/class{NAME}/0{NAME}.jpg",
        "BAD": f"folder{NAME}/class{NAME}/{NAME}.png",
        "FOLDER": folder.name,
        "MISSING": f"missing{NAME}",
        "TEXT": f"text{NAME}",
        "ARCHIVE": f"archive{NAME}.zip",
        "MODEL": f"model{NAME}.safetensors",
        "NAME": NAME,
    }
    shutil.copy(zoo.built_in(zoo.SMALL, ".safetensors"), work / values["MODEL"])

    def filled(argument: str) -> str:
        for key, value in values.items():
            argument = argument.replace(key, value)
        return argument

    done = cli(*map(filled, CALLS[call]))
    assert not unsafe(done.out + done.err)
    assert "\\x1b" in done.out + done.err  # it was there to be shown
    assert "should not happen" not in done.err


@posix
def test_classes_are_shown_printable_and_stored_as_they_are(cli: Cli, work: Path) -> None:
    source = load_checkpoint(zoo.built_in(zoo.SMALL, ".safetensors"))
    classes = tuple(f"{index} {FORGED}" for index in range(len(source.spec.classes)))
    spec = source.spec.with_(classes=classes, name=f"net {FORGED}")
    save_checkpoint(Checkpoint(spec, source.weights), work / "evil.safetensors")
    picture = work / f"{FORGED}.jpg"
    shutil.copy(PICTURES / "cat.jpg", picture)
    shown = cli("classify", picture, "-m", "evil.safetensors")
    assert (shown.code, unsafe(shown.out + shown.err)) == (0, set())
    assert len(shown.out.splitlines()) == 6
    for arguments in (["inspect", "evil.safetensors"], ["models"], ["cache"]):
        listed = cli(*arguments)
        assert (listed.code, unsafe(listed.out + listed.err)) == (0, set())
    (row,) = json.loads(cli("classify", picture, "-m", "evil.safetensors", "-f", "json").out)["answers"]
    assert row["source"] == str(picture)
    assert row["predictions"][0]["label"] in classes
    rows = csv.DictReader(io.StringIO(cli("classify", picture, "-m", "evil.safetensors", "-f", "csv").out, newline=""))
    first = next(rows)
    assert (first["source"], first["label"]) == (str(picture), row["predictions"][0]["label"])
