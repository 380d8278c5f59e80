"""State the version of every file and JSON document that this package writes, and decide which ones it reads.

A document states two numbers. `format` is the version that wrote it. `reads_from` is the lowest version of a reader for
which it is meant; it is left out where it equals `format`. A writer keeps `reads_from` as low as the contents allow, so
that a file without the new thing stays readable for older programs. A reader reads every older version, refuses a
document whose `reads_from` is above its own version, and keeps the fields that it does not know when it writes a
document again. docs/formats/README.md describes the documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnet_infer._version import __version__
from resnet_infer.errors import DataError, ModelError, ResnetInferError

FORMAT, READS_FROM = "format", "reads_from"
HIGHEST = 10**9
"""Highest version that a document may state."""
UPGRADE = f'upgrade resnet-infer, which is {__version__} here: pip install --upgrade "resnet-infer", or . in a checkout'
"""Hint of the error for a document of a newer version."""


@dataclass(frozen=True)
class FileFormat:
    """Describe a format: what a document of it is called in messages, and the version that this package writes.

    `error` is raised for a newer document. `implied`: the documents of version 1 do not all state their version.

    >>> FileFormat("model spec").check({"format": 99}, "model.onnx")
    Traceback (most recent call last):
    resnet_infer.errors.ModelError: model.onnx is of format 99 of the model spec; this resnet-infer reads up to 1
    """

    name: str
    version: int = 1
    error: type[ResnetInferError] = ModelError
    implied: bool = False

    def check(self, document: Mapping[str, Any], source: str) -> bool:
        """Return whether a readable document is of a newer version. `source` is its file, for the message.

        Raises `error` if only newer versions read it, and `FieldError` for a version that is no number.
        """
        from resnet_infer.models import spec_fields  # which loads NumPy, and whoever only writes does not need it

        number = spec_fields.whole(document.get(FORMAT, 1 if self.implied else None), FORMAT, 1, HIGHEST)
        if spec_fields.whole(document.get(READS_FROM, number), READS_FROM, 1, number) > self.version:
            raise self.error(
                f"{source} is of format {number} of the {self.name}; this resnet-infer reads up to {self.version}",
                hint=UPGRADE,
                source=source,
                reason="newer_format",
            )
        return number > self.version

    def unknown(self, document: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a document that `own`, the same document as this version writes it, lacks.

        They include those of nested objects, and the version of a document that is newer. `compose` puts them back.
        Raises `FieldError` if they are not plain JSON.
        """
        from resnet_infer.models import spec_fields

        kept = (FORMAT, READS_FROM) if document.get(FORMAT, 1) <= self.version else ()
        found = _unknown({key: value for key, value in document.items() if key not in kept}, own)
        spec_fields.plain(found, "an unknown field")
        return found

    def compose(
        self, own: Mapping[str, Any], unknown: Mapping[str, Any] | None = None, *, reads_from: int | None = None
    ) -> dict[str, Any]:
        """Return a document: its version first, then `own`, then the `unknown` fields of the document it was read from.

        `reads_from` is the lowest version that can read `own`, by default the one of this format. The version of a
        newer document stays, because its unknown fields do.

        >>> FileFormat("model spec").compose({"name": "net"}, {"colour": "red"})
        {'format': 1, 'name': 'net', 'colour': 'red'}
        """
        whole: dict[str, Any] = _merged(own, unknown or {})
        version = {key: whole.pop(key) for key in (FORMAT, READS_FROM) if key in whole}
        if not version:
            version = {FORMAT: self.version, READS_FROM: self.version if reads_from is None else reads_from}
            if version[READS_FROM] == self.version:
                del version[READS_FROM]
        return {**version, **whole}


RESULTS = FileFormat("results", error=DataError, implied=True)
"""Format of the JSON documents that commands print or write. Those of 0.1.0 before its release state no version."""


RUN = FileFormat("training run", error=DataError, implied=True)
"""Format of a run's folder: `recipe.json`, the tables, and the state in its checkpoints."""


def document(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document of a command's results: the version first, then `fields`.

    >>> document({"freed": 0})
    {'format': 1, 'freed': 0}
    """
    return {FORMAT: RESULTS.version, **fields}


def restricted(value: Any, own: Any) -> Any:
    """Return a JSON value without the fields of objects that `own`, a value of the same form, lacks."""
    if isinstance(value, Mapping) and isinstance(own, Mapping):
        return {key: restricted(item, own[key]) for key, item in value.items() if key in own}
    return value


def _unknown(value: Any, own: Any) -> dict[str, Any]:
    """Return the fields that `own` lacks, by key, and for a list of objects by the number of the item."""
    if isinstance(value, list) and isinstance(own, list) and len(value) == len(own):
        pairs = {str(place): pair for place, pair in enumerate(zip(value, own, strict=True))}
        nested = {key: _unknown(*pair) for key, pair in pairs.items() if isinstance(pair[0], Mapping)}
    elif isinstance(value, Mapping) and isinstance(own, Mapping):
        nested = {key: _unknown(item, own[key]) if key in own else item for key, item in value.items()}
        return {key: item for key, item in nested.items() if key not in own or item}
    else:
        return {}
    return {key: item for key, item in nested.items() if item}


def _merged(own: Any, unknown: Mapping[str, Any]) -> Any:
    """Put the result of `_unknown` back."""
    if isinstance(own, Mapping):
        known = {key: _merged(item, unknown[key]) if key in unknown else item for key, item in own.items()}
        return {**known, **{key: item for key, item in unknown.items() if key not in own}}
    if isinstance(own, list):
        return [_merged(item, unknown.get(str(place), {})) for place, item in enumerate(own)]
    return own
