"""Look up readable names for WordNet ids (n01440764) in the lists published with ImageNet and Tiny ImageNet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from resnet_infer.data.datasets.tree import Tree, join, read_lines

_WNID_LENGTH = 9
_WNID = re.compile(r"n\d{8}", re.ASCII)
_LINE = re.compile(r"(n\d{8})(?:\s+(\d+)(?=\s))?(?:\s+(.+))?", re.ASCII)

LISTS = ("words.txt", "map_clsloc.txt", "LOC_synset_mapping.txt", "synset_words.txt", "synsets.txt")
"""Files with a WordNet id at the start of each line. The number in a `wnid number name` line is the ILSVRC id."""
PLACES = ("", "val", "devkit", "devkit/data", "ILSVRC2012_devkit_t12/data")
"""Folders that are searched for these lists and for the labels of the validation set."""


@dataclass(frozen=True)
class Synset:
    """Hold one line of a list: `ilsvrc_id` (from 1) and `name` (the first synonym) are None if the list lacks them."""

    wnid: str
    ilsvrc_id: int | None
    name: str | None


def is_wnid(name: str) -> bool:
    """Tell whether a name is a WordNet id of a noun: n and eight digits."""
    return _WNID.fullmatch(name) is not None


def find(tree: Tree, names: Sequence[str]) -> str | None:
    """Return the path of the first of `names` that lies in one of `PLACES`, or None."""
    return next((join(place, name) for name in names for place in PLACES if name in tree.list(place)[1]), None)


def read_synsets(tree: Tree, path: str, wanted: Collection[str] | None = None) -> list[Synset]:
    """Read the lines of one of `LISTS`, or only those of `wanted` ids. Lines without a WordNet id are skipped."""
    synsets = []
    for line in read_lines(tree, path):
        if wanted is not None and line.lstrip()[:_WNID_LENGTH] not in wanted:
            continue
        columns = line.split("\t")
        # words.txt has two columns separated by a tab, and some of its names begin with a number.
        if len(columns) == 2 and is_wnid(columns[0]):
            synsets.append(Synset(columns[0], None, _first_synonym(columns[1])))
        elif match := _LINE.fullmatch(line.strip()):
            wnid, number, rest = match.groups()
            name = _first_synonym(rest.replace("_", " ") if number else rest) if rest else None
            synsets.append(Synset(wnid, int(number) if number else None, name))
    return synsets


def describe(tree: Tree, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return readable class names and, if `names` are WordNet ids, those ids.

    The names come from the first of `LISTS` that exists. An id without a name stays as it is.
    """
    if not all(map(is_wnid, names)):
        return tuple(names), None
    path = find(tree, LISTS)
    found = read_synsets(tree, path, frozenset(names)) if path else ()
    known = {synset.wnid: synset.name for synset in found if synset.name}
    return readable_names(names, known), tuple(names)


def readable_names(wnids: Sequence[str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Return a distinct name for each id. If two synsets share one (crane: a bird, a machine), the id is added."""
    names = [known.get(wnid, wnid) for wnid in wnids]
    count = Counter(names)
    return tuple(f"{name} ({wnid})" if count[name] > 1 else name for name, wnid in zip(names, wnids, strict=True))


def _first_synonym(names: str) -> str:
    """Return the first of the synonyms, which are separated by commas."""
    return names.split(",")[0].strip()
