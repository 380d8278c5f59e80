"""Implement `resnet-infer cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnet_infer.cli.options import Json, output_option
from resnet_infer.cli.parsing import choice
from resnet_infer.cli.results import Forms, Found
from resnet_infer.utils.console import note, size_text, table

EXAMPLES = ("cache", "cache verify")
"""Command lines that the help ends with."""
ACTIONS = ("list", "verify", "clear")
FORMS = Forms("cache", (".json", ".jsonl", ".csv", ".md"), (("folder", "files"),), ("kind", "file", "bytes", "state"))
CLEARED = Forms("cache", (".json",), (("freed",),))
"""Forms of what `clear` freed."""


def cache(
    action: Annotated[
        str,
        typer.Argument(
            metavar="[list|verify|clear]",
            callback=choice(*ACTIONS),
            help="List the files, compare them with their digests, or delete them.",
        ),
    ] = "list",
    as_json: Json = False,
    output: Annotated[Path | None, output_option(FORMS.suffixes)] = None,
) -> None:
    """List, verify or clear the cached files. Exit with 1 if `verify` finds a damaged one."""
    from resnet_infer.models.weights import cache as kept
    from resnet_infer.models.weights.download import cache_folder

    forms = CLEARED if action == "clear" else FORMS
    forms.require_free(output)
    if action == "clear":
        freed = kept.clear()
        forms.give(Found({"freed": freed}, f"freed {size_text(freed)} in {cache_folder()}"), output, as_json)
        return
    files = list(kept.listed())
    states = [kept.state(item.path) for item in files] if action == "verify" else [None] * len(files)
    rows = [
        {"kind": item.kind, "file": str(item.path), "bytes": item.bytes, "state": state}
        for item, state in zip(files, states, strict=True)
    ]
    header = ("kind", "file", "MB", *(("state",) if action == "verify" else ()))
    cells = [
        (item.kind, item.path.name, f"{item.bytes / 1e6:.1f}", *((state,) if state else ()))
        for item, state in zip(files, states, strict=True)
    ]
    listed = [{key: value for key, value in row.items() if value is not None} for row in rows]
    found = Found(
        {"folder": str(cache_folder()), "files": listed}, table(header, cells) if files else "", rows, header, cells
    )
    forms.give(found, output, as_json)
    if files and not as_json:
        note(f"{size_text(sum(item.bytes for item in files))} in {cache_folder()}")
    elif not as_json:
        note(f"the cache is empty: {cache_folder()}")
    if "damaged" in states:
        note("damaged files are made again, or downloaded, when they are next used")
        raise typer.Exit(1)
