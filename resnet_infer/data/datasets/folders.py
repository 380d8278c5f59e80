"""A folder per class: DIR/cat/1.jpg, or below split folders: DIR/train/cat/1.jpg.

All pictures below a class folder are of that class, at any depth. Folders around the class folders are entered where
nothing else can be meant. Where the level of the classes is in doubt, see `Request.defines_classes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resnet_infer.data.datasets.beside import labels_beside
from resnet_infer.data.datasets.classes import order_classes, some
from resnet_infer.data.datasets.dataset import Dataset, Sample, Skipped
from resnet_infer.data.datasets.formats import (
    SPLITS,
    Recognised,
    Request,
    canonical_split,
    is_container,
    is_split,
)
from resnet_infer.data.datasets.tree import Tree, holds_pictures, is_run, join, walk
from resnet_infer.data.datasets.wordnet import describe
from resnet_infer.data.suffixes import READABLE, UNREADABLE, is_picture, may_be_picture, suffix, unreadable_format
from resnet_infer.errors import DataError

EXPECTED = "expected is a folder of pictures for each class, DIR/cat/1.jpg, or DIR/train/cat/1.jpg"


def recognise(tree: Tree) -> Recognised | None:
    """Class folders with pictures at any depth; pictures outside of them have no label and are passed over.

    A folder named after a split is one if it holds folders and no pictures. Raises `DataError` where the pictures lie
    right in folders named after splits, and where a folder may be a split or a class.
    """
    top = _enter(tree)
    splits = split_folders(top)
    holding = [folder for folder in top.list()[0] if holds_pictures(top, folder)]
    if not splits:
        if holding and all(map(is_split, holding)):
            raise DataError(
                f"{top.where}: {some(holding)} {'holds' if len(holding) == 1 else 'hold'} pictures and no class "
                "folders, so that nothing says what they show",
                hint=labels_beside(tree) or EXPECTED,
            )
        return Recognised((), lambda request: load(tree, top, request)) if top.list()[0] else None
    beside = [folder for folder in holding if not is_split(folder)]
    if beside and len(splits) == 1:
        (alone,) = splits.values()
        raise DataError(
            f"{top.where}: {alone} may be a split or a class, because there are pictures in {some(beside)} too",
            hint=f"if it is a split, open {top.where}/{alone}; if it is a class, put its pictures right into it",
        )
    used = {path.partition("/")[0] for path in splits.values()}
    unused = [folder for folder in holding if folder not in used]
    notes = (f"{top.where}: not used, as no class folders of a split: {some(unused)}",) if unused else ()
    return Recognised(tuple(splits), lambda request: _load_split(tree, top, splits, notes, request))


def split_folders(tree: Tree) -> dict[str, str]:
    """Split name (train, val, test) to the folder that holds its class folders."""
    found: dict[str, str] = {}
    for folder in tree.list()[0]:
        if not is_split(folder):
            continue
        split = canonical_split(folder)
        folders, files = tree.list(folder)
        if not folders or any(map(_is_any_picture, files)):
            continue
        if split in found:
            raise DataError(
                f"{tree.where} has two folders for the split {split}: {found[split].partition('/')[0]} and {folder}",
                hint="rename one of them, or move it elsewhere",
            )
        found[split] = _enter_split(tree, folder, split)
    return {split: found[split] for split in SPLITS if split in found}


def branches(tree: Tree, folder: str) -> bool:
    """Whether, from `folder` down, there are several folders with pictures, or a split, before the first picture."""
    while True:
        if any(map(_is_any_picture, tree.list(folder)[1])):
            return False
        inner = _holding(tree, folder)
        if len(inner) != 1 or is_split(inner[0]):
            return bool(inner)
        folder = join(folder, inner[0])


def _enter(tree: Tree) -> Tree:
    """Below lone folders around the class or split folders; what has no pictures may lie beside one called images."""
    while True:
        folders = tree.list()[0]
        holding = [folder for folder in folders if holds_pictures(tree, folder)]
        if len(holding) != 1 or is_split(holding[0]) or not branches(tree, holding[0]):
            return tree
        if len(folders) > 1 and not is_container(holding[0]):
            return tree
        tree = tree.below(holding[0])


def _enter_split(tree: Tree, folder: str, split: str) -> str:
    """The folder below that repeats the split's name (seg_train/seg_train) or is called images, if it stands alone."""
    while True:
        inner = _holding(tree, folder)
        if len(inner) != 1 or not (canonical_split(inner[0]) == split or is_container(inner[0])):
            return folder
        lower = join(folder, inner[0])
        if any(map(_is_any_picture, tree.list(lower)[1])):
            return folder
        folder = lower


def _holding(tree: Tree, folder: str) -> list[str]:
    return [name for name in tree.list(folder)[0] if holds_pictures(tree, join(folder, name))]


def _is_any_picture(name: str) -> bool:
    return is_picture(name) or unreadable_format(name) is not None


def _load_split(tree: Tree, top: Tree, splits: dict[str, str], notes: tuple[str, ...], request: Request) -> Dataset:
    assert request.split is not None
    part = top.below(splits[request.split])
    # A class that is missing from a small test split must not shift the numbers of those after it.
    names = _class_folders(top.below(splits["train"]) if "train" in splits else part)
    dataset = load(tree, part, request, names)
    return replace(dataset, notes=(*notes, *dataset.notes))


