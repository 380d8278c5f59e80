"""Data sets of labelled pictures, recognised by what is in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from resnet_infer.data.datasets import cifar, folders, imagenet, manifest, tiny_imagenet
from resnet_infer.data.datasets.archive import open_tree
from resnet_infer.data.datasets.beside import labels_beside
from resnet_infer.data.datasets.classes import ClassOrder, some
from resnet_infer.data.datasets.dataset import Content, Dataset, Sample, Skipped
from resnet_infer.data.datasets.formats import Recognised, Request, choose_split, is_split
from resnet_infer.data.datasets.required import require_classes
from resnet_infer.data.datasets.tree import Tree
from resnet_infer.data.formats.suffixes import is_picture
from resnet_infer.errors import DataError
from resnet_infer.utils.console import note, printable

FORMATS = (
    ("a list of pictures and labels (CSV, TSV, JSON Lines)", manifest.recognise),
    ("CIFAR-10 or CIFAR-100", cifar.recognise),
    ("Tiny ImageNet", tiny_imagenet.recognise),
    ("the ImageNet validation set", imagenet.recognise),
    ("class folders (DIR/cat/1.jpg)", folders.recognise),
)
"""The first that recognises the source opens it. Class folders come last, because most data sets have folders."""


def open_dataset(
    source: Path, split: str | None = None, *, class_order: ClassOrder | None = None, missing_ok: bool = False
) -> Dataset:
    """Open a directory, tar or zip archive, or list of pictures and labels, in one of `FORMATS`.

    `split` is train, val or test (or another one, in a list); it may be left out where there is one at most.
    `class_order` numbers the classes where the format does not: see `classes.order_classes`. Of a directory only
    names are read; an archive is read into memory. Lone folders around everything are entered. `missing_ok`: a file
    that is listed and not there is a picture that cannot be read, and no `DataError`. What is passed over is said on
    stderr (`Dataset.remarks`).

    Raises `DataError` if there is nothing to read, it is damaged or incomplete, the split is not there, or the order of
    the classes must be stated; `UsageError` if an order is asked for that the format cannot have.
    """
    _, found = recognise(source)
    chosen = choose_split(split, found.splits, str(source))
    dataset = found.load(Request(_name(source, chosen), chosen, class_order, missing_ok))
    say(dataset.remarks())
    return dataset


def open_all(source: Path, class_order: ClassOrder | None = None) -> dict[str | None, Dataset]:
    """Open every split of `source` to train on; one under None if it is not divided.

    Numbers in a list are classes only where they occur. Raises as `open_dataset` does, and `DataError` where the
    classes are in doubt: there is one only, some are spelled almost alike or have no pictures, their folders seem to be
    on another level, or a split is none of train, val and test.
    """
    tree, found = recognise(source)
    opened = {
        split: found.load(Request(_name(source, split), split, class_order, defines_classes=True))
        for split in found.splits or (None,)
    }
    opened = require_classes(opened, tree, class_order)
    for dataset in opened.values():
        beside = dataset.unlabelled
        say([f"{dataset.name}: not used, as no label says what they show: {some(beside)}"] if beside else [])
        say(dataset.remarks())
    return opened


def say(remarks: Sequence[str]) -> None:
    """Write remarks on stderr, each once; of several processes that train together, the first does."""
    if os.environ.get("RANK", "0") == "0":
        for line in remarks:
            _say_once(line)


@cache
def _say_once(line: str) -> None:
    note(line)


def recognise(source: Path) -> tuple[Tree, Recognised]:
    """What lies at `source`, and the first of `FORMATS` that knows it. Raises `DataError`."""
    tree = _unwrap(open_tree(source))
    for _, known in FORMATS:
        if found := known(tree):
            return tree, found
    raise DataError(
        f"{source} is no data set of a known format",
        hint=labels_beside(tree) or f"known are {', '.join(name for name, _ in FORMATS[:-1])} and {FORMATS[-1][0]}",
    )


def _name(source: Path, split: str | None) -> str:
    name = printable(Path(os.path.abspath(source)).name)
    return f"{name}/{split}" if split else name


def _unwrap(tree: Tree) -> Tree:
    """Enter lone folders that are neither a class nor a split: archives are often packed with one around everything."""
    while True:
        outer, files = tree.list()
        if len(outer) != 1 or files or is_split(outer[0]):
            return tree
        inner, inner_files = tree.list(outer[0])
        flat = any(is_picture(name) and not imagenet.is_validation_picture(name) for name in inner_files)
        lone = len(inner) == 1 and not is_split(inner[0]) and not folders.branches(tree, outer[0])
        if flat or lone or not (inner or inner_files):
            return tree
        tree = tree.below(outer[0])


__all__ = [
    "FORMATS",
    "ClassOrder",
    "Content",
    "Dataset",
    "Sample",
    "Skipped",
    "open_all",
    "open_dataset",
]
