"""Read class folders: DIR/cat/1.jpg, or below split folders: DIR/train/cat/1.jpg.

All images below a class folder belong to its class, at any depth. Folders around the class folders are entered if
nothing else can be meant. `Request.defines_classes` decides what happens if the level of the classes is in doubt.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resnet_infer.data.datasets.beside import labels_beside, list_beside, other_labels
from resnet_infer.data.datasets.classes import order_classes, some, told_apart
from resnet_infer.data.datasets.dataset import Dataset, Sample, Skipped
from resnet_infer.data.datasets.formats import (
    SPLITS,
    Recognised,
    Request,
    folder_split,
    is_annotation,
    is_container,
    is_split,
    part_of,
)
from resnet_infer.data.datasets.tree import RUN_FILES, Tree, holds_pictures, join, run_folders, walk
from resnet_infer.data.datasets.wordnet import describe
from resnet_infer.data.formats.suffixes import (
    READABLE,
    UNREADABLE,
    is_picture,
    may_be_picture,
    suffix,
    unreadable_format,
)
from resnet_infer.errors import DataError

DETECTION = (
    "folders called labels (as for YOLO) or Annotations (as for VOC) are of data for detection, "
    "whose boxes are no classes"
)
LISTED = "if the folders above are the classes, say so: --class-order FILE, with a name per line"
EXPECTED = "expected is a folder of pictures for each class, DIR/cat/1.jpg, or DIR/train/cat/1.jpg"


def recognise(tree: Tree) -> Recognised | None:
    """Recognise class folders with images at any depth. Images outside of them have no label and are skipped.

    A folder named after a split is one if it holds folders and no images. Raises `DataError` if the images lie directly
    in folders named after splits, or if a folder may be a split or a class.
    """
    top = _enter(tree)
    splits = split_folders(top)
    holding = [folder for folder in top.list()[0] if holds_pictures(top, folder)]
    if not splits:
        if holding and all(map(is_split, holding)):
            raise DataError(
                f"{top.where}: {some(holding)} {'holds' if len(holding) == 1 else 'hold'} pictures and no class "
                "folders, so that nothing says what they show",
                hint=labels_beside(tree) or _expected(tree, top),
                reason="unsupported",
            )
        return Recognised((), lambda request: load(tree, top, request)) if top.list()[0] else None
    beside = [folder for folder in holding if not is_split(folder)]
    if beside and len(splits) == 1:
        (alone,) = splits.values()
        raise DataError(
            f"{top.where}: {alone} may be a split or a class, because there are pictures in {some(beside)} too",
            hint=f"if it is a split, open {top.where}/{alone}; if it is a class, put its pictures right into it",
            reason="ambiguous",
        )
    used = {path.partition("/")[0] for path in splits.values()}
    unused = [folder for folder in holding if folder not in used]
    notes = (f"{top.where}: not used, as no class folders of a split: {some(unused)}",) if unused else ()
    return Recognised(tuple(splits), lambda request: _load_split(tree, top, splits, notes, request))


def split_folders(tree: Tree) -> dict[str, str]:
    """Map the name of each split (train, val, test) to the folder that holds its class folders."""
    found: dict[str, str] = {}
    for folder in tree.list()[0]:
        if not is_split(folder):
            continue
        split = folder_split(folder)
        folders, files = tree.list(folder)
        if not folders or any(map(_is_any_picture, files)):
            continue
        if _holds_no_classes(tree, folder, split):
            continue
        if split in found:
            raise DataError(
                f"{tree.where} has two folders for the split {split}: {found[split].partition('/')[0]} and {folder}",
                hint="rename one of them, or move it elsewhere",
                reason="ambiguous",
            )
        found[split] = _enter_split(tree, folder, split)
    return {split: found[split] for split in SPLITS if split in found}


def branches(tree: Tree, folder: str) -> bool:
    """Tell whether `folder` divides into several folders with images, or a split, above the first image."""
    while True:
        if any(map(_is_any_picture, tree.list(folder)[1])):
            return False
        inner = _holding(tree, folder)
        if len(inner) != 1 or is_split(inner[0]):
            return bool(inner)
        folder = join(folder, inner[0])


def _enter(tree: Tree) -> Tree:
    """Enter lone folders around the class or split folders. Folders without images may lie beside one called images."""
    while True:
        folders = tree.list()[0]
        holding = [folder for folder in folders if holds_pictures(tree, folder)]
        if len(holding) != 1 or is_split(holding[0]) or not branches(tree, holding[0]):
            return tree
        if len(folders) > 1 and not is_container(holding[0]):
            return tree
        tree = tree.below(holding[0])


def _enter_split(tree: Tree, folder: str, split: str) -> str:
    """Enter lone folders that repeat the split's name (seg_train/seg_train) or are called images."""
    while True:
        inner = _holding(tree, folder)
        if len(inner) != 1 or not (folder_split(inner[0]) == split or is_container(inner[0])):
            return folder
        lower = join(folder, inner[0])
        if any(map(_is_any_picture, tree.list(lower)[1])):
            return folder
        folder = lower


