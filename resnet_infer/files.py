"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from resnet_infer.errors import ResnetInferError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; renamed to `path` when the block succeeds, removed when it fails.

    The data reaches the disk before the rename, so a crash leaves the old file or the new one and never half of one.
    The name ends as `path` does, because libraries choose a format by it. A link's target is replaced, not the link;
    a device or a pipe is written to as it is. Raises `ResnetInferError` where the operating system refuses.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
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
        raise ResnetInferError(
            f"cannot write {path}: {error.strerror or error}",
            hint="free some space, or choose another place with -o",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
