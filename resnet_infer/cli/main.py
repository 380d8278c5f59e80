"""Run the command `resnet-infer`: look the command up in a table, import it, and turn errors into exit codes.

The commands themselves are in `cli.commands`, and imported only when they are called.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from errno import EBADF
from importlib import import_module
from io import TextIOWrapper
from keyword import iskeyword
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from resnet_infer._version import __version__
from resnet_infer.cli.signals import end_like_ctrl_c, ended_by, exit_code
from resnet_infer.errors import ResnetInferError
from resnet_infer.utils.console import fail, flush, occupy_descriptors, on_stderr, printable, write
from resnet_infer.utils.cpu import limit_libraries
from resnet_infer.utils.files import REMEDIES

COMMANDS = {
    "classify": "Classify images: the most probable classes of each.",
    "train": "Train a network on labelled images.",
    "curves": "Draw the error curves of training runs and list their last figures.",
    "import": "Convert weights, or an ONNX classifier, of other tools for use here.",
    "export": "Export a model to ONNX, TensorRT or OpenVINO, and verify that its answers stay the same.",
    "compare": "Compare the answers of two models, image by image or layer by layer.",
    "evaluate": "Measure the error of models on labelled images, by the paper's protocols.",
    "benchmark": "Measure latency and throughput of models side by side, or of one under load.",
    "serve": "Serve a model over HTTP: an API for programs, and a page for people.",
    "inspect": "Show a model's architecture, input, classes and measured errors.",
    "models": "List the models that can be named: built in, cached or to download.",
    "cache": "List, verify or clear what was downloaded and exported for models by name.",
    "env": "Show versions, devices and runtimes, and what is missing or broken.",
}
"""Command -> help text. The command `x` is the function `x` of the module `resnet_infer.cli.commands.x`.

Module and function have a trailing underscore if the name is a Python keyword (`import_`).
"""


def _module(command: str) -> Any:
    """Import the module of a command."""
    return import_module(
        f"resnet_infer.cli.commands.{command}_" if iskeyword(command) else f"resnet_infer.cli.commands.{command}"
    )


def _examples(command: str) -> list[str]:
    """Return the example command lines of a command, which are in its module."""
    return [f"{PROGRAM} {line}" for line in getattr(_module(command), "EXAMPLES", ())]


class _Command(TyperCommand):
    """Write the help of a command, with its examples at the end."""

    def get_help(self, ctx: Any) -> str:
        from resnet_infer.cli.parsing import open_ranges

        return open_ranges(super().get_help(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, and refuse those that are written as other tools take them."""
        digits = [word[:1].isdigit() for word in args]
        if any("=" in word for word in args) or any(map(min, digits, digits[1:])):
            from resnet_infer.cli.slips import wrong_form

            if not ctx.resilient_parsing and (message := wrong_form(self, args)):
                ctx.fail(message)
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples of the command, as they can be typed."""
        if lines := _examples(self.name or ""):
            with formatter.section("Examples"):
                for line in lines:  # which must not be wrapped
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


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
        module = _module(cmd_name)
        function = getattr(module, module.__name__.rpartition(".")[2])
        one.command(cmd_name, cls=_Command, help=COMMANDS[cmd_name], context_settings=_SETTINGS)(function)
        command: Any = typer.main.get_command(one)
        command.params += [item for item in self.params if item.name in _OF_ALL]
        for item in command.params:  # instead of <int range> and <float>
            kind = type(item.type).__name__
            item.metavar = item.metavar or next((name for part, name in _METAVARS.items() if part in kind), None)
        if ctx is not None and ctx.resilient_parsing:  # a shell completes a line
            from resnet_infer.cli.completion import complete_values

            complete_values(ctx, command)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command in `args`. Fail for an unknown one, and suggest a similar name."""
        if args[0] not in COMMANDS and args[0][:1] != "-" and not ctx.resilient_parsing:
            from resnet_infer.cli.slips import wrong_command

            ctx.fail(wrong_command(args[0], COMMANDS, _examples))
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete the name of a command without importing the commands, or an option before it."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        from resnet_infer.cli.completion import items

        return items(ctx, COMMANDS, incomplete)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands for `--help` without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the arguments, and make usage errors printable."""
        try:
            return super().make_context(*args, **kwargs)
        except Exception as error:
            _explain(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run a command, and turn an exception into a message and an exit code."""
        try:
            with on_stderr(), ExitStack() as ctx.meta[_STACK]:
                _set_verbosity(ctx)
                result = super().invoke(ctx)
            flush(sys.stdout)
            return result
        except (typer.Exit, typer.Abort):
            raise
        except ResnetInferError as error:
            if ctx.meta.get(_DEBUG):
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
            if ctx.meta.get(_DEBUG) or hasattr(error, "show"):  # typer shows usage errors itself
                _explain(error)
                raise
            if isinstance(error, ValueError) and getattr(sys.stdout, "closed", False):
                fail("cannot write the result: standard output is closed")
                raise typer.Exit(1) from error
            if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
                _drop_stdout()
                _fail_to_write(error)
                raise typer.Exit(1) from error
            from resnet_infer.cli.failures import known

            if (found := known(error)) is not None:
                fail(found.message, found.hint)
                raise typer.Exit(found.exit_code) from error
            fail(
                f"{type(error).__name__}: {error}",
                "this should not happen; run again as `resnet-infer --debug ...` and report the traceback",
            )
            code = 1
        raise typer.Exit(code)


