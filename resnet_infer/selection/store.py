"""Keep entries about this machine in JSON documents of the cache, so that nothing about them can make a command fail.

A document that is damaged, newer or unreadable is left out with a note. Where the cache cannot be written, nothing is
kept. Of several processes one writes and the others wait, and a document is replaced as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from resnet_infer.errors import DataError, ResnetInferError, UnwritableError
from resnet_infer.models.format_version import FileFormat
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import logger, note
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.inputs import read_bytes

FOLDER = "machine"
"""Folder of the cache."""
MOST_BYTES = 1 << 24
"""Largest document that is read. Each takes a few hundred kilobytes at most."""
Entry = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """Describe a document: the name of its file, its format, the check of an entry, and how many entries it keeps.

    `check` raises `ValueError`, `TypeError` or `KeyError` for an entry that is none. Of more than `most` entries the
    oldest are dropped.
    """

    file: str
    format: FileFormat
    check: Callable[[Mapping[str, Any]], object]
    most: int = 256

    @property
    def path(self) -> Path:
        """The path of the document. Raises `UnwritableError` for a user without a home folder."""
        from resnet_infer.models.weights.download import cache_folder

        return cache_folder() / FOLDER / self.file

    def entries(self) -> list[Entry]:
        """Return the entries, oldest first; none where there is no document that can be read."""
        found: list[Entry] = self._document()[0].get("entries", [])
        return found

    def add(self, entry: Entry, replaces: Callable[[Entry], bool]) -> bool:
        """Add an entry in the place of those that it `replaces`. Return whether it could be written."""
        with self.locked("writing what it measured") as writable:
            return writable and self.write(entry, replaces)

    def write(self, entry: Entry, replaces: Callable[[Entry], bool]) -> bool:
        """Add an entry as `add` does, inside `locked`."""
        document, readable = self._document()
        if not readable:
            return False
        others = [item for item in document.pop("entries", []) if not replaces(item)]
        kept = {"entries": [*others, entry][-self.most :]}
        try:
            with atomic_path(self.path) as temporary:
                text = strict_json.dumps(self.format.compose(kept, document), indent=1)
                temporary.write_text(text + "\n", encoding="utf-8")
        except (OSError, ResnetInferError) as error:
            logger(__name__).debug("%s is not kept: %s", self.file, error)
            return False
        return True

    @contextmanager
    def locked(self, doing: str) -> Iterator[bool]:
        """Hold the lock of the document during a `with` block. Gives False where nothing can be written.

        `doing` says for other processes, which wait, what this one is doing.
        """
        from resnet_infer.models.weights.locks import locked

        try:
            path = self.path
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = locked(path, doing)
        except (OSError, UnwritableError) as error:
            logger(__name__).debug("%s cannot be written: %s", self.file, error)
            yield False
            return
        with lock:
            yield True

    def _document(self) -> tuple[dict[str, Any], bool]:
        """Return the document, without its version unless it is newer, and whether it may be written again."""
        try:
            path = self.path
            document = json.loads(read_bytes(path, MOST_BYTES))
        except (FileNotFoundError, NotADirectoryError, UnwritableError):
            return {}, True
        except OSError as error:
            _note_once(f"{path} is not used: {error.strerror or error}")
            return {}, True
        except (ValueError, RecursionError):
            return self._damaged(path)
        try:
            newer = self.format.check(document, str(path))
            for entry in document["entries"]:
                self.check(entry)
        except DataError as error:
            _note_once(f"{path} is not used: {error.message}")
            return {}, False
        except (AttributeError, KeyError, TypeError, ValueError):
            return self._damaged(path)
        return {key: value for key, value in document.items() if newer or key not in ("format", "reads_from")}, True

    def _damaged(self, path: Path) -> tuple[dict[str, Any], bool]:
        """Note that a document is damaged, and return an empty one, which replaces it."""
        _note_once(f"{path} is damaged, so it is not used; it is replaced when something is measured again")
        return {}, True


@dataclass(frozen=True)
class Verdicts(Store):
    """Describe a document of verdicts. An entry has `passed`, `failures` and the fields `key`, which it is found by."""

    key: tuple[str, ...] = ()

    def find(self, key: Mapping[str, Any]) -> Entry | None:
        """Return the verdict that is kept for the values `key`, None if there is none."""
        return next((entry for entry in reversed(self.entries()) if self._is_of(entry, key)), None)

    def judged(
        self, key: Mapping[str, Any], doing: str, compare: Callable[[], Entry], *, keep: bool = True
    ) -> tuple[Entry, bool]:
        """Return the verdict for the values `key`, and whether it was found just now.

        One that is kept is returned. Else `compare` is called, which returns all other fields, and the verdict is kept
        where the cache can be written. Of several processes one compares and the others wait for it; `doing` is what
        they are told. With `keep=False` it is compared each time.
        """
        if not keep:
            return {**key, **compare()}, True
        if found := self.find(key):
            return found, False
        with self.locked(doing) as writable:
            if writable and (found := self.find(key)):  # another process has compared meanwhile
                return found, False
            entry = {**key, **compare()}
            if writable:
                self.write(entry, lambda other: self._is_of(other, key))
        return entry, True

    def _is_of(self, entry: Entry, key: Mapping[str, Any]) -> bool:
        """Return whether an entry is of the values `key`."""
        return all(entry[name] == key[name] for name in self.key)


def check_verdict(entry: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Check an entry of `Verdicts`, which has `fields` too. Raises `KeyError`, `TypeError` or `ValueError`."""
    for name in fields:
        entry[name]
    failures = entry["failures"]
    if not isinstance(failures, list) or any(not isinstance(item, str) for item in failures):
        raise TypeError("failures")
    if entry["passed"] is not (not failures):
        raise ValueError("what fails has reasons, and nothing else has")


@cache
def _note_once(message: str) -> None:
    """Note that a document is not used, once in a process: it is read several times."""
    note(message)
