"""Data sets of labelled pictures, recognised by what is in them."""

from __future__ import annotations

import os
from pathlib import Path

from resnet_infer.data.datasets import cifar, folders, imagenet, manifest, tiny_imagenet
from resnet_infer.data.datasets.archive import open_tree
from resnet_infer.data.datasets.classes import ClassOrder
from resnet_infer.data.datasets.dataset import Content, Dataset, Sample, split_dataset
from resnet_infer.data.datasets.formats import Recognised, Request, choose_split, is_split
from resnet_infer.data.datasets.tree import Tree
from resnet_infer.data.suffixes import is_picture
from resnet_infer.errors import DataError

FORMATS = (
    ("a CSV manifest (path,label)", manifest.recognise),
    ("CIFAR-10 or CIFAR-100", cifar.recognise),
    ("Tiny ImageNet", tiny_imagenet.recognise),
    ("the ImageNet validation set", imagenet.recognise),
    ("class folders (DIR/cat/1.jpg)", folders.recognise),
)
"""The first that recognises the source opens it. Class folders come last, because most data sets have folders."""


def open_dataset(
    source: Path, split: str | None = None, *, class_order: ClassOrder | None = None, missing_ok: bool = False
) -> Dataset:
    """Open a directory, tar or zip archive, or CSV manifest, in one of `FORMATS`.

    `split` is train, val or test (or another one, in a manifest); it may be left out where there is one at most.
    `class_order` numbers the classes where the format does not: see `classes.order_classes`. Of a directory only
    names are read; an archive is read into memory. A lone folder around everything is entered. `missing_ok`: a file
    that a manifest lists and that is not there is a picture that cannot be read, and no `DataError`.

    Raises `DataError` if there is nothing to read, it is damaged or incomplete, the split is not there, or the order of
    the classes must be stated; `UsageError` if an order is asked for that the format cannot have.
    """
    found = _recognise(source)
    return _load(found, source, choose_split(split, found.splits, str(source)), class_order, missing_ok)


def open_all(source: Path, class_order: ClassOrder | None = None) -> dict[str | None, Dataset]:
    """Every split of `source`, read once; one under None if it is not divided. Raises as `open_dataset` does."""
    found = _recognise(source)
    return {split: _load(found, source, split, class_order) for split in found.splits or (None,)}


def _load(
    found: Recognised, source: Path, split: str | None, class_order: ClassOrder | None, missing_ok: bool = False
) -> Dataset:
    name = Path(os.path.abspath(source)).name
    return found.load(Request(f"{name}/{split}" if split else name, split, class_order, missing_ok))


def _recognise(source: Path) -> Recognised:
    tree = _unwrap(open_tree(source))
    for _, recognise in FORMATS:
        if found := recognise(tree):
            return found
    raise DataError(
        f"{source} is no data set of a known format",
        hint=f"known are {', '.join(name for name, _ in FORMATS[:-1])} and {FORMATS[-1][0]}",
    )


def _unwrap(tree: Tree) -> Tree:
    """Enter lone folders that are neither a class nor a split: archives are often packed with one around everything."""
    while True:
        outer, files = tree.list()
        if len(outer) != 1 or files or is_split(outer[0]):
            return tree
        inner, inner_files = tree.list(outer[0])
        flat = any(is_picture(name) and not imagenet.is_validation_picture(name) for name in inner_files)
        if flat or (len(inner) == 1 and not is_split(inner[0])) or not (inner or inner_files):
            return tree
        tree = tree.below(outer[0])


__all__ = ["FORMATS", "ClassOrder", "Content", "Dataset", "Sample", "open_all", "open_dataset", "split_dataset"]
