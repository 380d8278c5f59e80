"""Open a source: a directory, an archive read into memory, or a single file.

Only images and the lists of known data sets are read from an archive. The sizes that the archive states for them are
summed and compared with the free memory before any bytes are unpacked.
"""

from __future__ import annotations

import lzma
import posixpath
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import IO

from resnet_infer.data.datasets.formats import label_files
from resnet_infer.data.datasets.tree import DirectoryTree, MemoryTree, SingleFile, Tree, is_hidden
from resnet_infer.data.formats.suffixes import is_picture
from resnet_infer.errors import DataError
from resnet_infer.utils.host_memory import free_memory
from resnet_infer.utils.inputs import open_input

SHARE = 0.8
"""Share of the free memory that an archive may take. The rest is for decoding its images."""
MAX_HEADER = 1 << 20
"""Most bytes of a tar header that holds a name or other attributes of the file after it."""
_ABOUT_OTHERS = frozenset(
    {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
)
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_MAGIC = (b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", _ZSTANDARD)
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
    """Open a directory, a tar (plain, gz, bz2, xz; zst from Python 3.14 on) or zip archive, or any other single file.

    The images and lists in an archive are read into memory; nothing is unpacked to disk. Raises `DataError` for a
    source that does not exist or is damaged, and for an archive that needs more memory than is free.
    """
    if not source.exists():
        raise DataError(f"{source} does not exist", source=source, reason="missing")
    if source.is_dir():
        return DirectoryTree(str(source))
    try:
        kind = _archive_kind(source)
        if kind == "zip":
            return _read_zip(source)
        if kind == "tar":
            return _read_tar(source)
    except _DAMAGE as error:
        raise DataError(
            f"{source} is damaged or no archive ({error})",
            hint="fetch or pack it again",
            source=source,
            reason="damaged",
        ) from error
    return SingleFile(str(source))


def _archive_kind(source: Path) -> str | None:
    """Tell whether a file is a `tar` or `zip` archive, or None. Raises `DataError` for one that Python cannot read."""
    with open_input(source) as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(_ZSTANDARD) and sys.version_info < (3, 14):
        version = ".".join(map(str, sys.version_info[:2]))
        raise DataError(
            f"{source} is packed with Zstandard, which Python {version} does not read",
            hint="unpack it and give the folder, or pack it as .tar.gz",
            source=source,
            reason="unsupported",
        )
    if head.startswith(_MAGIC) or head[257:262] == b"ustar":
        return "tar"
    # The name decides for a file that has lost its first bytes.
    name = source.name.lower()
    if name.endswith(".zip"):
        return "zip"
    return "tar" if name.endswith((".tar", ".tgz", ".txz", ".tbz2", ".tzst")) or ".tar." in name else None


class _StrictInfo(tarfile.TarInfo):
    """Refuse damaged headers of a tar.

    `tarfile` takes a damaged header for the end of the archive; here only the end mark is the end. It also trusts every
    size: a negative one makes it loop for ever, and a name may fill the memory.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        """Parse a header. Raises `tarfile.ReadError` for a negative size or an oversized name."""
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0:
            raise tarfile.ReadError(f"{info.name} has a negative size")
        if info.type in _ABOUT_OTHERS and info.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header says that it takes {info.size:,} bytes, of which {MAX_HEADER:,} may be")
        return info

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _StrictInfo:
        """Read the next header.

        Raises `tarfile.ReadError` for a damaged one, which `tarfile` would take for the end.
        """
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from error


class _Files:
    """Collect the files of an archive by path. Of several with one path the last counts, as in unpacking."""

    def __init__(self, source: Path, also: Collection[str] = ()) -> None:
        """Start empty. The paths in `also` are read whatever their names are."""
        self.source, self._also = source, also
        self.contents: dict[str, bytes | None] = {}
        self.folders: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._total = 0
        self._most = int(SHARE * free_memory())

    def admit(self, path: str, size: int) -> bool:
        """List a file of `size` bytes, and return whether its content is to be read.

        Raises `DataError` if memory cannot hold it together with the files before it.
        """
        self.drop(path)
        self.contents[path] = None
        if not _is_wanted(path) and path not in self._also:
            return False
        self._sizes[path] = size
        self._total += size
        if self._total > self._most:
            raise DataError(
                f"{self.source} says that its pictures and lists up to {path} take {_shown(self._total)}, and of the "
                f"memory that is free {_shown(self._most)} may be used; an archive is read into memory",
                hint="unpack it and give the folder",
                source=self.source,
                reason="memory",
            )
        return True

    def drop(self, path: str) -> None:
        """Forget the file at `path`, if there is one."""
        self._total -= self._sizes.pop(path, 0)
        self.contents.pop(path, None)

    def tree(self) -> MemoryTree:
        """Return the collected files as a tree."""
        return MemoryTree(str(self.source), self.contents, frozenset(self.folders))


def _unpack(content: IO[bytes]) -> bytes:
    """Read a member's bytes with one copy in memory: `read` alone takes three copies of a large one."""
    buffer = BytesIO()
    shutil.copyfileobj(content, buffer, 1 << 20)
    return buffer.getvalue()


def _shown(size: int) -> str:
    """Format a number of bytes for a message."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _is_wanted(path: str) -> bool:
    """Tell whether a file is an image or a known list, by its name."""
    return is_picture(path) or posixpath.basename(path) in label_files()


def _read_tar(source: Path) -> MemoryTree:
    """Read a tar archive, a second time if links need files that the first pass left out."""
    files, left = _tar_files(source, frozenset())
    if left:  # links named like an image to files with other names
        del files
        files, _ = _tar_files(source, left)
    return files.tree()


def _tar_files(source: Path, also: frozenset[str]) -> tuple[_Files, frozenset[str]]:
    """Read the archive. Return its files, and those left out that links named like images or lists lead to."""
    files = _Files(source, also)
    links: dict[str, str] = {}
    with tarfile.open(source, tarinfo=_StrictInfo) as archive:
        for member in archive:
            path = _clean(member.name, source)
            if path is None:
                continue
            if member.isdir():
                files.folders.add(path)
                continue
            links.pop(path, None)
            if member.islnk() or member.issym():
                files.drop(path)
                folder = posixpath.dirname(path) if member.issym() else ""
                links[path] = posixpath.normpath(posixpath.join(folder, member.linkname))
            elif member.isfile() and files.admit(path, member.size) and (content := archive.extractfile(member)):
                files.contents[path] = _unpack(content)
        # A compressed file has its checksum at its very end, behind the end mark of the tar.
        while archive.fileobj and archive.fileobj.read(1 << 20):
            pass
    left = set()
    for path in links:
        target, seen = path, set[str]()
        while target in links and target not in seen:
            seen.add(target)
            target = links[target]
        if target in files.contents:
            files.contents[path] = files.contents[target]
            if files.contents[target] is None and _is_wanted(path):
                left.add(target)
        elif is_picture(path):
            raise DataError(
                f"{source}: {path} is a link to {links[path]}, which is no file in the archive",
                source=source,
                reason="incomplete",
            )
    return files, frozenset(left)


def _read_zip(source: Path) -> MemoryTree:
    """Read a zip archive."""
    files = _Files(source)
    members: dict[str, zipfile.ZipInfo] = {}
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            path = _clean(member.filename.replace("\\", "/"), source)  # Windows separators
            if path is None:
                continue
            if member.is_dir():
                files.folders.add(path)
                continue
            members.pop(path, None)
            if files.admit(path, member.file_size):
                members[path] = member
        for path, member in members.items():
            with archive.open(member) as content:
                files.contents[path] = _unpack(content)
    return files.tree()


def _clean(name: str, source: Path) -> str | None:
    """Return a member's path without a leading `./`, or None if it is hidden.

    Raises `DataError` for a path that leads out of the archive.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise DataError(
            f"{source}: {name} leads out of the archive",
            hint="pack the pictures again, from the folder around them",
            source=source,
            reason="unsafe",
        )
    return "/".join(parts) if parts and not any(map(is_hidden, parts)) else None
