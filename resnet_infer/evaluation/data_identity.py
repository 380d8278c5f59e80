"""Which published data set pictures are: told by their classes and how many there are of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_infer.models.spec import Measured, ModelSpec, imagenet_classes

CIFAR10 = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}


@dataclass(frozen=True)
class Known:
    """A published set: how many pictures each class has, whether classes are its own, and what its name looks like.

    `name` is matched against names without capitals and punctuation, `others` against the last part of a name: other
    splits, which may have as many pictures.
    """

    each: int
    is_its: Callable[[ModelSpec], bool]
    name: str
    others: tuple[str, ...]


def _is_imagenet(spec: ModelSpec) -> bool:
    ids, names = imagenet_classes()
    return set(spec.class_ids or ()) == set(ids) or set(spec.classes) in (set(ids), set(names))


def _is_tiny_imagenet(spec: ModelSpec) -> bool:
    ids = set(spec.class_ids or spec.classes)
    return len(ids) == 200 and ids <= set(imagenet_classes()[0])


def _is_cifar10(spec: ModelSpec) -> bool:
    return {name.casefold() for name in spec.classes} == CIFAR10


KNOWN: Mapping[str, Known] = {
    "ImageNet validation": Known(50, _is_imagenet, "^imagenet.*val", ("train", "test")),
    "CIFAR-10 test": Known(1000, _is_cifar10, "^cifar10(?!0).*test", ("train", "val", "held-out")),
    "Tiny ImageNet validation": Known(50, _is_tiny_imagenet, "^tinyimagenet.*val", ("train", "test")),
}


def identity(spec: ModelSpec, labels: NDArray[np.int64], name: str) -> str | None:
    """The one of `KNOWN` that the counted pictures are all of, or None.

    `labels` are their right classes by the numbers of the model, (pictures,); `name` is the data set's.
    """
    counts = np.bincount(labels, minlength=len(spec.classes))
    for title, known in KNOWN.items():
        if (counts == known.each).all() and known.is_its(spec) and name.split("/")[-1] not in known.others:
            return title
    return None


def belongs(measured: Measured, pictures: int, name: str, known: str | None) -> bool:
    """Whether an error in a spec was measured on this data, which has as many pictures.

    `name` is the data set's, `known` what `identity` says. An error on a published set belongs to that set alone, any
    other to data of the same name.
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
