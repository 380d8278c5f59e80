"""Download files so that they resume after an interruption, are verified, and appear whole or not at all."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from resnet_infer._version import __version__
from resnet_infer.errors import ModelError, UnwritableError, UsageError
from resnet_infer.models.weights.locks import locked
from resnet_infer.utils.console import logger, printable
from resnet_infer.utils.files import remedy, sha256
from resnet_infer.utils.progress import progress

CACHE_VARIABLE = "RESNET_INFER_CACHE"
TIMEOUT = 30.0
"""Seconds without an answer or a byte after which a connection counts as dropped."""
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each retry. A try that gets `PROGRESS` bytes further resets the count."""
PROGRESS = 1 << 20
"""Bytes of progress that reset the count of retries."""
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which a retry may succeed."""
_CHUNK = 1 << 18
"""Bytes that are read at a time."""
_LOG = logger(__name__)


def cache_folder() -> Path:
    """Return `$RESNET_INFER_CACHE`, else the platform's cache folder of the user. It need not exist.

    Raises `UnwritableError` for a user without a home folder, e.g. with a `docker run --user` that no passwd file
    lists.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    try:
        if chosen:
            return Path(chosen).expanduser()
        from platformdirs import user_cache_path

        folder = user_cache_path("resnet-infer", appauthor=False)
    except RuntimeError as error:  # both pathlib and platformdirs raise it
        raise _homeless(chosen) from error
    if "~" in folder.parts:  # older versions of platformdirs leave it unexpanded
        raise _homeless(chosen)
    return folder


def _homeless(chosen: str | None) -> UnwritableError:
    """Return the error for a user without a home folder."""
    what = f"{CACHE_VARIABLE} is {chosen}, and" if chosen else "there is no place for the cache:"
    return UnwritableError(
        f"{what} this user has no home folder", hint=f"set {CACHE_VARIABLE} to a folder that can be written, or HOME"
    )


def library_folder(name: str) -> Path | None:
    """Return a folder where another library may keep its files, or None if there can be none.

    It lies in the cache; if that cannot be written, it is a temporary folder that is removed when the process ends.
    """
    with suppress(OSError, UnwritableError):
        folder = cache_folder() / name
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    return scratch_folder()


def scratch_folder() -> Path | None:
    """Return a new folder that is removed when the process ends, or None if there can be none.

    It is in memory (/dev/shm) if the folder for temporary files cannot be written.
    """
    import atexit
    import shutil
    import tempfile

    for place in (None, "/dev/shm"):
        with suppress(OSError):
            folder = tempfile.mkdtemp(prefix="resnet-infer-", dir=place)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return Path(folder)
    return None


def download(
    url: str, target: Path, *, sha256_prefix: str, size: int | None = None, title: str, timeout: float = TIMEOUT
) -> Path:
    """Download `url` to `target` unless the right file exists already, and return `target`.

    The file is right if its SHA-256 in hexadecimal begins with `sha256_prefix`. `size` in bytes serves if the server
    does not state one. `title` labels the progress bar and messages; `timeout` is in seconds.

    What has arrived is kept in `target` + `.part` until it is whole, also after Ctrl-C, and the next call continues
    from there. Of several processes one downloads and the others wait for it.

    Raises `UsageError` if `url` is not http(s). Raises `ModelError` if the host cannot be reached, the server refuses,
    the connection keeps dropping, the content has another hash (nothing is kept then), or the disk is full.
    """
    source = _Source(url, _host(url), target, sha256_prefix.lower(), size, title, timeout)
    try:
        if _present(source):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(source.target, f"downloading {source.title}"):
            if not _present(source):
                _fetch(source)
    except OSError as error:
        raise ModelError(
            f"cannot write {target}: {error.strerror or error}",
            hint=remedy(error, f"set {CACHE_VARIABLE} to another folder")
            + "; what has arrived is kept, and the next run goes on from there",
            source=target,
            reason="unwritable",
        ) from error
    return target


@dataclass(frozen=True)
class _Source:
    """Hold the arguments of a download."""

    url: str
    host: str
    target: Path
    sha256_prefix: str
    size: int | None
    title: str
    timeout: float

    @property
    def part(self) -> Path:
        """Return the path of the unfinished file."""
        return self.target.with_name(self.target.name + ".part")

    @property
    def by_hand(self) -> str:
        """Return a hint that says how to do without this connection."""
        return f"to do without this connection, download {self.url} elsewhere and put it at {self.target}"


class _BrokenError(Exception):
    """Report a failure after which a retry may succeed."""


class _UnreachableError(_BrokenError):
    """Report that no connection could be made."""


