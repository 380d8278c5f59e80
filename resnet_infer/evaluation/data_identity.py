"""Identify published data sets by their classes and by how many pictures each class has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_infer.models.spec import Measured, ModelSpec, imagenet_classes

CIFAR10 = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}
"""Names of CIFAR-10's classes."""


@dataclass(frozen=True)
class Known:
    """Describe a published data set: pictures of each class, a test of its classes, and a pattern of its name.

    `name` is matched with names in lower case and without punctuation. `others` are last parts of the names of other
    splits, which may have as many pictures.
    """

    each: int
    is_its: Callable[[ModelSpec], bool]
    name: str
    others: tuple[str, ...]


def _is_imagenet(spec: ModelSpec) -> bool:
    """Return whether the classes are ImageNet's 1,000, by id or name."""
    names, ids = imagenet_classes()
    return set(spec.class_ids or ()) == set(ids) or set(spec.classes) in (set(ids), set(names))


def _is_tiny_imagenet(spec: ModelSpec) -> bool:
    """Return whether the classes are 200 of ImageNet's ids."""
    ids = set(spec.class_ids or spec.classes)
    _, known = imagenet_classes()
    return len(ids) == 200 and ids <= set(known)


def _is_cifar10(spec: ModelSpec) -> bool:
    """Return whether the classes are CIFAR-10's."""
    return {name.casefold() for name in spec.classes} == CIFAR10


KNOWN: Mapping[str, Known] = {
    "ImageNet validation": Known(50, _is_imagenet, "^imagenet.*val", ("train", "test")),
    "CIFAR-10 test": Known(1000, _is_cifar10, "^cifar10(?!0).*test", ("train", "val", "held-out")),
    "Tiny ImageNet validation": Known(50, _is_tiny_imagenet, "^tinyimagenet.*val", ("train", "test")),
}
"""Title of a published data set -> how it is recognised."""


def identity(spec: ModelSpec, labels: NDArray[np.int64], name: str) -> str | None:
    """Return the title in `KNOWN` of the data set that the counted pictures are the whole of, or None.

    `labels` are their right classes by the numbers of the model, (pictures,); `name` is the name of the data set.
    """
    counts = np.bincount(labels, minlength=len(spec.classes))
    for title, known in KNOWN.items():
        if (counts == known.each).all() and known.is_its(spec) and name.split("/")[-1] not in known.others:
            return title
    return None


def belongs(measured: Measured, pictures: int, name: str, known: str | None) -> bool:
    """Return whether an error in a spec was measured on this data, which has as many pictures.

    `name` is the name of the data set, and `known` what `identity` returns for it. An error on a published data set
    belongs to that set alone, any other error to data of the same name.
    """
    if measured.pictures != pictures:
        return False
    recorded = re.sub(r"[^a-z0-9]", "", measured.dataset.casefold())
    titles = [title for title, item in KNOWN.items() if re.search(item.name, recorded)]
    if titles:
        return known in titles
    ours, theirs = name.split("/"), measured.dataset.split("/")
    length = min(len(ours), len(theirs))
    return ours[-length:] == theirs[-length:]
