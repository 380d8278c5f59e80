"""Read a list of images and labels: CSV, TSV, cells separated by white space, or JSON Lines.

The first line may name the columns `path`, `label` and optionally `split`, in any order and among others; `columns` has
their other names. Without such a line the columns are in this order, and there are no others. Paths are relative to the
list or to one folder below it, and may lack the suffix. Labels are class names, or numbers if all of them are. Numbered
classes are named by their numbers, 0 to the greatest, unless a `classes.txt` beside the list names them, one per line.
For class names that file gives the order. Every line is used, or is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from resnet_infer.data.datasets.classes import order_classes, require_distinct, require_order, some
from resnet_infer.data.datasets.columns import LABELS, NO, PATHS, YES, Columns, find_columns, names_columns, plain
from resnet_infer.data.datasets.dataset import Dataset, Sample
from resnet_infer.data.datasets.formats import Recognised, Request, canonical_split
from resnet_infer.data.datasets.places import Located, locate
from resnet_infer.data.datasets.table import Line, Table, read_table
from resnet_infer.data.datasets.tree import DirectoryTree, SingleFile, Tree, read_bytes, read_file, read_lines
from resnet_infer.data.datasets.wordnet import describe
from resnet_infer.data.formats.suffixes import is_picture
from resnet_infer.errors import DataError

MAX_CLASSES = 1_000_000
"""Bound on the labels. A greater one means that a column is mistaken for the label."""
_KNOWN = {"path": PATHS, "label": LABELS}
COLUMNS = "the columns are path,label or path,label,split; a first line that names them may have others and any order"


@dataclass(frozen=True)
class _Row:
    """Hold one line of a list: its number, from 1, and its cells."""

    number: int
    path: str
    label: str
    split: str | None
    cells: Sequence[str]


def recognise(tree: Tree) -> Recognised | None:
    """Recognise any single text file. Splits are the values of the column `split`, in the order of their appearance."""
    if not isinstance(tree, SingleFile):
        return None
    table = read_table(read_bytes(tree, ""), tree.where, partial(_is_header, tree.where))
    if table is None:
        return None
    rows, note, headed = _parse(table, tree.where)
    splits = tuple(dict.fromkeys(row.split for row in rows if row.split is not None))
    return Recognised(splits, partial(_load, _Listed(tree.where, rows, note, headed)))


def read_labels(where: str) -> list[tuple[str, str]] | None:
    """Read path and label of each line of the list at `where`. Return None if it is not text. Raises `DataError`."""
    table = read_table(read_bytes(SingleFile(where), ""), where, partial(_is_header, where))
    return None if table is None else [(row.path, row.label) for row in _parse(table, where)[0]]


def _is_header(where: str, cells: Sequence[str]) -> bool:
    """Tell whether the cells of a first line name the columns, and none is an image."""
    return names_columns(cells) and not any(_is_there(where, cell) for cell in cells)


def _is_there(where: str, cell: str) -> bool:
    """Tell whether a cell is the name of an image, or of a file beside the list."""
    return is_picture(cell) or (bool(cell) and os.path.isfile(os.path.join(os.path.dirname(where), cell)))


def _parse(table: Table, where: str) -> tuple[list[_Row], str | None, bool]:
    """Return the rows, a note on the columns, and whether a first line names the columns.

    Raises `DataError` for unclear columns, lines of another length, and empty or nested cells.
    """
    lines = list(table.lines)
    header = lines[0][1] if lines and (table.keyed or _is_header(where, lines[0][1])) else None
    columns = find_columns(header, [cells for _, cells in lines[1:]]) if header else _by_place(lines, where)
    if columns is None:
        assert header is not None
        raise _unnamed(where, header)
    if columns.doubt:
        raise DataError(
            f"{where}: {columns.doubt}",
            hint="write one column split with train, val and test, or remove the columns that say nothing of it",
            source=where,
            reason="ambiguous",
        )
    if header:
        lines.pop(0)
    if not lines:
        raise DataError(f"{where} lists no pictures", hint=COLUMNS, source=where, reason="empty")
    wanted = header or ["path", "label", "split"][: 2 if columns.split is None else 3]
    wrong = [(number, cells) for number, cells in lines if len(cells) != len(wanted)]
    if wrong:
        number, cells = wrong[0]
        raise DataError(
            f"{where}, line {number}: expected {','.join(wanted)}, found {','.join(cells)!r}{_more(wrong)}",
            hint=COLUMNS,
            source=where,
            reason="damaged",
        )
    nested = [number for number, _ in lines if (number, columns.label) in table.nested]
    if nested:
        raise DataError(
            f"{where}, line {nested[0]}: {wanted[columns.label]} is a list or an object, and no class",
            hint="several labels in a picture are not supported yet: write one, as a name or a number",
            source=where,
            reason="damaged",
        )
    for place in (columns.path, columns.label, columns.split):
        empty = [line for line in lines if place is not None and not line[1][place]]
        if place is not None and empty:
            number, cells = empty[0]
            raise DataError(
                f"{where}, line {number}: expected {','.join(wanted)}, found {','.join(cells)!r}, where "
                f"{wanted[place]} is empty{_more(empty)}",
                hint=f"fill it, or remove the line; {COLUMNS}",
                source=where,
                reason="damaged",
            )
    labels = _labels([cells[columns.label] for _, cells in lines])
    rows = [
        _Row(number, cells[columns.path], label, _split(cells, columns, wanted, number, where), cells)
        for (number, cells), label in zip(lines, labels, strict=True)
    ]
    return rows, f"{where}: {columns.note}" if columns.note else None, header is not None


def _more(lines: Sequence[Line]) -> str:
    """Return the numbers of the lines with the same fault as the first, for a message."""
    return f" (also lines {some([str(number) for number, _ in lines[1:]])})" if len(lines) > 1 else ""


def _by_place(lines: Sequence[Line], where: str) -> Columns:
    """Return the columns of a list without a header.

    They are path, label and, if there is a third cell, split; or label and path, if only the second cell names an
    image.
    """
    if not lines:
        return Columns(0, 1)
    _require_no_header(lines, where)
    if len(lines[0][1]) > 3 and not any(map(is_picture, lines[0][1][:1])):
        raise _unnamed(where, lines[0][1])
    if all(len(cells) == 2 and is_picture(cells[1]) and not _is_there(where, cells[0]) for _, cells in lines):
        return Columns(1, 0)
    return Columns(0, 1, 2 if len(lines[0][1]) > 2 else None)


def _require_no_header(lines: Sequence[Line], where: str) -> None:
    """Raise `DataError` if the first line names no image and the next one does: it is an unknown header."""
    if len(lines) < 2:
        return
    (_, first), (_, second) = lines[:2]
    if not any(_is_there(where, cell) for cell in first) and any(map(is_picture, second)):
        raise _unnamed(where, first)


def _unnamed(where: str, header: Sequence[str]) -> DataError:
    """Return the error for a header that does not name path and label."""
    known = {kind: [name for group in groups for name in group[:6]] for kind, groups in _KNOWN.items()}
    there = {kind: [cell for cell in header if plain(cell) in names] for kind, names in known.items()}
    if there["path"] and not there["label"]:
        wrong = f"{there['path'][0]} is the path; which column is the label"
    else:
        wrong = "which columns are path and label"
    others = "; ".join(f"{kind} is also {', '.join(names[1:])} and the like" for kind, names in known.items())
    return DataError(
        f"{where}: {wrong}, its first line does not say: {','.join(header)}",
        hint=f"{COLUMNS} ({others})",
        source=where,
        reason="ambiguous",
    )


def _labels(written: Sequence[str]) -> list[str]:
    """Return the labels as written, but whole numbers that pandas wrote as floats (1.0) without their fraction."""
    if all(re.fullmatch(r"\d+(\.0+)?", label, re.ASCII) for label in written):
        return [label.partition(".")[0] for label in written]
    return list(written)


def _split(cells: Sequence[str], columns: Columns, names: Sequence[str], number: int, where: str) -> str | None:
    """Return the split of a line, or None without such a column. Raises `DataError` for an unclear value."""
    if columns.split is None:
        return None
    value = cells[columns.split]
    if columns.flag is None:
        return canonical_split(value)
    if value.lower() not in YES | NO:
        raise DataError(
            f"{where}, line {number}: {names[columns.split]} is true or false, not {value!r}",
            hint="for more than two splits, call the column split and write train, val or test",
            source=where,
            reason="damaged",
        )
    return columns.flag[value.lower() in NO]


@dataclass
class _Listed:
    """Hold the rows of a list, and find their images."""

    where: str
    rows: Sequence[_Row]
    note: str | None
    headed: bool

    @property
    def folder(self) -> str:
        """Return the folder of the list."""
        return os.path.dirname(self.where)

    @cached_property
    def located(self) -> Located:
        """Find the images. Raises `DataError` if a line is there twice, or a path may mean several files."""
        located = locate(self.folder, [row.path for row in self.rows], self.where)
        self._require_once(located.places)
        return located

    def _require_once(self, places: Iterable[str]) -> None:
        """Raise `DataError` for an image in two lines of any splits: none may be both trained on and tested on."""
        first: dict[str, _Row] = {}
        twice: list[tuple[bool, str]] = []
        for row, place in zip(self.rows, places, strict=True):
            other = first.setdefault(place, row)
            if other is not row:
                alike = (other.label, other.split) == (row.label, row.split)
                said = "" if alike else f" as {_called(other)} and as {_called(row)}"
                twice.append((alike, f"{place} (lines {other.number} and {row.number}{said})"))
        if twice:
            twice.sort(key=lambda item: item[0])
            raise DataError(
                f"{self.where}: more than once there: {some([text for _, text in twice])}",
                hint="a picture has one line, one label and one split; remove the others",
                source=self.where,
                reason="ambiguous",
            )


def _called(row: _Row) -> str:
    """Name the label and split of a line for a message."""
    return row.label if row.split is None else f"{row.label} in {row.split}"


def _load(listed: _Listed, request: Request) -> Dataset:
    """Load one split. Raises `DataError` for files that are listed and not there."""
    where, folder = listed.where, listed.folder
    located = listed.located
    wanted = [number for number, row in enumerate(listed.rows) if row.split == request.split]
    missing = [listed.rows[number] for number in wanted if number in located.missing]
    if missing and (not request.missing_ok or len(missing) == len(wanted)):
        if not listed.headed and len(listed.rows) > 1 and missing == [listed.rows[0]]:
            raise _unnamed(where, listed.rows[0].cells)
        files = "1 file that is" if len(missing) == 1 else f"{len(missing)} files that are"
        lines = ", ".join(str(row.number) for row in missing[:5])
        raise DataError(
            f"{where} lists {files} not there: {some([row.path for row in missing])} "
            f"({'line' if len(missing) == 1 else 'lines'} {lines}{', ...' if len(missing) > 5 else ''})",
            hint=f"paths are relative to {folder or 'the current folder'}, or to one folder below it; {COLUMNS}",
            source=where,
            reason="incomplete",
        )
    beside = DirectoryTree(folder or ".")
    names, labels, used = _classes(where, listed.rows, request, beside)
    pairs = ((listed.rows[number], located.places[number]) for number in wanted)
    samples = [Sample(row.path, labels[row.label], partial(read_file, place)) for row, place in pairs]
    classes, class_ids = describe(beside, names)
    notes = tuple(text for text in (listed.note, located.note) if text)
    return Dataset(request.name, classes, samples, used, class_ids, notes=notes)


def _classes(
    where: str, rows: Sequence[_Row], request: Request, beside: Tree
) -> tuple[tuple[str, ...], dict[str, int], str]:
    """Return the class names, the class number of every label as written, and what decided the order."""
    source, order = "given", request.class_order
    if order is None and "classes.txt" in beside.list()[1]:
        order, source = [line.strip() for line in read_lines(beside, "classes.txt")], "classes.txt"
    written = {row.label: row for row in rows}
    stated = order is not None and not isinstance(order, str)
    if request.defines_classes and not stated:
        _require_no_measures(where, written)
    if not all(label.isdecimal() for label in written):
        names, used = order_classes(list(written), order, where)
        return names, {name: label for label, name in enumerate(names)}, source if used == "given" else used
    labels = {label: int(label) for label in written}
    first: dict[int, str] = {}
    for label, number in labels.items():
        if (other := first.setdefault(number, label)) != label:
            raise DataError(
                f"{where}: {other} (line {written[other].number}) and {label} (line {written[label].number}) are the "
                "same number, and may be two classes",
                hint="write it in one way, or write names that are no numbers",
                source=where,
                reason="ambiguous",
            )
    greatest = max(labels, key=labels.__getitem__)
    if labels[greatest] >= MAX_CLASSES:
        raise DataError(
            f"{where}: {written[greatest].path} has the label {greatest}, which is no class number",
            source=where,
            reason="damaged",
        )
    if order is None or isinstance(order, str):
        require_order(order, "numbered", where)
        return tuple(map(str, range(labels[greatest] + 1))), labels, "numbered"
    require_distinct(order, f"the classes of {where}")
    if labels[greatest] >= len(order):
        raise DataError(
            f"{where}: {written[greatest].path} has the label {greatest}, but only {len(order)} classes are named",
            source=where,
            reason="mismatch",
        )
    return tuple(order), labels, source


def _require_no_measures(where: str, written: Mapping[str, _Row]) -> None:
    """Raise `DataError` if all labels are numbers, and some are not whole."""
    if all(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", label, re.ASCII | re.IGNORECASE) for label in written):
        parts = [label for label in written if not float(label).is_integer()]
        if parts:
            raise DataError(
                f"{where}: labels are numbers, not classes: {some(parts)} (line {written[parts[0]].number})",
                hint="a network is trained to tell classes apart, not to estimate numbers; if these are the classes, "
                "say so: --class-order FILE, with a name per line",
                source=where,
                reason="ambiguous",
            )
