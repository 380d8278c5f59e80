"""Keep answers in a file as they come, so that an evaluation can be resumed."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from resnet_infer.errors import DataError, ResnetInferError, UsageError
from resnet_infer.evaluation.record import RankedAnswer, Record
from resnet_infer.models.format_version import FORMAT, READS_FROM, FileFormat
from resnet_infer.models.outputs import whole_file
from resnet_infer.utils import strict_json
from resnet_infer.utils.files import unwritable
from resnet_infer.utils.inputs import open_input

MAGIC = "resnet-infer evaluation"
"""Value of `file` in the first line."""
JOURNAL = FileFormat("answers of an evaluation", error=DataError, implied=True)
"""Format of the file. The first files of version 1 do not state it."""
VERSION = "the version"
"""Key of the version of the package that began the file. Another one may go on with it."""
OPTION = "--resume"
"""Option of the command that names the file, for messages."""


class Journal:
    """Append every picture's answers to a file, from which a run that was killed is resumed.

    The first line says what the file belongs to. A last line without its end is cut off. Another damaged line is
    skipped, and its picture is answered again. `kept` counts the pictures that are answered, and `damaged` the skipped
    lines. `begun_by` is the version of the package that began the file, if it says so. One process at a time can open a
    file. Instances are context managers.
    """

    def __init__(self, path: Path, belongs_to: Mapping[str, Any], record: Record) -> None:
        """Open `path`, or create it, and put its answers into `record`.

        Raises `DataError` if the file belongs to another evaluation, naming what differs, is of a newer format, or is
        no journal;
        `ResnetInferError` if another process has it open, or it cannot be written; `UsageError` for a folder.
        """
        if path.is_dir():
            raise UsageError(f"{path} is a folder, and {OPTION} names a file")
        self.path, self.damaged = path, 0
        self.begun_by: str | None = None
        head = strict_json.dumps({"file": MAGIC, FORMAT: JOURNAL.version, **belongs_to})
        with ExitStack() as stack:
            try:
                _lock(path, stack)
                if not path.exists() or not path.stat().st_size:
                    with whole_file(path, OPTION) as temporary:
                        temporary.write_text(head + "\n", encoding="utf-8")
                self._load(json.loads(head), record)
                self._file: TextIO = stack.enter_context(
                    open(path, "a", encoding="utf-8", buffering=1)
                )  # buffered by lines
            except OSError as error:
                raise unwritable(path, error, ResnetInferError, f"choose another place with {OPTION}") from error
            self.kept = int(record.answered.sum())
            self._held = stack.pop_all()

    def append(self, index: int, digest: int, answers: Sequence[RankedAnswer]) -> None:
        """Write a picture's answers. After that only a crash of the machine can lose them."""
        try:
            self._file.write(strict_json.dumps([index, digest, [list(answer) for answer in answers]]) + "\n")
        except OSError as error:
            raise unwritable(self.path, error, ResnetInferError, f"choose another place with {OPTION}") from error
        self.kept += 1

    def _load(self, head: Mapping[str, Any], record: Record) -> None:
        """Read the file into `record`, and cut off a last line that is not whole."""
        with open(self.path, "rb") as file:
            found = _parse(file.readline())
            if not _is_head(found):
                raise DataError(
                    f"{self.path} holds no results of an evaluation",
                    hint="name another file",
                    source=self.path,
                    reason="unsupported",
                )
            try:
                JOURNAL.check(found, str(self.path))
            except ValueError as error:
                raise DataError(
                    f"{self.path} is damaged: {error}", hint="name another file", source=self.path, reason="damaged"
                ) from error
            self.begun_by = found.get(VERSION)
            compared = head.keys() - {FORMAT, READS_FROM, VERSION}
            differs = [key for key in head if key in compared and head[key] != found.get(key)]
            if differs:
                raise DataError(
                    f"{self.path} belongs to another evaluation: {', '.join(differs)} differ",
                    hint="name a new file, or repeat the command that began it",
                    source=self.path,
                    reason="mismatch",
                )
            end = file.tell()
            predictors, count = record.ranks.shape
            for line in file:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                entry = _parse(line)
                if _is_valid(entry, predictors, count):
                    index, digest, answers = entry
                    record.add(index, digest, [RankedAnswer(*answer) for answer in answers])
                else:
                    self.damaged += 1
        if end < self.path.stat().st_size:
            with open(self.path, "rb+") as file:
                file.truncate(end)

    def close(self) -> None:
        """Write all to the disk, and release the lock."""
        with self._held:
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_journal(path: Path) -> bool:
    """Return whether the file begins like those of `Journal`."""
    with open_input(path) as file, io.BufferedReader(file) as lines:
        return _is_head(_parse(lines.readline()))


def _lock(path: Path, stack: ExitStack) -> None:
    """Hold the lock file beside `path` until `stack` closes. Raises `ResnetInferError` if another process holds it."""
    from filelock import FileLock, Timeout

    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        stack.enter_context(lock.acquire(timeout=0))
    except Timeout as error:
        raise ResnetInferError(
            f"another evaluation is writing to {path}",
            hint=f"wait for its end, or name another file with {OPTION}",
            source=path,
            reason="unwritable",
        ) from error


def _parse(line: bytes) -> Any:
    """Parse a line of JSON; return None if it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_head(value: Any) -> bool:
    """Return whether a value is the first line of a journal."""
    return isinstance(value, dict) and value.get("file") == MAGIC


def _is_valid(entry: Any, predictors: int, count: int) -> bool:
    """Return whether `entry` is `[index, digest, [[rank, top1, confidence], ...]]`."""
    return (
        isinstance(entry, list)
        and len(entry) == 3
        and _whole(entry[0], 0, count)
        and _whole(entry[1], 0, 1 << 64)
        and isinstance(entry[2], list)
        and len(entry[2]) == predictors
        and all(
            isinstance(one, list)
            and len(one) == 3
            and _whole(one[0], 0, 1 << 31)
            and _whole(one[1], -1, 1 << 31)
            and isinstance(one[2], int | float)
            and 0 <= one[2] <= 1
            for one in entry[2]
        )
    )


def _whole(value: Any, low: int, high: int) -> bool:
    """Return whether `value` is an integer from `low` up to, and not including, `high`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < high
