"""Give the same images to every model that is compared: chosen once, decoded once, in one order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_infer.data.class_map import map_classes
from resnet_infer.data.datasets import Dataset, Sample, Skipped, recognise, say
from resnet_infer.data.datasets.archive import open_tree
from resnet_infer.data.datasets.classes import some
from resnet_infer.data.datasets.formats import Recognised, Request, choose_split
from resnet_infer.data.datasets.tree import walk
from resnet_infer.data.formats.suffixes import is_picture, suffix, unreadable_format
from resnet_infer.data.image import require_resizable
from resnet_infer.data.preprocess import Pixels, centre_crop
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import DataError, PictureError, UsageError, reason_of
from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.utils.parallel import parallel_map

SYNTHETIC = 128
"""Synthetic images of a feed if no count is given."""
PHOTOGRAPHS = Path(__file__).parent / "photographs"
"""Folder with the photographs that come with the package: sixteen squares of eight photographs. In a zip file it has to
be unpacked first, by `package_files.present`."""
MEMORY_LIMIT = 1 << 30
"""Bytes of crops that a feed keeps for its next pass."""

Labels = NDArray[np.int64]
_UNLABELLED = -1
"""Label of an image without one."""


class Feed:
    """Provide images as model input: the single view of the 1-crop protocol, uint8, (crop, crop, 3).

    `source` is where the images come from, `name` what reports call it, and `names` are the images' names within it.
    `labels` are the model's class numbers, int64, (N,), or None if the feed is unlabelled.

    Every pass gives the same crops in the same order. Memory is bounded: as many first crops as fit into `MEMORY_LIMIT`
    are kept for the next pass, and the others are read again. Only one pass may run at a time.
    """

    def __init__(
        self,
        source: str,
        samples: Sequence[Sample],
        geometry: InputSpec,
        *,
        name: str | None = None,
        labels: Labels | None = None,
        workers: int | None = None,
    ) -> None:
        self.source, self.name, self.geometry, self.labels = source, name or source, geometry, labels
        self.names = tuple(sample.name for sample in samples)
        self._samples, self._workers = samples, workers
        fits = MEMORY_LIMIT // (geometry.crop**2 * 3)
        self._kept = np.empty((min(fits, len(samples)), geometry.crop, geometry.crop, 3), np.uint8)
        self._done = 0

    def __len__(self) -> int:
        return len(self.names)

    def crops(self) -> Iterator[tuple[str, Pixels]]:
        """Yield the name and the crop of every image, decoded in threads.

        Raises `PictureError` for an image that cannot be read.
        """
        start = self._done
        yield from zip(self.names[:start], self._kept[:start], strict=True)
        rest = islice(self._samples, start, None)
        with closing(parallel_map(self._read, rest, workers=self._workers)) as views:
            for index, crop in enumerate(views, start):
                if index == self._done < len(self._kept):
                    self._kept[index] = crop
                    self._done += 1
                yield self.names[index], crop

    def batches(self, size: int = 32) -> Iterator[Pixels]:
        """Yield the crops in order as batches: uint8, (n, crop, crop, 3). n is `size`, or less in the last batch."""
        views = (crop for _, crop in self.crops())
        while batch := list(islice(views, size)):
            yield np.stack(batch)

    def _read(self, sample: Sample) -> Pixels:
        """Decode and crop one image. Raises `PictureError`, naming the source."""
        try:
            image = sample.image(exif=self.geometry.exif)
        except PictureError as error:
            where = "" if self.source in error.message else f"{self.source}: "
            raise PictureError(f"{where}{error.message}", source=error.source, reason=reason_of(error)) from error
        name = f"{self.source}: {sample.name}"
        require_resizable(image, self.geometry.resize, name)
        try:
            view: Pixels = centre_crop(image, self.geometry)[0]
        except MemoryError as error:
            raise PictureError(
                f"{name}: there is not enough memory to resize it", source=name, reason="memory"
            ) from error
        return view


def open_feed(
    source: Path | None,
    spec: ModelSpec,
    *,
    count: int | None = None,
    seed: int = 0,
    exclude: Collection[str] = (),
    split: str | None = None,
    prefer: Sequence[str] = (),
    labelled: bool = False,
    workers: int | None = None,
) -> Feed:
    """Choose images of `source` as input of the model that `spec` describes.

    `source` is anything that `open_dataset` opens. `split` chooses one of its splits; the default is the first of
    `prefer` that it has. Unless `labelled`, it may also be any other folder, archive or image; then all images in it
    are taken, at any depth. None generates `count` synthetic images (default `SYNTHETIC`).

    `count` images are chosen, or all if there are fewer: the images in order, without the names in `exclude`, are cut
    into `count` runs of equal length, and `seed` draws one from each (NumPy's PCG64). The images of a class lie
    together, so every class keeps its share. The order is kept.

    `labelled` converts the labels to the model's class numbers; see `map_classes`.

    Raises `DataError` if there are no images, or labels that the model does not know, and `UsageError` for a count
    below 1.

    >>> feed = open_feed(Path("val"), spec, count=100)
    >>> next(feed.batches(32)).shape
    (32, 224, 224, 3)
    """
    if count is not None and count < 1:
        raise UsageError(f"at least one picture is needed, not {count}")
    if source is None:
        if labelled:
            raise UsageError("pictures made from numbers have no labels", hint="give a data set")
        return Feed("synthetic pictures", _synthetic(count or SYNTHETIC, seed, spec.input.resize), spec.input)
    dataset = _dataset(source, split, prefer, labelled)
    used = frozenset(exclude)
    samples = dataset.samples if dataset else _pictures(source)
    left = [sample for sample in samples if sample.name not in used]
    if not left:
        raise DataError(
            f"{source} has no pictures{' besides those left out' if used else ''}", source=source, reason="empty"
        )
    chosen = [left[index] for index in spread(len(left), count, seed)]
    labels = _labels(chosen, dataset, spec) if dataset and labelled else None
    name = dataset.name if dataset else None
    return Feed(str(source), chosen, spec.input, name=name, labels=labels, workers=workers)


def spread(total: int, count: int | None, seed: int) -> list[int]:
    """Choose `count` of the numbers below `total`, in ascending order: one from each of `count` equal runs.

    All numbers are returned if there are no more than `count`, or `count` is None.
    """
    if count is None or count >= total:
        return list(range(total))
    edges = np.arange(count + 1) * total // count
    generator = np.random.Generator(np.random.PCG64(seed))
    return [int(index) for index in generator.integers(edges[:-1], edges[1:])]


def _labels(samples: Sequence[Sample], dataset: Dataset, spec: ModelSpec) -> Labels:
    """Return the model's class numbers of `samples`, int64, (N,).

    Raises `DataError` if the model does not know a class, or the match is ambiguous.
    """
    try:
        classes = map_classes(replace(dataset, samples=samples), spec)
    except DataError as error:
        raise DataError(
            error.message,
            hint=f"name the classes as the model does: {some(spec.classes)}",
            source=error.source,
            reason=reason_of(error),
        ) from error
    return classes.indices[[sample.label for sample in samples]]


def _dataset(source: Path, split: str | None, prefer: Sequence[str], labelled: bool) -> Dataset | None:
    """Open the data set at `source`. Return None if its images are to be taken without labels."""
    any_picture = split is None and not labelled
    if any_picture and source.is_dir() and any(map(is_picture, open_tree(source).list()[1])):
        return None
    found: Recognised | None = None
    try:
        _, found = recognise(source)
        own = next((name for name in prefer if name in found.splits), None)
        chosen = choose_split(split or own, found.splits, str(source))
        dataset = _load(found, Request(f"{source.name}/{chosen}" if chosen else source.name, chosen, None))
        say(dataset.remarks())
        return dataset
    except DataError as error:
        several = found is not None and len(found.splits) > 1
        if not any_picture or several:
            raise
        reason = error.with_traceback(None)  # the frames of the traceback hold what was read of an archive
    found = None
    if not _pictures(source):
        raise reason
    return None


def _load(found: Recognised, request: Request) -> Dataset:
    """Load the data set, with any order of its classes if the order is unclear."""
    try:
        return found.load(request)
    except DataError as error:
        # Classes are matched by name, so any order of the data set's own will do.
        try:
            return found.load(replace(request, class_order="string"))
        except (DataError, UsageError):
            raise error from None


def _pictures(source: Path) -> list[Sample]:
    """Return all images at `source`, unlabelled, and report files of unreadable formats on stderr."""
    tree = open_tree(source)
    paths = list(walk(tree))
    samples = [Sample(path, _UNLABELLED, tree.reader(path)) for path in paths if is_picture(path)]
    unread = Counter(suffix(path) for path in paths if unreadable_format(path))
    say(Dataset(str(source), (), samples, "", skipped=(Skipped("", len(samples), unread),) if unread else ()).remarks())
    return samples


def _synthetic(count: int, seed: int, side: int) -> list[Sample]:
    """Return `count` samples that generate their image when they are read."""
    return [Sample(f"synthetic {index}", _UNLABELLED, partial(_noise, side, seed, index)) for index in range(count)]


def _noise(side: int, seed: int, index: int) -> Pixels:
    """Generate synthetic image number `index`: uint8, (side, side, 3)."""
    mixed = np.random.SeedSequence((seed, index)).generate_state(1)[0]
    picture: Pixels = natural_noise(1, side, side, seed=int(mixed))[0]
    return picture
