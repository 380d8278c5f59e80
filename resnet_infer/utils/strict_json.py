"""Write JSON without NaN and infinity, which JSON does not have (RFC 8259, section 6).

All JSON of this package is written here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from resnet_infer.errors import ResnetInferError

_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that JSON allows unescaped and a terminal interprets: they are escaped in readable JSON, too."""

_PLAIN = json.JSONEncoder(allow_nan=False)
"""Encoder for calls without options; `json.dumps` would make one for every call."""


def dumps(
    value: Any, *, indent: int | None = None, ensure_ascii: bool = True, default: Callable[[Any], Any] | None = None
) -> str:
    """Return `value` as JSON. The options are those of `json.dumps`.

    Surrogates, which stand for bytes of file names that are not UTF-8, are escaped, so that the text can always be
    encoded. Raises `ResnetInferError` for NaN and infinity, which other programs could not read.
    """
    try:
        if indent is None and ensure_ascii and default is None:
            return _PLAIN.encode(value)
        text = json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, default=default, allow_nan=False)
        if ensure_ascii:
            return text
        whole = text.encode("utf-8", "backslashreplace").decode("utf-8")
        return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", whole)
    except ValueError as error:
        if "JSON compliant" not in str(error):
            raise
        raise ResnetInferError(
            "a number in the result is not finite (NaN or infinity), and JSON has no such numbers",
            hint="the model gives such numbers: it is damaged, or its training diverged",
            reason="not_finite",
        ) from error
