"""docs/in-your-program.md: its examples print what it shows."""

from __future__ import annotations

import doctest
import re

import pytest

from tests.conftest import PICTURES, ROOT

TEXT = (ROOT / "docs" / "in-your-program.md").read_text(encoding="utf-8")
EXAMPLES = "\n".join(re.findall(r"^```python\n(>>> .*?)^```$", TEXT, re.M | re.S))


def failures(text: str) -> tuple[int, int]:
    """The failed and all examples of a text."""
    test = doctest.DocTestParser().get_doctest(text, {}, "in-your-program.md", None, None)
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    return found.failed, found.attempted


def test_the_examples_print_what_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PICTURES)
    failed, all_ = failures(EXAMPLES)
    assert failed == 0
    assert all_ >= 15


def test_an_example_that_prints_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PICTURES)
    assert "(10, 10)" in EXAMPLES
    assert failures(EXAMPLES.replace("(10, 10)", "(1, 10)"))[0] == 1