def _host(url: str) -> str:
    """Return host and port of an address. Raises `UsageError` if it is not http(s)."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    except ValueError:
        pass
    raise UsageError(f"{url} is not an http or https address")


def _present(source: _Source) -> bool:
    """Tell whether the right file exists."""
    if not source.target.exists():
        return False
    found = sha256(source.target)
    if found.startswith(source.sha256_prefix):
        return True
    _LOG.warning(
        "%s has SHA-256 %s, not %s: it is replaced",
        printable(str(source.target)),
        found[: len(source.sha256_prefix)],
        source.sha256_prefix,
    )
    return False


def _fetch(source: _Source) -> None:
    """Complete, verify and rename the unfinished file. Raises `ModelError`."""
    left_over = _length(source.part) > 0
    if not (left_over and sha256(source.part).startswith(source.sha256_prefix)):
        _receive(source)
        found = sha256(source.part)
        if not found.startswith(source.sha256_prefix):
            source.part.unlink()
            if left_over:  # what was left over may be part of another file
                _fetch(source)
                return
            raise ModelError(
                f"{source.url} is not the file that was published: expected a SHA-256 that begins with "
                f"{source.sha256_prefix}, got {found}",
                hint=f"nothing was kept; if a proxy or mirror changes the file, download it elsewhere and put it at "
                f"{source.target}",
                source=source.url,
                reason="damaged",
            )
    os.replace(source.part, source.target)


def _receive(source: _Source) -> None:
    """Complete the unfinished file, with retries. Raises `ModelError` if they are used up."""
    failures, furthest, connected = 0, _length(source.part), False
    while True:
        try:
            return _transfer(source)
        except _BrokenError as error:
            unreachable = isinstance(error, _UnreachableError)
            connected = connected or not unreachable
            reached = _length(source.part)
            failures = 1 if reached >= furthest + PROGRESS else failures + 1
            furthest = max(furthest, reached)
            if unreachable and (not connected or failures > len(PAUSES)):
                raise ModelError(
                    f"cannot reach {source.host} to download {source.title}: {error}",
                    hint=source.by_hand,
                    source=source.url,
                    reason="unreachable",
                ) from error
            if failures > len(PAUSES):
                raise ModelError(
                    f"the download of {source.title} from {source.host} failed {failures} times in a row: {error}",
                    hint=f"try again later: it goes on where it stopped; or, {source.by_hand}",
                    source=source.url,
                    reason="unreachable",
                ) from error
            _LOG.warning("download of %s: %s; trying again", source.title, printable(str(error)))
            time.sleep(PAUSES[failures - 1])


def _transfer(source: _Source) -> None:
    """Make one request: append the missing bytes, or start again if the server cannot resume."""
    have = _length(source.part)
    with _request(source, have) as response:
        if response.status == 206:
            begin, total = _content_range(response.headers.get("Content-Range", ""))
            if begin != have:
                source.part.unlink(missing_ok=True)
                raise _BrokenError("the server resumed at the wrong place")
        else:
            have = 0
            announced = response.headers.get("Content-Length", "")
            total = int(announced) if announced.isdecimal() else None
        total = source.size if total is None else total
        with (
            open(source.part, "ab" if have else "wb") as file,
            progress(source.title, total, "B", done=have) as advance,
        ):
            have += _copy(response, file, advance)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have < total:
        raise _BrokenError(f"the connection ended after {have:,} of {total:,} bytes")


def _request(source: _Source, have: int) -> Any:
    """Open the connection, from byte `have` on. Raises `_BrokenError` or `ModelError`."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    request = Request(source.url, headers={"User-Agent": f"resnet-infer/{__version__}", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        return urlopen(request, timeout=source.timeout)
    except HTTPError as error:
        error.close()
        answer = f"{error.code} {error.reason}".strip()
        if error.code == 416 and have:
            source.part.unlink(missing_ok=True)
            raise _BrokenError("the server has no such range") from error
        if error.code in _TRANSIENT:
            raise _BrokenError(f"the server answered {answer}") from error
        raise ModelError(
            f"cannot download {source.title}: {source.host} answered {answer} for {source.url}",
            hint=source.by_hand,
            source=source.url,
            reason="unreachable",
        ) from error
    except URLError as error:
        raise _UnreachableError(getattr(error.reason, "strerror", None) or error.reason) from error
    except (OSError, HTTPException) as error:
        raise _BrokenError(_reason(error)) from error


def _content_range(header: str) -> tuple[int | None, int | None]:
    """Return the first byte and the full length from a Content-Range header (RFC 9110, section 14.4)."""
    match = re.fullmatch(r"bytes\s+(\d+)-\d+/(\d+|\*)", header.strip())
    if not match:
        return None, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _copy(response: Any, file: IO[bytes], advance: Callable[[int], None]) -> int:
    """Write the rest of the response, and return the number of bytes. An `OSError` raised here concerns the disk."""
    from http.client import HTTPException

    copied = 0
    while True:
        try:
            chunk: bytes = response.read1(_CHUNK)
        except (OSError, HTTPException) as error:
            raise _BrokenError(_reason(error)) from error
        if not chunk:
            return copied
        file.write(chunk)
        copied += len(chunk)
        advance(len(chunk))


def _reason(error: Exception) -> str:
    """Describe an error in one phrase."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _length(path: Path) -> int:
    """Return the size of a file in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


__all__ = ["cache_folder", "download", "library_folder", "scratch_folder"]
