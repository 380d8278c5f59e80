"""A CSV file that lists pictures and labels.

Columns `path`, `label` and optionally `split`, named in the first line in any order and among others; without such a
line they are in this order, and there are no others. `SYNONYMS` are understood too. Paths are relative to the CSV.
Labels are class names, or numbers if all are. Numbered classes are called by their numbers, 0 to the greatest, unless
a `classes.txt` beside the CSV names them, one per line; for class names that file gives the order.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from resnet_infer.data.datasets.classes import ClassOrder, order_classes, require_distinct, require_order, some
from resnet_infer.data.datasets.dataset import Dataset, Sample
from resnet_infer.data.datasets.formats import Recognised, Request, canonical_split
from resnet_infer.data.datasets.tree import (
    DirectoryTree,
    SingleFile,
    Tree,
    decode_text,
    read_bytes,
    read_file,
    read_lines,
)
from resnet_infer.data.datasets.wordnet import describe
from resnet_infer.data.suffixes import is_picture
from resnet_infer.errors import DataError

MAX_CLASSES = 1_000_000
"""A greater label is a column mistaken for one."""
SYNONYMS = {"path": ("filename", "file", "image"), "label": ("class", "category", "target")}
"""What else the first line may call a column; its own name goes before."""
COLUMNS = "the columns are path,label or path,label,split; a first line that names them may have others and any order"


@dataclass(frozen=True)
class _Row:
    path: str
    label: str
    split: str | None


def recognise(tree: Tree) -> Recognised | None:
    """Any lone text file. Splits are the values of the column `split`, in the order of their appearance."""
    if not isinstance(tree, SingleFile):
        return None
    data = read_bytes(tree, "")
    if b"\0" in data:
        return None
    rows = _parse(decode_text(data, tree.where), tree.where)
    splits = tuple(dict.fromkeys(row.split for row in rows if row.split is not None))
    return Recognised(splits, partial(_load, tree.where, rows))


def _parse(text: str, where: str) -> list[_Row]:
    lines = list(_lines(text, where))
    if lines and (columns := _columns([cell.lower() for cell in lines[0][1]])):
        shown = lines.pop(0)[1]
    else:
        _require_no_header(lines, where)
        shown = columns = ["path", "label", "split"][: max(len(lines[0][1]), 2)] if lines else []
    rows = []
    for number, cells in lines:
        row = dict(zip(columns, cells, strict=False))
        filled = all(row.get(name) for name in columns if name in ("path", "label", "split"))
        if len(cells) != len(columns) or not filled:
            raise DataError(
                f"{where}, line {number}: expected {','.join(shown)}, found {','.join(cells)!r}", hint=COLUMNS
            )
        rows.append(_Row(row["path"], row["label"], canonical_split(row["split"]) if "split" in row else None))
    if not rows:
        raise DataError(f"{where} lists no pictures", hint=COLUMNS)
    return rows


def _lines(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty: the number of each and its cells."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}") from error


def _columns(names: list[str]) -> list[str] | None:
    """The columns that the first line names, `SYNONYMS` as what they mean; None if it names no paths and labels."""
    for own, others in SYNONYMS.items():
        meant = [name for name in names if name in others]
        if own not in names and len(meant) == 1:
            names = [own if name == meant[0] else name for name in names]
    return names if {"path", "label"} <= set(names) else None


def _require_no_header(lines: Sequence[tuple[int, Sequence[str]]], where: str) -> None:
    """Raise `DataError` if the first line is none of the list: it names no picture, and the next one does."""
    if len(lines) < 2:
        return
    (_, first), (_, second) = lines[:2]
    there = any(is_picture(cell) or os.path.isfile(os.path.join(os.path.dirname(where), cell)) for cell in first)
    if not there and any(map(is_picture, second)):
        meant = "; ".join(f"{own} is also {', '.join(others)}" for own, others in SYNONYMS.items())
        raise DataError(
            f"{where}: which columns are path and label, its first line does not say: {','.join(first)}",
            hint=f"{COLUMNS} ({meant})",
        )


def _load(where: str, rows: Sequence[_Row], request: Request) -> Dataset:
    folder = os.path.dirname(where)
    places = [os.path.normpath(os.path.join(folder, row.path)) for row in rows]
    # Over all splits, so that no picture is both trained on and tested on.
    require_distinct(places, where)
    wanted = [(row, place) for row, place in zip(rows, places, strict=True) if row.split == request.split]
    missing = [row.path for row, place in wanted if not os.path.isfile(place)]
    if missing and (not request.missing_ok or len(missing) == len(wanted)):
        files = "1 file that is" if len(missing) == 1 else f"{len(missing)} files that are"
        raise DataError(
            f"{where} lists {files} not there: {some(missing)}",
            hint=f"paths are relative to {folder or 'the current folder'}; {COLUMNS}",
        )
    beside = DirectoryTree(folder or ".")
    names, labels, used = _classes(where, rows, request.class_order, beside)
    samples = [Sample(row.path, labels[row.label], partial(read_file, place)) for row, place in wanted]
    classes, class_ids = describe(beside, names)
    return Dataset(request.name, classes, samples, used, class_ids)


def _classes(
    where: str, rows: Sequence[_Row], order: ClassOrder | None, beside: Tree
) -> tuple[tuple[str, ...], dict[str, int], str]:
    """Class names, the class number of every label as it is written, and what ordered them."""
    source = "given"
    if order is None and "classes.txt" in beside.list()[1]:
        order, source = [line.strip() for line in read_lines(beside, "classes.txt")], "classes.txt"
    written = {row.label: row for row in rows}
    if not all(label.isdecimal() for label in written):
        names, used = order_classes(list(written), order, where)
        return names, {name: label for label, name in enumerate(names)}, source if used == "given" else used
    labels = {label: int(label) for label in written}
    greatest = max(labels, key=labels.__getitem__)
    if labels[greatest] >= MAX_CLASSES:
        raise DataError(f"{where}: {written[greatest].path} has the label {greatest}, which is no class number")
    if order is None or isinstance(order, str):
        require_order(order, "numbered", where)
        return tuple(map(str, range(labels[greatest] + 1))), labels, "numbered"
    require_distinct(order, f"the classes of {where}")
    if labels[greatest] >= len(order):
        raise DataError(
            f"{where}: {written[greatest].path} has the label {greatest}, but only {len(order)} classes are named"
        )
    return tuple(order), labels, source
