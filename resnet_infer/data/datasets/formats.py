"""List the formats of data sets, define what one says of a source, and interpret the names of split folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from resnet_infer.data.datasets.classes import ClassOrder
from resnet_infer.data.datasets.dataset import Dataset
from resnet_infer.data.datasets.tree import Tree
from resnet_infer.errors import SplitError

SPLITS = ("train", "val", "test")
"""Names of the splits."""
_SPLIT_NAMES = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation", "dev", "eval", "evaluation"},
    "test": {"test", "testing"},
}
"""Names of each split in data sets, in lower case and without `_FILLERS` and `_FORMS`."""
_ALIASES = {name: split for split, names in _SPLIT_NAMES.items() for name in names}
_FILLERS = frozenset({"set", "data", "dataset", "split", "seg", "image", "images", "img", "imgs", "pictures", "photos"})
"""Words beside a split's name that do not change its meaning: training_set, seg_test, train-images."""
_FORMS = frozenset({"jpg", "jpeg", "png", "tif", "tiff", "stage", "stg", "part"})
"""Further such words in names of folders: train-jpg, stage1_train, test_stg1."""
_CONTAINERS = _FILLERS | {"jpg", "jpeg", "jpegs", "jpegimages", "png", "pngs", "pics", "photo", "picture", "datasets"}
"""Words in the name of a folder that holds images without saying which."""
_PARTS = _CONTAINERS | {"part", "parts", "batch", "fold", "chunk", "shard", "subset", "section", "volume", "vol", "zip"}
"""Words for the numbered parts of one set of images: part_1, images_002, batch3."""
_ANNOTATIONS = frozenset(
    {"mask", "masks", "label", "labels", "annotation", "annotations", "annots", "segmentation", "segmentations"}
    | {"segmentationclass", "segmentationobject", "trimaps", "groundtruth", "gt", "bboxes", "boxes"}
)
"""Names of folders with annotations of other images: masks, and files with boxes."""


@dataclass(frozen=True)
class Request:
    """Describe what the caller wants of a source.

    - `name`: the name of the data set.
    - `split`: one of the source's splits, or None if it has none.
    - `class_order`: the order of the classes, if the caller states it.
    - `missing_ok`: a file that is listed and not there is an unreadable image, not an error of the data set.
    - `defines_classes`: a model will get the classes of the data. A doubt about the classes is then an error, because
      nothing would reveal it later. Otherwise it is a note, because a model that knows the classes decides.
    """

    name: str
    split: str | None
    class_order: ClassOrder | None
    missing_ok: bool = False
    defines_classes: bool = False


@dataclass(frozen=True)
class Recognised:
    """Hold the splits of a recognised source (empty if it has none), and the function that loads one."""

    splits: tuple[str, ...]
    load: Callable[[Request], Dataset]


@dataclass(frozen=True)
class Format:
    """Describe a format of data sets. Its module is imported when a source is opened.

    - `name`: the name in messages.
    - `recognise`: "module:function" of a function that returns what a `Tree` holds (`Recognised`), or None if it is not
      of this format. It raises `DataError` for a source of this format that is damaged or incomplete.
    - `files`: "module:NAME" of the names of the files beside images that the format needs. They are read out of
      archives, and other files are left there.
    """

    name: str
    recognise: str
    files: str | None = None

    def recognised(self, tree: Tree) -> Recognised | None:
        """Import and call `recognise`."""
        found: Recognised | None = _load(self.recognise)(tree)
        return found


FORMATS: tuple[Format, ...] = (
    Format("a list of pictures and labels (CSV, TSV, JSON Lines)", "resnet_infer.data.datasets.manifest:recognise"),
    Format(
        "CIFAR-10 or CIFAR-100", "resnet_infer.data.datasets.cifar:recognise", "resnet_infer.data.datasets.cifar:FILES"
    ),
    Format(
        "Tiny ImageNet",
        "resnet_infer.data.datasets.tiny_imagenet:recognise",
        "resnet_infer.data.datasets.tiny_imagenet:FILES",
    ),
    Format(
        "the ImageNet validation set",
        "resnet_infer.data.datasets.imagenet:recognise",
        "resnet_infer.data.datasets.imagenet:TRUTH",
    ),
    Format(
        "class folders (DIR/cat/1.jpg)",
        "resnet_infer.data.datasets.folders:recognise",
        "resnet_infer.data.datasets.wordnet:LISTS",
    ),
)
"""Formats of data sets, in order: the first that recognises a source opens it.

Class folders come last, because most data sets have folders.
"""


