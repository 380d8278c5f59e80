"""Read the ImageNet (ILSVRC 2012) validation set as published: flat images, with their labels in a text file.

Images are `ILSVRC2012_val_<number>.JPEG`, in the source itself or in its `val` folder. Class folders, for training or
validation, are left to `folders`. The labels are in `val_labels.txt`, `ILSVRC2012_validation_ground_truth.txt` or
`val.txt`, in one of `wordnet.PLACES`. The file has a line for each image, and all lines have one of these forms:

- `ILSVRC2012_val_00000001.JPEG n01751748`: file and WordNet id.
- `ILSVRC2012_val_00000001.JPEG 65`: file and position, from 0, among the sorted WordNet ids (Caffe's val.txt). The ids
  are those of a class list (`wordnet.LISTS` without words.txt), else those of the train folder.
- `n01751748`: WordNet id of the image whose number is that of the line.
- `490`: ILSVRC id, from 1, of that image (the form of the devkit). It needs map_clsloc.txt (`wnid number name` lines),
  or synsets.txt with the WordNet ids in the order of their ILSVRC ids, which is not their sorted order. The devkit has
  that order only in meta.mat, which is not read.

Classes are in the order of their sorted WordNet ids, as in published ImageNet models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from resnet_infer.data.datasets import folders
from resnet_infer.data.datasets.classes import require_order, some
from resnet_infer.data.datasets.dataset import Dataset, Sample
from resnet_infer.data.datasets.formats import Recognised, Request, folder_split
from resnet_infer.data.datasets.tree import Tree, join, read_lines
from resnet_infer.data.datasets.wordnet import LISTS, Synset, describe, find, is_wnid, read_synsets
from resnet_infer.errors import DataError

TRUTH = ("val_labels.txt", "ILSVRC2012_validation_ground_truth.txt", "val.txt")
"""Names of the files with the labels of the validation images."""
_PICTURE = re.compile(r"ILSVRC2012_val_(\d+)\.JPE?G", re.IGNORECASE | re.ASCII)


def recognise(tree: Tree) -> Recognised | None:
    """Recognise the validation images.

    Splits are val, and train if there is one; none if the source is the flat folder.
    """
    for folder in ("", *(name for name in tree.list()[0] if folder_split(name) == "val")):
        if any(map(is_validation_picture, tree.list(folder)[1])):
            train = folders.split_folders(tree).get("train")
            splits = (("train", "val") if train else ("val",)) if folder else ()
            return Recognised(splits, partial(_load, tree, folder, train))
    return None


def is_validation_picture(name: str) -> bool:
    """Tell whether a file has the name of a validation image."""
    return _PICTURE.fullmatch(name) is not None


def _load(tree: Tree, folder: str, train: str | None, request: Request) -> Dataset:
    """Load one split. Raises `DataError` if the labels are missing or do not fit the images."""
    if request.split == "train" and train:
        return folders.load(tree, tree.below(train), request)
    require_order(request.class_order, "string", tree.where)
    numbers = {int(match[1]): match[0] for match in map(_PICTURE.fullmatch, tree.list(folder)[1]) if match}
    trained = tree.list(train)[0] if train else []
    truth = _truth(tree, numbers, trained)
    listed = [synset.wnid for synset in _class_list(tree)]
    wnids = sorted(set(trained or listed or truth.values()))
    if unknown := sorted(set(truth.values()) - set(wnids)):
        raise DataError(
            f"{tree.where}: labels of classes that are not in {train or 'the class list'}: {some(unknown)}",
            source=tree.where,
            reason="mismatch",
        )
    classes, class_ids = describe(tree, wnids)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    found = sorted((labels[wnid], numbers[number]) for number, wnid in truth.items())
    samples = [Sample(name, label, tree.reader(join(folder, name))) for label, name in found]
    return Dataset(request.name, classes, samples, "string", class_ids)


def _truth(tree: Tree, numbers: dict[int, str], trained: list[str]) -> dict[int, str]:
    """Map the number of each image to its WordNet id, for exactly the images that exist. Raises `DataError`."""
    path = find(tree, TRUTH)
    if path is None:
        raise DataError(
            f"{tree.where} has validation pictures, but no labels",
            hint=f"add one of {', '.join(TRUTH)}",
            source=tree.where,
            reason="incomplete",
        )
    where = f"{tree.where}/{path}"
    values, named = _parse(read_lines(tree, path), where)
    if missing := sorted(set(values) - set(numbers)):
        raise DataError(
            f"{where} labels pictures that are not there, by number: {some([str(number) for number in missing])}",
            hint="complete the pictures, or list a part of them in a CSV manifest",
            source=where,
            reason="incomplete",
        )
    if unlabelled := sorted(set(numbers) - set(values)):
        raise DataError(
            f"{where} has no label for {some([numbers[number] for number in unlabelled])}",
            source=where,
            reason="incomplete",
        )
    if all(map(is_wnid, values.values())):
        return values
    if not all(value.isdecimal() for value in values.values()):
        raise DataError(
            f"{where}: labels are WordNet ids or numbers, and all of one kind", source=where, reason="damaged"
        )
    ids = _positions(tree, trained, where) if named else _ilsvrc_ids(tree, where)
    if unknown := sorted({int(value) for value in values.values()} - set(ids)):
        raise DataError(
            f"{where}: {some([str(number) for number in unknown])} is no class; they run from {min(ids)} to {max(ids)}",
            hint="after a file name it counts from 0 in sorted order; alone in its line it is an ILSVRC id, from 1",
            source=where,
            reason="mismatch",
        )
    return {number: ids[int(value)] for number, value in values.items()}


def _parse(lines: Sequence[str], where: str) -> tuple[dict[int, str], bool]:
    """Parse the labels by image number, and tell whether the lines name their images. Raises `DataError`."""
    rows = [line.split() for line in lines]
    named = bool(rows) and len(rows[0]) == 2
    values: dict[int, str] = {}
    for line, row in enumerate(rows, 1):
        match = _PICTURE.fullmatch(row[0].rpartition("/")[2]) if named and row else None
        if len(row) != 1 + named or (named and not match):
            raise DataError(
                f"{where}, line {line}: expected {'a picture and its label' if named else 'one label'}, found {row}",
                source=where,
                reason="damaged",
            )
        number = int(match[1]) if match else line
        if number in values:
            raise DataError(f"{where}, line {line}: {row[0]} is there twice", source=where, reason="damaged")
        values[number] = row[-1]
    return values, named


def _class_list(tree: Tree) -> list[Synset]:
    """Read the list of classes, if there is one."""
    path = find(tree, [name for name in LISTS if name != "words.txt"])
    return read_synsets(tree, path) if path else []


def _positions(tree: Tree, trained: list[str], where: str) -> dict[int, str]:
    """Map positions in sorted order, from 0, to WordNet ids. Raises `DataError` without a list of classes."""
    wnids = sorted({synset.wnid for synset in _class_list(tree)} or trained)
    if not wnids:
        raise DataError(
            f"{where} labels by number, but there is no list of classes",
            hint="add map_clsloc.txt or synsets.txt",
            source=where,
            reason="incomplete",
        )
    return dict(enumerate(wnids))


def _ilsvrc_ids(tree: Tree, where: str) -> dict[int, str]:
    """Map ILSVRC ids, from 1, to WordNet ids. Raises `DataError` if no list tells them."""
    hint = "add map_clsloc.txt with lines like `n02119789 1 kit_fox`, or labels that are WordNet ids"
    path = find(tree, ("map_clsloc.txt", "synsets.txt"))
    if path is None:
        raise DataError(
            f"{where} labels by ILSVRC id, but nothing says which class has which id",
            hint=hint,
            source=where,
            reason="incomplete",
        )
    synsets = read_synsets(tree, path)
    ids = {synset.ilsvrc_id: synset.wnid for synset in synsets if synset.ilsvrc_id is not None}
    if not ids:
        wnids = [synset.wnid for synset in synsets]
        if wnids == sorted(wnids):
            raise DataError(
                f"{tree.where}/{path} is in sorted order, which is not that of the ILSVRC ids in {where}",
                hint=hint,
                source=f"{tree.where}/{path}",
                reason="mismatch",
            )
        return dict(enumerate(wnids, 1))
    if len(ids) != len(synsets):
        raise DataError(
            f"{tree.where}/{path}: ILSVRC ids are missing or occur twice",
            source=f"{tree.where}/{path}",
            reason="damaged",
        )
    return ids
