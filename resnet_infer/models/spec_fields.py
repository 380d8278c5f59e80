"""Check the types and bounds of a spec's fields in JSON.

Each function returns the value, or raises `FieldError`. `where` is the name of the field, for the message.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_SIDE = 4096
"""Largest resize and crop in pixels. One view of that size takes 48 MiB as uint8."""
MAX_CLASSES = 1_000_000
"""Most classes of a model."""
MAX_TEXT = 100_000
"""Most characters of a name."""
MAX_DEPTH = 32
"""Most levels of lists and objects in a provenance."""


class FieldError(ValueError):
    """Report a field without a valid value. The message names the field and the value."""


def parse(text: str) -> dict[str, Any]:
    """Parse a JSON object, without NaN and infinity."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise FieldError("its JSON is nested too deeply") from error
    return mapping(value, "the spec")


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Require an object."""
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    return dict(value)


def has_fields(value: Mapping[str, Any], where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    """Raise `FieldError` for a field that is missing or unknown."""
    for name in required:
        if name not in value:
            raise FieldError(f"{where} lacks {name}")
    for name in value:
        if name not in required and name not in optional:
            raise FieldError(f"{where} has an unknown field, {str(name)[:40]!r}")


def text(value: Any, where: str) -> str:
    """Require text that is not empty and can be written as UTF-8."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not is_utf8(value):
        raise _wrong(where, f"text of 1 to {MAX_TEXT:,} characters", value)
    return value


def texts(value: Any, where: str) -> tuple[str, ...]:
    """Require a list of texts that is not empty; a text in it may be."""
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_CLASSES:
        raise _wrong(where, f"a list of 1 to {MAX_CLASSES:,} texts", value)
    for index, item in enumerate(value):
        if not isinstance(item, str) or len(item) > MAX_TEXT or not is_utf8(item):
            raise _wrong(f"{where}[{index}]", "text", item)
    return tuple(value)


def truth(value: Any, where: str) -> bool:
    """Require true or false."""
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def whole(value: Any, where: str, low: int, high: int) -> int:
    """Require a whole number from `low` to `high`. 32.0 is not one."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(where, f"a whole number from {low:,} to {high:,}", value)
    return value


def number(value: Any, where: str, low: float, high: float) -> float:
    """Require a finite number from `low` to `high`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(where, f"a number from {low:g} to {high:g}", value)
    return float(value)


def numbers(value: Any, where: str) -> NDArray[np.float32]:
    """Require three numbers, one per channel, and return them as float32."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise _wrong(where, "a list of three numbers", value)
    return np.array([number(item, f"{where}[{index}]", -1e6, 1e6) for index, item in enumerate(value)], np.float32)


def pixels(value: Any, where: str, crop: int) -> NDArray[np.float32]:
    """Require a number per pixel and channel, and return them as float32 (crop, crop, 3).

    The value is an object with `shape` and `float32`, the little-endian bytes in base64.
    """
    value = mapping(value, where)
    has_fields(value, where, ("shape", "float32"))
    if value["shape"] != [crop, crop, 3] or any(isinstance(side, bool | float) for side in value["shape"]):
        raise _wrong(f"{where}.shape", f"[{crop}, {crop}, 3]", value["shape"])
    try:
        content = base64.b64decode(value["float32"], validate=True) if isinstance(value["float32"], str) else b""
    except (binascii.Error, ValueError) as error:
        raise FieldError(f"{where}.float32 is no base64 ({error})") from error
    if len(content) != 12 * crop**2:
        raise FieldError(
            f"{where}.float32 has {len(content):,} bytes, and {crop}x{crop}x3 numbers are {12 * crop**2:,}"
        )
    return np.frombuffer(content, "<f4").reshape(crop, crop, 3)


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """Require plain JSON: finite numbers, UTF-8 texts, and at most `MAX_DEPTH` levels of lists and objects."""
    if depth > MAX_DEPTH:
        raise FieldError(f"{where[:60]} is nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str) and is_utf8(value):
        return value
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str) or not is_utf8(name):
                raise _wrong(where, "an object whose keys are text", name)
            plain(item, f"{where}.{name}", depth + 1)
        return value
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            plain(item, f"{where}[{index}]", depth + 1)
        return value
    raise _wrong(where, "plain JSON", value)


def writable(value: Any) -> Any:
    """Replace what is not UTF-8 in plain JSON by escapes, as it occurs in some file names."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {writable(name): writable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [writable(item) for item in value]
    return value


def is_utf8(value: str) -> bool:
    """Tell whether a text can be written as UTF-8. Half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong(where: str, wanted: str, value: Any) -> FieldError:
    """Return the error for a value of the wrong kind."""
    shown = ascii(value)
    return FieldError(f"{where[:80]} is {wanted}, not {shown if len(shown) <= 60 else shown[:57] + '...'}")


def _refuse(name: str) -> None:
    """Refuse NaN and infinity."""
    raise FieldError(f"{name} is no JSON")
