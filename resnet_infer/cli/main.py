"""Run the command `resnet-infer`: look the command up in a table, import it, and turn errors into exit codes.

The commands themselves are in `cli.commands`, and imported only when they are called.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from errno import EBADF
from importlib import import_module
from io import TextIOWrapper
from keyword import iskeyword
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from resnet_infer._version import __version__
from resnet_infer.cli.signals import end_like_ctrl_c, ended_by, exit_code
from resnet_infer.errors import ModelError, ResnetInferError
from resnet_infer.utils.console import fail, flush, on_stderr, printable, write
from resnet_infer.utils.cpu import limit_libraries
from resnet_infer.utils.files import REMEDIES

COMMANDS = {
    "classify": "Say what is in pictures.",
    "train": "Train a network on labelled pictures.",
    "curves": "Draw the error curves of training runs and list how they ended.",
    "import": "Turn foreign weights into a checkpoint, or a foreign ONNX classifier into an artifact.",
    "export": "Turn a checkpoint into the artifact that runs fastest, and prove that it answers alike.",
    "compare": "Show how far two models' answers are apart, and where their layers part.",
    "evaluate": "Measure the error of models on labelled pictures, by the paper's protocols.",
    "benchmark": "Measure latency and throughput of models side by side, or of one under load.",
    "serve": "Answer over HTTP what is in pictures: for programs, and for people on a page.",
    "inspect": "Show what a checkpoint or an artifact is, eats and answers.",
    "models": "List the models that are known by name: built in, downloadable, cached.",
    "cache": "List, verify or clear what was downloaded and exported for models by name.",
    "env": "Show versions, devices and runtimes, and what is missing or broken.",
}
"""Command -> help text. The command `x` is the function `x` of the module `resnet_infer.cli.commands.x`.

