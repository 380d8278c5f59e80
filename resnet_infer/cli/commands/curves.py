"""Implement `resnet-infer curves`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_infer.cli.options import Json
from resnet_infer.models.format_version import document
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import note, show, table

if TYPE_CHECKING:
    from resnet_infer.training.curves import Run

EXAMPLES = ("curves runs/flowers --output flowers.png",)
"""Command lines that the help ends with."""


def curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs of `train`.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Image file of the curves, .png or .svg.")
    ] = Path("curves.png"),
    as_json: Json = False,
) -> None:
    """Draw the error curves of runs, and list the last figures of each."""
    from resnet_infer.models.outputs import Output, require_free
    from resnet_infer.training.curves import check_output, draw, read_run

    check_output(output)
    require_free([Output("-o", output, "picture of curves")], runs)
    found = [read_run(folder) for folder in runs]
    draw(found, output)
    note(f"wrote {output}")
    rows = [_row(run) for run in found]
    if as_json:
        print(strict_json.dumps(document({"picture": str(output), "runs": rows}), indent=2))
    else:
        shown = [[_shown(key, value) for key, value in row.items()] for row in rows]
        show(table([key.replace("_", " ") for key in rows[0]], shown))


def _row(run: Run) -> dict[str, Any]:
    """Return the last figures of a run; errors are in percent."""
    validated = [error for _, error in run.validated]
    return {
        "run": str(run.folder),
        "network": run.network,
        "iterations": run.iterations[-1],
        "train_error": run.train_error[-1],
        "val_error": validated[-1] if validated else None,
        "best_val_error": min(validated, default=None),
        "test_error": run.test_error,
    }


def _shown(key: str, value: Any) -> str:
    """Format a figure for the table."""
    if value is None:
        return "-"
    if key.endswith("_error"):
        return f"{value:.2f}%"
    return f"{value:,}" if key == "iterations" else str(value)
