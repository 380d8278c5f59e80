"""Format the results of `resnet-infer evaluate` as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from resnet_infer.evaluation.paper import PAPER, PICTURES, TABLES
from resnet_infer.evaluation.result import Evaluation, Rate, Result
from resnet_infer.reporting.text import plural
from resnet_infer.utils.console import table


def evaluation_rows(found: Evaluation) -> list[dict[str, Any]]:
    """Return a row for each model and protocol, with its errors and their 95% intervals in percent."""
    rows = []
    for item in found.results:
        row: dict[str, Any] = {
            "model": item.name,
            "protocol": item.protocol,
            "precision": item.precision or None,
            "runs_on": item.runs_on,
            "is_reference": item.is_reference,
            "pictures": len(item.answered.ranks),
        }
        for name, rate in (("top1", item.top1), ("top5", item.top5)):
            row[f"{name}_error"] = rate.error if rate else None
            row[f"{name}_low"], row[f"{name}_high"] = rate.interval if rate else (None, None)
        rows.append(row)
    return rows


def evaluation_cells(found: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of errors."""
    has_top5 = any(item.top5 for item in found.results)
    header = ["model", "runs on", "precision", "protocol", "top-1 error", "95%"]
    header += ["top-5 error", "95%"] if has_top5 else []
    columns: list[tuple[str, Callable[[Result], str]]] = [
        ("paper", lambda item: next((str(row) for source, row in item.published if source.source == PAPER), "")),
        (
            "others",
            lambda item: ", ".join(
                f"{row} ({source.source})" for source, row in item.published if source.source != PAPER
            ),
        ),
        ("recorded", _recorded),
    ]
    columns = [(name, cell) for name, cell in columns if any(cell(item) for item in found.results)]
    rows = [
        [
            f"{item.name} (reference)" if item.is_reference else item.name,
            item.runs_on,
            item.precision,
            item.protocol,
            *_rate(item.top1),
            *((_rate(item.top5) if item.top5 else ("", "")) if has_top5 else ()),
            *(cell(item) for _, cell in columns),
        ]
        for item in found.results
    ]
    return [*header, *(name for name, _ in columns)], rows


def evaluation_table(found: Evaluation) -> str:
    """Return the errors, the differences to the reference and the times as text."""
    header, rows = evaluation_cells(found)
    columns = [name for name in header if name in ("paper", "others")]
    lines = [
        f"{found.dataset.name}: {plural(found.pictures, 'picture')}"
        + (f", {len(found.unreadable)} skipped" if found.unreadable else ""),
        "",
        table(header, rows),
        *_published(found, columns),
    ]
    compared = [item for item in found.results if item.difference]
    if compared:
        reference = next(item for item in found.results if item.is_reference)
        lines += ["", f"against {reference.name}:"]
        lines += [f"  {item.name}, {item.protocol}: {item.difference}" for item in compared]
    return "\n".join([*lines, "", *_speed(found)])


def _published(found: Evaluation, columns: Sequence[str]) -> list[str]:
    """Return a line that names the images of the published figures."""
    data = dict.fromkeys(source.data for item in found.results for source, _ in item.published)
    sets = ", ".join(f"the whole {name} set ({PICTURES[name]:,} pictures)" for name in data)
    return [f"{' and '.join(columns)}: on {sets}"] if sets else []


def _recorded(item: Result) -> str:
    """Return the error in the spec, and its runtime where that differs."""
    if item.recorded is None:
        return ""
    elsewhere = item.recorded.runtime not in (None, item.runtime.get("runtime"))
    return f"{item.recorded.top1_error:.2f}%" + (f" (by {item.recorded.runtime})" if elsewhere else "")


def _rate(rate: Rate) -> tuple[str, str]:
    """Format an error and its confidence interval."""
    low, high = rate.interval
    return str(rate), f"{low:.2f}-{high:.2f}"


def _speed(found: Evaluation) -> list[str]:
    """Return the throughput and the times of the stages as lines."""
    seconds = found.seconds
    if not seconds.pictures:
        return ["no picture was left to be answered"]

    def ms(value: float) -> str:
        """Format seconds as milliseconds."""
        return f"{1000 * value:.2f}"

    count = seconds.pictures
    lines = [f"{count / seconds.wall:,.1f} pictures/s ({count:,} in {seconds.wall:.1f} s)"]
    rows = [
        [item.name, item.protocol, ms(seconds.decode / count), ms(item.resize_seconds), ms(item.inference_seconds)]
        for item in found.results
        if item.resize_seconds is not None and item.inference_seconds is not None and not item.is_ensemble
    ]
    stages = table(["ms a picture", "", "decode", "resize", "inference"], rows)
    clock = "wall-clock time of the calls, waiting included" if seconds.by_clock else "CPU time"
    return [*lines, "", stages, f"decode and resize: CPU time; inference: {clock}"] if rows else lines


def paper_tables() -> str:
    """Return the tables of `paper.TABLES` as text."""
    parts = []
    for item in TABLES:
        columns = [name for name in ("top1", "top5") if any(getattr(row, name) is not None for row in item.rows)]
        spread = ["over five runs"] if any(row.spread for row in item.rows) else []
        rows = [
            [
                row.label + (f", {row.data} set" if row.data else ""),
                *("-" if getattr(row, name) is None else f"{getattr(row, name):.2f}" for name in columns),
                *([row.spread] if spread else []),
            ]
            for row in item.rows
        ]
        heads = {"top1": "top-1", "top5": "top-5"}
        parts.append(
            f"{item.source}. {item.title}. {item.data}, {item.protocol}, error in %\n"
            + table(["network", *(heads[name] for name in columns), *spread], rows)
        )
    return "\n\n".join(parts)
