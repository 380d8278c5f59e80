"""View directories and archives alike: folders, files, and file contents on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import Protocol

from resnet_infer.data.formats.suffixes import is_picture, unreadable_format
from resnet_infer.data.image import picture_bytes
from resnet_infer.errors import DataError, PictureError, reason_of
from resnet_infer.utils.inputs import read_bytes as read_whole

_CLUTTER = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
    | {"Thumbs.db", "desktop.ini", "Icon\r"}
)
"""Names that systems and tools leave in folders, beside names that begin with a dot."""
RUN_FILES = frozenset({"recipe.json", "split.csv", "metrics.csv", "last.safetensors", "best.safetensors"})
"""Files of a training run. A folder with two of them holds a run."""

Listing = tuple[list[str], list[str]]
"""Names of folders and names of files, both sorted."""


class Tree(Protocol):
    """Give access to folders and files below a root.

    Paths are relative to the root and joined by `/`. The root itself is the empty string.
    """

    @property
    def where(self) -> str:
        """Return the root as messages name it."""

    def list(self, folder: str = "") -> Listing:
        """List the folders and files in `folder` without hidden names; empty if there is no such folder."""

    def reader(self, path: str) -> Callable[[], bytes]:
        """Return a function that returns the file's bytes, or raises `PictureError`."""

    def below(self, folder: str) -> Tree:
        """Return the tree with `folder` as its root."""

    def real(self, folder: str) -> str:
        """Return the path of the folder with symbolic links resolved."""


@dataclass(frozen=True)
class DirectoryTree:
    """View a directory on disk. Symbolic links are followed."""

    where: str
    _listed: dict[str, Listing] = field(default_factory=dict, repr=False, compare=False)

    def list(self, folder: str = "") -> Listing:
        """List a folder; see `Tree`. Raises `DataError` if the system refuses it."""
        if folder not in self._listed:
            self._listed[folder] = _scan(self._path(folder))
        return self._listed[folder]

    def reader(self, path: str) -> Callable[[], bytes]:
        """Return a function that reads the file; see `Tree`."""
        return partial(read_file, self._path(path))

    def below(self, folder: str) -> DirectoryTree:
        """Return the tree below `folder`."""
        return DirectoryTree(self._path(folder))

    def real(self, folder: str) -> str:
        """Return the path of the folder with symbolic links resolved."""
        return os.path.realpath(self._path(folder))

    def _path(self, below: str) -> str:
        """Return the path on disk."""
        return f"{self.where}/{below}" if below else self.where


class MemoryTree:
    """View an unpacked archive. `files` maps paths to contents; `folders` names folders that may be empty.

    A content of None stands for a file that was left in the archive: it is listed and cannot be read.
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
        """List a folder; see `Tree`."""
        return self._listings.get(folder, ([], []))

    def reader(self, path: str) -> Callable[[], bytes]:
        """Return a function that returns the file's bytes; see `Tree`."""
        content = self._files[path]
        if content is None:
            return partial(_left_in_archive, f"{self.where}/{path}")
        # Holds this file's bytes alone, so that the contents that the data set leaves out can be freed.
        return partial(bytes, content)

    def below(self, folder: str) -> MemoryTree:
        """Return the tree below `folder`."""
        start = f"{folder}/"
        files = {path.removeprefix(start): data for path, data in self._files.items() if path.startswith(start)}
        folders = {path.removeprefix(start) for path in self._folders if path.startswith(start)}
        return MemoryTree(f"{self.where}/{folder}", files, frozenset(folders))

    def real(self, folder: str) -> str:
        """Return `folder`: an archive's links are resolved when it is read."""
        return folder


@dataclass(frozen=True)
class SingleFile:
    """View a single file as a folder that holds nothing else."""

    where: str

    def list(self, folder: str = "") -> Listing:
        """List the file."""
        return ([], []) if folder else ([], [os.path.basename(self.where)])

    def reader(self, path: str) -> Callable[[], bytes]:
        """Return a function that reads the file, whatever the path is."""
        return partial(read_file, self.where)

    def below(self, folder: str) -> Tree:
        """Return an empty tree."""
        return MemoryTree(f"{self.where}/{folder}", {})

    def real(self, folder: str) -> str:
        """Return the path of the file."""
        return self.where


def pictures(tree: Tree, folder: str = "") -> Iterator[str]:
    """Yield the paths of all readable images below `folder`, at any depth. See `walk`."""
    return (path for path in walk(tree, folder) if is_picture(path))


def holds_pictures(tree: Tree, folder: str) -> bool:
    """Tell whether there is any image below `folder`, of a readable format or not."""
    return any(is_picture(path) or unreadable_format(path) for path in walk(tree, folder))


def walk(tree: Tree, folder: str = "") -> Iterator[str]:
    """Yield the paths of all files below `folder`, at any depth.

    Links back to a folder above, and folders that hold a training run, are not entered.
    """
    above = PurePath(tree.real(""))
    return _walk(tree, folder, frozenset(map(str, (above, *above.parents))) if folder else frozenset())


def _walk(tree: Tree, folder: str, above: frozenset[str]) -> Iterator[str]:
    """Yield the paths below `folder`. `above` are the real paths of the folders around it."""
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
    """Tell whether a folder with these files holds a training run, whose plots are not images to learn from."""
    return len(RUN_FILES.intersection(files)) > 1


def run_folders(tree: Tree, folder: str) -> Iterator[str]:
    """Yield the folders at and below `folder` that `walk` skips because they hold training runs."""
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
    """Tell whether a name is hidden, or clutter that systems leave behind."""
    return name.startswith(".") or name in _CLUTTER


def join(folder: str, name: str) -> str:
    """Join a folder, which may be empty, and a name by `/`."""
    return f"{folder}/{name}" if folder else name


def read_bytes(tree: Tree, path: str) -> bytes:
    """Read a file that describes the data. Raises `DataError` if it cannot be read."""
    try:
        return tree.reader(path)()
    except PictureError as error:
        raise DataError(error.message, source=error.source, reason=reason_of(error)) from error


def read_lines(tree: Tree, path: str) -> list[str]:
    """Read the lines of a UTF-8 text file, without surrounding white space and empty lines at its end."""
    return decode_text(read_bytes(tree, path), f"{tree.where}/{path}").rstrip().splitlines()


def decode_text(data: bytes, where: str) -> str:
    """Decode UTF-8 text, with or without a byte order mark. Raises `DataError` for any other bytes."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is no text in UTF-8 ({error.reason} at byte {error.start})",
            hint="save it as UTF-8",
            source=where,
            reason="damaged",
        ) from error


def read_file(path: str) -> bytes:
    """Read the bytes of a file. Raises `PictureError`.

    If a large file has the name of an image and is not one, only its first bytes are returned.
    """
    try:
        return picture_bytes(path) if is_picture(path) else read_whole(path)
    except OSError as error:
        raise PictureError(f"{path}: {error.strerror or error}", source=path, reason=reason_of(error)) from error


def _left_in_archive(path: str) -> bytes:
    """Raise `PictureError` for a file that was left in its archive."""
    raise PictureError(
        f"{path} was left in its archive: it is neither a picture nor a list of a known data set",
        source=path,
        reason="unsupported",
    )


def _parent(path: str) -> str:
    """Return the path of the folder that holds `path`."""
    return path.rpartition("/")[0]


def _scan(path: str) -> Listing:
    """List a directory on disk; empty if there is none. Raises `DataError`."""
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
        raise DataError(
            f"cannot list {path}: {error.strerror or error}", source=path, reason=reason_of(error)
        ) from error
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether a directory entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
