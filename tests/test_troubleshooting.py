"""docs/troubleshooting.md: each message that it explains is one that the package prints."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
LEAST = 11
"""Fewest letters of a message outside of its holes: others would match anything."""


def messages() -> list[str]:
    """The messages of the page: the headings in code."""
    return re.findall(r"^### `(.+)`$", PAGE.read_text(encoding="utf-8"), re.M)


@cache
def patterns() -> list[re.Pattern[str]]:
    """A pattern for each text of the package: f-strings, and templates for `format`, with holes for their values."""
    found = []
    for path in (ROOT / "resnet_infer").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        inside = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if node in inside:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else None for part in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                parts = [part or None for part in re.sub(r"\{\w+\}", "\0\0", node.value).split("\0")]
            else:
                continue
            if sum(len(re.findall(r"[^\W\d_]", part or "")) for part in parts) >= LEAST:
                found.append(
                    re.compile("".join(".*" if part is None else re.escape(part) for part in parts), re.DOTALL)
                )
    return found


def is_printed(message: str) -> bool:
    """Whether a text of the package is this message, or its beginning (a message may go on)."""
    return any(pattern.match(message) for pattern in patterns())


@pytest.mark.parametrize("message", messages())
def test_a_message_of_the_page_is_one_of_the_package(message: str) -> None:
    assert is_printed(message)


def test_the_page_explains_twenty_messages_each_once() -> None:
    assert len(messages()) >= 20
    assert len(set(messages())) == len(messages())


@pytest.mark.parametrize(
    "message",
    [
        "cannot reach download.pytorch.org to fetch resnet50: no",
        "there is no file and no modell called x",
        "error: x: y",
    ],
)
def test_another_message_would_be_noticed(message: str) -> None:
    assert not is_printed(message)
