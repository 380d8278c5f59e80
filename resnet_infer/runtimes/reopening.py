"""Pickle and copy open runtimes: write down how one was opened, and open it again.

A library's session cannot be copied. What is pickled are the path of the model, the digest of its content and the
arguments. The process that unpickles it opens the same file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from resnet_infer._version import __version__
from resnet_infer.errors import ModelError, UsageError
from resnet_infer.utils.files import sha256

if TYPE_CHECKING:
    from resnet_infer.runtimes.base import OpenedFile, Runtime

Opened = TypeVar("Opened")
_ELSEWHERE = "open it by its name or path in every process instead"


class PickledFile:
    """Hold the path of a model and the SHA-256 of its files, to recognise them where they are opened again."""

    def __init__(self, file: OpenedFile) -> None:
        """Read the files. Raises `ModelError` if they have changed since they were opened."""
        file.require_same("so a copy would be of another model", "open it again")
        self.path = file.path
        self.digests = {part: sha256(part) for part in file.parts if part.is_file()}

    def require_same(self) -> None:
        """Raise `ModelError` if a file is missing here or has other content."""
        for part, digest in self.digests.items():
            if not part.is_file():
                message = f"{part}, from which a pickled model was opened, is not here"
                raise ModelError(message, hint=_ELSEWHERE, source=part, reason="missing")
            if sha256(part) != digest:
                message = f"{part} is not the file from which a pickled model was opened"
                raise ModelError(message, hint=_ELSEWHERE, source=part, reason="changed")


def reopened(version: str, kind: type[Runtime], arguments: tuple[Any, ...], options: dict[str, Any]) -> Runtime:
    """Open a pickled runtime again. Raises `UsageError` for another version, and what opening raises."""
    require_version(version)

    def read(value: Any) -> Any:
        """Replace a `PickledFile` by its path."""
        if isinstance(value, PickledFile):
            value.require_same()
            return value.path
        return value

    return kind(*map(read, arguments), **{name: read(value) for name, value in options.items()})


def opened_anew(version: str, kind: Callable[..., Opened], file: PickledFile, given: dict[str, Any]) -> Opened:
    """Return what `kind` opens of a pickled file with the arguments `given`. Raises as `reopened` does."""
    require_version(version)
    file.require_same()
    return kind(file.path, **given)


def require_version(version: str) -> None:
    """Raise `UsageError` for what another version of the package has pickled."""
    if version != __version__:
        raise UsageError(
            f"it was pickled by resnet-infer {version}, and this process has {__version__}",
            hint="install the same version in every process",
        )