def recognise(tree: Tree) -> Recognised | None:
    """Return what the first of `FORMATS` that recognises `tree` says of it. Raises `DataError` as they do."""
    return next((found for item in FORMATS if (found := item.recognised(tree))), None)


def known_formats() -> str:
    """Join the names of the formats for a message."""
    return f"{', '.join(item.name for item in FORMATS[:-1])} and {FORMATS[-1].name}"


@cache
def label_files() -> frozenset[str]:
    """Return the names of the files beside images that some format needs (`Format.files`)."""
    found = {item.files: _load(item.files) for item in FORMATS if item.files}
    if texts := [reference for reference, names in found.items() if isinstance(names, str)]:
        raise TypeError(f"{texts[0]} is one text; a format lists the names of its files in a tuple")
    return frozenset(name for names in found.values() for name in names)


def _load(reference: str) -> Any:
    """Import a module, and return what "module:name" names in it."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def canonical_split(name: str) -> str:
    """Return train, val or test for a usual spelling (Training, test_set, train2017), else the name in lower case.

    >>> canonical_split("Validation_Set")
    'val'
    """
    plain = name.strip().lower()
    words = [re.sub(r"(19|20)\d\d$", "", word) for word in re.split(r"[\W_]+", plain)]
    return _split_of(words, _FILLERS) or plain


def folder_split(name: str) -> str:
    """Return the split of a folder's name, which may have a number, a format or a side: train1, test-jpg, trainA."""
    plain = re.sub(r"(?<=[a-z])[AB]$", "", name.strip()).lower()
    words = [re.sub(r"v?\d+$", "", word) for word in re.split(r"[\W_]+", plain)]
    return _split_of(words, _FILLERS | _FORMS) or name.strip().lower()


def _split_of(words: Sequence[str], fillers: Collection[str]) -> str | None:
    """Return the split that the only word besides `fillers` names, or None."""
    (word,) = left if len(left := [word for word in words if word and word not in fillers]) == 1 else ("",)
    return _ALIASES.get(word) or _ALIASES.get(re.sub(r"(set|data|images|imgs)$", "", word))


def is_split(name: str) -> bool:
    """Tell whether a folder of that name may hold a split."""
    return folder_split(name) in SPLITS


def is_container(name: str) -> bool:
    """Tell whether a folder's name says that it holds images, but not which: images, data."""
    return all(word in _CONTAINERS for word in re.split(r"[\W_]+", name.lower()) if word)


def is_annotation(name: str) -> bool:
    """Tell whether a folder's name says that it holds masks or boxes of images elsewhere."""
    return "".join(re.split(r"[\W_]+", name.lower())) in _ANNOTATIONS


def part_of(name: str) -> str | None:
    """Return the name of a numbered part without its number (images_ for images_001), or None for any other name."""
    words = [re.sub(r"\d+", "", word) for word in re.split(r"[\W_]+", name.lower())]
    named = [word for word in words if word not in ("", "of")]
    if not re.search(r"\d", name) or not named or named[-1] not in _PARTS:
        return None
    return re.sub(r"\d+", "", name.lower())


def choose_split(wanted: str | None, splits: tuple[str, ...], where: str) -> str | None:
    """Return the split to load. Raises `SplitError`, listing the splits, if it must be named or does not exist."""
    if wanted is None and len(splits) > 1:
        raise SplitError(
            f"{where} has several splits: {', '.join(splits)}",
            hint="name the one to use",
            source=where,
            reason="ambiguous",
        )
    if wanted is None:
        return splits[0] if splits else None
    split = canonical_split(wanted)
    if split not in splits:
        there = f"it has: {', '.join(splits)}" if splits else "it is not divided into splits"
        raise SplitError(
            f"{where} has no split {wanted!r} with labels; {there}",
            hint=None if splits else "name no split",
            source=where,
            reason="missing",
        )
    return split
