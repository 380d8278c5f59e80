"""Print the files of the package that a command enters, in the order of their first call.

    python -m tools.walk [--under converters] -- export resnet20-cifar10 -o /tmp/model.onnx

The command runs in this process with `sys.setprofile`, in all its threads. Its own output goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = "resnet_infer"


def walk(command: list[str], root: Path) -> tuple[dict[str, list[str]], int]:
    """Run `resnet-infer COMMAND` and return the entered files below `root` with their functions, and the exit code."""
    entered: dict[str, list[str]] = {}

    def look(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        # A module's or class's body is no call; CO_OPTIMIZED is set for functions only.
        if event != "call" or not code.co_flags & inspect.CO_OPTIMIZED or not code.co_filename.startswith(str(root)):
            return
        functions = entered.setdefault(Path(code.co_filename).relative_to(root).as_posix(), [])
        if code.co_name not in functions:
            functions.append(code.co_name)

    from resnet_infer.cli.main import main

    sys.argv = ["resnet-infer", *command]
    threading.setprofile(look)
    sys.setprofile(look)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            main()
        return entered, 0
    except SystemExit as end:
        return entered, end.code if isinstance(end.code, int) else 1
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def main() -> None:
    """Walk one command and print its files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--under", default="", metavar="FOLDER", help="only files of this folder of the package")
    parser.add_argument("--functions", action="store_true", help="print the entered functions of each file too")
    parser.add_argument("command", nargs="+", help="a command of resnet-infer, after --")
    options = parser.parse_args()
    import resnet_infer

    root = Path(resnet_infer.__file__).parent
    entered, code = walk(options.command, root)
    shown = {name: functions for name, functions in entered.items() if name.startswith(options.under)}
    for number, (name, functions) in enumerate(shown.items(), start=1):
        print(f"{number:3} {name}" + (f"  {', '.join(functions)}" if options.functions else ""))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
