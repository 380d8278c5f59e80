"""Files that are either whole or absent, and what tells one from another."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from resnet_infer.errors import ResnetInferError

Kind = TypeVar("Kind", bound=ResnetInferError)

_CHUNK = 1 << 18
"""Bytes read at a time."""

REMEDIES: Mapping[int, str] = MappingProxyType(
    {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some of your quota",
        errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
        errno.EROFS: "mount the file system, which is read-only, for writing",
        errno.EACCES: "get the right to write there",
        errno.EPERM: "get the right to write there",
        errno.ENAMETOOLONG: "take a shorter name",
        errno.ENOTDIR: "one of the folders of this path is a file: take another name",
        errno.EEXIST: "one of the folders of this path is a file: take another name",
        errno.EISDIR: "a folder has this name: take another",
        errno.ELOOP: "a link of this path leads back to itself: remove it",
        errno.EIO: "see whether the disk is damaged",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENFILE: "close other programs: the system has no more open files to give",
    }
)
"""By error number, what to do about a file that cannot be written."""


def remedy(error: OSError, instead: str) -> str:
    """What to do about a file that cannot be written: what the system's answer calls for, or else `instead`."""
    own = REMEDIES.get(error.errno or 0)
    return f"{own}, or {instead}" if own else instead


def unwritable(path: Path, error: OSError, kind: type[Kind], instead: str = "choose another place with -o") -> Kind:
    """The error for a file or folder that the system did not let us write."""
    return kind(f"cannot write {path}: {error.strerror or error}", hint=remedy(error, instead))


def part_of(path: Path) -> Path:
    """Where what there is of a result is kept if it did not come to its end: `x.part.csv` for `x.csv`.

    If that is there already, `x.part-2.csv`, and so on.
    """
    number = 1
    while True:
        found = path.with_name(f"{path.stem}.part{'' if number == 1 else f'-{number}'}{path.suffix}")
        if not os.path.lexists(found):
            return found
        number += 1


def parts_of(path: Path) -> list[Path]:
    """What earlier runs have left of `path`: those that were stopped (`part_of`), killed, or are still writing."""
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    known = re.compile(rf"{stem}\.part(-\d+)?{suffix}|\.{stem}\.[0-9a-f]{{8}}\.part{suffix}")
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return []
    return [path.with_name(name) for name in names if known.fullmatch(name)]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises `OSError`."""
    import hashlib  # which loads OpenSSL

    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path, *, keep: Callable[[], Path | None] = lambda: None) -> Iterator[Path]:
    """A temporary name beside `path` to write to; renamed to `path` when the block succeeds, removed when it fails.

    The data reaches the disk before the rename, so a crash leaves the old file or the new one and never half of one.
    The name ends as `path` does, because libraries choose a format by it. A link's target is replaced, not the link;
    a device or a pipe is written to as it is. Where `keep` names another place, what was written until the block
    failed is moved there instead of being removed. Raises `ResnetInferError` where the operating system refuses.
    """
    try:
        special = path.exists() and not path.is_file() and not path.is_dir()
    except OSError as error:  # a name that no file can have
        raise unwritable(path, error, ResnetInferError) from error
    if special:
        yield path
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.stem}.{os.urandom(4).hex()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename not in (None, str(temporary), str(path), *map(str, path.parents)):
            raise  # another file's
        raise unwritable(path, error, ResnetInferError) from error
    finally:
        with contextlib.suppress(OSError):
            if temporary.exists() and (place := keep()):
                os.replace(temporary, place)
            temporary.unlink(missing_ok=True)
