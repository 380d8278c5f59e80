"""What is drawn and aligned, and where it goes."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.utils.console import bar, fail, is_shown, logger, note, on_stderr, pairs, table, warn


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


def test_the_command_writes_notes_and_errors_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with on_stderr():
        note("by the way")
        warn("warning: 100% sure")
        fail("it broke", "mend it")
    fail("it broke again")
    captured = capsys.readouterr()
    assert captured.out == ""
    expected = "by the way\nwarning: 100% sure\nerror: it broke\n  hint: mend it\nerror: it broke again\n"
    assert captured.err == expected


def test_a_note_is_written_once_whatever_a_library_does_to_the_root_logger(capsys: pytest.CaptureFixture[str]) -> None:
    root, handler = logging.getLogger(), logging.StreamHandler()
    root.addHandler(handler)
    try:
        with on_stderr():
            note("by the way")
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err == "by the way\n"
    assert logger().propagate


def test_a_note_is_written_once_in_a_block_within_a_block(capsys: pytest.CaptureFixture[str]) -> None:
    """A service's supervisor opens one inside that of the command."""
    with on_stderr():
        logger().setLevel(logging.WARNING)  # as --quiet does
        with on_stderr():
            note("by the way")
            warn("look out")
        warn("again")
    assert capsys.readouterr().err == "look out\nagain\n"


def test_loggers_that_a_library_has_disabled_are_enabled(capsys: pytest.CaptureFixture[str]) -> None:
    """BentoML configures logging in the process of the command."""
    inner = logger("resnet_infer.disabled")
    with on_stderr():
        logger().disabled = inner.disabled = True  # as `logging.config.dictConfig` does
        with on_stderr():
            note("by the way")
            inner.warning("look out")
    assert capsys.readouterr().err == "by the way\nlook out\n"


def test_a_logged_error_has_its_traceback_and_no_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with on_stderr():
        try:
            raise ValueError("x\x1b[31m")
        except ValueError:
            logger("resnet_infer.a.b").exception("failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["failed", "Traceback (most recent call last):"]
    assert lines[-1] == "ValueError: x\\x1b[31m"


def test_notes_are_records_of_the_logger(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO):
        note("exporting once")
        warn("no CUDA\udce9\x1b[31m")
    assert [(item.name, item.levelname, item.getMessage(), item.module) for item in caplog.records] == [
        ("resnet_infer", "INFO", "exporting once", "test_console"),
        ("resnet_infer", "WARNING", "no CUDA\\udce9\\x1b[31m", "test_console"),
    ]
    assert capsys.readouterr().err == ""


def test_what_the_block_changed_is_as_before() -> None:
    def state() -> tuple[object, ...]:
        package = logger()
        return package.level, tuple(package.handlers), is_shown()

    before = state()
    with on_stderr():
        assert is_shown()
        with on_stderr():
            pass
        assert is_shown()
    assert state() == before


def test_a_program_that_uses_the_library_sees_nothing_until_it_asks() -> None:
    code = """
import logging, sys
from resnet_infer.utils.console import logger, note, warn
note("a"); warn("b"); logger("resnet_infer.x").error("c")
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
note("d"); warn("e")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "resnet_infer INFO d\nresnet_infer WARNING e\n")


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
