"""Looks for a list of labels beside pictures, for messages about pictures that have no label."""

from __future__ import annotations

from resnet_infer.data.datasets import manifest
from resnet_infer.data.datasets.tree import DirectoryTree, SingleFile, Tree, is_run, join
from resnet_infer.errors import DataError

_SUFFIXES = (".csv", ".tsv", ".jsonl")


def labels_beside(tree: Tree) -> str | None:
    """Return the way out if a list of pictures and labels lies in `tree` or right below; None if there is none."""
    if isinstance(tree, SingleFile):
        return None
    for folder in ("", *tree.list()[0]):
        files = tree.list(folder)[1]
        lists = [] if is_run(files) else [name for name in files if name.lower().endswith(_SUFFIXES)]
        for name in lists:
            path = f"{tree.where}/{join(folder, name)}"
            if not isinstance(tree, DirectoryTree):
                return f"if {path} says what the pictures show, unpack the archive and give that file as DATA"
            if _lists_pictures(path):
                return f"{path} says what the pictures show: give it as DATA"
        if lists:
            return f"if {path} says what the pictures show, give it as DATA, with columns path and label"
    return None


def _lists_pictures(path: str) -> bool:
    try:
        return manifest.recognise(SingleFile(path)) is not None
    except DataError:
        return False
