"""A folder per class: DIR/cat/1.jpg, or below split folders: DIR/train/cat/1.jpg."""

from __future__ import annotations

from resnet_infer.data.datasets.classes import order_classes, some
from resnet_infer.data.datasets.dataset import Dataset, Sample
from resnet_infer.data.datasets.formats import SPLITS, Recognised, Request, canonical_split, is_split
from resnet_infer.data.datasets.tree import Tree, pictures
from resnet_infer.data.datasets.wordnet import describe
from resnet_infer.data.suffixes import is_picture
from resnet_infer.errors import DataError


def recognise(tree: Tree) -> Recognised | None:
    """Class folders with pictures at any depth; pictures outside of them have no label and are passed over.

    A folder named after a split is one if it holds folders and no pictures.
    """
    splits = split_folders(tree)
    if not splits:
        whole = tree.list()[0]
        return Recognised((), lambda request: load(tree, tree, request)) if whole else None
    beside = [folder for folder in tree.list()[0] if not is_split(folder) and next(pictures(tree, folder), None)]
    if beside and len(splits) == 1:
        (alone,) = splits.values()
        raise DataError(
            f"{tree.where}: {alone} may be a split or a class, because there are pictures in {some(beside)} too",
            hint=f"if it is a split, open {tree.where}/{alone}; if it is a class, put its pictures right into it",
        )
    return Recognised(tuple(splits), lambda request: _load_split(tree, splits, request))


def split_folders(tree: Tree) -> dict[str, str]:
    """Split name (train, val, test) to folder name."""
    found: dict[str, str] = {}
    for folder in tree.list()[0]:
        if not is_split(folder):
            continue
        split = canonical_split(folder)
        folders, files = tree.list(folder)
        if not folders or any(map(is_picture, files)):
            continue
        if split in found:
            raise DataError(f"{tree.where} has two folders for the split {split}: {found[split]} and {folder}")
        found[split] = folder
    return {split: found[split] for split in SPLITS if split in found}


def _load_split(tree: Tree, splits: dict[str, str], request: Request) -> Dataset:
    assert request.split is not None
    part = tree.below(splits[request.split])
    # A class that is missing from a small test split must not shift the numbers of those after it.
    names = tree.list(splits["train"])[0] if "train" in splits else part.list()[0]
    return load(tree, part, request, names)


def load(tree: Tree, part: Tree, request: Request, names: list[str] | None = None) -> Dataset:
    """The data set whose class folders lie in `part`; `tree` is where a list of readable names may lie.

    `names` are the classes there are, if `part` itself does not say.
    """
    folders, files = part.list()
    names = folders if names is None else names
    if unknown := sorted(set(folders) - set(names)):
        raise DataError(f"{part.where} has classes that {tree.where} does not know: {some(unknown)}")
    order, used = order_classes(names, request.class_order, part.where)
    samples, empty = [], []
    for label, folder in enumerate(order):
        paths = sorted(pictures(part, folder))
        samples += [Sample(path, label, part.reader(path)) for path in paths]
        if not paths and folder in folders:
            empty.append(folder)
    if not samples:
        raise DataError(f"{part.where} has no pictures in class folders", hint="expected is DIR/cat/1.jpg")
    if empty:
        raise DataError(
            f"{part.where} has class folders without pictures: {some(empty)}",
            hint="remove them, or put pictures in; an empty class would shift the numbers of the others unseen",
        )
    classes, class_ids = describe(tree, order)
    return Dataset(request.name, classes, samples, used, class_ids, tuple(filter(is_picture, files)))
