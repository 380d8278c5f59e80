"""Unpack files of the package where it is imported from a zip file (pex, zipapp, Spark's `--py-files`)."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Traversable

PACKAGE = Path(__file__).parents[2]
"""Path of the package, which may lie in a zip file."""


def present(path: Path) -> Path:
    """Return `path`, a file or folder of the package, or that of a copy if the package is in a zip file."""
    return path if path.exists() else unpacked(path)


@cache
def unpacked(path: Path) -> Path:
    """Return the path of a copy of `path`, a file or folder of the package, in a temporary folder of this process.

    Returns `path` itself if the package has no such file.
    """
    found = files("resnet_infer").joinpath(*path.relative_to(PACKAGE).parts)
    if not (found.is_file() or found.is_dir()):
        return path
    target = _folder() / path.relative_to(PACKAGE)
    target.parent.mkdir(parents=True, exist_ok=True)
    _copy(found, target)
    return target


def _copy(item: Traversable, target: Path) -> None:
    """Copy a file, or a folder with all that is in it."""
    if item.is_file():
        target.write_bytes(item.read_bytes())
        return
    target.mkdir(exist_ok=True)
    for part in item.iterdir():
        _copy(part, target / part.name)


@cache
def _folder() -> Path:
    """Return the temporary folder, which is removed when this process ends."""
    folder, owner = tempfile.mkdtemp(prefix="resnet-infer-"), os.getpid()

    def remove() -> None:
        """Remove the folder. A forked process leaves it to its parent."""
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)