def _explain(error: Exception) -> None:
    """Explain a usual slip, and escape what is unprintable in the message, which may quote the names of files."""
    if hasattr(error, "show"):
        from resnet_infer.cli.slips import explain

        explain(error, _examples)
    if isinstance(message := getattr(error, "message", None), str):
        from resnet_infer.cli.parsing import open_ranges

        error.message = open_ranges("\n".join(map(printable, message.split("\n"))))  # type: ignore[attr-defined]


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
PROGRAM = "resnet-infer"
"""Name of the command, which completion is installed for."""
_COMPLETION = {"--install-completion", "--show-completion"}
_DEBUG = "resnet_infer.debug"
"""Key of the context under which `--debug` is kept."""
_VERBOSITY, _STACK = "resnet_infer.verbosity", "resnet_infer.stack"
"""Keys of the context under which the last of `--verbose` and `--quiet`, and what ends their effect, are kept."""
_OF_ALL = ("verbose", "quiet", "debug")
"""Options that are taken before and after the name of a command."""
_METAVARS = {"Int": "N", "Float": "X"}
"""What the value of an option is called in the help, by a part of the name of its type."""


# Names of options and commands are taken with underscores for hyphens too.
_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
}
app = typer.Typer(
    cls=_Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings=_SETTINGS,
    no_args_is_help=True,
)


def _version(context: typer.Context, value: bool) -> None:
    """Print the version and exit, for `--version`."""
    if value and not context.resilient_parsing:
        print(f"resnet-infer {__version__}")
        raise typer.Exit


def _keep_debug(context: typer.Context, value: bool) -> None:
    """Remember `--debug` for the whole command line."""
    if value:
        context.meta[_DEBUG] = True


def _keep_verbosity(context: typer.Context, parameter: typer.CallbackParam, value: bool) -> None:
    """Remember `--verbose` or `--quiet`, of which the last counts. Behind the command's name it holds at once."""
    if value and not context.resilient_parsing:
        context.meta[_VERBOSITY] = parameter.name
        if _STACK in context.meta:
            _set_verbosity(context)


def _set_verbosity(context: Any) -> None:
    """Apply `--verbose` or `--quiet`, if one was given."""
    if option := context.meta.get(_VERBOSITY):
        from resnet_infer.cli.verbosity import set_verbosity

        set_verbosity(context.meta[_STACK], option)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", expose_value=False, callback=_keep_verbosity, help="Show debug messages on stderr."
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", expose_value=False, callback=_keep_verbosity, help="Show nothing but errors on stderr."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", expose_value=False, callback=_keep_debug, help="Show the traceback of an error."),
    ] = False,
) -> None:
    """Take a ResNet from training to production: train, export, verify, classify.

    `resnet-infer COMMAND --help` shows the options of a command, and examples.
    """


def main() -> None:
    """Run the command line, and exit with its code.

    The code is 0, 1 (failure), 2 (usage error), or 128 plus the number of a signal (130 after Ctrl-C, 143 after
    SIGTERM). A result that cannot be written to stdout is an error with a message of one line. Messages that cannot be
    written to stderr are dropped.
    """
    end_like_ctrl_c()
    limit_libraries()
    if "COMP_WORDS" in os.environ:
        from resnet_infer.cli.completion import join_words

        join_words()
    occupy_descriptors()
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
            app(prog_name=PROGRAM if _COMPLETION.intersection(sys.argv) else None)
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
