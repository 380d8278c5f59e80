"""Recognise and open data sets of labelled images by their content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from resnet_infer.data.datasets import folders, imagenet
from resnet_infer.data.datasets.archive import open_tree
from resnet_infer.data.datasets.beside import labels_beside
from resnet_infer.data.datasets.classes import ClassOrder, some
from resnet_infer.data.datasets.dataset import Content, Dataset, Sample, Skipped
from resnet_infer.data.datasets.formats import FORMATS, Recognised, Request, choose_split, is_split, known_formats
from resnet_infer.data.datasets.formats import recognise as recognise_tree
from resnet_infer.data.datasets.required import require_classes
from resnet_infer.data.datasets.tree import Tree
from resnet_infer.data.formats.suffixes import is_picture
from resnet_infer.errors import DataError, about
from resnet_infer.utils.console import printable, warn


def open_dataset(
    source: Path, split: str | None = None, *, class_order: ClassOrder | None = None, missing_ok: bool = False
) -> Dataset:
    """Open a directory, tar or zip archive, or list of images and labels, in one of `FORMATS`.

    `split` is train, val or test (in a list also any other name). It may be omitted if the source has at most one
    split. `class_order` numbers the classes if the format does not; see `classes.order_classes`. With `missing_ok` a
    file that is listed and not there counts as an unreadable image, and raises no `DataError` here.

    Only the names in a directory are read; an archive is read into memory. A lone folder around everything is entered.
    Files that are skipped are reported on stderr (`Dataset.remarks`).

    Raises `DataError` if there is nothing to read, the source is damaged or incomplete, the split does not exist, or
    the order of the classes must be stated. Raises `UsageError` for a class order that the format cannot have.

    >>> dataset = open_dataset(Path("cifar-10-batches-bin"), "test")
    >>> len(dataset.samples), dataset.classes[0]
    (10000, 'airplane')
    """
    with about(source):
        _, found = recognise(source)
        chosen = choose_split(split, found.splits, str(source))
        dataset = found.load(Request(_name(source, chosen), chosen, class_order, missing_ok))
    say(dataset.remarks())
    return dataset


def open_all(source: Path, class_order: ClassOrder | None = None) -> dict[str | None, Dataset]:
    """Open every split of `source` for training, by name; a source without splits is returned under None.

    Classes that a list only numbers are the numbers that occur. Raises the errors of `open_dataset`. Also raises
    `DataError` if the classes are in doubt (a single class, names spelled almost alike, classes without images, folders
    on another level) or a split is not train, val or test.
    """
    with about(source):
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
    """Write remarks on stderr, each once per process. In distributed training only the process of rank 0 writes."""
    if os.environ.get("RANK", "0") == "0":
        for line in remarks:
            _say_once(line)


@cache
def _say_once(line: str) -> None:
    """Write a remark that has not been written before."""
    warn(line)


def recognise(source: Path) -> tuple[Tree, Recognised]:
    """Open what lies at `source`, and return it with the first of `FORMATS` that recognises it. Raises `DataError`."""
    tree = _unwrap(open_tree(source))
    if found := recognise_tree(tree):
        return tree, found
    raise DataError(
        f"{source} is no data set of a known format",
        hint=labels_beside(tree) or f"known are {known_formats()}",
        source=source,
        reason="unsupported",
    )


def _name(source: Path, split: str | None) -> str:
    """Return the name of the data set for messages: the name of its folder or file, and its split."""
    name = printable(Path(os.path.abspath(source)).name)
    return f"{name}/{split}" if split else name


def _unwrap(tree: Tree) -> Tree:
    """Enter a lone folder that is neither a class nor a split, because archives often have one around everything."""
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
