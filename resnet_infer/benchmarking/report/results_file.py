"""Read and write results as files of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_infer.errors import DataError, reason_of
from resnet_infer.models.format_version import RESULTS, document
from resnet_infer.utils import strict_json
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.inputs import read_text


def read(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file. Raises `DataError` if there is none, or only newer versions read it."""
    try:
        found = json.loads(read_text(path))
        if isinstance(found, dict):
            RESULTS.check(found, str(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: no JSON can be read from it ({error})", source=path, reason=reason_of(error)
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds JSON, and not that of a result", source=path, reason="unsupported")
    return found


def read_result(path: Path) -> dict[str, Any]:
    """Read a result of `benchmark`. Raises `DataError` if the file holds something else."""
    found = read(path)
    settings = found.get("settings")
    if "scenario" not in found and not (isinstance(settings, dict) and "warm_up" in settings):
        raise DataError(
            f"{path} is no result of `benchmark`", hint="those are written by -o", source=path, reason="unsupported"
        )
    return found


def write(found: Mapping[str, Any], path: Path) -> None:
    """Write a result. Raises `ResnetInferError` where the file cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(strict_json.dumps(document(found), indent=2) + "\n", encoding="utf-8")
