"""Read the texts of options: numbers, choices, names and class orders, in the same way in every command."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from resnet_infer.errors import UsageError
from resnet_infer.utils.inputs import read_lines

Number = TypeVar("Number", int, float)

MOST = 10**9
"""Largest batch, number of images or repetitions: more than any machine has memory or time for."""
LARGEST_SEED = 2**63 - 1
"""Largest seed that every random generator accepts."""


def open_ranges(text: str) -> str:
    """Return text about options, with a limit that nobody reaches left out of their ranges.

    >>> open_ranges(f"0 is not in the range 1<=x<={MOST}.")
    '0 is not in the range x>=1.'
    """
    return re.sub(rf"\b([\d.]+)<=x<={MOST}\b", r"x>=\1", text)


def choice(*values: str) -> Callable[[str | None], str | None]:
    """Return a callback that accepts one of `values`, in capital letters or small ones.

    For others it suggests a similar one, with exit code 2.
    """

    def check(value: str | None) -> str | None:
        """Return the value as it is spelled in `values`, or raise `typer.BadParameter`."""
        if value is None or value in values:
            return value
        for known in values:
            if known.lower() == value.lower():
                return known
        from difflib import get_close_matches

        close = get_close_matches(value, values, n=1)
        raise typer.BadParameter(
            (f"did you mean {close[0]}? " if close else "") + f"{value!r} is not one of {', '.join(values)}"
        )

    return check


def device_name(value: str) -> str:
    """Return the name of a device as the library states it, such as `cuda:0` for `0`. Raises `UsageError`."""
    if value in ("auto", "cpu", "cuda"):
        return value
    from resnet_infer.runtimes.base import parse_device

    kind, index = parse_device(value)
    return f"{kind}:{index}" if value[-1:].isdecimal() else kind


def number(value: float | None) -> float | None:
    """Return the value, or raise `typer.BadParameter` for NaN, which bounds do not exclude."""
    if value is not None and value != value:
        raise typer.BadParameter("it is not a number (NaN)")
    return value


def numbers(text: str | None, kind: Callable[[str], Number], mistake: str) -> tuple[Number, ...] | None:
    """Read comma-separated numbers, e.g. `1,8,32`; None if the option was not given.

    Raises `UsageError` for any other text. `mistake` is its message, in which `{text}` stands for the text.

        numbers("1,8,32", int, "--batch-size takes numbers with commas between them, not {text}")  # (1, 8, 32)
    """
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(mistake.format(text=repr(text))) from error


def bounded_numbers(option: str, text: str | None, kind: Callable[[str], Number], most: int) -> tuple[Number, ...]:
    """Read the numbers of `option`; an empty tuple if it was not given.

    Raises `UsageError` for other texts, for NaN and for numbers above `most`.
    """
    found = numbers(text, kind, f"{option} takes numbers with commas between them, not {{text}}") or ()
    for value in found:
        if not value <= most:
            raise UsageError(f"each number of {option} is at most {most:,}, not {value:g}")
    return found


def any_numbers(text: str | None) -> tuple[float, ...] | None:
    """Read one or more numbers, None if nothing was given. Raises `UsageError`."""
    return numbers(text, float, _NO_NUMBERS)


def two_numbers(text: str | None, kind: Callable[[str], Number]) -> tuple[Number, ...] | None:
    """Read two numbers, None if nothing was given. Raises `UsageError`."""
    found = numbers(text, kind, _NO_NUMBERS)
    if found is not None and len(found) != 2:
        raise UsageError(f"{text!r} is not two numbers with a comma between them")
    return found


def channel_values(text: str | None) -> list[float] | None:
    """Read one value for all channels or one for each of three; None if not given. Raises `UsageError`."""
    mistake = "{text} is not one number, or three with commas between them"
    found = numbers(text, float, mistake)
    if found is not None and len(found) not in (1, 3):
        raise UsageError(mistake.format(text=repr(text)))
    return None if found is None else list(found)


def is_channel_values(text: str | None) -> str | None:
    """Return the text, or raise `typer.BadParameter` if `channel_values` cannot read it."""
    try:
        channel_values(text)
    except UsageError as error:
        raise typer.BadParameter(error.message) from error
    return text


def names(text: str | None) -> tuple[str, ...]:
    """Read names with commas between them, without the spaces around them."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def class_order(text: str | None, *rules: str) -> Any:
    """Read the order of classes: one of `rules` as it is, or the lines of the named file.

    The file is UTF-8, with or without a byte-order mark, and has one class per line; empty lines are skipped. Raises
    `UsageError` if it cannot be read.
    """
    if text is None or text in rules:
        return text
    try:
        return read_lines(text)
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(rules)
        raise UsageError(f"{text} is neither {known} nor a file of class names ({error})") from error


_NO_NUMBERS = "{text} is no list of numbers with commas between them"
