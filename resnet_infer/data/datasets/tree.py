"""One view of directories and archives: folders, files, and their bytes on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import Protocol

from resnet_infer.data.formats.suffixes import is_picture, unreadable_format
from resnet_infer.data.image import picture_bytes
from resnet_infer.errors import DataError, PictureError
from resnet_infer.utils.inputs import read_bytes as read_whole

_CLUTTER = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
    | {"Thumbs.db", "desktop.ini", "Icon\r"}
)
"""What systems and tools leave in folders, beside names that begin with a dot."""
RUN_FILES = frozenset({"recipe.json", "split.csv", "metrics.csv", "last.safetensors", "best.safetensors"})
"""What a training run leaves; two of them make a folder one."""

Listing = tuple[list[str], list[str]]
"""Names of folders and names of files, both sorted."""


class Tree(Protocol):
    """Folders and files below a root. Paths are relative to it, joined by `/`; the root itself is the empty string."""

    @property
    def where(self) -> str:
        """The root as messages name it."""

    def list(self, folder: str = "") -> Listing:
        """What lies in `folder`, hidden names left out; nothing if there is no such folder."""

    def reader(self, path: str) -> Callable[[], bytes]:
        """A function that returns the file's bytes, or raises `PictureError`."""

    def below(self, folder: str) -> Tree:
        """The same with `folder` as its root."""

    def real(self, folder: str) -> str:
        """The folder's place with symbolic links resolved."""


@dataclass(frozen=True)
class DirectoryTree:
    """A directory on disk. Symbolic links are followed."""

    where: str
    _listed: dict[str, Listing] = field(default_factory=dict, repr=False, compare=False)

    def list(self, folder: str = "") -> Listing:
        if folder not in self._listed:
            self._listed[folder] = _scan(self._path(folder))
        return self._listed[folder]

    def reader(self, path: str) -> Callable[[], bytes]:
        return partial(read_file, self._path(path))

    def below(self, folder: str) -> DirectoryTree:
        return DirectoryTree(self._path(folder))

    def real(self, folder: str) -> str:
        return os.path.realpath(self._path(folder))

    def _path(self, below: str) -> str:
        return f"{self.where}/{below}" if below else self.where


class MemoryTree:
    """An unpacked archive. `files` maps paths to contents; `folders` names folders that may be empty.

    The content is None of a file that was left in the archive: it is listed and cannot be read.
    """

    def __init__(self, where: str, files: Mapping[str, bytes | None], folders: frozenset[str] = frozenset()) -> None:
        self.where, self._files, self._folders = where, files, folders
        listings: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
        for path in files:
            listings.setdefault(_parent(path), (set(), set()))[1].add(path.rpartition("/")[2])
        for path in (*listings, *folders):
            while path:
                listings.setdefault(path, (set(), set()))
                above = _parent(path)
                listings.setdefault(above, (set(), set()))[0].add(path.rpartition("/")[2])
                path = above
        self._listings = {path: (sorted(names), sorted(own)) for path, (names, own) in listings.items()}

    def list(self, folder: str = "") -> Listing:
        return self._listings.get(folder, ([], []))

    def reader(self, path: str) -> Callable[[], bytes]:
        content = self._files[path]
        if content is None:
            return partial(_left_in_archive, f"{self.where}/{path}")
        # Holds this file's bytes alone, so that what the data set leaves out can be freed.
        return partial(bytes, content)

    def below(self, folder: str) -> MemoryTree:
        start = f"{folder}/"
        files = {path.removeprefix(start): data for path, data in self._files.items() if path.startswith(start)}
        folders = {path.removeprefix(start) for path in self._folders if path.startswith(start)}
        return MemoryTree(f"{self.where}/{folder}", files, frozenset(folders))

    def real(self, folder: str) -> str:
        return folder


@dataclass(frozen=True)
class SingleFile:
    """A lone file, seen as a folder that holds nothing else."""

    where: str

    def list(self, folder: str = "") -> Listing:
        return ([], []) if folder else ([], [os.path.basename(self.where)])

    def reader(self, path: str) -> Callable[[], bytes]:
        return partial(read_file, self.where)

    def below(self, folder: str) -> Tree:
        return MemoryTree(f"{self.where}/{folder}", {})

    def real(self, folder: str) -> str:
        return self.where


def pictures(tree: Tree, folder: str = "") -> Iterator[str]:
    """Paths of all pictures that can be read below `folder`, at any depth. See `walk`."""
    return (path for path in walk(tree, folder) if is_picture(path))


def holds_pictures(tree: Tree, folder: str) -> bool:
    """Whether there is any picture below `folder`, of a format that can be read or not."""
    return any(is_picture(path) or unreadable_format(path) for path in walk(tree, folder))


def walk(tree: Tree, folder: str = "") -> Iterator[str]:
    """Paths of all files below `folder`, at any depth.

    Not entered are a link back to a folder above, and a folder that holds a training run.
    """
    above = PurePath(tree.real(""))
    return _walk(tree, folder, frozenset(map(str, (above, *above.parents))) if folder else frozenset())


def _walk(tree: Tree, folder: str, above: frozenset[str]) -> Iterator[str]:
    real = tree.real(folder)
    if real in above:
        return
    folders, files = tree.list(folder)
    if is_run(files):
        return
    yield from (join(folder, name) for name in files)
    for name in folders:
        yield from _walk(tree, join(folder, name), above | {real})


def is_run(files: Collection[str]) -> bool:
    """Whether a folder with these files holds a training run: its curves are no picture to learn from."""
    return len(RUN_FILES.intersection(files)) > 1


def run_folders(tree: Tree, folder: str) -> Iterator[str]:
    """The folders at and below `folder` that `walk` does not enter, because they hold training runs."""
    folders, files = tree.list(folder)
    if is_run(files):
        yield folder
        return
    real = tree.real(folder)
    for name in folders:
        below = join(folder, name)
        if not f"{real}/".startswith(f"{tree.real(below)}/"):  # a link back to a folder above
            yield from run_folders(tree, below)


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _CLUTTER


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def read_bytes(tree: Tree, path: str) -> bytes:
    """A file that describes the data. Raises `DataError` if it cannot be read."""
    try:
        return tree.reader(path)()
    except PictureError as error:
        raise DataError(error.message) from error


def read_lines(tree: Tree, path: str) -> list[str]:
    """The lines of a text file in UTF-8, without surrounding white space and empty lines at its end."""
    return decode_text(read_bytes(tree, path), f"{tree.where}/{path}").rstrip().splitlines()


def decode_text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is no text in UTF-8 ({error.reason} at byte {error.start})", hint="save it as UTF-8"
        ) from error


def read_file(path: str) -> bytes:
    """The bytes of a file; of a large one that has the name of a picture and is none, the first ones."""
    try:
        return picture_bytes(path) if is_picture(path) else read_whole(path)
    except OSError as error:
        raise PictureError(f"{path}: {error.strerror or error}") from error


def _left_in_archive(path: str) -> bytes:
    raise PictureError(f"{path} was left in its archive: it is neither a picture nor a list of a known data set")


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _scan(path: str) -> Listing:
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not is_hidden(entry.name):
                    (folders if _is_folder(entry) else files).append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        raise DataError(f"cannot list {path}: {error.strerror or error}") from error
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
