"""Implement `resnet-infer models`."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_infer.cli.options import Json, output_option
from resnet_infer.cli.results import Forms, Found, two_columns
from resnet_infer.errors import UnwritableError
from resnet_infer.utils.console import pairs, size_text, table

if TYPE_CHECKING:
    from resnet_infer.models.spec import ModelSpec
    from resnet_infer.models.weights.published import PublishedWeights

EXAMPLES = ("models", "models resnet50")
"""Command lines that the help ends with."""
LICENCE = "Apache-2.0"
"""Licence of the built-in models."""


@dataclass(frozen=True)
class _Entry:
    """Describe a named model. `bytes` is the size of its weights; errors are in percent."""

    name: str
    also_called: tuple[str, ...]
    kind: str
    network: str
    classes: int
    top1_error: float | None
    top5_error: float | None
    bytes: int
    licence: str
    files: dict[str, str] = field(default_factory=dict)


FORMS = Forms(
    "models",
    (".json", ".jsonl", ".csv", ".md"),
    (("models",), ("name", "also_called")),
    tuple(item.name for item in fields(_Entry)),
)


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show one model in full; without it, list all.")
    ] = None,
    as_json: Json = False,
    output: Annotated[Path | None, output_option(FORMS.suffixes)] = None,
) -> None:
    """List the models known by name, or show one."""
    FORMS.require_free(output)
    FORMS.give(_one(name) if name is not None else _all(), output, as_json)


def _all() -> Found:
    """List all models."""
    entries = [entry for entry, _ in _known()]
    header = ("name", "kind", "network", "classes", "top-1 error", "top-5 error", "MB", "licence")
    cells = [
        (
            *(entry.name, entry.kind, entry.network, f"{entry.classes:,}"),
            *("-" if error is None else f"{error:.2f}%" for error in (entry.top1_error, entry.top5_error)),
            *(f"{entry.bytes / 1e6:.1f}", entry.licence),
        )
        for entry in entries
    ]
    rows = [asdict(entry) for entry in entries]
    return Found({"models": rows}, table(header, cells), rows, header, cells)


def _one(name: str) -> Found:
    """Describe a model with its spec. Raises `ModelError` for an unknown name."""
    from resnet_infer import zoo
    from resnet_infer.cli.commands.inspect import spec_rows
    from resnet_infer.models.weights.published import find_published

    weights = find_published(name)
    known = {entry.name: (entry, spec) for entry, spec in _known()}
    entry, spec = known.get(weights.name if weights else name, (None, None))
    if entry is None or spec is None:
        raise zoo.unknown_model(name)
    also = [("also called", ", ".join(entry.also_called))] if entry.also_called else []
    first, *others = spec_rows(spec.with_(name=entry.name))
    files = list(entry.files.items())
    rows = [first, *also, ("kind", entry.kind), ("size", size_text(entry.bytes)), *others, *files]
    known_of_it = asdict(entry)
    return Found(
        {**known_of_it, "spec": json.loads(spec.dumps())},
        pairs([(key, str(value)) for key, value in rows]),
        [known_of_it],
        **two_columns([(key, str(value)) for key, value in rows]),
    )


def _known() -> list[tuple[_Entry, ModelSpec]]:
    """Return all named models: the built-in ones, then those with published weights."""
    from resnet_infer import zoo
    from resnet_infer.models.weights.published import PUBLISHED

    return [*map(_built_in, zoo.BUILT_IN), *map(_published, PUBLISHED)]


def _built_in(name: str) -> tuple[_Entry, ModelSpec]:
    """Describe a built-in model."""
    from resnet_infer import zoo
    from resnet_infer.models.checkpoint import SUFFIX
    from resnet_infer.runtimes.artifacts import read_spec

    spec = read_spec(zoo.checkpoint_file(name))
    files = {kind: zoo.built_in(name, suffix) for kind, suffix in (("artifact", ".onnx"), ("checkpoint", SUFFIX))}
    licence = str(spec.provenance.get("licence", LICENCE))
    return _entry(name, (), "built-in", spec, files["checkpoint"].stat().st_size, licence, files), spec


def _published(weights: PublishedWeights) -> tuple[_Entry, ModelSpec]:
    """Describe a model with published weights, and the cached files of it."""
    from resnet_infer import zoo
    from resnet_infer.models.weights.published import find_published, spec_of

    spec = spec_of(weights)
    files = {}
    with suppress(UnwritableError):  # without a cache there are no files
        places = {
            "artifact": zoo.cached_artifact(weights),
            "checkpoint": zoo.cached_checkpoint(weights),
            "download": zoo.cached_file(weights),
        }
        files = {kind: path for kind, path in places.items() if os.path.exists(path)}
    also_called = (weights.arch,) if find_published(weights.arch) is weights else ()
    assert spec.architecture is not None
    shapes = spec.architecture.plan().shapes().values()
    size = sum(4 * math.prod(shape) for shape in shapes)
    return _entry(
        weights.name, also_called, "cached" if files else "downloadable", spec, size, weights.licence, files
    ), spec


def _entry(
    name: str,
    also_called: tuple[str, ...],
    kind: str,
    spec: ModelSpec,
    size: int,
    licence: str,
    files: dict[str, Path],
) -> _Entry:
    """Create an entry, with the errors of the first measurement in the spec."""
    measured = spec.measured[0] if spec.measured else None
    return _Entry(
        name=name,
        also_called=also_called,
        kind=kind,
        network=spec.architecture.name if spec.architecture else "-",
        classes=len(spec.classes),
        top1_error=measured.top1_error if measured else None,
        top5_error=measured.top5_error if measured else None,
        bytes=size,
        licence=licence,
        files={kind: str(path) for kind, path in files.items()},
    )