Module and function have a trailing underscore if the name is a Python keyword (`import_`).
"""


class _Commands(TyperGroup):
    """List commands from `COMMANDS`, import them when they run, and report their errors."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command, or return None for an unknown name. Its help is `COMMANDS`, not its docstring."""
        if cmd_name not in COMMANDS:
            return None
        one = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        place = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        function = getattr(import_module(f"resnet_infer.cli.commands.{place}"), place)
        one.command(cmd_name, help=COMMANDS[cmd_name], context_settings=_HELP)(function)
        return typer.main.get_command(one)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command in `args`. Fail for an unknown one, and suggest a similar name."""
        if args[0] not in COMMANDS:
            from difflib import get_close_matches

            for close in get_close_matches(args[0], COMMANDS, n=1):
                ctx.fail(f"there is no command {args[0]!r}; did you mean {close}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands for `--help` without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the arguments, and make usage errors printable."""
        try:
            return super().make_context(*args, **kwargs)
        except Exception as error:
            _make_printable(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run a command, and turn an exception into a message and an exit code."""
        debug = ctx.params.get("debug", False)
        try:
            with on_stderr():
                result = super().invoke(ctx)
            flush(sys.stdout)
            return result
        except (typer.Exit, typer.Abort):
            raise
        except ResnetInferError as error:
            if debug:
                sys.excepthook(type(error), error, error.__traceback__)
            fail(error.message, error.hint)
            code = error.exit_code
        except KeyboardInterrupt:
            write(ended_by())
            code = exit_code()
        except BrokenPipeError:
            # The reader (`head`, a pager) has ended.
            _drop_stdout()
            code = 1
        except Exception as error:  # users get a message, not a traceback
            if debug or hasattr(error, "show"):  # typer shows usage errors itself
                _make_printable(error)
                raise
            if isinstance(error, ValueError) and getattr(sys.stdout, "closed", False):
                fail("cannot write the result: standard output is closed")
                raise typer.Exit(1) from error
            if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
                _drop_stdout()
                _fail_to_write(error)
                raise typer.Exit(1) from error
            if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):  # raised by tempfile
                fail("there is no temporary folder that can be written", "set TMPDIR to a folder that can be written")
                raise typer.Exit(1) from error
            if isinstance(error, OSError) and error.filename is not None and (todo := REMEDIES.get(error.errno or 0)):
                fail(f"{error.filename}: {(error.strerror or str(error)).lower()}", todo)
                raise typer.Exit(1) from error
            if (known := _known(error)) is not None:
                fail(known.message, known.hint)
                raise typer.Exit(known.exit_code) from error
            fail(
                f"{type(error).__name__}: {error}",
                "this should not happen; run again as `resnet-infer --debug ...` and report the traceback",
            )
            code = 1
        raise typer.Exit(code)


def _make_printable(error: Exception) -> None:
    """Escape what is unprintable in the message of a usage error, which may quote the names of files."""
    if isinstance(message := getattr(error, "message", None), str):
        error.message = "\n".join(map(printable, message.split("\n")))  # type: ignore[attr-defined]


def _known(error: Exception) -> ResnetInferError | None:
    """Return a clear error for an exception that any command may raise, or None.

    These are: memory or threads exhausted, a package that does not load, and protobuf's `EncodeError`, which is
    recognised by name so that protobuf need not be imported.
    """
    if type(error).__name__ == "EncodeError" and type(error).__module__.startswith("google.protobuf"):
        return ModelError(
            f"the ONNX graph cannot be written ({error})",
            hint="an ONNX file takes 2 GB at most, and only text in UTF-8",
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return ResnetInferError(
            "the system lets this process start no more threads",
            hint="raise the limit of processes (ulimit -u, Docker: --pids-limit), or take fewer --threads or --workers",
        )
    from resnet_infer.utils.extras import explain
    from resnet_infer.utils.host_memory import out_of_memory

    return out_of_memory(error) or (explain(error, "the command") if isinstance(error, ImportError) else None)


def _fail_to_write(error: OSError) -> None:
    """Report why stdout cannot be written, with a hint."""
    reason = (error.strerror or str(error)).lower()
    fail(f"cannot write the result: {reason}", REMEDIES.get(error.errno or 0))


def _drop_stdout() -> None:
    """Redirect stdout to the null device, so that the interpreter's last flush does not fail."""
    with suppress(OSError, ValueError, AttributeError):  # a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_UNWRITABLE = {*REMEDIES, EBADF}
"""Error numbers of failed writes to stdout, or to a file that is not the result."""
_WITHOUT_STDOUT = {"classify", "serve"}
"""Commands that may run without stdout; they check it themselves."""
_HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=_Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings=_HELP,
    no_args_is_help=True,
)


def _version(value: bool) -> None:
    """Print the version and exit, for `--version`."""
    if value:
        print(f"resnet-infer {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Take a ResNet from training to production: train, export, verify, classify."""


def main() -> None:
    """Run the command line, and exit with its code.

    The code is 0, 1 (failure), 2 (usage error), or 128 plus the number of a signal (130 after Ctrl-C, 143 after
    SIGTERM). A result that cannot be written to stdout is an error with a message of one line. Messages that cannot be
    written to stderr are dropped.
    """
    end_like_ctrl_c()
    limit_libraries()
    _occupy_descriptors()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None:  # typer writes usage errors there
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    code = _run()
    try:
        sys.stderr.flush()
    except OSError:  # or the interpreter would try again, and exit with 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(code)


def _run() -> int:
    """Run the command line, flush stdout, and return the exit code."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    if sys.stdout is None and command not in _WITHOUT_STDOUT:
        fail("standard output is closed", "send it to a file, or to /dev/null")
        return 1
    try:
        try:
            app()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        flush(sys.stdout)
    except OSError as error:
        said = getattr(error.__context__, "exit_code", None)
        if isinstance(said, int):  # of a usage error that could not be written to stderr
            return said
        _drop_stdout()
        if not isinstance(error, BrokenPipeError):
            _fail_to_write(error)
        return 1
    return code


def _occupy_descriptors() -> None:
    """Open the null device in place of each closed standard stream.

    Otherwise the next file that is opened would get the stream's descriptor, and libraries would print into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
