"""Read CIFAR-10 and CIFAR-100 as published, in the binary and the Python version.

The layout of both is described at https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.datasets.cifar_pickle import load_plain
from resnet_infer.data.datasets.classes import require_order, some
from resnet_infer.data.datasets.dataset import Dataset, Sample
from resnet_infer.data.datasets.formats import Recognised, Request
from resnet_infer.data.datasets.tree import Tree, read_bytes, read_lines
from resnet_infer.errors import DataError

PIXELS = 3 * 32 * 32
"""Bytes of an image: three planes of 32x32 pixels."""
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


@dataclass(frozen=True)
class _Version:
    """Describe the files of one version.

    `label_bytes` precede each image in a binary file; the last of them is the class. `labels` and `names` are keys of
    the dictionaries in the Python version, and None in the binary one.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    class_file: str
    label_bytes: int = 0
    labels: str | None = None
    names: str | None = None


_VERSIONS = (
    _Version(tuple(f"{name}.bin" for name in _BATCHES), ("test_batch.bin",), "batches.meta.txt", label_bytes=1),
    _Version(_BATCHES, ("test_batch",), "batches.meta", labels="labels", names="label_names"),
    _Version(("train.bin",), ("test.bin",), "fine_label_names.txt", label_bytes=2),
    _Version(("train",), ("test",), "meta", labels="fine_labels", names="fine_label_names"),
)

FILES = frozenset(name for version in _VERSIONS for name in (*version.train, *version.test, version.class_file))
"""Names of the files of all versions."""


def recognise(tree: Tree) -> Recognised | None:
    """Recognise CIFAR by its file names, with the splits train and test. CIFAR-100 has its 100 fine classes.

    The images are kept in memory, 3,072 bytes each.
    """
    there = set(tree.list()[1])
    for version in _VERSIONS:
        splits = [split for split in ("train", "test") if there.intersection(getattr(version, split))]
        if splits:
            return Recognised(tuple(splits), partial(_load, tree, version))
    return None


def _load(tree: Tree, version: _Version, request: Request) -> Dataset:
    """Load one split. Raises `DataError` for missing or damaged files."""
    require_order(request.class_order, "published", tree.where)
    files = version.train if request.split == "train" else version.test
    if missing := sorted({*files, version.class_file} - set(tree.list()[1])):
        raise DataError(
            f"{tree.where} lacks {some(missing, 6)}",
            hint="unpack or fetch CIFAR again",
            source=tree.where,
            reason="incomplete",
        )
    classes = _class_names(tree, version)
    samples = []
    for file in files:
        where = f"{tree.where}/{file}"
        pixels, labels = _python(tree, file, version) if version.labels else _binary(tree, file, version)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise DataError(
                f"{where}: has labels from {labels.min()} to {labels.max()}, but there are {len(classes)} classes",
                source=where,
                reason="damaged",
            )
        for index, (row, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            samples.append(Sample(f"{file}/{index:05d}", label, partial(_picture, row)))
    return Dataset(request.name, classes, samples, "published")


def _picture(row: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert a stored row, (3072,) plane after plane, to pixels, uint8 (32, 32, 3)."""
    return np.ascontiguousarray(row.reshape(3, 32, 32).transpose(1, 2, 0))


def _class_names(tree: Tree, version: _Version) -> tuple[str, ...]:
    """Read the names of the classes. Raises `DataError` if there are none."""
    where = f"{tree.where}/{version.class_file}"
    if version.names is None:
        names = [line.strip() for line in read_lines(tree, version.class_file)]
    else:
        found = load_plain(read_bytes(tree, version.class_file), where).get(version.names)
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise DataError(f"{where}: has no list {version.names}", source=where, reason="damaged")
        names = found
    if not names:
        raise DataError(f"{where}: has no class names", source=where, reason="incomplete")
    return tuple(names)


def _binary(tree: Tree, file: str, version: _Version) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read pixels, uint8 (N, 3072), and labels, int64 (N,), from a binary file.

    A record is the label bytes, then the red, green and blue planes.
    """
    data = read_bytes(tree, file)
    record = version.label_bytes + PIXELS
    if not data or len(data) % record:
        raise DataError(
            f"{tree.where}/{file}: its {len(data)} bytes are no multiple of {record}, a picture and its label",
            hint="the file is truncated or of another kind; unpack or fetch CIFAR again",
            source=f"{tree.where}/{file}",
            reason="damaged",
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    return records[:, version.label_bytes :], records[:, version.label_bytes - 1].astype(np.int64)


def _python(tree: Tree, file: str, version: _Version) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read pixels, uint8 (N, 3072), and labels, int64 (N,), from a file of the Python version."""
    where = f"{tree.where}/{file}"
    batch = load_plain(read_bytes(tree, file), where)
    pixels, labels = batch.get("data"), batch.get(version.labels or "")
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise DataError(f"{where}: has no array `data` of {PIXELS} columns", source=where, reason="damaged")
    if (
        not isinstance(labels, list)
        or not all(isinstance(label, int) for label in labels)
        or len(labels) != len(pixels)
    ):
        raise DataError(
            f"{where}: has no list {version.labels} with a number for each of its {len(pixels)} pictures",
            source=where,
            reason="damaged",
        )
    return pixels, np.array(labels, np.int64)
