"""Check the files that commands will write: that they can be written, and replace nothing that matters."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resnet_infer.errors import ResnetInferError, UsageError, reason_of
from resnet_infer.models.spec import METADATA_KEY
from resnet_infer.utils.files import atomic_path, remedy, unwritable


@dataclass(frozen=True)
class Output:
    """Describe a file that will be written, and the option that names it.

    An existing file is replaced or continued only if it is empty, or `ours` says that it is a `kind`.
    """

    option: str
    path: Path
    kind: str
    ours: Callable[[Path], bool] = lambda path: True


def require_free(outputs: Sequence[Output], inputs: Iterable[Path | str | None]) -> None:
    """Raise `UsageError` unless the outputs may be written without harm.

    An output may not be a folder, an input, another output, a file of another kind, or the name of standard output (-).
    Inputs that are not files (None, the name of a model) are ignored. Raises `ResnetInferError` if nothing can be
    written there.
    """
    named = [Path(os.path.expanduser(item)) for item in inputs if item]
    known = [path for path in named if os.path.exists(path)]
    for number, output in enumerate(outputs):
        path, option = output.path, output.option
        if path.parts[:1] == ("-",):
            raise UsageError(f"{option} names a file, and - is none", hint="leave it out, or name a file")
        if path.is_dir():
            raise UsageError(f"{path} is a folder, and {option} names a file")
        for other in outputs[:number]:
            if _same(path, other.path):
                raise UsageError(f"{option} and {other.option} both name {path}", hint="name two files")
        for other_path in known:
            if _same(path, other_path):
                raise UsageError(
                    f"{option} would overwrite {other_path}, which is read", hint=f"name another file with {option}"
                )
        require_writable(output)
        if path.is_file() and path.stat().st_size and not output.ours(path):
            raise UsageError(
                f"{path} is there already and is no {output.kind}", hint=f"name another file with {option}"
            )


@contextmanager
def whole_file(path: Path, option: str) -> Iterator[Path]:
    """Yield a temporary path whose file replaces `path` at the end of the block, as `atomic_path` does.

    The hint of an error names `option`, which chose the path.
    """
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except ResnetInferError as error:
        cause = error.__cause__
        instead = f"choose another place with {option}"
        hint = remedy(cause, instead) if isinstance(cause, OSError) else error.hint
        raise ResnetInferError(error.message, hint=hint, source=error.source, reason=reason_of(error)) from cause


def has_spec(path: Path) -> bool:
    """Tell whether a file contains the key of a model spec, as checkpoints and artifacts of this package do."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(METADATA_KEY.encode()) >= 0


def _same(one: Path, other: Path) -> bool:
    """Tell whether two paths are, or would be, one file."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


def require_writable(output: Output) -> None:
    """Raise `ResnetInferError` if the file cannot be written.

    The test is a nameless file in its folder or, if that does not exist, in the nearest folder above.
    """
    path = Path(os.path.realpath(output.path))
    if path.exists() and not path.is_file():  # a device or a pipe
        return
    folder = next(parent for parent in path.parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        if path.exists():
            with open(path, "rb"):
                pass
    except OSError as error:
        raise unwritable(output.path, error, ResnetInferError, f"choose another place with {output.option}") from error
