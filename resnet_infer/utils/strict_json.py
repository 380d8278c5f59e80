"""The only writer of JSON: NaN and infinity, which are no JSON (RFC 8259, section 6), are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from resnet_infer.errors import ResnetInferError

_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What would work on a terminal, of the characters that JSON leaves as they are: they are escaped there, too."""

_PLAIN = json.JSONEncoder(allow_nan=False)
"""For what has no options: `json.dumps` would make one for every call."""


def dumps(
    value: Any, *, indent: int | None = None, ensure_ascii: bool = True, default: Callable[[Any], Any] | None = None
) -> str:
    """Return `value` as JSON; the options are those of `json.dumps`.

    What is not UTF-8, as bytes of a file name may be, is escaped, so that the text can always be written.
    Raises `ResnetInferError` where a number is NaN or infinite: other programs could not read the text.
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
        ) from error
