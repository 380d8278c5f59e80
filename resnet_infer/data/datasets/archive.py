"""Opening a source: a directory, an archive read into memory, or a lone file."""

from __future__ import annotations

import lzma
import posixpath
import tarfile
import zipfile
import zlib
from pathlib import Path

from resnet_infer.data.datasets.tree import DirectoryTree, MemoryTree, SingleFile, Tree, is_hidden
from resnet_infer.data.suffixes import is_picture
from resnet_infer.errors import DataError
from resnet_infer.inputs import open_input

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,  # zipfile: an unknown compression
    RuntimeError,  # zipfile: encrypted
)


def open_tree(source: Path) -> Tree:
    """A directory, a tar (plain, gz, bz2, xz) or zip archive, or any other file. Raises `DataError`.

    Of an archive all files are read into memory; nothing is unpacked to disk.
    """
    if not source.exists():
        raise DataError(f"{source} does not exist")
    if source.is_dir():
        return DirectoryTree(str(source))
    try:
        kind = _archive_kind(source)
        if kind == "zip":
            return _read_zip(source)
        if kind == "tar":
            return _read_tar(source)
    except _DAMAGE as error:
        raise DataError(f"{source} is damaged or no archive ({error})", hint="fetch or pack it again") from error
    return SingleFile(str(source))


def _archive_kind(source: Path) -> str | None:
    with open_input(source) as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith((b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh")) or head[257:262] == b"ustar":
        return "tar"
    # Names decide for what has lost its first bytes.
    name = source.name.lower()
    if name.endswith(".zip"):
        return "zip"
    return "tar" if name.endswith((".tar", ".tgz", ".txz", ".tbz2")) or ".tar." in name else None


class _StrictInfo(tarfile.TarInfo):
    """`tarfile` takes a damaged header for the end of the archive; here only the end mark is the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _StrictInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from error


def _read_tar(source: Path) -> MemoryTree:
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    links: dict[str, str] = {}
    with tarfile.open(source, tarinfo=_StrictInfo) as archive:
        for member in archive:
            path = _clean(member.name, source)
            if path is None:
                continue
            if member.isdir():
                folders.add(path)
            elif member.islnk():
                links[path] = posixpath.normpath(member.linkname)
            elif member.issym():
                links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
            elif content := archive.extractfile(member):
                files[path] = content.read()
        # The checksum of a compressed file is compared at its very end, past the end mark of the tar.
        while archive.fileobj and archive.fileobj.read(1 << 20):
            pass
    for path in links:
        target, seen = path, set[str]()
        while target in links and target not in seen:
            seen.add(target)
            target = links[target]
        if target in files:
            files[path] = files[target]
        elif is_picture(path):
            raise DataError(f"{source}: {path} is a link to {links[path]}, which is no file in the archive")
    return MemoryTree(str(source), files, frozenset(folders))


def _read_zip(source: Path) -> MemoryTree:
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            path = _clean(member.filename.replace("\\", "/"), source)  # Windows
            if path is None:
                continue
            if member.is_dir():
                folders.add(path)
            else:
                files[path] = archive.read(member)
    return MemoryTree(str(source), files, frozenset(folders))


def _clean(name: str, source: Path) -> str | None:
    """The member's path without `./` in front; None for hidden ones. Raises `DataError` for one that leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise DataError(
            f"{source}: {name} leads out of the archive", hint="pack the pictures again, from the folder around them"
        )
    return "/".join(parts) if parts and not any(map(is_hidden, parts)) else None
