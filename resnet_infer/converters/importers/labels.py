"""Read class names from text, CSV and JSON files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_infer.errors import DataError, ModelError, reason_of
from resnet_infer.utils.inputs import read_text

FORMS = (
    "one name per line; CSV or TSV with the columns index,id,name or index,name; a JSON list of names; or JSON like "
    '{"0": "name"} or {"0": ["id", "name"]}'
)
"""Accepted forms of a file with class names, as text for messages."""


def require_classes(source: str, count: int) -> None:
    """Raise `ModelError` if the classifier `source` has fewer than two outputs, so that it cannot choose a class."""
    if count < 2:
        raise ModelError(
            f"{source} has one output: it says yes or no by a sigmoid, and does not choose between classes; "
            "as the only class it would have 100% on every picture",
            hint="train it with two outputs, one for each answer (cross-entropy in place of a binary loss), "
            "and import that; one output cannot be imported",
            source=source,
            reason="unsupported",
        )


@dataclass(frozen=True)
class Labels:
    """Hold class names in the order of the logits.

    `ids` are the WordNet ids, such as `n01440764`, or None if the file `source` does not give one for every class.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] | None
    source: str

    def require(self, count: int) -> None:
        """Raise `DataError` unless there are `count` names."""
        if len(self.names) != count:
            raise DataError(
                f"{self.source} names {len(self.names)} classes; the model has {count}",
                hint="a class that is named twice, a header or an empty line may be the reason",
                source=self.source,
                reason="mismatch",
            )


def read_labels(path: Path) -> Labels:
    """Read class names from a UTF-8 file, with or without a byte order mark, in one of the `FORMS`.

    The content decides the form, not the suffix. Raises `DataError` if the file cannot be read, has another form, or
    leaves a class without a name.

    With the lines `index,id,name`, `1,n01443537,goldfish` and `0,n01440764,tench` in `names.csv`:

    >>> read_labels(Path("names.csv")).names
    ('tench', 'goldfish')
    """
    try:
        text = read_text(path, "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise DataError(
            f"cannot read the class names in {path}: {reason}",
            hint=f"it holds {FORMS}",
            source=path,
            reason=reason_of(error),
        ) from error
    try:
        rows = _json(text) if text.lstrip().startswith(("[", "{")) else _table(text) or _lines(text)
    except (ValueError, TypeError, LookupError, RecursionError, csv.Error) as error:
        raise DataError(
            f"{path}: no list of class names ({error})", hint=f"it holds {FORMS}", source=path, reason="unsupported"
        ) from error
    if not rows or not all(name for _, name in rows):
        raise DataError(
            f"{path}: {'a class has no name' if rows else 'no class names'}",
            hint=f"it holds {FORMS}",
            source=path,
            reason="incomplete",
        )
    ids = tuple(identity or "" for identity, _ in rows)
    return Labels(tuple(name for _, name in rows), ids if all(ids) else None, str(path))


_Row = tuple[str | None, str]
"""Id, if there is one, and name of a class."""


def _lines(text: str) -> list[_Row]:
    """Read one name from each line."""
    return [(None, line.strip()) for line in text.strip().splitlines()]


def _table(text: str) -> list[_Row] | None:
    """Read a CSV or TSV table and sort its rows by index. Return None if the text is no such table.

    Raises `ValueError` if the indices are not 0, 1, 2, ..., each once.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter="\t" if "\t" in text else ",")]
    if rows and rows[0][0].lower() == "index":
        del rows[0]
    if not rows or not all(len(row) in (2, 3) and row[0].isdecimal() for row in rows):
        return None
    return _ordered({row[0]: row[1:] for row in _distinct(rows)})


def _distinct(rows: list[list[str]]) -> list[list[str]]:
    """Return `rows` unchanged. Raises `ValueError` if two have the same index."""
    if len({int(row[0]) for row in rows}) < len(rows):
        raise ValueError("an index occurs twice")
    return rows


def _json(text: str) -> list[_Row]:
    """Read a JSON list, or a JSON object whose keys are the indices."""
    value = json.loads(text)
    return _ordered(value if isinstance(value, dict) else {str(index): item for index, item in enumerate(value)})


def _ordered(entries: Mapping[str, Any]) -> list[_Row]:
    """Sort entries by index. An entry is a name, `[name]` or `[id, name]`.

    Raises `ValueError` if the indices are not 0, 1, 2, ..., or if an entry has another form.
    """
    by_index = {int(index): item for index, item in entries.items()}
    if set(by_index) != set(range(len(entries))):
        raise ValueError(f"the indices are not 0 to {len(entries) - 1}")
    rows: list[_Row] = []
    for _, item in sorted(by_index.items()):
        parts = [item] if isinstance(item, str) else list(item)
        if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
            raise ValueError(f"{item!r} is no name")
        rows.append((parts[0] if len(parts) == 2 else None, parts[-1].strip()))
    return rows
