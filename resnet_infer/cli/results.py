"""Print what a command found, and write it to the file of `-o` in the form that the file's suffix names.

A command says what it found as a `Found`. Which suffixes `-o` takes follows from what the command has.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_infer.errors import UsageError
from resnet_infer.models.format_version import FORMAT, document
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import note, printable, show
from resnet_infer.utils.files import suffix_of

if TYPE_CHECKING:
    from resnet_infer.models.outputs import Output

OPTION = "-o"
"""Option that names the file, for messages."""
HEAD = 1 << 16
"""Characters at the start of a table that tell whether a command wrote it."""


@dataclass(frozen=True)
class Found:
    """Hold what a command found, in each of its forms.

    - `fields`: those of the JSON document.
    - `text`: what is printed.
    - `rows`: the rows of CSV and JSON lines, with the same keys in each.
    - `header`, `cells`: the table of Markdown, as text.
    - `page`: writes the HTML page to a path.
    """

    fields: Mapping[str, Any]
    text: str
    rows: Sequence[Mapping[str, Any]] = ()
    header: Sequence[str] = ()
    cells: Sequence[Sequence[str]] = ()
    page: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Forms:
    """Describe the forms in which a command writes its result.

    - `command`: the name of the command, by which a page of Markdown is recognised.
    - `suffixes`: what the file may end in.
    - `known_by`: fields that tell the JSON document from those of other commands; for each document that there is.
    - `columns`: columns of CSV and keys of JSON lines.
    """

    command: str
    suffixes: tuple[str, ...]
    known_by: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...] = ()

    def require_free(
        self, output: Path | None, inputs: Iterable[str | Path | None] = (), others: Sequence[Output] = ()
    ) -> None:
        """Check the file of `-o` before any work, and with it the files of other options.

        Raises `UsageError` for a suffix that is no form, for a file that is an input or was not written by the command,
        and `ResnetInferError` if it cannot be written.
        """
        from resnet_infer.models.outputs import Output, require_free

        outputs = list(others)
        if output is not None:
            if str(output) != "-" and suffix_of(output) not in self.suffixes:
                known = ", ".join(self.suffixes)
                raise UsageError(
                    f"{output} {_ending(output)} of the result of {self.command}",
                    hint=f"let it end in {known}",
                )
            outputs.insert(0, Output(OPTION, output, f"result of {self.command}", partial(_is_ours, self)))
        require_free(outputs, inputs)

    def write(self, found: Found, output: Path) -> None:
        """Write the result, whole or not at all. Raises `ResnetInferError` where the file cannot be written."""
        from resnet_infer.models.outputs import whole_file

        suffix = suffix_of(output)
        if suffix == ".html":
            assert found.page is not None
            found.page(output)
        else:
            text = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".md": _markdown}[suffix](self, found)
            with whole_file(output, OPTION) as temporary:
                temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        note(f"wrote {output}")

    def give(self, found: Found, output: Path | None, as_json: bool) -> None:
        """Write the result to the file that is named, and print it in words or as JSON.

        The file comes first: whoever reads what is printed may end before it is all read.
        """
        if output is not None:
            self.write(found, output)
        if as_json:
            print(_json(self, found), end="")
        elif found.text:
            show(found.text)


def two_columns(rows: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return `header` and `cells` of a `Found` that is names and values."""
    return {"header": ("field", "value"), "cells": rows}


def _json(forms: Forms, found: Found) -> str:
    return strict_json.dumps(document(found.fields), indent=2) + "\n"


def _jsonl(forms: Forms, found: Found) -> str:
    return "".join(strict_json.dumps({name: row[name] for name in forms.columns}) + "\n" for row in found.rows)


def _csv(forms: Forms, found: Found) -> str:
    """Return the rows as CSV. A value that is no number and no text is written as JSON, None as nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(forms.columns)
    for row in found.rows:
        values = (row[name] for name in forms.columns)
        writer.writerow(
            strict_json.dumps(value) if isinstance(value, (list, tuple, dict, bool)) else value for value in values
        )
    return text.getvalue()


def _markdown(forms: Forms, found: Found) -> str:
    """Return the table as Markdown, below a comment that names the command."""
    lines = [found.header, ["---"] * len(found.header), *found.cells]
    rows = ("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
    return "\n".join([_mark(forms), "", *rows, ""])


def _cell(text: str) -> str:
    """Return the text of a cell of Markdown."""
    return "<br>".join(map(printable, text.split("\n"))).replace("|", "\\|")


def _ending(output: Path) -> str:
    """Return what is wrong with the suffix of an output."""
    return f"ends in {output.suffix}, which is no form" if output.suffix else "has no suffix, which chooses the form"


def _mark(forms: Forms) -> str:
    """Return the first line of a page of Markdown, which is not shown."""
    return f"<!-- resnet-infer {forms.command} -->"


def _is_ours(forms: Forms, path: Path) -> bool:
    """Tell whether the command wrote a file, which it may then replace."""
    from resnet_infer.reporting.html import is_page

    suffix = suffix_of(path)
    if suffix == ".html":
        return is_page(path)
    if suffix == ".json":
        return _is_document(forms, path)
    with open(path, encoding="utf-8", errors="replace") as file:
        first = file.read(HEAD).partition("\n")[0]
    if suffix == ".jsonl":
        try:
            row = json.loads(first)
        except ValueError:
            return False
        return isinstance(row, dict) and tuple(row) == forms.columns
    return first == (",".join(forms.columns) if suffix == ".csv" else _mark(forms))


def _is_document(forms: Forms, path: Path) -> bool:
    """Tell whether a file is a JSON document of the command. Others also begin with `format`: sidecars, recipes."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    first = next(iter(value), None) if isinstance(value, dict) else None
    return first == FORMAT and any(value.keys() >= set(names) for names in forms.known_by)
