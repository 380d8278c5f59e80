"""`-v` and `-q`, before and behind the name of a command: what stderr shows, while stdout stays the same."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator

import pytest

from resnet_infer.utils.console import LOGGER
from tests.conftest import PICTURES, Outcome

Cli = Callable[..., Outcome]
CALL = ("classify", PICTURES / "cat.jpg")


@pytest.fixture(autouse=True)
def loggers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No model is named, which is noted, and the loggers are afterwards as they were."""
    monkeypatch.delenv("RESNET_INFER_MODEL", raising=False)
    package, root = logging.getLogger(LOGGER), logging.getLogger()
    before = [(item.level, item.propagate) for item in (package, root)]
    yield
    assert [(item.level, item.propagate) for item in (package, root)] == before
    kinds = {type(handler).__name__ for item in (package, root) for handler in item.handlers}
    assert not kinds & {"_Lines", "Stderr"}


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_shows_errors_only(cli: Cli, flag: str) -> None:
    plain = cli(*CALL)
    assert "which is built in, knows 200" in plain.err
    for call in ((flag, *CALL), (*CALL, flag)):
        assert cli(*call) == Outcome(0, plain.out, "")
    done = cli(*CALL, "absent.jpg", flag)
    assert (done.code, done.err) == (1, "error: absent.jpg: No such file or directory\n")


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_verbose_shows_debug_lines_with_time_level_and_logger(cli: Cli, flag: str) -> None:
    plain = cli(*CALL)
    for call in ((flag, *CALL), (*CALL, flag)):
        done = cli(*call)
        assert (done.code, done.out) == (0, plain.out)
        lines = done.err.splitlines()
        assert all(re.match(r"\d\d:\d\d:\d\d\.\d\d\d (INFO|DEBUG) resnet_infer[\w.]*: ", line) for line in lines)
        assert any(
            "DEBUG resnet_infer.runtimes.registry" in line and "opened by onnxruntime on" in line for line in lines
        )
        assert sum("which is built in" in line for line in lines) == 1


def test_the_last_of_both_counts(cli: Cli) -> None:
    assert cli("-v", *CALL, "-q").err == ""
    assert "DEBUG" in cli("-q", *CALL, "-v").err


@pytest.mark.parametrize(
    ("flags", "shown"), [((), {"of others"}), (("-q",), set()), (("-v",), {"of others"}), (("-v", "-q"), set())]
)
def test_of_other_libraries_only_warnings_are_shown(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], shown: set[str]
) -> None:
    def find(_: object) -> None:
        others = logging.getLogger("another.library")
        others.info("a detail")
        others.debug("more of it")
        others.warning("of others")
        raise KeyboardInterrupt

    monkeypatch.setattr("resnet_infer.zoo.find", find)
    if not flags:  # pytest's own handlers take what Python would print
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
    done = cli("inspect", *flags)
    assert {text for text in ("a detail", "more of it", "of others") if text in done.err} == shown
    assert "interrupted" in done.err


def test_debug_is_taken_behind_the_command_too(cli: Cli) -> None:
    assert "Traceback" in cli("inspect", "nowhere.onnx", "--debug").err
    assert "Traceback" not in cli("inspect", "nowhere.onnx").err


def test_the_paper_s_tables_may_be_shown_quietly(cli: Cli) -> None:
    assert cli("evaluate", "--paper", "-q") == cli("evaluate", "--paper")
