"""Write answers as a table, JSON, JSON lines or CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from resnet_infer.models.format_version import FORMAT, RESULTS
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import bar, encoding_of, flush, printable

if TYPE_CHECKING:
    from resnet_infer.classifier import Answer

COLUMNS = ("source", "rank", "label", "probability", "index", "id", "error")
"""Columns of the CSV. An image that could not be read has one row, with its error."""

HEAD = f'{{"{FORMAT}": {RESULTS.version}, "answers": ['
"""First line of the JSON document. An answer follows on each line."""


def _table(answers: Iterable[Answer], stream: TextIO) -> None:
    """Write a table: for each image its classes with percentages and bars."""
    for number, answer in enumerate(answers):
        labels = [printable(item.label) for item in answer.predictions]
        width = max(map(len, labels), default=0)
        lines = [printable(answer.source)]
        if answer.error:
            lines.append(f"  not read: {printable(answer.error.message).removeprefix(f'{lines[0]}: ')}")
        for label, item in zip(labels, answer.predictions, strict=True):
            drawn = bar(item.probability, encoding=encoding_of(stream))
            lines.append(f"  {label:<{width}}  {100 * item.probability:5.1f}%  {drawn}".rstrip())
        stream.write("\n" * bool(number) + "\n".join(lines) + "\n")


def _json(answers: Iterable[Answer], stream: TextIO) -> None:
    """Write one JSON document, which is closed even if the answers end with an exception."""
    separator = HEAD
    try:
        for answer in answers:
            stream.write(f"{separator}\n  {_dumps(answer, stream)}")
            separator = ","
    except BaseException:
        with suppress(OSError, ValueError):  # so that kept answers are valid JSON
            stream.write(f"{HEAD}]}}\n" if separator == HEAD else "\n]}\n")
        raise
    stream.write(f"{HEAD}]}}\n" if separator == HEAD else "\n]}\n")


def _jsonl(answers: Iterable[Answer], stream: TextIO) -> None:
    """Write a JSON object per line, and flush each."""
    for answer in answers:
        stream.write(_dumps(answer, stream) + "\n")
        flush(stream)  # a reader sees each answer at once


def _dumps(answer: Answer, stream: TextIO) -> str:
    """Return an answer as JSON, in ASCII if the stream cannot encode it or a file's name is not valid text."""
    text = strict_json.dumps(answer.to_json(), ensure_ascii=False)
    try:
        text.encode(encoding_of(stream))
    except UnicodeEncodeError:
        return strict_json.dumps(answer.to_json())
    return text


def _csv(answers: Iterable[Answer], stream: TextIO) -> None:
    """Write a row per class, or one with the error, below the header `COLUMNS`."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for answer in answers:
        if answer.error:
            writer.writerow((answer.source, *[""] * (len(COLUMNS) - 2), answer.error.message))
        for rank, item in enumerate(answer.predictions, start=1):
            row = (answer.source, rank, item.label, f"{item.probability:.6f}", item.index, item.id or "", "")
            writer.writerow(row)


WRITERS: dict[str, Callable[[Iterable[Answer], TextIO], None]] = {
    "table": _table,
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
}
"""Name of a format -> function that writes it to a stream."""
