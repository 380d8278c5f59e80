"""What is drawn and aligned, and where it goes."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.utils.console import bar, fail, note, pairs, table


def eighths(drawn: str) -> int:
    return sum(8 - (ord(char) - ord("█")) for char in drawn)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 80))
def test_a_bar_is_as_long_as_the_fraction_to_an_eighth(one: float, other: float, width: int) -> None:
    drawn = bar(one, width, encoding="utf-8")
    assert set(drawn) <= set("█▉▊▋▌▍▎▏")
    assert abs(eighths(drawn) / (8 * width) - one) <= 1 / (16 * width) + 1e-9
    if one <= other:
        assert eighths(drawn) <= eighths(bar(other, width, encoding="utf-8"))


@given(st.floats(-2, 3))
def test_a_fraction_outside_is_taken_as_none_or_all(fraction: float) -> None:
    length = len(bar(fraction, 10, encoding="utf-8"))
    assert length <= 10
    if fraction >= 1:
        assert length == 10
    if fraction <= 0:
        assert length == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "no-such-encoding"])
def test_a_bar_is_ascii_where_blocks_cannot_be_shown(encoding: str) -> None:
    assert bar(0.5, 10, encoding=encoding) == "#####"
    assert bar(0, 10, encoding=encoding) == ""


def test_a_bar_asks_stdout_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert bar(1, 4) == "####"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert bar(1, 4) == "████"
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # has no encoding
    assert bar(1, 4) == "####"


def test_notes_and_errors_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("by the way")
    fail("it broke", "mend it")
    fail("it broke again")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "by the way\nerror: it broke\n  hint: mend it\nerror: it broke again\n"


def test_pairs_are_aligned_and_further_lines_indented() -> None:
    assert pairs([("a", "1"), ("long name", "2\n3"), ("b", "")]).splitlines() == [
        "a          1",
        "long name  2",
        "           3",
        "b          ",
    ]


def test_a_table_puts_numbers_to_the_right() -> None:
    text = table(("model", "ms", "error", "note"), [("a", "9.5", "8.75%", "1 day"), ("resnet20", "1,012", "-7%", "")])
    assert text.splitlines() == [
        "model        ms  error  note",
        "a           9.5  8.75%  1 day",
        "resnet20  1,012    -7%",
    ]
    assert table(("model", "ms"), []) == "model  ms"
