"""Make a scenario's section of the page: system, verdict, figures, rates and settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from resnet_infer.benchmarking.latency.measured import cells, number
from resnet_infer.benchmarking.latency.statistics import reportable
from resnet_infer.reporting.html import box, html_table
from resnet_infer.reporting.text import facts_table, pointed, words

NAMES = {
    "top1_error": "top-1 error, %",
    "top1_error_95": "its 95% interval",
    "rate_95": "its 95% interval",
    "statuses": "answers",
}
"""Names of figures that are not made from their keys."""


def heading(found: Mapping[str, Any]) -> str:
    """Return the scenario, its rate if it has one, and the system."""
    rate = (found.get("figures") or {}).get("target_rate")
    parts = [
        str(found["scenario"]),
        f"{words(rate)} queries a second" if rate else "",
        "accuracy" * _is_accuracy(found),
    ]
    system = (found.get("system") or {}).get("name")
    return ", ".join(filter(None, parts)) + (f": {system}" if system else "")


def section(found: Mapping[str, Any]) -> str:
    """Return the section of an `Outcome.to_json` without its heading; what is missing is left out."""
    settings = dict(found.get("settings") or {})
    version = settings.pop("loadgen", None)
    notes = "; ".join(map(str, found.get("notes") or ()))
    return "".join(
        (
            _verdict(found),
            box([str(line) for line in found.get("reasons") or ()]),
            f'<p class="soft">{escape(notes)}</p>' if notes else "",
            facts_table(_facts(found, version)),
            _rates(found),
            f"<details><summary>LoadGen's settings</summary>{facts_table(_texts(settings))}</details>"
            if settings
            else "",
        )
    )


def _is_accuracy(found: Mapping[str, Any]) -> bool:
    return bool(found.get("accuracy"))


def _verdict(found: Mapping[str, Any]) -> str:
    valid = found.get("valid")
    if valid is None:
        return ""
    if found.get("official") is None:
        return f"<p>Result: <b>{'passed' if valid else 'failed'}</b></p>"
    return f"<p>LoadGen: <b>{'VALID' if valid else 'INVALID'}</b></p>"


def _facts(found: Mapping[str, Any], version: Any) -> dict[str, str]:
    system, data, figures = (found.get(name) or {} for name in ("system", "data", "figures"))
    facts = {
        **{name: system.get(name) for name in ("url", "model", "precision", "crops")},
        "runs on": {name: value for name, value in (system.get("runtime") or {}).items() if value is not None},
        "pictures": _pictures(data),
        **{_name(name): reportable(figures, name) for name in figures},
        "LoadGen": version,
    }
    if found.get("official") is not None and not _is_accuracy(found):
        facts["settings"] = "official" if found["official"] else "not official"
    return _texts({**facts, "logs": found.get("logs")})


def _name(figure: str) -> str:
    """Return a figure's name for people: `p99_9_ms` becomes `p99.9, ms`."""
    return NAMES.get(figure) or re.sub(r"_ms$", ", ms", pointed(figure))


def _pictures(data: Mapping[str, Any]) -> str:
    name, count = str(data.get("name") or ""), data.get("pictures")
    return name if count is None or name.startswith(f"{count} ") else f"{count:,} of {name}"


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: words(value) for name, value in values.items() if value not in (None, "", {}, [])}


Trial = Mapping[str, Any]


def _count(name: str) -> Callable[[Trial], str]:
    return lambda trial: "-" if trial.get(name) is None else f"{trial[name]:,}"


def _ms(name: str) -> Callable[[Trial], str]:
    return lambda trial: number(reportable(trial, name))


def _answered(trial: Trial) -> str:
    if trial.get("queries") is None or trial.get("errors") is None:
        return _status("answered")(trial)
    return f"{trial['queries'] - trial['errors']:,}"


def _status(name: str) -> Callable[[Trial], str]:
    return lambda trial: _count(name)(trial.get("statuses") or trial)


RATES: Mapping[str, Callable[[Trial], str]] = {
    "queries/s": lambda trial: f"{trial['rate']:,.6g}" if trial.get("rate") else "-",
    "offered": _ms("offered"),
    "achieved": _ms("achieved"),
    "p50, ms": _ms("p50_ms"),
    "p90, ms": _ms("p90_ms"),
    "p99, ms": _ms("p99_ms"),
    "queries": _count("queries"),
    "answered": _answered,
    "refused": _status("refused"),
    "failed": _count("errors"),
    "late, %": _ms("late_percent"),
    "within the bound": lambda trial: "undecided" if trial.get("within", 0) is None else words(trial.get("within")),
}
"""Columns of the table of rates, by header; those that are empty in every row are left out."""


def _rates(found: Mapping[str, Any]) -> str:
    header, lines = cells(RATES, found.get("rates") or ())
    return html_table(header, [[escape(cell) for cell in line] for line in lines], numbers=0) if lines else ""
