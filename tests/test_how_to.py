"""The pages of docs/how-to/: each adds a row, and a file if it needs one, to a copy of the package, and its commands
work there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.how_to import PAGES, Row, check_commands, follow, insert, read_page

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