@dataclass(frozen=True)
class _Class:
    """What lies below a class folder: pictures, other files by suffix, and where."""

    name: str
    paths: Sequence[str]
    unread: Counter[str]
    folders: frozenset[str]
    flat: bool


def load(tree: Tree, part: Tree, request: Request, names: Sequence[str] | None = None) -> Dataset:
    """The data set whose class folders lie in `part`; `tree` is where a list of readable names may lie.

    `names` are the classes there are, if `part` itself does not say.
    """
    folders, files = _class_folders(part), part.list()[1]
    names = folders if names is None else names
    if unknown := sorted(set(folders) - set(names)):
        raise DataError(
            f"{part.where} has class folders that are not among the classes of {tree.where}; it does not know: "
            f"{some(unknown)}",
            hint="every class needs pictures to train on, in a folder of the same name",
        )
    found = {name: _survey(part, name) for name in folders}
    if not any(item.paths for item in found.values()):
        skipped = sum((item.unread for item in found.values()), Counter[str]())
        kinds = f" that can be read; there are {some(sorted(skipped))}" if skipped else ""
        raise DataError(f"{part.where} has no pictures in class folders{kinds}", hint=EXPECTED)
    notes = _notes(part, names, found)
    for doubt, hint in _doubts(part, request, found):
        if request.defines_classes:
            raise DataError(doubt, hint=hint)
        notes.append(doubt)
    order, used = order_classes(names, request.class_order, part.where)
    samples = [
        Sample(path, label, part.reader(path))
        for label, folder in enumerate(order)
        if folder in found
        for path in found[folder].paths
    ]
    classes, class_ids = describe(tree, order)
    return Dataset(
        request.name,
        classes,
        samples,
        used,
        class_ids,
        tuple(filter(_is_any_picture, files)),
        tuple(Skipped(name, len(item.paths), item.unread) for name, item in found.items() if item.unread),
        tuple(notes),
    )


def _class_folders(part: Tree) -> list[str]:
    """All folders but those that hold training runs and nothing else."""
    return [name for name in part.list()[0] if holds_pictures(part, name) or not _holds_run(part, name)]


def _holds_run(part: Tree, folder: str) -> bool:
    folders, files = part.list(folder)
    return is_run(files) or any(_holds_run(part, join(folder, name)) for name in folders)


def _survey(part: Tree, folder: str) -> _Class:
    paths: list[str] = []
    unread: Counter[str] = Counter()
    folders: set[str] = set()
    flat = False
    for path in walk(part, folder):
        ending = suffix(path)
        if ending in READABLE:
            paths.append(path)
        elif may_be_picture(path):
            unread[ending] += 1
        if ending in READABLE or ending in UNREADABLE:
            inner, below, _ = path[len(folder) + 1 :].partition("/")
            flat = flat or not below
            folders.update((inner,) if below else ())
    return _Class(folder, sorted(paths), unread, frozenset(folders), flat)


def _notes(part: Tree, names: Sequence[str], found: dict[str, _Class]) -> list[str]:
    notes = []
    if absent := [name for name in names if name not in found]:
        notes.append(f"{part.where}: no pictures of {some(absent)}")
    if nested := [item for item in found.values() if item.folders and (item.flat or len(item.folders) > 1)]:
        shown = [f"{item.name}/{folder}" for item in nested for folder in sorted(item.folders)]
        notes.append(f"{part.where}: pictures in folders below a class folder are of that class: {some(shown)}")
    return notes


def _doubts(part: Tree, request: Request, found: dict[str, _Class]) -> list[tuple[str, str]]:
    """Why these folders may not be the classes, each with the way out."""
    doubts = []
    unpictured = [name for name, item in found.items() if not item.paths]
    if unpictured:
        shown = [f"{n} ({', '.join(sorted(u))} only)" if (u := found[n].unread) else n for n in unpictured]
        doubts.append(
            (
                f"{part.where} has class folders without pictures: {some(shown)}",
                "remove them, or put pictures in that can be read: JPEG, PNG, WebP, BMP, GIF or TIFF",
            )
        )
    if request.class_order is not None and not isinstance(request.class_order, str):
        return doubts  # whoever lists the classes knows that these folders are the ones
    listed = "if the folders above are the classes, say so: --class-order FILE, with a name per line"
    full = [item for item in found.values() if item.paths]
    often = Counter(name for item in full for name in item.folders)
    shared = sorted(name for name, count in often.items() if count > 1 and 2 * count >= len(full))
    if len(shared) > 1:
        doubts.append(
            (
                f"{part.where}: {some([item.name for item in full if item.folders])} hold the same folders, "
                f"{some(shared)}; which are the classes?",
                f"if the lower ones are, give one of the upper ones as DATA, or bring them together; {listed}",
            )
        )
        return doubts
    for item in full:
        below = sorted(name for name in item.folders if is_split(name))
        if len(below) > 1:
            doubts.append(
                (
                    f"{part.where}/{item.name} is divided into {some(below)}, below the class",
                    f"put the split around the classes: DIR/{below[0]}/{item.name}/1.jpg; {listed}",
                )
            )
            break
        others = sorted((item.folders & found.keys()) - {item.name})
        if others:
            doubts.append(
                (
                    f"{part.where}: {others[0]} is a class folder, and there is a folder {item.name}/{others[0]} too",
                    f"move its pictures to where they belong; {listed}",
                )
            )
            break
    return doubts
