"""Read Tiny ImageNet as published.

Its files are train/<wnid>/images/*.JPEG, val/images with val_annotations.txt, wnids.txt and words.txt.
"""

from __future__ import annotations

from resnet_infer.data.datasets import folders
from resnet_infer.data.datasets.classes import require_distinct, require_order, some
from resnet_infer.data.datasets.dataset import Dataset, Sample
from resnet_infer.data.datasets.formats import Recognised, Request
from resnet_infer.data.datasets.tree import Tree, join, read_lines
from resnet_infer.data.datasets.wordnet import describe
from resnet_infer.data.formats.suffixes import is_picture
from resnet_infer.errors import DataError

ANNOTATIONS = "val/val_annotations.txt"
"""Path of the labels of the split val."""
IDS = "wnids.txt"
"""Name of the file with the WordNet ids of the classes."""
FILES = (IDS, "val_annotations.txt")
"""Names of the files beside the images."""


def recognise(tree: Tree) -> Recognised | None:
    """Recognise the labelled splits train and val. The split test is published without labels.

    Classes are in the order of their sorted WordNet ids.
    """
    there, files = tree.list()
    if IDS not in files or "val_annotations.txt" not in tree.list("val")[1]:
        return None
    return Recognised(("train", "val") if "train" in there else ("val",), lambda request: _load(tree, request))


def _load(tree: Tree, request: Request) -> Dataset:
    """Load one split. Raises `DataError` for missing or damaged files."""
    require_order(request.class_order, "string", tree.where)
    wnids = sorted(line.strip() for line in read_lines(tree, IDS))
    require_distinct(wnids, f"{tree.where}/{IDS}")
    if request.split == "train":
        if missing := sorted(set(wnids) - set(tree.list("train")[0])):
            raise DataError(
                f"{tree.where}/train lacks {some(missing)}, which wnids.txt has",
                source=f"{tree.where}/train",
                reason="incomplete",
            )
        return folders.load(tree, tree.below("train"), request, wnids)
    classes, class_ids = describe(tree, wnids)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    return Dataset(request.name, classes, _validation(tree, labels), "string", class_ids)


def _validation(tree: Tree, labels: dict[str, int]) -> list[Sample]:
    """Read the samples of val. A line holds file, WordNet id and a box (not used), separated by tabs."""
    where = f"{tree.where}/{ANNOTATIONS}"
    rows = [line.split("\t") for line in read_lines(tree, ANNOTATIONS)]
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or row[1] not in labels:
            raise DataError(
                f"{where}, line {number}: expected a file, a tab and an id from wnids.txt, found {row}",
                source=where,
                reason="damaged",
            )
    names = [row[0] for row in rows]
    require_distinct(names, where)
    there = {name for name in tree.list("val/images")[1] if is_picture(name)}
    for what, missing in (("missing", set(names) - there), ("without a label", there - set(names))):
        if missing:
            raise DataError(
                f"{tree.where}/val/images: {what}: {some(sorted(missing))}",
                source=f"{tree.where}/val/images",
                reason="incomplete",
            )
    found = sorted((labels[row[1]], row[0]) for row in rows)
    return [Sample(name, label, tree.reader(join("val/images", name))) for label, name in found]
