"""Split a text file into rows and cells: comma, semicolon, tab, bar or white space between cells, or JSON Lines."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from resnet_infer.data.datasets.tree import decode_text
from resnet_infer.data.formats.suffixes import is_picture
from resnet_infer.errors import DataError

Line = tuple[int, list[str]]
"""Number of a line, from 1, and its cells without surrounding white space."""
_DELIMITERS = (",", "\t", ";", "|")
_SAMPLE = 500
"""Lines that are examined to find the delimiter."""


@dataclass(frozen=True)
class Table:
    """Hold the lines that are not empty. `keyed` says that the first one consists of the keys of JSON objects.

    `nested` holds the line numbers and places of cells that are JSON lists or objects.
    """

    lines: Sequence[Line]
    keyed: bool = False
    nested: frozenset[tuple[int, int]] = frozenset()


def read_table(data: bytes, where: str, is_header: Callable[[Sequence[str]], bool]) -> Table | None:
    """Read the cells of a text file in UTF-8, or in UTF-16 with a byte order mark. Return None if it is not text.

    The delimiter is the one that makes the first line a header by `is_header`; else the one that yields lines of one
    length with names of images. Raises `DataError` if quotes are not closed, or a line is not a JSON object.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where} is no text in UTF-16 ({error.reason})",
                hint="save it as UTF-8",
                source=where,
                reason="damaged",
            ) from error
    elif b"\0" in data:
        return None
    else:
        text = decode_text(data, where)
    if re.match(r"\s*\{\s*\"", text):
        return _json_lines(text, where)
    if stated := re.match(r"sep=(.)\r?\n", text):  # how Excel states the delimiter
        return Table([(number + 1, cells) for number, cells in _split(text[stated.end() :], stated[1], where)])
    head = "".join(islice(io.StringIO(text, newline=""), _SAMPLE))
    merits = {delimiter: _merit(_sample(head, delimiter), is_header) for delimiter in (*_DELIMITERS, None)}
    if any(merits[delimiter][:2] > (False, 0) for delimiter in _DELIMITERS):
        del merits[None]  # the name of a column or class may have two words
    delimiter = max(merits, key=merits.__getitem__)
    return Table(_by_space(text) if delimiter is None else _split(text, delimiter, where))


def _sample(head: str, delimiter: str | None) -> list[Line]:
    """Split the head of a file into lines and cells. None stands for white space."""
    if delimiter is None:
        return _by_space(head)
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
    return [(number, cells) for number, line in enumerate(reader, 1) if any(cells := [cell.strip() for cell in line])]


def _merit(lines: Sequence[Line], is_header: Callable[[Sequence[str]], bool]) -> tuple[bool, int, bool]:
    """Rate a delimiter by three criteria: a header, the lines that name images, and one length of all lines."""
    if not lines:
        return False, 0, False
    widths = {len(cells) for _, cells in lines}
    pictures = sum(any(map(is_picture, cells)) for _, cells in lines) if min(widths) > 1 else 0
    return len(lines[0][1]) > 1 and is_header(lines[0][1]), pictures, widths != {1} and len(widths) == 1


def _split(text: str, delimiter: str, where: str) -> list[Line]:
    """Split the text at a delimiter. Raises `DataError` if quotes are not closed."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines, start = [], 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                lines.append((start, stripped))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}", source=where, reason="damaged") from error
    return lines


def _by_space(text: str) -> list[Line]:
    """Split lines into two cells, of which the last has no white space: `some photo.jpg 3`."""
    return [(number, line.rsplit(maxsplit=1)) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _json_lines(text: str, where: str) -> Table:
    """Read JSON Lines as a table whose first line holds the keys. Raises `DataError`."""
    objects = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{where}, line {number}: no JSON object ({error})",
                hint="expected is an object in every line",
                source=where,
                reason="damaged",
            ) from error
        if not isinstance(item, dict):
            raise DataError(
                f"{where}, line {number}: expected a JSON object, found {line.strip()[:60]}",
                source=where,
                reason="damaged",
            )
        objects.append((number, item))
    keys = list(dict.fromkeys(key for _, item in objects for key in item))
    lines = [(0, keys), *((number, [_cell(item.get(key)) for key in keys]) for number, item in objects)]
    nested = {
        (number, place)
        for number, item in objects
        for place, key in enumerate(keys)
        if isinstance(item.get(key), list | dict)
    }
    return Table(lines, True, frozenset(nested))


def _cell(value: object) -> str:
    """Convert a JSON value to a cell."""
    if isinstance(value, dict):  # the form in which Hugging Face writes an image
        value = value.get("path")
    return "" if value is None else str(value).strip()