def _holds_no_classes(tree: Tree, folder: str, split: str) -> bool:
    """Tell whether all images of a split lie in one folder that repeats its name: test/test/1.jpg."""
    folder = _enter_split(tree, folder, split)
    inner = _holding(tree, folder)
    if len(inner) != 1 or folder_split(inner[0]) != split:
        return False
    return any(map(_is_any_picture, tree.list(join(folder, inner[0]))[1]))


def _expected(*trees: Tree) -> str:
    """Describe the folders that are expected, and data for detection if this is such data."""
    return (
        f"{DETECTION}; {EXPECTED}"
        if any(is_annotation(name) for tree in trees for name in tree.list()[0])
        else EXPECTED
    )


def _holding(tree: Tree, folder: str) -> list[str]:
    return [name for name in tree.list(folder)[0] if holds_pictures(tree, join(folder, name))]


def _is_any_picture(name: str) -> bool:
    return is_picture(name) or unreadable_format(name) is not None


def _load_split(tree: Tree, top: Tree, splits: dict[str, str], notes: tuple[str, ...], request: Request) -> Dataset:
    assert request.split is not None
    part = top.below(splits[request.split])
    # A class that is missing from a small test split must not shift the numbers of later ones.
    names = _class_folders(top.below(splits["train"]) if "train" in splits else part)
    dataset = load(tree, part, request, names)
    return replace(dataset, notes=(*notes, *dataset.notes))


@dataclass(frozen=True)
class _Class:
    """Hold the files below a class folder: images, counts of other files by suffix, and folders with images."""

    name: str
    paths: Sequence[str]
    unread: Counter[str]
    folders: frozenset[str]
    flat: bool


def load(tree: Tree, part: Tree, request: Request, names: Sequence[str] | None = None) -> Dataset:
    """Load the data set with class folders in `part`. A list of readable names may lie in `tree`.

    `names` are the classes, if `part` itself does not say.
    """
    folders, files = _class_folders(part), part.list()[1]
    names = folders if names is None else names
    if unknown := sorted(set(folders) - set(names)):
        raise DataError(
            f"{part.where} has class folders that are not among the classes of {tree.where}; it does not know: "
            f"{some([told_apart(name, names) for name in unknown])}",
            hint="every class needs pictures to train on, in a folder of the same name",
            reason="mismatch",
        )
    found = {name: _survey(part, name) for name in folders}
    if not any(item.paths for item in found.values()):
        skipped = sum((item.unread for item in found.values()), Counter[str]())
        kinds = f" that can be read; there are {some(sorted(skipped))}" if skipped else ""
        raise DataError(f"{part.where} has no pictures in class folders{kinds}", hint=EXPECTED, reason="empty")
    trained = request.split in (None, "train") or names is folders
    notes = _notes(tree, part, request, names, found, trained)
    for problem, hint in _faults(tree, part, request, found, trained):
        if request.defines_classes:
            raise DataError(problem, hint=hint, reason="unsupported")
        notes.append(problem)
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
    """Return the names of all folders but those that hold training runs and no image."""
    return [name for name in part.list()[0] if holds_pictures(part, name) or not _holds_run(part, name)]


def _holds_run(part: Tree, folder: str) -> bool:
    folders, files = part.list(folder)
    return not RUN_FILES.isdisjoint(files) or any(_holds_run(part, join(folder, name)) for name in folders)


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


