"""Keep verdicts on how models are run in the cache, in `proofs.json`, so that each costs its time once.

A verdict belongs to a key: a JSON object that names all that the verdict depends on, such as the model's digest and the
runtime's version. docs/formats/proofs.schema.json describes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnet_infer.errors import ResnetInferError
from resnet_infer.models.format_version import FileFormat
from resnet_infer.models.weights.download import cache_folder
from resnet_infer.models.weights.locks import locked
from resnet_infer.utils import strict_json
from resnet_infer.utils.files import atomic_path

PROOFS = FileFormat("proofs")
"""Format of the file."""
MOST = 500
"""Most verdicts that are kept, the newest. One has about 600 bytes."""


def proofs_file() -> Path:
    """Return the path of the file. Raises `UnwritableError` if there is no folder for a cache."""
    return cache_folder() / "proofs.json"


def find_verdict(key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the verdict that is kept for `key`, None if there is none or the file cannot be used."""
    with suppress(OSError, ResnetInferError):
        for entry in _read(proofs_file()) or ():
            if entry["key"] == key:
                verdict: dict[str, Any] = entry["verdict"]
                return verdict
    return None


def keep_verdict(key: Mapping[str, Any], verdict: Mapping[str, Any]) -> None:
    """Keep a verdict in place of an older one with the same key.

    Nothing is kept where the cache cannot be written, or where the file is of a newer version of this package.
    """
    with suppress(OSError, ResnetInferError):
        path = proofs_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, f"writing {path.name}"):
            known = _read(path)
            if known is None:
                return
            entries = [entry for entry in known if entry["key"] != key]
            entries = [*entries, {"key": dict(key), "verdict": dict(verdict)}][-MOST:]
            with atomic_path(path) as temporary:
                text = strict_json.dumps(PROOFS.compose({"proofs": entries}), indent=1)
                temporary.write_text(text + "\n", encoding="utf-8")


def _read(path: Path) -> list[dict[str, Any]] | None:
    """Return the entries of the file, none if it is missing or damaged; None if a newer version wrote it."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if PROOFS.check(document, str(path)):
            return None
        return [entry for entry in document["proofs"] if {"key", "verdict"} <= entry.keys()]
    except ResnetInferError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return []
