"""Find the files of a list: beside it, below one folder beside it, or under a name without its suffix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from resnet_infer.data.datasets.classes import some
from resnet_infer.data.datasets.tree import DirectoryTree
from resnet_infer.data.formats.suffixes import READABLE, UNREADABLE
from resnet_infer.errors import DataError

DEPTH = 2
"""Levels of folders below the list that are searched if no file lies beside it."""


@dataclass
class _Finder:
    """Find files, and keep the listings of their folders."""

    _stems: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def find(self, folder: str, path: str) -> list[str]:
        """Return the files in `folder` that `path` may mean: that very file, else those with an image suffix added."""
        for spelled in dict.fromkeys((path, path.replace("\\", "/"))):
            place = os.path.normpath(os.path.join(folder, spelled))
            if os.path.isfile(place):
                return [place]
            above, name = os.path.split(place)
            if found := self._listed(above).get(name):
                return [os.path.join(above, own) for own in found]
        return []

    def _listed(self, folder: str) -> dict[str, list[str]]:
        """Return the names of the images in a folder, by name without suffix."""
        if folder not in self._stems:
            stems: dict[str, list[str]] = {}
            for name in DirectoryTree(folder or ".").list()[1]:
                stem, ending = os.path.splitext(name)
                if ending.lower() in READABLE or ending.lower() in UNREADABLE:
                    stems.setdefault(stem, []).append(name)
            self._stems[folder] = stems
        return self._stems[folder]


@dataclass(frozen=True)
class Located:
    """Hold a place for every path, the indices of the missing ones, and a note if they lie in another folder."""

    places: list[str]
    missing: frozenset[int]
    note: str | None


def locate(folder: str, paths: Sequence[str], where: str) -> Located:
    """Find the files of a list that lies in `folder`.

    A missing path stays relative to `folder`. If no file is found there, the folders below it are searched for all
    paths. Raises `DataError` if a path may mean several files.
    """
    finder = _Finder()
    found = [finder.find(folder, path) for path in paths]
    note = None
    if paths and not any(found):
        by_folder = {below: [finder.find(below, path) for path in paths] for below in _below(folder, DEPTH)}
        by_folder = {below: hits for below, hits in by_folder.items() if any(hits)}
        full = [below for below, hits in by_folder.items() if all(hits)]
        if len(full) == 1:
            by_folder = {full[0]: by_folder[full[0]]}
        if by_folder:
            found = [[hit for part in hits for hit in part] for hits in zip(*by_folder.values(), strict=True)]
            note = f"{where}: paths are relative to {some(list(by_folder))}"
    for path, hits in zip(paths, found, strict=True):
        if len(hits) > 1:
            raise DataError(
                f"{where}: {path} may be {some(hits)}",
                hint="write paths with their folder and suffix into the list",
                source=where,
                reason="ambiguous",
            )
    return Located(
        [
            hits[0] if hits else os.path.normpath(os.path.join(folder, path))
            for path, hits in zip(paths, found, strict=True)
        ],
        frozenset(number for number, hits in enumerate(found) if not hits),
        note,
    )


def _below(folder: str, depth: int) -> list[str]:
    """Return the folders below `folder`, down to `depth` levels."""
    if not depth:
        return []
    own = [os.path.join(folder, name) for name in DirectoryTree(folder or ".").list()[0]]
    return own + [lower for name in own for lower in _below(name, depth - 1)]
