"""Check a data set for training: its classes become those of the model, and nothing can correct them later."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from resnet_infer.data.datasets.beside import labels_beside
from resnet_infer.data.datasets.classes import ClassOrder, some
from resnet_infer.data.datasets.dataset import Dataset
from resnet_infer.data.datasets.folders import EXPECTED
from resnet_infer.data.datasets.formats import SPLITS
from resnet_infer.data.datasets.tree import Tree
from resnet_infer.errors import DataError
from resnet_infer.models.spec_fields import is_utf8

ALONE = 10
"""Most classes with one image each that are accepted. More are names or measures of images, not classes."""


def require_classes(
    opened: Mapping[str | None, Dataset], tree: Tree, order: ClassOrder | None
) -> dict[str | None, Dataset]:
    """Return the splits with the classes to train on. Raises `DataError`, naming what is in doubt.

    Classes that a list numbers and that have no images in any split are left out; the others keep their order. A class
    that `order` names and that has no images is noted.
    """
    if unknown := [name for name in opened if name is not None and name not in SPLITS]:
        shown = [f"{name} ({len(opened[name].samples):,} pictures)" for name in unknown]
        raise DataError(
            f"{tree.where}: splits that are none of {', '.join(SPLITS)}: {some(shown)}",
            hint="call them train, val or test, or remove the lines that are not to be used",
            source=tree.where,
            reason="unsupported",
        )
    splits = _without_gaps(opened)
    train = splits.get("train", splits.get(None))
    if train is None:
        return splits
    if len(train.classes) < 2:
        raise DataError(
            f"{tree.where} has one class, {train.classes[0]}, so that there is nothing to tell apart",
            hint=labels_beside(tree) or EXPECTED,
            source=tree.where,
            reason="empty",
        )
    if odd := [name for name in (*train.classes, *(train.class_ids or ())) if not is_utf8(name)]:
        raise DataError(
            f"{tree.where}: classes whose names are not UTF-8: {some([ascii(name) for name in odd])}",
            hint="rename them: the model keeps the names of its classes, and other programs could not read these",
            source=tree.where,
            reason="unsupported",
        )
    stated = order is not None and not isinstance(order, str)
    if not stated and train.class_order != "classes.txt":
        _require_unlike(train.class_ids or train.classes, train, tree.where)
    total = sum(len(dataset.samples) for dataset in splits.values())
    if not stated and len(train.classes) == total > ALONE:
        raise DataError(
            f"{tree.where}: each of its {total:,} pictures is a class of its own: {some(train.classes, 3)}",
            hint="the label of a list has to name the class; if these are the classes, say so: --class-order FILE, "
            "with a name per line",
            source=tree.where,
            reason="unsupported",
        )
    return {split: _with_absent(dataset) for split, dataset in splits.items()}


def _without_gaps(opened: Mapping[str | None, Dataset]) -> dict[str | None, Dataset]:
    """Leave out numbered classes without images, and renumber the others."""
    used = sorted({sample.label for dataset in opened.values() for sample in dataset.samples})
    places = {label: place for place, label in enumerate(used)}

    def closed(dataset: Dataset) -> Dataset:
        """Renumber the labels of one split."""
        if dataset.class_order != "numbered" or len(used) == len(dataset.classes):
            return dataset
        samples = [replace(sample, label=places[sample.label]) for sample in dataset.samples]
        classes = tuple(dataset.classes[label] for label in used)
        return replace(dataset, classes=classes, samples=samples, class_order="natural")

    return {split: closed(dataset) for split, dataset in opened.items()}


def _require_unlike(names: Sequence[str], train: Dataset, where: str) -> None:
    """Raise `DataError` for classes whose names differ only by capitals, spaces or the form of accents."""
    alike: dict[str, list[int]] = {}
    for label, name in enumerate(names):
        form = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        alike.setdefault(form, []).append(label)
    if doubtful := [labels for labels in alike.values() if len(labels) > 1]:
        count = Counter(sample.label for sample in train.samples)
        shown = [
            " and ".join(f"{_describe(names, label, labels)} ({count[label]:,} pictures)" for label in labels)
            for labels in doubtful
        ]
        accents = ", or how accents are written" if any("\\" in text for text in shown) else ""
        raise DataError(
            f"{where}: classes whose names differ only by capitals or spaces{accents}: {some(shown)}",
            hint="spell them alike to make them one class; if they are different, say so: --class-order FILE, with "
            "a name per line",
            source=where,
            reason="ambiguous",
        )


def _describe(names: Sequence[str], label: int, labels: Sequence[int]) -> str:
    """Return a name in quotes, as code points if another one looks the same."""
    composed = [unicodedata.normalize("NFC", names[other]) for other in labels]
    return ascii(names[label]) if len(set(composed)) < len(composed) else repr(names[label])


def _with_absent(dataset: Dataset) -> Dataset:
    """Add a note for classes without images."""
    there = {sample.label for sample in dataset.samples}
    absent = [name for label, name in enumerate(dataset.classes) if label not in there]
    line = f"{dataset.name}: no pictures of {some(absent)}"
    if not absent or any("no pictures of" in text for text in dataset.notes):
        return dataset
    return replace(dataset, notes=(*dataset.notes, line))
