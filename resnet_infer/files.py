"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from resnet_infer.errors import ResnetInferError


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


@contextlib.contextmanager
def atomic_path(path: Path, *, keep: Callable[[], Path | None] = lambda: None) -> Iterator[Path]:
    """A temporary name beside `path` to write to; renamed to `path` when the block succeeds, removed when it fails.

    The data reaches the disk before the rename, so a crash leaves the old file or the new one and never half of one.
    The name ends as `path` does, because libraries choose a format by it. A link's target is replaced, not the link;
    a device or a pipe is written to as it is. Where `keep` names another place, what was written until the block
    failed is moved there instead of being removed. Raises `ResnetInferError` where the operating system refuses.
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
            if temporary.exists() and (place := keep()):
                os.replace(temporary, place)
            temporary.unlink(missing_ok=True)
