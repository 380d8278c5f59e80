"""The pages of docs/how-to/: each adds a row, and a file if it needs one, to a copy of the package, and its commands
work there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.how_to import PAGES, Row, check_commands, follow, insert, read_page, run

NAMES = sorted(page.stem for page in PAGES.glob("*.md"))
PARTS = [(name, part) for name in NAMES for part in ("file", "row") if part == "row" or read_page(name).files]
"""Each page with each part that it has: the values of some rows need no file."""


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_one_row_and_at_most_one_file_that_work(name: str, tmp_path: Path) -> None:
    page = read_page(name)
    assert len(page.files) <= 1
    assert len(page.rows) == 1
    assert page.commands
    check_commands(page, follow(page, tmp_path))


@pytest.mark.parametrize(("name", "missing"), PARTS)
def test_neither_the_file_nor_the_row_is_dispensable(name: str, missing: str, tmp_path: Path) -> None:
    page = read_page(name)
    page = replace(page, files={}) if missing == "file" else replace(page, rows=())
    with pytest.raises(AssertionError, match=r"^\$ "):
        check_commands(page, follow(page, tmp_path))


def test_a_row_goes_first_or_last_into_its_table() -> None:
    source = "T: dict[str, tuple[int, ...]] = {k: v for k, v in (\n    (1, 2),\n    (3, (4,)),\n)}\nU = 1\n"
    last = insert(source, Row("m.py", "T", "last", "    (5, 6),\n"))
    first = insert(source, Row("m.py", "T", "first", "    (5, 6),\n"))
    found = {}
    for place, text in (("first", first), ("last", last)):
        scope: dict[str, dict[int, object]] = {}
        exec(text, scope)
        found[place] = [*scope["T"].items()]
    assert found == {"first": [(5, 6), (1, 2), (3, (4,))], "last": [(1, 2), (3, (4,)), (5, 6)]}


RULES = (
    *("tests/test_house.py", "tests/test_rows.py", "tests/test_docstrings.py", "tests/models/test_families.py"),
    *("tests/runtimes/test_registry.py", "tests/runtimes/test_artifacts.py", "tests/data/test_protocols.py"),
    *("tests/data/test_formats.py", "tests/serving/http/test_routes.py"),
)
"""Tests of the tables, and of rules for every file. Each takes a new row as it is."""


def test_the_tests_of_the_tables_take_every_new_row(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        follow(read_page(name), tmp_path / "pages", again=number > 0)
    for name in ("tests", "docs", "benchmarks", "experiments", "tools"):
        shutil.copytree(ROOT / name, tmp_path / "pages" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy(path, tmp_path / "pages")
    found = run(f"python -m pytest -q -p no:cacheprovider {' '.join(RULES)}", tmp_path / "pages", timeout=600)
    assert found.returncode == 0, found.stdout[-5000:]
