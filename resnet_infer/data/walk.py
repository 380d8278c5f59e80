"""Find the images in a folder or behind a pattern, and count the other files there."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from resnet_infer.data.formats.suffixes import READABLE, UNREADABLE, is_picture, suffix, unreadable_format
from resnet_infer.errors import PictureError, Reason, reason_of
from resnet_infer.utils.inputs import is_handed_over, open_input

UNSUPPORTED, OTHER, SPECIAL, CLOSED, HIDDEN = (
    "not supported",
    "no pictures",
    "no regular files",
    "cannot be opened",
    "hidden",
)
"""Reasons why a file of a folder is not read."""
SHOWN = 8
"""Most suffixes that a summary names for each reason."""
HEAD = 4096
"""Bytes at the start of a file that suffice to tell its format."""
_PART = re.compile(r"\..*\.[0-9a-f]{8}\.part")
"""Pattern of the names of files that are still being written (`files.atomic_path`)."""


class FoundError(PictureError):
    """Report why a file or folder that was found cannot be classified. `source` is its path, `why` words."""

    source: str

    def __init__(self, source: str, why: str, *, hint: str | None = None, reason: Reason = "unsupported") -> None:
        path = Path(source)
        super().__init__(f"{path}: {why}", hint=hint, source=path, reason=reason)


@dataclass
class Passed:
    """Count the files that were found and not read, by reason and suffix."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, reason: str, name: str) -> None:
        """Count the file called `name`, which was not read for `reason`. Hidden files are counted together."""
        self.counts[reason, "" if reason == HIDDEN else suffix(name)] += 1

    def __str__(self) -> str:
        """Summarise the counts, or return the empty string if every file was read.

        For example `3 .heic, 1 .avif: not supported; 12 .txt: no pictures; 2 hidden`.
        """
        parts = []
        for reason in (UNSUPPORTED, OTHER, SPECIAL, CLOSED):
            found = [(name, count) for (why, name), count in self.counts.items() if why == reason]
            found.sort(key=lambda item: (-item[1], item[0]))
            named = [f"{count:,} {name or 'without a suffix'}" for name, count in found[:SHOWN]]
            if rest := sum(count for _, count in found[SHOWN:]):
                named.append(f"{rest:,} others")
            if named:
                parts.append(f"{', '.join(named)}: {reason}")
        if hidden := self.counts[HIDDEN, ""]:
            parts.append(f"{hidden:,} hidden")
        return "; ".join(parts)


def search(argument: str, passed: Passed) -> Iterator[str | FoundError]:
    """Yield the paths that `argument` stands for: a folder, a glob pattern or a file; or errors.

    The errors say why a folder or pattern has no images, or why an argument is not read.

    A pattern means what a shell would expand it to. Each matching file is yielded, each matching folder is searched
    (see `walk`), and no file is yielded twice. A file that is named explicitly is yielded whatever its suffix, if it is
    a regular file or was handed over by a shell (/dev/fd). Files that are not read are counted in `passed`.
    """
    if os.path.isdir(argument) or not glob.has_magic(argument) or os.path.lexists(argument):
        yield from _named(argument, passed)
        return
    met: set[str] = set()
    nothing = True
    for name in expand(argument):
        for item in _named(name, passed):
            place = _place(item.source if isinstance(item, FoundError) else item)
            if place not in met:
                met.add(place)
                yield item
        nothing = False
    if nothing:
        yield _nothing(argument)


def walk(folder: str, passed: Passed) -> Iterator[str | FoundError]:
    """Yield the paths of the images below `folder`, folder by folder, sorted by name in each.

    An image is a regular file with the suffix of a format that is decoded. A file whose suffix is not one of images
    counts as well, if its first bytes are those of a decoded format. Images of other formats, and folders that cannot
    be listed, are yielded as `FoundError`. All other files, and hidden files and folders, are counted in `passed`.
    Hidden folders are not entered.

    Links to folders are followed, and each folder is entered once. A link to a place inside `folder` is not followed,
    because the search reaches that place anyway.
    """
    top, entered, left = os.path.realpath(folder), set[tuple[int, int]](), [folder]
    while left:
        here = left.pop()
        try:
            identity = _identity(here)
            if identity in entered or (here != folder and os.path.islink(here) and _is_met(here, top)):
                continue
            entered.add(identity)
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            yield FoundError(here, f"cannot list it ({error.strerror or error})", reason=reason_of(error))
            continue
        folders = []
        for entry in entries:
            path = os.path.join(here, entry.name)
            if entry.name.startswith("."):
                if not _PART.match(entry.name):
                    passed.add(HIDDEN, entry.name)
            elif _is_folder(entry):
                folders.append(path)
            elif (found := _judge(path, entry.name, passed)) is not None:
                yield found
        left.extend(reversed(folders))