def _notes(
    tree: Tree, part: Tree, request: Request, names: Sequence[str], found: dict[str, _Class], trained: bool
) -> list[str]:
    notes = []
    if runs := [path for name in part.list()[0] for path in run_folders(part, name)]:
        notes.append(f"{part.where}: not used, as they hold training runs: {some(runs)}")
    beside = list_beside(tree) if trained and request.defines_classes else None
    if beside and len(found) > 1 and len({re.sub(r"\d+", "", name) for name in found}) == 1:
        notes.append(f"{part.where}: the folders are taken for the classes, not {beside}")
    if absent := [name for name in names if name not in found or not (trained or found[name].paths)]:
        notes.append(f"{part.where}: no pictures of {some(absent)}")
    if nested := [item for item in found.values() if item.folders and (item.flat or len(item.folders) > 1)]:
        shown = [f"{item.name}/{folder}" for item in nested for folder in sorted(item.folders)]
        notes.append(f"{part.where}: pictures in folders below a class folder are of that class: {some(shown)}")
    return notes


def _faults(tree: Tree, part: Tree, request: Request, found: dict[str, _Class], trained: bool) -> list[tuple[str, str]]:
    """Return reasons why the folders may not be the classes, with hints. `trained`: the folders define the classes."""
    faults = []
    stated = request.class_order is not None and not isinstance(request.class_order, str)
    full = [item for item in found.values() if item.paths]
    often = Counter(name for item in full for name in item.folders)
    shared = sorted(name for name, count in often.items() if count > 1 and 2 * count >= len(full))
    if trained and not stated and len(shared) < 2:
        faults += _other_kinds(tree, part, [item.name for item in full])
        if not faults and request.defines_classes and len(full) > 1 and (path := other_labels(tree, part)):
            faults.append(
                (
                    f"{part.where}: {path} gives pictures in one folder different labels, so that the folders may not "
                    "be the classes",
                    f"if the list says what the pictures show, give it as DATA; {LISTED}",
                )
            )
    unpictured = [name for name, item in found.items() if not item.paths]
    if unpictured and trained:
        shown = [f"{n} ({', '.join(sorted(u))} only)" if (u := found[n].unread) else n for n in unpictured]
        faults.append(
            (
                f"{part.where} has class folders without pictures: {some(shown)}",
                (f"{DETECTION}; else " if any(map(is_annotation, unpictured)) else "")
                + "remove them, or put pictures in that can be read: JPEG, PNG, WebP, BMP, GIF or TIFF",
            )
        )
    if stated:
        return faults  # a caller who lists the classes knows that these folders are the classes
    if len(shared) > 1:
        faults.append(
            (
                f"{part.where}: {some([item.name for item in full if item.folders])} hold the same folders, "
                f"{some(shared)}; which are the classes?",
                f"if the lower ones are, give one of the upper ones as DATA, or bring them together; {LISTED}",
            )
        )
        return faults
    for item in full:
        below = sorted(name for name in item.folders if is_split(name))
        if len(below) > 1:
            faults.append(
                (
                    f"{part.where}/{item.name} is divided into {some(below)}, below the class",
                    f"put the split around the classes: DIR/{below[0]}/{item.name}/1.jpg; {LISTED}",
                )
            )
            break
        others = sorted((item.folders & found.keys()) - {item.name})
        if others:
            faults.append(
                (
                    f"{part.where}: {others[0]} is a class folder, and there is a folder {item.name}/{others[0]} too",
                    f"move its pictures to where they belong; {LISTED}",
                )
            )
            break
    return faults


def _other_kinds(tree: Tree, part: Tree, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the doubt that folders are, by their names, splits, numbered parts, or images and their masks."""
    splits = [name for name in names if is_split(name)]
    parts = Counter(own for name in names if (own := part_of(name)) is not None)
    numbered = [name for name in names if parts[part_of(name) or ""] > 1]
    said = [name for name in names if is_container(name) or is_annotation(name)]
    if len({folder_split(name) for name in splits}) > 1 or len(splits) > max(1, len(names) / 2):
        kind, which = "splits, without class folders", splits
    elif len(numbered) > len(names) / 2:
        kind, which = "numbered parts of one set", numbered
    elif len(said) > 1 and len(said) == len(names):
        kind, which = "pictures and what belongs to them, not like classes", said
    else:
        return []
    hint = labels_beside(tree) or _expected(tree, part)
    return [(f"{part.where}: {some(which)} look like {kind}", f"{hint}; {LISTED}")]
