"""Implement `resnet-infer cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from resnet_infer.cli.options import Json
from resnet_infer.cli.parsing import choice
from resnet_infer.models.format_version import document
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import note, show, table

ACTIONS = ("list", "verify", "clear")


def cache(
    action: Annotated[
        str, typer.Argument(metavar="[list|verify|clear]", callback=choice(*ACTIONS), help="What to do.")
    ] = "list",
    as_json: Json = False,
) -> None:
    """List, verify or clear the cached files. Exit with 1 if `verify` finds a damaged one."""
    from resnet_infer.models.weights import cache as kept
    from resnet_infer.models.weights.download import cache_folder

    if action == "clear":
        freed = kept.clear()
        if as_json:
            print(strict_json.dumps(document({"freed": freed})))
        else:
            show(f"freed {freed / 1e6:.1f} MB in {cache_folder()}")
        return
    files = list(kept.listed())
    states = [kept.state(item.path) for item in files] if action == "verify" else [None] * len(files)
    if as_json:
        rows = [
            {"kind": item.kind, "file": str(item.path), "bytes": item.bytes, **({"state": state} if state else {})}
            for item, state in zip(files, states, strict=True)
        ]
        print(strict_json.dumps(document({"folder": str(cache_folder()), "files": rows}), indent=2))
    elif files:
        header = ("kind", "file", "MB", *(("state",) if action == "verify" else ()))
        lines = [
            (item.kind, item.path.name, f"{item.bytes / 1e6:.1f}", *((state,) if state else ()))
            for item, state in zip(files, states, strict=True)
        ]
        show(table(header, lines))
        note(f"{sum(item.bytes for item in files) / 1e6:.1f} MB in {cache_folder()}")
    else:
        note(f"the cache is empty: {cache_folder()}")
    if "damaged" in states:
        note("damaged files are made again, or downloaded, when they are next used")
        raise typer.Exit(1)
