"""Docstrings begin with a verb. What else ruff's D rules ask, `make lint` checks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

NO_VERBS = frozenset(
    (
        *("a", "all", "an", "and", "any", "as", "at", "both", "by", "each", "every", "few", "fewer", "for", "from"),
        *("half", "he", "how", "if", "in", "it", "its", "least", "like", "many", "more", "most", "no", "none", "not"),
        *("of", "on", "one", "only", "or", "other", "our", "same", "several", "since", "so", "some", "such", "than"),
        *("that", "the", "their", "these", "they", "this", "those", "to", "two", "until", "what", "when", "where"),
        *("whether", "which", "who", "whose", "why", "with", "without"),
    )
)
"""Words with which a docstring describes something instead of saying what is done."""
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def first_words(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the first word of the docstring of the module, and of each class, function and method.

    A property is named after what it is, so its docstring may be a noun phrase; ruff excepts it likewise.
    """
    for node in ast.walk(tree):
        if not isinstance(node, Documented):
            continue
        decorators = [] if isinstance(node, ast.Module) else [ast.unparse(item) for item in node.decorator_list]
        text = ast.get_docstring(node)
        if text and not any(name.endswith("property") for name in decorators):
            found = re.match(r"\W*(\w+)", text)
            yield getattr(node, "lineno", 1), found[1] if found else ""


def is_verb(word: str) -> bool:
    """Whether `word` may be a verb in the imperative: no article, pronoun or preposition, no third person, no -ing."""
    low = word.lower()
    return bool(re.fullmatch(r"[A-Z][a-z]+", word)) and low not in NO_VERBS and not re.search(r"([^s]s|ing)$", low)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("Read a file.", True),
        ("Pass it on.", True),
        ("The file.", False),
        ("Reads a file.", False),
        ("`x` of y", False),
    ],
)
def test_what_begins_with_a_verb(text: str, good: bool) -> None:
    [(_, word)] = first_words(ast.parse(f'"""{text}"""'))
    assert is_verb(word) is good


def test_docstrings_begin_with_a_verb() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in sorted((ROOT / "resnet_infer").rglob("*.py"))
        for line, word in first_words(ast.parse(path.read_text(encoding="utf-8")))
        if not is_verb(word)
    ]
    assert not wrong, "\n".join(wrong)