def expand(pattern: str) -> Iterator[str]:
    """Yield the files and folders that a shell would expand `pattern` to, sorted.

    `*`, `?` and `[...]` mean what they mean in a shell. `**` matches folders at any depth, by the rules of `walk`. `**`
    or `**/*` at the end of a pattern matches all files in these folders.
    """
    parts = Path(pattern).parts
    if parts[-2:] == ("**", "*"):
        parts = parts[:-1]
    kept: dict[str, str] = {}
    for name in sorted(set(_matches("", parts)), key=lambda name: (len(Path(name).parts), name)):
        kept.setdefault(_place(name), name)  # several links may lead to a file: the shortest path is kept
    return iter(sorted(kept.values()))


def _named(name: str, passed: Passed) -> Iterator[str | FoundError]:
    """Yield the images of one folder or file that was named."""
    if os.path.isdir(name):
        found = walk(name, passed)
        first = next(found, None)
        yield _nothing(name) if first is None else first
        yield from found
        return
    try:
        regular = stat.S_ISREG(os.stat(name).st_mode)
    except (OSError, ValueError):  # whoever reads the file reports the error
        regular = True
    if regular or is_handed_over(name):
        yield name
    else:
        yield FoundError(name, "not a regular file", hint=f"hand it over: resnet-infer classify - < {name}")


def _nothing(name: str) -> FoundError:
    """Return the error for a folder or pattern without images."""
    return FoundError(name, "no pictures there", hint=f"known are {', '.join(sorted(READABLE))}", reason="empty")


def _place(path: str) -> str:
    """Return the path with the links of its folders resolved. The last part stays as it is."""
    return os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))


def _judge(path: str, name: str, passed: Passed) -> str | FoundError | None:
    """Return the path of an image, the error for one that is not decoded, or None for any other file."""
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError:  # e.g. a dangling link: an error only where an image was meant
        regular = is_picture(name)
    if not regular:
        passed.add(SPECIAL, name)
        return None
    if is_picture(name):
        return path
    kind = unreadable_format(name)
    if kind is None:
        try:
            kind, decoded = _sniff(path)
        except OSError:
            passed.add(CLOSED, name)
            return None
        if decoded:
            return path
        if kind not in UNREADABLE.values():
            passed.add(OTHER, name)
            return None
    passed.add(UNSUPPORTED, name)
    return FoundError(path, f"{kind} is not supported", hint="convert it to JPEG or PNG")


def _sniff(path: str) -> tuple[str, bool]:
    """Read the head of a file, and return its format and whether it is decoded (`image.format_of`)."""
    from resnet_infer.data.image import format_of

    with open_input(path) as file:
        return format_of(file.read(HEAD))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether a directory entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_met(link: str, top: str) -> bool:
    """Tell whether the target of `link` lies below `top`, where the search reaches it without the link."""
    inside = os.path.relpath(os.path.realpath(link), top)
    return not any(part.startswith(".") for part in inside.split(os.sep) if inside != os.curdir)


def _identity(path: str) -> tuple[int, int]:
    """Return the device and inode numbers, which are equal for two paths to one folder."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _matches(folder: str, parts: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths below `folder` that match the parts of a pattern."""
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        for inner in _folders(folder):
            if rest:
                yield from _matches(inner, rest)
            else:
                paths = (os.path.join(inner, name) for name in _names(inner) if not name.startswith("."))
                yield from (path for path in paths if not os.path.isdir(path))
    elif glob.has_magic(part):
        for name in _names(folder):
            if fnmatch.fnmatch(name, part) and (part.startswith(".") or not name.startswith(".")):
                path = os.path.join(folder, name)
                if not rest or os.path.isdir(path):
                    yield from _matches(path, rest)
    else:
        path = os.path.join(folder, part)
        if os.path.lexists(path):
            yield from _matches(path, rest)


def _folders(folder: str) -> Iterator[str]:
    """Yield `folder` (the current folder if empty) and all folders below it, by the rules of `walk`."""
    top, entered, left = os.path.realpath(folder or "."), set[tuple[int, int]](), [folder]
    while left:
        here = left.pop()
        try:
            identity = _identity(here or ".")
        except OSError:
            continue
        if identity in entered or (here != folder and os.path.islink(here) and _is_met(here, top)):
            continue
        entered.add(identity)
        yield here
        inside = [os.path.join(here, name) for name in _names(here) if not name.startswith(".")]
        left.extend(path for path in reversed(inside) if os.path.isdir(path))


def _names(folder: str) -> list[str]:
    """List the names in a folder, sorted; none if it cannot be listed."""
    try:
        return sorted(os.listdir(folder or "."))
    except OSError:
        return []
