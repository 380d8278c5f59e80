"""Looks for a list of labels beside pictures, for messages about pictures that have no label, or two."""

from __future__ import annotations

import os
from collections.abc import Iterator

from resnet_infer.data.datasets import manifest
from resnet_infer.data.datasets.places import locate
from resnet_infer.data.datasets.tree import RUN_FILES, DirectoryTree, SingleFile, Tree, is_run, join
from resnet_infer.errors import DataError

_SUFFIXES = (".csv", ".tsv", ".jsonl")
_LOOKED_AT = 100
"""Lines of a list that are looked for among the pictures."""


def labels_beside(tree: Tree) -> str | None:
    """Return the way out if a list of pictures and labels lies in `tree` or right below; None if there is none.

    A list whose pictures are there comes before one of which nothing is known.
    """
    doubtful = None
    for path in _lists(tree):
        if not isinstance(tree, DirectoryTree):
            return f"if {path} says what the pictures show, unpack the archive and give that file as DATA"
        if _labels(path) and "submission" not in os.path.basename(path).lower():
            return f"{path} says what the pictures show: give it as DATA"
        doubtful = doubtful or f"if {path} says what the pictures show, give it as DATA, with columns path and label"
    return doubtful


def other_labels(tree: Tree, part: Tree) -> str | None:
    """Return the list in `tree` that gives pictures in one class folder of `part` several labels; None without one.

    Of an archive none is looked at.
    """
    for path in _lists(tree) if isinstance(tree, DirectoryTree) else ():
        by_folder: dict[str, set[str]] = {}
        for place, label in _labels(path):
            folder, *rest = os.path.relpath(place, part.where).split(os.sep)
            if rest and folder != os.pardir:
                by_folder.setdefault(folder, set()).add(label)
        if any(len(labels) > 1 for labels in by_folder.values()):
            return path
    return None


def list_beside(tree: Tree) -> str | None:
    """Return the first list in `tree` or right below, whether its pictures are known or not."""
    return next(_lists(tree), None)


def _lists(tree: Tree) -> Iterator[str]:
    if isinstance(tree, SingleFile):
        return
    for folder in ("", *tree.list()[0]):
        files = tree.list(folder)[1]
        for name in [] if is_run(files) else files:
            if name.lower().endswith(_SUFFIXES) and name not in RUN_FILES:
                yield f"{tree.where}/{join(folder, name)}"


def _labels(path: str) -> list[tuple[str, str]]:
    """Place and label of some lines, spread over a list; none where it does not open, or pictures are not there."""
    try:
        rows = manifest.read_labels(path) or []
        rows = rows[:: max(1, len(rows) // _LOOKED_AT)]
        located = locate(os.path.dirname(path), [name for name, _ in rows], path)
    except DataError:
        return []
    return [] if located.missing else [(place, label) for place, (_, label) in zip(located.places, rows, strict=True)]
