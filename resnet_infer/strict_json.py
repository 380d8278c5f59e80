"""The only writer of JSON: NaN and infinity, which are no JSON (RFC 8259, section 6), are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from resnet_infer.errors import ResnetInferError


def dumps(
    value: Any, *, indent: int | None = None, ensure_ascii: bool = True, default: Callable[[Any], Any] | None = None
) -> str:
    """Return `value` as JSON; the options are those of `json.dumps`.

    What is not UTF-8, as bytes of a file name may be, is escaped, so that the text can always be written.
    Raises `ResnetInferError` where a number is NaN or infinite: other programs could not read the text.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, default=default, allow_nan=False)
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
    except ValueError as error:
        if "JSON compliant" not in str(error):
            raise
        raise ResnetInferError(
            "a number in the result is not finite (NaN or infinity), and JSON has no such numbers",
            hint="the model gives such numbers: it is damaged, or its training diverged",
        ) from error
