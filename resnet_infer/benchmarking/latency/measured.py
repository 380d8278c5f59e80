"""Return the result of timing models side by side, as JSON and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_infer.benchmarking.latency.clock import ALIKE, WINDOW, WINDOWS
from resnet_infer.benchmarking.latency.paired_run import Measured
from resnet_infer.benchmarking.latency.subjects import Entry, Pictures
from resnet_infer.benchmarking.latency.worker import STAGES
from resnet_infer.utils.console import table

MEGABYTE = 1e6
"""Bytes in a megabyte."""


@dataclass(frozen=True, repr=False)
class Benchmark:
    """Hold everything measured by one run. Ratios are to the first entry with the same batch size."""

    measured: Sequence[Measured]
    pictures: Pictures
    rounds: int
    seconds: float
    environment: Mapping[str, Any]
    warnings: Sequence[str]

    def __repr__(self) -> str:
        found = ", ".join(f"{item.entry.name} x{item.entry.batch} {_median(item)}" for item in self.measured)
        return f"<Benchmark of {len(self.measured)}: {found}>"

    @property
    def failed(self) -> list[Measured]:
        """The entries that could not be measured, or not in every round."""
        return [item for item in self.measured if item.failure is not None]

    def first(self, item: Measured) -> Measured:
        """Return the entry that another one is compared with: the first with its batch size."""
        return next(other for other in self.measured if other.entry.batch == item.entry.batch)

    def to_json(self) -> dict[str, Any]:
        """Return the run as JSON, with times in milliseconds and memory in megabytes (10^6 bytes)."""
        return {
            "settings": {
                "rounds": self.rounds,
                "seconds": self.seconds,
                "warm_up": f"the medians of {WINDOWS} windows of {WINDOW:g} s in a row within {100 * ALIKE:g}%",
                "pictures": self.pictures.to_json(),
            },
            "results": [self._row(item) for item in self.measured],
            "environment": dict(self.environment),
            "warnings": list(self.warnings),
        }

    def _row(self, item: Measured) -> dict[str, Any]:
        stages = {name: found for name in STAGES if (found := item.stage(name))}
        first = self.first(item)
        ratios = {name: ratio for name in stages if first is not item and (ratio := item.ratio(first, name))}
        warm = item.warm.get("warm_up")
        return {
            **item.entry.to_json(),
            **{key: item.about.get("spec", {}).get(key) for key in ("name", "precision", "classes")},
            "opened": dict(item.about.get("opened", {})),
            "failure": item.failure,
            "start_ms": {name: [1000 * value for value in values] for name, values in item.starts.items()},
            "warm_up": dict(warm) if warm else None,
            "memory_mb": {name: _megabytes(value) for name, value in item.memory().items()},
            "stages": {name: found.to_json() for name, found in stages.items()},
            "ratios": {name: ratio.to_json() for name, ratio in ratios.items()},
        }


def tables(found: Mapping[str, Any]) -> str:
    """Return the tables for the console from `Benchmark.to_json`: inference, stages, start and memory, failures."""
    rows = found["results"]
    good = [row for row in rows if "inference" in row["stages"]]
    parts = []
    if good:
        parts = [
            "inference, ms a call\n" + _table(INFERENCE, good),
            "stages, ms (preparing: of a picture; the others: of a call)\n" + _table(STAGE_COLUMNS, good),
            "start and memory, ms and MB\n" + _table(START, good),
        ]
    failures = [f"failed: {label(row)}: {row['failure']}" for row in rows if row["failure"]]
    return "\n\n".join([*parts, *(["\n".join(failures)] if failures else [])])


def label(row: Mapping[str, Any]) -> str:
    """Return the model, threads and batch size of a row as text."""
    threads = f", {row['threads']} thread{'s' * (row['threads'] > 1)}" if row["threads"] else ""
    return f"{row['model']}{threads}, batch {row['batch']}"


def _megabytes(value: int | None) -> float | None:
    return None if value is None else round(value / MEGABYTE, 1)


def _median(item: Measured) -> str:
    """Return the median of a call in words."""
    found = item.stage("inference")
    return "failed" if found is None else f"{1000 * found.median:.2f} ms"


Row = Mapping[str, Any]


def number(value: float | None) -> str:
    """Return a value with three significant digits, or a dash if it was not measured."""
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:,.{digits}f}"


def _ms(stage: str, name: str) -> Any:
    return lambda row: number(row["stages"][stage]["ms"][name]) if stage in row["stages"] else "-"


def _rate(stage: str) -> Any:
    return lambda row: number(row["stages"][stage]["pictures_per_second"])


def _ratio(stage: str) -> Any:
    return lambda row: f"{row['ratios'][stage]['value']:.3f}" if stage in row["ratios"] else "-"


def _interval(stage: str) -> Any:
    def cell(row: Row) -> str:
        ends = row["ratios"].get(stage, {}).get("interval")
        return f"{ends[0]:.3f}-{ends[1]:.3f}" if ends else "-"

    return cell


def _start(name: str) -> Any:
    def cell(row: Row) -> str:
        values = sorted(row["start_ms"][name])
        return number(values[len(values) // 2])

    return cell


def _memory(name: str) -> Any:
    return lambda row: number(row["memory_mb"][name])


def _warm(row: Row) -> str:
    warm = row["warm_up"]
    return number(1000 * warm["seconds"]) + ("" if warm["stable"] else ", not stable")


WHO = {
    "model": lambda row: row["model"],
    "threads": lambda row: str(row["threads"] or "all"),
    "batch": lambda row: str(row["batch"]),
}
INFERENCE = {
    "model": WHO["model"],
    "runs on": lambda row: ", ".join(str(row["opened"].get(key, "")) for key in ("runtime", "device")),
    "precision": lambda row: str(row["opened"].get("precision", row["precision"])),
    "threads": WHO["threads"],
    "batch": WHO["batch"],
    "p50": _ms("inference", "p50"),
    "p90": _ms("inference", "p90"),
    "p99": _ms("inference", "p99"),
    "spread": lambda row: f"{100 * row['stages']['inference']['spread']:.1f}%",
    "pictures/s": _rate("inference"),
    "ratio": _ratio("inference"),
    "95%": _interval("inference"),
}
STAGE_COLUMNS = {
    **WHO,
    "prepare": _ms("prepare", "p50"),
    "transfer": _ms("transfer", "p50"),
    "inference": _ms("inference", "p50"),
    "end to end": _ms("end_to_end", "p50"),
    "p90": _ms("end_to_end", "p90"),
    "p99": _ms("end_to_end", "p99"),
    "pictures/s": _rate("end_to_end"),
    "ratio": _ratio("end_to_end"),
    "95%": _interval("end_to_end"),
}
START = {
    **WHO,
    "open": _start("open"),
    "then first answer": _start("answer"),
    "process to first answer": _start("first_answer"),
    "warm-up": _warm,
    "memory": _memory("host"),
    "of the process": _memory("host_peak"),
    "of the device": _memory("device"),
}
"""Columns of the tables: header -> the cell of a row."""


def cells(columns: Mapping[str, Any], rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table, without the columns that are empty in every row."""
    lines = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    kept = [name for name, values in lines.items() if any(value != "-" for value in values)]
    return kept, [[lines[name][place] for name in kept] for place in range(len(rows))]


def _table(columns: Mapping[str, Any], rows: Sequence[Row]) -> str:
    return table(*cells(columns, rows))


__all__ = ["INFERENCE", "STAGE_COLUMNS", "START", "Benchmark", "Entry", "cells", "label", "number", "tables"]
