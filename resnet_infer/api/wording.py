"""Speak of options in the words of a program: what the command line calls `--check-data` is `check_data=` here.

The packages below word their errors for the command line. `in_python` rewords those that a public function raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType
from typing import get_type_hints

from resnet_infer.api.arguments import RENAMED
from resnet_infer.errors import ResnetInferError

_FLAGS: Mapping[str, str] = MappingProxyType({"on_error": "skip_unreadable=True", "resume": "resume=True"})
"""Option -> what stands here for the option with its value."""
_SHELL = re.compile(r"((?:resnet-infer [a-z]|pip |docker |Docker: |nvidia-smi|start it with )[^;)]*)")
"""Part of a text that is typed into a shell. It stays as it is."""
_NUMBERS = r"\d+(?:\.\d+)?(?:,\d+(?:\.\d+)?)*"
_WORDS = (
    *("append", "area", "auto", "bf16", "bgr", "channel", "cpu", "cuda", "files", "fp16", "fp32", "int8", "memory"),
    *("multi-scale", "natural", "nchw", "numbers", "pad", "plateau", "scale", "skip", "split", "step"),
    *("string", "sweep", "1x1", "3x3", r"resnet\d+", r"resnext\w+"),
)
"""Values of options that messages name, as patterns, besides the names of runtimes and formats."""


@contextmanager
def in_python() -> Iterator[None]:
    """Word the errors that are raised inside the block for programs. It is a decorator of functions, too."""
    try:
        yield
    except ResnetInferError as error:
        error.message = reworded(error.message)
        error.args = (error.message, *error.args[1:])
        error.hint = reworded(error.hint) if error.hint else None
        raise


def reworded(text: str) -> str:
    """Return a text with keyword arguments in place of the command's options.

    >>> reworded("give a data set with --check-data, or leave it to --on-error skip")
    'give a data set with check_data=, or leave it to skip_unreadable=True'
    >>> reworded("the same command with -o runs/a --resume goes on from there")
    "the same call with output='runs/a', resume=True goes on from there"
    """
    parts = _SHELL.split(text)
    parts[::2] = [_option().sub(_keyword, part).replace("same command", "same call") for part in parts[::2]]
    return "".join(parts)


@cache
def _option() -> re.Pattern[str]:
    """Return the pattern of an option, with its value if one follows. It is made when the first error is worded."""
    from resnet_infer.converters.formats import ROWS
    from resnet_infer.runtimes.registry import NAMES

    words = "|".join((*_WORDS, *NAMES, *(row.name for row in ROWS)))
    return re.compile(
        rf"(?<![\w-])--([a-z][a-z-]*)(?: (?:({_NUMBERS})|([A-Z]{{3,}})|({words}))(?![\w%-]))?"
        r"|(?<![\w-])-o\b(?: (\S+))?"
    )


def _keyword(found: re.Match[str]) -> str:
    """Return the keyword argument that stands for an option, with its value if there is one."""
    option, numbers, placeholder, word, folder = found.groups()
    if option is None:
        return f"output={repr(folder) if folder else ''}" + (
            "," if found.string[found.end() :].startswith(" --resume") else ""
        )
    name = option.replace("-", "_")
    if name not in known():
        return found[0]
    if name in _FLAGS:
        return _FLAGS[name]
    name = RENAMED.get(name, name)
    if numbers is not None:
        return f"{name}={'[' + numbers.replace(',', ', ') + ']' if ',' in numbers else numbers}"
    return f"{name}={repr(word) if word else '[...]' if placeholder and name == 'class_order' else ''}"


@cache
def known() -> frozenset[str]:
    """Return the names of all options that the public functions have, and what the command calls them."""
    from resnet_infer.api import options

    tables = [table for name, table in vars(options).items() if name.endswith("Options")]
    named = {name for table in tables for name in get_type_hints(table)}
    own = {"arch", "device", "format", "labels", "output", "precision", "recipe", "reference", "runtime", "scenario"}
    return frozenset(named | own | set(RENAMED))
