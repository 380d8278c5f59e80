"""The page of a benchmark: distributions, throughput, load and error as drawings, then tables and the environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from resnet_infer.benchmark.charts import Dot, Series, colour, distribution, load, pareto, throughput
from resnet_infer.benchmark.result import INFERENCE, STAGE_COLUMNS, START, cells, label, number
from resnet_infer.files import atomic_path
from resnet_infer.page import box, document, html_table

Row = Mapping[str, Any]
TAIL = 99
"""The percentile at which a drawn distribution ends, so that a single call does not stretch it."""


def write_report(documents: Sequence[Mapping[str, Any]], path: Path, errors: Mapping[str, Any] | None = None) -> None:
    """Write the page of results, see `page`. Raises `ResnetInferError` where it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(page(documents, errors), encoding="utf-8", errors="backslashreplace")


def page(documents: Sequence[Mapping[str, Any]], errors: Mapping[str, Any] | None = None) -> str:
    """The page as HTML: of what `Benchmark.to_json` or a scenario's `Outcome.to_json` gave, first of all of the first.

    `errors` is what `evaluate --json` printed; a model's error is found by its name.
    """
    rows = [row for item in documents for row in item.get("results", ()) if "inference" in row["stages"]]
    failed = [row for item in documents for row in item.get("results", ()) if row["failure"]]
    doubts = [line for item in documents for line in item.get("warnings", ())]
    drawn = [row for row in rows if row["opened"].get("runtime") != "null"]
    figures = [*_distributions(drawn), *_throughput(drawn), *_loads(documents), *_errors(drawn, errors)]
    body = [
        _subtitle(documents[0]),
        box([*dict.fromkeys(doubts), *(f"{label(row)} failed: {row['failure']}" for row in failed)]),
        f'<div class="charts">{"".join(figures)}</div>',
        *_tables(rows, documents[0]),
        *(_scenario(item) for item in documents if "scenario" in item),
        _environment(documents[0].get("environment", {})),
    ]
    return document("Benchmark", body, Path(__file__).with_name("report.css"))


def _subtitle(found: Mapping[str, Any]) -> str:
    around = found.get("environment", {})
    gpus = [gpu["name"] for gpu in around.get("gpus", ())]
    cores = around.get("usable_cores")
    facts = [around.get("processor"), f"{cores} cores" if cores else None, *gpus, str(around.get("date", ""))[:10]]
    facts.append(f"resnet-infer {around['resnet-infer']}" if "resnet-infer" in around else None)
    return f'<p class="soft">{" · ".join(escape(fact) for fact in facts if fact)}</p>'


def _figure(title: str, drawing: str, keys: Sequence[str] = (), below: str = "") -> str:
    legend = "".join(f'<span><i class="{colour(place)}"></i>{escape(key)}</span>' for place, key in enumerate(keys))
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{drawing}"
        + (f'<div class="keys">{legend}</div>' if legend else "")
        + (f'<p class="soft">{below}</p>' if below else "")
        + "</figure>"
    )


def _who(row: Row) -> str:
    return label(row).rpartition(", batch ")[0]


def _distributions(rows: Sequence[Row]) -> Iterable[str]:
    """One for each batch size: models are told apart, not sizes."""
    for batch in sorted({row["batch"] for row in rows}):
        series = []
        for row in rows:
            if row["batch"] == batch:
                values = row["stages"]["inference"]["quantiles_ms"]
                step = 100 / (len(values) - 1)
                points = [(value, place * step) for place, value in enumerate(values) if place * step <= TAIL]
                series.append(Series(_who(row), points))
        title = f"Latency of inference, batch {batch}"
        yield _figure(title, distribution(series), [item.label for item in series])


def _throughput(rows: Sequence[Row]) -> Iterable[str]:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        found.setdefault(_who(row), []).append((row["batch"], row["stages"]["inference"]["pictures_per_second"]))
    series = [Series(name, sorted(points)) for name, points in found.items()]
    if any(len(item.points) > 1 for item in series):
        yield _figure("Throughput of inference", throughput(series), [item.label for item in series])


