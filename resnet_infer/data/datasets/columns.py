"""Which column of a list holds the path, the label and the split, by its name."""

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
    ("id", "imageid", "imgid", "fileid", "pictureid", "photoid"),
)
"""What a column of paths is called, in lower case and without `_`, `-` and spaces. The first group that fits counts."""
LABELS = (
    ("label",),
    ("class", "category", "target", "classname", "labelname", "categoryname", "targetname"),
    ("classid", "labelid", "categoryid", "targetid", "classindex", "labelindex", "classidx", "labelidx"),
)
"""The same for labels."""
SPLIT_NAMES = ("split", "set", "subset", "partition", "phase", "datasplit", "dataset", "usage")
"""The same for splits. All but the first are taken for one only if some value names a split."""
FLAGS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("isvalid", "isval", "isvalidation"), ("val", "train")),
    **dict.fromkeys(("istest", "istesting"), ("test", "train")),
    **dict.fromkeys(("istrain", "istraining", "istrainingimg"), ("train", "test")),
}
"""Columns that say yes or no, as fastai's is_valid, and the split that each means."""
YES, NO = frozenset({"true", "1", "yes", "t", "y", "1.0"}), frozenset({"false", "0", "no", "f", "n", "0.0"})


@dataclass(frozen=True)
class Columns:
    """Places of the columns; `flag` says that the split is one of `FLAGS`. `note` says what was taken for granted."""

    path: int
    label: int
    split: int | None = None
    flag: tuple[str, str] | None = None
    note: str | None = None


def plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def names_columns(cells: Sequence[str]) -> bool:
    """Whether a line names a column of paths and one of labels, or of paths and one other."""
    splits = [place for place, name in enumerate(map(plain, cells)) if name in SPLIT_NAMES or name in FLAGS]
    return _path_and_label(cells, ()) is not None or _path_and_label(cells, splits) is not None


def find_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Columns | None:
    """The columns that `header` names; None if it does not say which hold paths and labels.

    Where no name is known for a label, the only column beside path and split is taken for it.
    """
    names = [plain(name) for name in header]
    split, flag = _split(names, rows)
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
    return Columns(path, label, split, flag, note)


def _named(header: Sequence[str]) -> list[int]:
    """The columns with a name; an index of rows, as pandas writes it, has none."""
    return [place for place, name in enumerate(header) if name and not re.fullmatch(r"Unnamed: \d+", name)]


def _path_and_label(header: Sequence[str], others: Collection[int]) -> tuple[int, int] | None:
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
    for group in groups:
        places = [place for place, name in enumerate(names) if name in group or name.removesuffix("s") in group]
        if places:
            return places[0] if len(places) == 1 else None
    return None


def _split(names: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[int | None, tuple[str, str] | None]:
    if names.count("split") == 1:
        return names.index("split"), None
    for place, name in enumerate(names):
        values = {row[place].lower() for row in rows if place < len(row)}
        if name in SPLIT_NAMES and any(canonical_split(value) in SPLITS for value in values):
            return place, None
    for place, name in enumerate(names):
        if name in FLAGS:
            return place, FLAGS[name]
    return None, None
