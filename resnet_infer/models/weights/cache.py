"""Manage the cache. Each file has its digest beside it, so that damage is noticed and the file is made again.

`x.onnx.sha256` beside `x.onnx` holds its SHA-256 as `sha256sum` writes it. The digest is verified whenever a file of
the cache is used. Downloads have their digest in their names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resnet_infer.errors import ModelError, ResnetInferError, UnwritableError, reason_of
from resnet_infer.models.weights.download import cache_folder
from resnet_infer.models.weights.locks import locked
from resnet_infer.utils.console import logger, printable
from resnet_infer.utils.files import atomic_path, remedy, sha256

DIGEST = ".sha256"
"""Suffix of the file that holds the digest of the file beside it."""
KINDS = {"downloads": ".pth", "checkpoints": ".safetensors", "artifacts": ".onnx", "machine": ".json"}
"""Suffixes of the files in each folder of the cache. Those of `machine` are written by `selection`."""
_DIGEST_IN_NAME = re.compile("[0-9a-f]{8,64}")
State = Literal["good", "damaged", "without digest"]
_GOOD: set[tuple[str, int, int]] = set()
"""Path, time of change and size of the files that this process has verified, so that each is verified once."""
_FAULTS = {"damaged": "is damaged", "without digest": "has no digest", "good": "was being replaced"}
"""What is wrong with a file by its state, for messages."""
_LOG = logger(__name__)


@dataclass(frozen=True)
class Cached:
    """Describe a file of the cache. `kind` is a key of `KINDS`, `bytes` the file's size."""

    kind: str
    path: Path
    bytes: int


def kept(target: Path, make: Callable[[], None]) -> Path:
    """Return `target`, a file of the cache. `make` writes it if it is missing or damaged.

    Of several processes one makes the file and the others wait. Raises the errors of `make`, `UnwritableError` if the
    cache cannot be written, and `ModelError` if the file cannot be read.
    """
    if is_good(target):
        return target
    if os.path.exists(target) and state(target) == "without digest" and not os.access(target.parent, os.W_OK):
        _LOG.warning(
            "%s has no digest and lies where nothing can be written, so it is used unverified", printable(str(target))
        )
        return target
    with _locked(target):
        if not is_good(target):
            if os.path.exists(target):
                _LOG.warning("%s %s, so it is made again", printable(str(target)), _FAULTS[state(target)])
            try:
                make()
                seal(target)
            except ResnetInferError as error:
                if isinstance(cause := error.__cause__, OSError) and _is_in(cause.filename, target.parent):
                    raise _unwritable(target, cause) from error
                raise
    return target


def _is_in(name: object, folder: Path) -> bool:
    """Tell whether `name`, the file of an `OSError`, is the folder or lies in it."""
    return isinstance(name, str) and folder.resolve() in (Path(name).resolve(), *Path(name).resolve().parents)


def _unwritable(target: Path, error: OSError) -> UnwritableError:
    """Return the error for a cache that cannot be written."""
    return UnwritableError(
        f"cannot write into the cache, {target.parent}: {error.strerror or error}",
        hint=remedy(error, "set RESNET_INFER_CACHE to a folder that can be written"),
        source=target.parent,
    )


def is_good(path: Path) -> bool:
    """Tell whether `path` exists and matches its digest. Raises `ModelError` if it cannot be read."""
    try:
        about = path.stat()
    except OSError:
        return False
    seen = (str(path), about.st_mtime_ns, about.st_size)
    if seen not in _GOOD and state(path) == "good":
        _GOOD.add(seen)
    return seen in _GOOD


def state(path: Path) -> State:
    """Compare a file of the cache with its digest: for a download the one in its name, else the one beside it.

    The documents of the folder `machine` have no digest: they are good if they are JSON.

    Raises `ModelError` if the file cannot be read.
    """
    wanted: str | None
    if path.suffix == KINDS["machine"]:
        return _state_of_json(path)
    if path.suffix == KINDS["downloads"]:
        wanted = path.stem.rpartition("-")[2]
        wanted = wanted if _DIGEST_IN_NAME.fullmatch(wanted) else None
    else:
        wanted = None
        with suppress(OSError, UnicodeDecodeError):
            words = path.with_name(path.name + DIGEST).read_text(encoding="utf-8").split()
            wanted = words[0] if words and len(words[0]) == 64 else None
    if not wanted:
        return "without digest"
    try:
        return "good" if sha256(path).startswith(wanted) else "damaged"
    except OSError as error:
        raise _unreadable(path, error) from error


def _state_of_json(path: Path) -> State:
    """Return whether a JSON document can be parsed. Raises `ModelError` if it cannot be read."""
    import json

    try:
        json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError):
        return "damaged"
    return "good"


def _unreadable(path: Path, error: OSError) -> ModelError:
    """Return the error for a file of the cache that cannot be read."""
    return ModelError(
        f"cannot read {path}: {error.strerror or error}",
        hint="resnet-infer cache clear",
        source=path,
        reason=reason_of(error),
    )


def seal(path: Path) -> None:
    """Write the digest of `path` beside it. Raises `ResnetInferError` if that is not possible."""
    with atomic_path(path.with_name(path.name + DIGEST)) as temporary:
        temporary.write_text(f"{sha256(path)}  {path.name}\n", encoding="utf-8")


def listed() -> Iterator[Cached]:
    """Yield the files in the cache, sorted by folder and name, without digests and unfinished files."""
    for kind, suffix in KINDS.items():
        for path in _entries(cache_folder() / kind):
            if path.suffix == suffix and not path.name.startswith(".") and path.is_file():
                yield Cached(kind, path, path.stat().st_size)


def clear() -> int:
    """Remove the files of the cache, their digests and unfinished files, and return the number of bytes.

    Other files stay. Raises `ResnetInferError` if a file cannot be removed.
    """
    freed = 0
    for kind, suffix in KINDS.items():
        folder = cache_folder() / kind
        for path in _entries(folder):
            ours = any(path.name.endswith(f"{suffix}{end}") for end in ("", DIGEST, ".part", ".lock"))
            if path.is_file() and (ours or (path.name.startswith(".") and ".part" in path.name)):
                freed += path.stat().st_size
                try:
                    path.unlink()
                except OSError as error:
                    raise ResnetInferError(
                        f"cannot remove {path}: {error.strerror or error}", source=path, reason="unwritable"
                    ) from error
        with suppress(OSError):  # the folder holds other files
            folder.rmdir()
    return freed


def _entries(folder: Path) -> list[Path]:
    """List a folder of the cache, sorted. Raises `ModelError` if that is not possible."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelError(
            f"cannot list the cache, {folder}: {error.strerror or error}",
            hint="set RESNET_INFER_CACHE to a folder of its own",
            source=folder,
            reason=reason_of(error),
        ) from error


def _locked(target: Path) -> AbstractContextManager[object]:
    """Wait for the lock on `target`. Raises `UnwritableError` if it cannot be created."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return locked(target, f"making {target.name}")
    except OSError as error:
        raise _unwritable(target, error) from error


__all__ = ["Cached", "clear", "is_good", "kept", "listed", "seal", "state"]