def _loads(documents: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for item in documents:
        rates = item.get("rates")
        if not rates:
            continue
        series = []
        for name in ("p50_ms", "p90_ms", "p99_ms"):
            by_rate: dict[float, list[float]] = {}
            for trial in rates:
                if trial.get(name) is not None:
                    by_rate.setdefault(trial["rate"], []).append(trial[name])
            if by_rate:
                points = [(rate, median(values)) for rate, values in sorted(by_rate.items())]
                series.append(Series(name.removesuffix("_ms"), points))
        if series:
            bound = item.get("figures", {}).get("bound_ms")
            system = item.get("system", {}).get("name", "")
            title = f"Latency against rate{f', {system}' if system else ''}"
            yield _figure(title, load(series, bound), [item.label for item in series])


def _errors(rows: Sequence[Row], errors: Mapping[str, Any] | None) -> Iterable[str]:
    """Every model at its fastest smallest batch, with its error by the first protocol that it was evaluated by."""
    if errors is None:
        return
    known: dict[str, Mapping[str, Any]] = {}
    for result in errors.get("results", ()):
        known.setdefault(result["model"], result)
    dots: dict[str, Dot] = {}
    missing = []
    least = min((row["batch"] for row in rows), default=1)
    for row in rows:
        if row["batch"] != least:
            continue
        result = known.get(row["model"])
        if result is None:
            missing.append(_who(row))
            continue
        top1, ms = result["top1"], row["stages"]["inference"]["ms"]["p50"]
        low, high = top1["interval"]
        dot = Dot(_who(row), ms, top1["error"], (low, high))
        if dot.label not in dots or ms < dots[dot.label].ms:
            dots[dot.label] = dot
    below = "The dashed line joins those that no other beats in both."
    if missing:
        below += f" Without an error: {escape(', '.join(missing))}."
    if dots:
        title = f"Error against latency, batch {least}, on {errors.get('data', {}).get('name', 'the data')}"
        yield _figure(title, pareto(list(dots.values())), below=below)


def _tables(rows: Sequence[Row], first: Mapping[str, Any]) -> Iterable[str]:
    if not rows:
        return
    settings = first.get("settings", {})
    pictures = settings.get("pictures", {})
    yield "<h2>Inference, ms a call</h2>" + _html(INFERENCE, rows)
    yield (
        f'<p class="soft">Calls of {settings.get("rounds", "several")} rounds in which all take turns. Spread: between '
        "the quartiles of the rounds' medians. Ratio: time over that of the first model with the same batch, round by "
        "round, with its 95% interval.</p>"
    )
    yield "<h2>Stages, ms</h2>" + _html(STAGE_COLUMNS, rows)
    yield (
        '<p class="soft">Prepare: decode, resize and crop one picture, on one core. End to end: from encoded pictures '
        f"to the five best classes. {escape(str(pictures.get('count', '')))} pictures: "
        f"{escape(str(pictures.get('source', '')))}, {number(pictures.get('mean_kb'))} kB.</p>"
    )
    yield "<h2>Start and memory, ms and MB</h2>" + _html(START, rows)


def _html(columns: Mapping[str, Any], rows: Sequence[Row]) -> str:
    header, lines = cells(columns, rows)
    texts = ("model", "runs on", "precision")
    return html_table(
        header, [[escape(cell) for cell in line] for line in lines], numbers=sum(name in texts for name in header)
    )


def _scenario(found: Mapping[str, Any]) -> str:
    figures = dict(found.get("figures", {}))
    valid = found.get("valid")
    if valid is not None:
        figures = {"valid": "yes" if valid else "no", **figures}
    reasons = [*found.get("reasons", ()), *found.get("notes", ())]
    facts = {name.replace("_", " "): _text(value) for name, value in figures.items() if value is not None}
    return f"<h2>{escape(str(found['scenario']))}</h2>" + _facts(facts) + box(reasons)


def _environment(found: Mapping[str, Any]) -> str:
    facts = {name.replace("_", " "): _text(value) for name, value in found.items() if value not in (None, [], {})}
    return "<h2>Environment</h2>" + _facts(facts) if facts else ""


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f'<table class="facts">{rows}</table>'


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
