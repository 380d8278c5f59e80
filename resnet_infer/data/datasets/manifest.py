"""A CSV file that lists pictures and labels.

Columns `path`, `label` and optionally `split`, named in the first line in any order; without such a line they are in
this order. Paths are relative to the CSV. Labels are class names, or numbers if all are. Numbered classes are called by
their numbers, 0 to the greatest, unless a `classes.txt` beside the CSV names them, one per line; for class names that
file gives the order.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
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
from resnet_infer.errors import DataError

MAX_CLASSES = 1_000_000
"""A greater label is a column mistaken for one."""


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
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    rows = []
    try:
        for cells in reader:
            names = [cell.strip().lower() for cell in cells]
            if columns is None:
                headed = {"path", "label"} <= set(names)
                columns = names if headed else ["path", "label", "split"][: max(len(cells), 2)]
                if headed:
                    continue
            if not any(names):
                continue
            row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
            filled = all(row.get(name) for name in columns if name in ("path", "label", "split"))
            if len(cells) != len(columns) or not filled:
                raise DataError(
                    f"{where}, line {reader.line_num}: expected {','.join(columns)}, found {','.join(cells)!r}",
                    hint="the columns are path,label or path,label,split",
                )
            rows.append(_Row(row["path"], row["label"], canonical_split(row["split"]) if "split" in row else None))
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}") from error
    if not rows:
        raise DataError(f"{where} lists no pictures")
    return rows


def _load(where: str, rows: Sequence[_Row], request: Request) -> Dataset:
    folder = os.path.dirname(where)
    places = [os.path.normpath(os.path.join(folder, row.path)) for row in rows]
    # Over all splits, so that no picture is both trained on and tested on.
    require_distinct(places, where)
    wanted = [(row, place) for row, place in zip(rows, places, strict=True) if row.split == request.split]
    if missing := [row.path for row, place in wanted if not os.path.isfile(place)]:
        raise DataError(
            f"{where} lists {len(missing)} files that are not there: {some(missing)}",
            hint=f"paths are relative to {folder or 'the current folder'}",
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
