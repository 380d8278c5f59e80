"""Find a list of labels beside images, for the messages about images that have no label or two labels."""

from __future__ import annotations

import os
from collections.abc import Iterator

from resnet_infer.data.datasets import manifest
from resnet_infer.data.datasets.places import locate
from resnet_infer.data.datasets.tree import RUN_FILES, DirectoryTree, SingleFile, Tree, is_run, join
from resnet_infer.errors import DataError

_SUFFIXES = (".csv", ".tsv", ".jsonl")
_LOOKED_AT = 100
"""Lines of a list that are checked against the images."""


def labels_beside(tree: Tree) -> str | None:
    """Return a hint if a list of images and labels lies in `tree` or in a folder right below it, else None.

    A list whose images exist takes precedence over one of unknown content.
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
    """Return the list in `tree` that gives several labels to images in one class folder of `part`, or None.

    Lists in archives are not read.
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
    """Return the path of the first list in `tree` or in a folder right below it, whether its images exist or not."""
    return next(_lists(tree), None)


def _lists(tree: Tree) -> Iterator[str]:
    """Yield the paths of the lists in `tree` and in the folders right below it."""
    if isinstance(tree, SingleFile):
        return
    for folder in ("", *tree.list()[0]):
        files = tree.list(folder)[1]
        for name in [] if is_run(files) else files:
            if name.lower().endswith(_SUFFIXES) and name not in RUN_FILES:
                yield f"{tree.where}/{join(folder, name)}"


def _labels(path: str) -> list[tuple[str, str]]:
    """Return path and label of some lines, spread over the list.

    The result is empty if the list cannot be opened, or some of these images do not exist.
    """
    try:
        rows = manifest.read_labels(path) or []
        rows = rows[:: max(1, len(rows) // _LOOKED_AT)]
        located = locate(os.path.dirname(path), [name for name, _ in rows], path)
    except DataError:
        return []
    return [] if located.missing else [(place, label) for place, (_, label) in zip(located.places, rows, strict=True)]
