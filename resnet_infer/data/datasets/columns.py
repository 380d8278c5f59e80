"""Find the columns of path, label and split in a list, by their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from resnet_infer.data.datasets.formats import SPLITS, canonical_split

PATHS = (
    ("path",),
    (
        *("filename", "file", "image", "filepath", "fname", "fpath", "relpath", "relativepath", "fullpath", "abspath"),
        *("imagepath", "imagefile", "imagefilename", "imagename", "img", "imgpath", "imgfile", "imgname"),
        *("picture", "picturepath", "photo", "photopath"),
    ),
    ("id", "imageid", "imgid", "fileid", "pictureid", "photoid", "idcode"),
)
"""Names of a column of paths, in lower case and without `_`, `-` and spaces. The first group that fits decides."""
LABELS = (
    ("label",),
    ("class", "category", "target", "classname", "labelname", "categoryname", "targetname"),
    ("classid", "labelid", "categoryid", "targetid", "classindex", "labelindex", "classidx", "labelidx"),
    ("diagnosis", "dx", "disease", "breed", "species", "variety", "cultivar", "emotion", "landmarkid"),
)
"""Names of a column of labels, in the same form."""
SPLIT_NAMES = ("split", "set", "subset", "partition", "phase", "datasplit", "dataset", "usage")
"""Names of a column of splits. All but the first count only if some value in the column names a split."""
FLAGS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("isvalid", "isval", "isvalidation"), ("val", "train")),
    **dict.fromkeys(("istest", "istesting"), ("test", "train")),
    **dict.fromkeys(("istrain", "istraining", "istrainingimg"), ("train", "test")),
}
"""Columns that hold yes or no, such as fastai's is_valid, and the splits that yes and no mean."""
BARE: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("train", "training"), ("train", "test")),
    **dict.fromkeys(("val", "validation"), ("val", "train")),
    **dict.fromkeys(("test", "testing"), ("test", "train")),
}
"""Columns like `FLAGS` that count only if they hold both yes and no."""
UNCLEAR = "valid"
"""Name of a column that may say which images are for validation, or which are good."""
YES, NO = frozenset({"true", "1", "yes", "t", "y", "1.0"}), frozenset({"false", "0", "no", "f", "n", "0.0"})
"""Values of a column of flags, in lower case."""


@dataclass(frozen=True)
class Columns:
    """Hold the places of the columns, from 0.

    `flag` holds the splits that yes and no mean, if the column of the split is one of `FLAGS` or `BARE`. `note` states
    assumptions for the user. `doubt` states why the split is not clear.
    """

    path: int
    label: int
    split: int | None = None
    flag: tuple[str, str] | None = None
    note: str | None = None
    doubt: str | None = None


def plain(name: str) -> str:
    """Normalise the name of a column: lower case, letters and digits only."""
    return re.sub(r"[\W_]+", "", name.casefold())


def names_columns(cells: Sequence[str]) -> bool:
    """Tell whether a line names a column of paths and one of labels, or of paths and a single other one."""
    splits = [place for place, name in enumerate(map(plain, cells)) if name in {*SPLIT_NAMES, *FLAGS, *BARE}]
    return _path_and_label(cells, ()) is not None or _path_and_label(cells, splits) is not None


def find_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Columns | None:
    """Find the columns that `header` names. Return None if it does not say which ones hold paths and labels.

    If no name is known for a label, the only column beside path and split is taken for it.
    """
    names = [plain(name) for name in header]
    split, flag, doubt = _split(names, header, rows)
    found = _path_and_label(header, () if split is None else (split,))
    if found is None:
        return None
    path, label = found
    used = {path, label} | ({split} if split is not None else set())
    unused = [header[place] for place in _named(header) if place not in used]
    meant = [(path, "path"), (label, "label")] + ([(split, "split")] if split is not None else [])
    said = [f"{header[place]} is taken for the {own}" for place, own in meant if names[place] != own]
    if unused:
        more = f" and {len(unused) - 8} more" if len(unused) > 8 else ""
        said.append(f"not used: {', '.join(unused[:8])}{more}")
    note = "; ".join(said) or None
    return Columns(path, label, split, flag, note, doubt)


def _named(header: Sequence[str]) -> list[int]:
    """Return the places of the columns with a name. An index of rows, as pandas writes it, has none."""
    return [place for place, name in enumerate(header) if name and not re.fullmatch(r"Unnamed: \d+", name)]


def _path_and_label(header: Sequence[str], others: Collection[int]) -> tuple[int, int] | None:
    """Return the places of path and label, or None. `others` are places that cannot be the label."""
    names = [plain(name) for name in header]
    path, label = _pick(names, PATHS), _pick(names, LABELS)
    if path is None:
        return None
    if label is None:
        left = [place for place in _named(header) if place != path and place not in others]
        if len(left) != 1 or any(names.count(own) for group in LABELS for own in group):
            return None
        (label,) = left
    return path, label


def _pick(names: Sequence[str], groups: Sequence[Collection[str]]) -> int | None:
    """Return the only place with a name of the first group that occurs, or None."""
    for group in groups:
        places = [place for place, name in enumerate(names) if name in group or name.removesuffix("s") in group]
        if places:
            return places[0] if len(places) == 1 else None
    return None


def _split(
    names: Sequence[str], header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[int | None, tuple[str, str] | None, str | None]:
    """Return the place of the split, the splits that yes and no mean, and why it is not clear."""
    if names.count("split") == 1:
        return names.index("split"), None, None
    known = {own for groups in (PATHS, LABELS) for group in groups for own in group}
    values = [{row[place].lower() for row in rows if place < len(row)} for place in range(len(names))]
    found = [{canonical_split(value) for value in own}.intersection(SPLITS) for own in values]
    for place, name in enumerate(names):
        if (name in SPLIT_NAMES and found[place]) or (name not in known and len(found[place]) > 1):
            return place, None, None
    flags = [place for place, name in enumerate(names) if name in FLAGS or (name in BARE and _says_both(values[place]))]
    unclear = [place for place, name in enumerate(names) if name == UNCLEAR and _says_both(values[place])]
    if len(flags) + len(unclear) > 1:
        shown = " and ".join(header[place] for place in sorted([*flags, *unclear]))
        return None, None, f"{shown} each say something of the split"
    if unclear:
        return None, None, f"{header[unclear[0]]} may say which pictures are for validation, or which are good"
    if flags:
        return flags[0], {**FLAGS, **BARE}[names[flags[0]]], None
    return None, None, None


def _says_both(values: Collection[str]) -> bool:
    """Tell whether all values are yes, no or empty, and both yes and no occur."""
    return set(values) <= YES | NO | {""} and bool(YES.intersection(values)) and bool(NO.intersection(values))
