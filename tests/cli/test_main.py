"""The command as a whole: its commands, its help, its errors and their exit codes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resnet_infer._version import __version__
from resnet_infer.cli.main import COMMANDS
from resnet_infer.errors import MissingExtraError, ModelError, ParityError, ResnetInferError, UsageError
from tests.conftest import PICTURES, ROOT, Outcome

Cli = Callable[..., Outcome]
CAT = PICTURES / "cat.jpg"


def test_the_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.code, done.out, done.err) == (0, f"resnet-infer {__version__}\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_with_what_it_does(cli: Cli, flag: str) -> None:
    done = cli(flag)
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    for name, what in COMMANDS.items():
        assert f"{name} {what}" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli: Cli, command: str) -> None:
    done = cli(command, "-h")
    assert (done.code, done.err) == (0, "")
    assert COMMANDS[command] in " ".join(done.out.split())
    assert cli(command, "--help").out == done.out


def test_no_command_shows_the_help(cli: Cli) -> None:
    done = cli()
    assert "Commands:" in done.out + done.err


@pytest.mark.parametrize(
    ("typed", "meant"), [("clasify", "classify"), ("exprot", "export"), ("inspekt", "inspect"), ("envv", "env")]
)
def test_a_mistyped_command_is_answered_with_the_nearest(cli: Cli, typed: str, meant: str) -> None:
    done = cli(typed, "x.jpg")
    assert (done.code, done.out) == (2, "")
    assert f"there is no command '{typed}'; did you mean {meant}?" in done.err


def test_a_command_that_resembles_none_is_a_usage_error(cli: Cli) -> None:
    done = cli("qqqq")
    assert (done.code, done.out) == (2, "")
    assert "qqqq" in done.err
    assert "did you mean" not in done.err


def test_a_mistyped_option_is_a_usage_error(cli: Cli) -> None:
    for arguments in (("--nonsense", "env"), ("env", "--nonsense")):
        done = cli(*arguments)
        assert (done.code, done.out) == (2, "")
        assert "--nonsense" in done.err


# Errors


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `inspect` fail with `error`."""

    def find(_: Any) -> None:
        raise error

    monkeypatch.setattr("resnet_infer.zoo.find", find)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ResnetInferError("it broke"), 1),
        (ModelError("it broke"), 1),
        (ParityError("it broke"), 1),
        (MissingExtraError("it broke"), 1),
        (UsageError("it broke"), 2),
    ],
)
def test_an_error_is_one_line_and_its_hint(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: ResnetInferError, code: int
) -> None:
    failing(monkeypatch, error)
    assert cli("inspect") == Outcome(code, "", "error: it broke\n")
    error.hint = "mend it"
    assert cli("inspect") == Outcome(code, "", "error: it broke\n  hint: mend it\n")


def test_a_traceback_comes_only_when_asked_for(cli: Cli) -> None:
    plain = cli("inspect", "nowhere.onnx")
    assert (plain.code, plain.out, "Traceback" in plain.err) == (1, "", False)
    debug = cli("--debug", "inspect", "nowhere.onnx")
    assert (debug.code, debug.out) == (1, "")
    assert debug.err.startswith("Traceback (most recent call last):")
    assert debug.err.endswith(plain.err)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 7.28 TiB for an array"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:113] DefaultCPUAllocator: can't allocate memory: you tried to"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_memory_that_runs_out_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing(monkeypatch, error)
    done = cli("inspect")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: memory ran out")
    assert str(error) in done.err
    assert "fewer pictures" in done.err
    assert "this should not happen" not in done.err
    with pytest.raises(type(error)):
        cli("--debug", "inspect")


def test_threads_that_cannot_be_started_are_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Any) -> None:
        raise RuntimeError("can't start new thread")  # as CPython says it under `ulimit -u`

    monkeypatch.setattr(threading.Thread, "start", refused)
    done = cli("classify", PICTURES, "-m", "resnet20-cifar10")
    assert done.code == 1
    assert "error: the system lets this process start no more threads" in done.err
    assert "ulimit -u" in done.err
    assert "Traceback" not in done.err


def test_a_graph_that_protobuf_does_not_write_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    message = pytest.importorskip("google.protobuf.message", reason="protobuf comes with onnx (the extra `export`)")
    failing(monkeypatch, message.EncodeError("Failed to serialize proto"))
    done = cli("inspect")
    assert done.code == 1
    assert done.err.startswith("error: the ONNX graph cannot be written (Failed to serialize proto)")


def test_a_package_of_every_installation_that_does_not_load_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ImportError("libjpeg.so.62: cannot open shared object file: No such file or directory", name="PIL._imaging")
    failing(monkeypatch, error)
    done = cli("inspect")
    assert done.code == 1
    assert done.err.startswith(f"error: the command needs the package PIL, which cannot be imported ({error})")
    assert "pip install --force-reinstall --no-deps pillow" in done.err


class OddError(Exception):
    """As compiled libraries raise them: with no base class of their own."""


@pytest.mark.parametrize("error", [RuntimeError("odd"), AttributeError("odd"), AssertionError("odd"), OddError("odd")])
def test_an_unexpected_error_has_no_traceback_either(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, error)
    done = cli("inspect")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: {type(error).__name__}: odd\n")
    assert "resnet-infer --debug" in done.err
    assert "Traceback" not in done.err
    with pytest.raises(type(error)):
        cli("--debug", "inspect")


def test_usage_errors_are_not_unexpected(cli: Cli) -> None:
    for debug in ((), ("--debug",)):
        done = cli(*debug, "classify", CAT, "--format", "jsno")
        assert (done.code, done.out) == (2, "")
        assert "did you mean json?" in done.err
        assert "this should not happen" not in done.err


def test_ctrl_c_is_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    for debug in ((), ("--debug",)):
        assert cli(*debug, "inspect") == Outcome(130, "", "interrupted\n")


# Processes


def start(*arguments: str, stdout: Any = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """The command in a process of its own, with buffers as users have them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-W", "error", "-m", "resnet_infer", *arguments]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, cwd=ROOT, env=environment)


def test_the_package_runs_as_a_module() -> None:
    out, err = start("--version").communicate(timeout=60)
    assert (out.decode().split(), err) == (["resnet-infer", __version__], b"")


@pytest.mark.skipif(os.name != "posix", reason="a pipe without a reader")
def test_a_reader_that_is_gone_before_the_first_line_is_no_error_to_talk_about() -> None:
    """As in `resnet-infer env | true`: all that is printed fits into the buffer, and is flushed at the end."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start("env", stdout=writer)
    os.close(writer)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is full")
def test_a_full_disk_behind_stdout_is_said_once() -> None:
    with open("/dev/full", "wb") as full:
        process = start("env", stdout=full)
    assert (
        process.communicate(timeout=60)[1]
        == b"error: cannot write the result: no space left on device\n  hint: free some space\n"
    )
    assert process.returncode == 1
