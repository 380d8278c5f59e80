"""Write files that are either complete or absent, explain why a file cannot be written, and hash files."""

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
    """Return what to do about a file that cannot be written: the remedy for its error number, or `instead`."""
    own = REMEDIES.get(error.errno or 0)
    return f"{own}, or {instead}" if own else instead


def unwritable(path: Path, error: OSError, kind: type[Kind], instead: str = "choose another place with -o") -> Kind:
    """Return the error, of type `kind`, for a file or folder that the operating system refused to write."""
    return kind(f"cannot write {path}: {error.strerror or error}", hint=remedy(error, instead))


def other_suffix(path: Path) -> str:
    """Return the end of a message about a file that should have another suffix: `not .txt: out.txt`.

    >>> other_suffix(Path("out"))
    'and out has no suffix'
    """
    return f"not {path.suffix}: {path}" if path.suffix else f"and {path} has no suffix"


def suffix_of(path: Path) -> str:
    """Return the suffix of a path with its dot, in small letters: suffixes are the same in either case.

    >>> suffix_of(Path("MODEL.ONNX"))
    '.onnx'
    """
    return path.suffix.lower()


def part_of(path: Path) -> Path:
    """Return the path for an unfinished result: `x.part.csv` for `x.csv`, or `x.part-2.csv` if that exists."""
    number = 1
    while True:
        found = path.with_name(f"{path.stem}.part{'' if number == 1 else f'-{number}'}{path.suffix}")
        if not os.path.lexists(found):
            return found
        number += 1


def parts_of(path: Path) -> list[Path]:
    """Return the unfinished files of `path` that earlier runs left: stopped (`part_of`), killed, or still writing."""
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    small = re.escape(suffix_of(path))
    known = re.compile(rf"{stem}\.part(-\d+)?{suffix}|\.{stem}\.[0-9a-f]{{8}}\.part{small}")
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
    """Give a temporary path beside `path` to write to, and rename it to `path` when the block succeeds.

    The file is removed when the block fails, or moved to the path that `keep` returns. The data reaches the disk before
    the rename, so a crash leaves the old file or the new one, and never part of one. The temporary name has the suffix
    of `path` in small letters, because libraries choose a format by it. If `path` is a link, its target is replaced. A
    device or a pipe is written to directly. Raises `ResnetInferError` where the operating system refuses.

    >>> with atomic_path(Path("report.csv")) as temporary:
    ...     temporary.write_text("label,count")
    """
    if _is_special(path):
        yield path
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.stem}.{os.urandom(4).hex()}.part{suffix_of(path)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename not in (None, str(temporary), str(path), *map(str, path.parents)):
            raise  # the error is about another file
        raise unwritable(path, error, ResnetInferError) from error
    finally:
        with contextlib.suppress(OSError):
            if temporary.exists() and (place := keep()):
                os.replace(temporary, place)
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_pair(path: Path, companion: Callable[[Path], Path | None]) -> Iterator[Path]:
    """Give a temporary path as `atomic_path` does, and rename the file that belongs beside it too.

    `companion` returns the path of the second file for that of the first, or None if there is none. The second file
    gets its final name first, so that `path` never appears without it. If the block or a rename fails, or is
    interrupted, both new files are removed, and two old files stay as they were. The block may read what it has
    written even if `path` is a device or a pipe, which gets its content when the block succeeds.
    """
    import shutil  # not needed to classify

    final, absent = companion(path), False
    old: Path | None = None
    written: os.stat_result | None = None
    try:
        with _regular_path(path) as temporary:
            beside = companion(temporary)
            try:
                yield temporary
                if beside is not None and final is not None:
                    for part in (temporary, beside):  # now, so that nothing slow is between the two renames
                        with open(part, "rb+") as file:
                            os.fsync(file.fileno())
                    absent, old = not os.path.lexists(final), _second_name(final)
                    written = os.stat(temporary)
                    with atomic_path(final) as renamed:
                        shutil.move(beside, renamed)
            finally:
                if beside is not None:
                    with contextlib.suppress(OSError):
                        beside.unlink(missing_ok=True)
    except BaseException:
        if final is not None and written is not None and not _is_file(path, written):
            with contextlib.suppress(OSError):
                if old is not None:
                    os.replace(old, os.path.realpath(final))
                elif absent:
                    final.unlink(missing_ok=True)
        raise
    finally:
        if old is not None:
            with contextlib.suppress(OSError):
                old.unlink(missing_ok=True)


@contextlib.contextmanager
def _regular_path(path: Path) -> Iterator[Path]:
    """Give a temporary path as `atomic_path` does. A device or a pipe gets a copy of the file at the end."""
    if not _is_special(path):
        with atomic_path(path) as temporary:
            yield temporary
        return
    import shutil
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        temporary = Path(folder) / path.name
        yield temporary
        with open(temporary, "rb") as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target)


def _is_special(path: Path) -> bool:
    """Return whether there is a device or a pipe at `path`. Raises `ResnetInferError` for a name no file can have."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError as error:  # such as a name with a null byte
        raise unwritable(path, error, ResnetInferError) from error


def _is_file(path: Path, about: os.stat_result) -> bool:
    """Return whether `path` names the file that `about` describes."""
    try:
        return os.path.samestat(os.stat(path), about)
    except OSError:
        return False


def _second_name(path: Path) -> Path | None:
    """Give the file at `path` a second name beside it, or copy it where files have one name. None if there is none."""
    import shutil

    real = Path(os.path.realpath(path))
    if not real.is_file():
        return None
    kept = real.with_name(f".{real.stem}.{os.urandom(4).hex()}.part{real.suffix}")
    try:
        os.link(real, kept)
    except OSError:
        try:
            shutil.copy2(real, kept)
        except OSError:  # it is replaced nevertheless, and cannot be restored
            with contextlib.suppress(OSError):
                kept.unlink(missing_ok=True)
            return None
    return kept
