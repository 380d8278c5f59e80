"""Follow a page of docs/how-to/: add its file and its row to a copy of the package, and run its commands there."""

from __future__ import annotations

import ast
import doctest
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = ROOT / "docs" / "how-to"
_FILE = re.compile(r"^The file, `(?P<path>[^`]+)`:\n\n```\w+\n(?P<text>.*?)^```$", re.M | re.S)
_ROW = re.compile(
    r"^The row, (?P<place>first|last) in `(?P<table>\w+)` of `(?P<path>[^`]+)`:\n\n```\w+\n(?P<text>.*?)^```$",
    re.M | re.S,
)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)
_PYTHON = re.compile(r"^```python\n(>>> .*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Row:
    """A row of a table: the file and the name of the table, and the text, which goes first or last in it."""

    path: str
    table: str
    place: str
    text: str


@dataclass(frozen=True)
class HowTo:
    """A page: its files by path, its rows, its commands with the output that each shows, and its doctests."""

    name: str
    files: dict[str, str]
    rows: tuple[Row, ...]
    commands: tuple[tuple[str, str], ...]
    doctests: tuple[str, ...]


def read_page(name: str) -> HowTo:
    """Read `docs/how-to/NAME.md`.

    A file follows the line "The file, `PATH`:", and a row "The row, last in `TABLE` of `PATH`:" (or "first"). Commands
    are the lines of `console` blocks after `$ `; the lines that follow are what the command prints, where `...` stands
    for anything. `python` blocks that begin with `>>> ` are doctests.
    """
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    commands = []
    for block in _CONSOLE.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = re.sub(r"\\\n>? *", "", part).partition("\n")
            commands.append((command, output))
    return HowTo(
        name,
        {found["path"]: found["text"] for found in _FILE.finditer(text)},
        tuple(Row(found["path"], found["table"], found["place"], found["text"]) for found in _ROW.finditer(text)),
        tuple(commands),
        tuple(_PYTHON.findall(text)),
    )


def insert(source: str, row: Row) -> str:
    """Insert a row into the longest tuple, list or dict literal in the value of the table."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == row.table for target in targets):
            value: ast.expr = getattr(node, "value")  # noqa: B009
            literals = [one for one in ast.walk(value) if isinstance(one, ast.Tuple | ast.List | ast.Dict)]
            literal = max(literals, key=lambda one: (one.end_lineno or 0) - one.lineno, default=None)
            assert literal is not None, f"{row.table} in {row.path} is no tuple, list or dict"
            return _insert(source, literal, row)
    raise AssertionError(f"{row.path} has no {row.table}")


def _insert(source: str, literal: ast.expr, row: Row) -> str:
    """Insert a row after the opening bracket of a literal, or before the closing one."""
    lines = source.encode().splitlines(keepends=True)
    if row.place == "first":
        number, column = literal.lineno - 1, literal.col_offset + 1
    else:
        number, column = (literal.end_lineno or 0) - 1, (literal.end_col_offset or 0) - 1
    before, after = lines[number][:column], lines[number][column:]
    lines[number] = before + b"\n" + row.text.encode() + after
    return b"".join(lines).decode()


def _copy(folder: Path) -> None:
    """Copy the package and the demo into `folder`, with a command that runs the copy."""
    shutil.copytree(ROOT / "resnet_infer", folder / "resnet_infer")
    shutil.copytree(ROOT / "demo", folder / "demo")
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "resnet-infer"
    program.write_text(f"#!{sys.executable}\nfrom resnet_infer.cli.main import main\n\nmain()\n", encoding="utf-8")
    program.chmod(0o755)


def follow(page: HowTo, folder: Path, *, again: bool = False) -> Path:
    """Copy the package into `folder`, add the page's files and rows, and return `folder`, ready for commands.

    With `again` the copy is there already, with what other pages add.
    """
    if not again:
        _copy(folder)
    for path, text in page.files.items():
        target = folder / path
        assert not target.exists(), f"{page.name}: {path} is there already"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for row in page.rows:
        target = folder / row.path
        target.write_text(insert(target.read_text(encoding="utf-8"), row), encoding="utf-8")
    return folder


def run(command: str, folder: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a shell command in `folder`, with the package of that folder. Both streams are in `stdout`."""
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "COLUMNS": "120",
    }
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def check_commands(page: HowTo, folder: Path) -> None:
    """Run the page's commands and doctests in order, and compare what they print with what the page shows."""
    checker, flags = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for command, output in page.commands:
        found = run(command, folder)
        assert checker.check_output(output, found.stdout, flags), f"$ {command}\n{found.stdout}\nnot\n{output}"
        assert output or not found.returncode, f"$ {command}\nfails, and shows nothing"
        assert "Traceback (most recent call last)" not in found.stdout, f"$ {command}\n{found.stdout}"
    for number, text in enumerate(page.doctests):
        script = folder / f"doctest{number}.txt"
        script.write_text(text, encoding="utf-8")
        found = run(f"{sys.executable} -m doctest -o ELLIPSIS -o NORMALIZE_WHITESPACE {script.name}", folder)
        assert found.returncode == 0, found.stdout
