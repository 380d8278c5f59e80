"""The command `resnet-infer`: a table of commands, each imported when it is called, and one place for exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from resnet_infer import __version__
from resnet_infer.console import fail, note
from resnet_infer.errors import ResnetInferError

COMMANDS = {
    "classify": "Say what is in pictures.",
    "train": "Train a network on labelled pictures.",
    "export": "Turn a checkpoint into the artifact that runs fastest, and prove that it answers alike.",
    "inspect": "Show what a checkpoint or an artifact is, eats and answers.",
    "env": "Show versions, devices and runtimes, and what is missing.",
}
"""Command -> what it does. The command `x` is the function `x` of the module `resnet_infer.cli.x`."""


class _Commands(TyperGroup):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        one = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        function = getattr(import_module(f"resnet_infer.cli.{cmd_name}"), cmd_name)
        one.command(cmd_name, help=COMMANDS[cmd_name], context_settings=_HELP)(function)
        return typer.main.get_command(one)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        close = get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and close:
            ctx.fail(f"there is no command {args[0]!r}; did you mean {close[0]}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: Any) -> Any:
        debug = ctx.params.get("debug", False)
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except ResnetInferError as error:
            if debug:
                traceback.print_exc()
            fail(error.message, error.hint)
            code = error.exit_code
        except KeyboardInterrupt:
            note("interrupted")
            code = 130
        except BrokenPipeError:
            # The reader (`head`, a pager) has gone. Keep the interpreter from complaining when it flushes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except Exception as error:  # the last line of defence: no traceback for a user
            if debug or not isinstance(error, (OSError, ValueError, RuntimeError, MemoryError, LookupError, TypeError)):
                raise
            fail(
                f"{type(error).__name__}: {error}",
                "this should not happen; run again as `resnet-infer --debug ...` and report the traceback",
            )
            code = 1
        raise typer.Exit(code)


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
    """Run the command line; exit with 0, 1 (something failed), 2 (usage) or 130 (Ctrl-C)."""
    app()
