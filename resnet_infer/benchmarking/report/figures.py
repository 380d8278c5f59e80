"""Choose what the charts of a benchmark's page show, and name their lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Any, NamedTuple

from resnet_infer.benchmarking.latency.statistics import enough, reportable
from resnet_infer.reporting.charts import Chart, Dot, colour, cut, legend, linear, logarithmic
from resnet_infer.runtimes.registry import is_offered, split_runtime

Row = Mapping[str, Any]
TAIL = 99
"""Percentile at which the line of a distribution ends, so that a single slow call does not stretch the axis."""
WIDE = 20
"""Ratio of the highest rate to the lowest above which rates have a logarithmic axis."""


class Key(NamedTuple):
    """Hold what a line of a chart stands for; rows that differ only in their batch size have the same key."""

    model: str
    runtime: str
    device: str
    threads: int | None
    run: int
    artifact: str

    @classmethod
    def of(cls, run: int, row: Row) -> Key:
        """Return the key of a row; `run` is the index of the row's document."""
        opened = row.get("opened") or {}
        runtime, device = (str(opened.get(name) or row.get(name) or "") for name in ("runtime", "device"))
        return cls(row["model"], runtime, device, row.get("threads"), run, str(row.get("artifact") or ""))


def legends(keys: Iterable[Key]) -> dict[Key, str]:
    """Return a name for each key: the model's, and as much of the rest as tells it from others of that model."""
    found: dict[Key, str] = {key: key.model for key in keys}
    for model in {key.model for key in found}:
        alike = [key for key in found if key.model == model]
        for field in Key._fields[1:]:
            distinct = len({found[key] for key in alike}) == len(alike)
            if not distinct and len({getattr(key, field) for key in alike}) > 1:
                for key in alike:
                    found[key] += f", {_field_text(key, field)}"
    return found


def _field_text(key: Key, field: str) -> str:
    if field == "threads":
        return "all threads" if key.threads is None else f"{key.threads} thread{'s' * (key.threads > 1)}"
    return f"run {key.run + 1}" if field == "run" else str(getattr(key, field)) or f"no {field}"


def figures(documents: Sequence[Mapping[str, Any]], errors: Mapping[str, Any] | None) -> str:
    """Return every chart that the results allow, as HTML; see `report.page`."""
    rows = [
        (Key.of(run, row), row)
        for run, item in enumerate(documents)
        for row in item.get("results") or ()
        if "inference" in row["stages"]
    ]
    drawn = [(key, row) for key, row in rows if is_offered(key.runtime)]
    names = legends(key for key, _ in drawn)
    parts = [
        *_distributions(drawn, names),
        *_throughput(drawn, names),
        *_loads(documents),
        *_errors(drawn, names, errors),
    ]
    return f'<div class="charts">{"".join(parts)}</div>'


def _figure(title: str, drawing: str, keys: Sequence[str] = (), below: str = "") -> str:
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        + (f'<div class="scroll">{drawing}</div>' if drawing else "")
        + legend([(colour(number), key) for number, key in enumerate(keys)])
        + (f'<p class="soft">{escape(below)}</p>' if below else "")
        + "</figure>"
    )


def _distributions(rows: Sequence[tuple[Key, Row]], names: Mapping[Key, str]) -> Iterable[str]:
    """Yield a figure for each batch size, whose lines are models."""
    for batch in sorted({row["batch"] for _, row in rows}):
        series = []
        for key, row in rows:
            if row["batch"] == batch:
                values = row["stages"]["inference"]["quantiles_ms"]
                step = 100 / (len(values) - 1)
                calls = row["stages"]["inference"]["calls"]
                points = [
                    (value, place * step)
                    for place, value in enumerate(values)
                    if place * step <= TAIL and enough(calls, place * step)
                ]
                series.append(Series(names[key], points))
        title = f"Latency of inference, batch {batch}"
        few = [item.label for item in series if len(item.points) < 2]
        drawing = distribution(series) if len(few) < len(series) else ""
        below = f"Too few calls for a distribution: {', '.join(few)}." if few else ""
        yield _figure(title, drawing, [item.label for item in series], below)


def _throughput(rows: Sequence[tuple[Key, Row]], names: Mapping[Key, str]) -> Iterable[str]:
    found: dict[Key, list[tuple[float, float]]] = {}
    for key, row in rows:
        found.setdefault(key, []).append((row["batch"], row["stages"]["inference"]["pictures_per_second"]))
    series = [Series(names[key], sorted(points)) for key, points in found.items()]
    if any(len(item.points) > 1 for item in series):
        yield _figure("Throughput of inference", throughput(series), [item.label for item in series])


def _loads(documents: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for run, item in enumerate(documents):
        trials = [trial for trial in item.get("rates") or () if trial.get("rate")]
        rates = sorted({trial["rate"] for trial in trials})
        series = []
        for name in ("p50_ms", "p90_ms", "p99_ms"):
            # Where queries fail, the highest percentiles are infinite.
            middle = {rate: median(_ms(trial, name) for trial in trials if trial["rate"] == rate) for rate in rates}
            points = [(rate, ms) for rate, ms in middle.items() if ms < float("inf")]
            if points:
                series.append(Series(name.removesuffix("_ms"), points))
        failed = sorted({trial["rate"] for trial in trials if trial.get("errors", trial.get("p99_ms") is None)})
        if rates:
            bound = (item.get("figures") or {}).get("bound_ms")
            system = (item.get("system") or {}).get("name", "")
            title = ", ".join(filter(None, ("Latency against rate", f"run {run + 1}" * (len(documents) > 1), system)))
            below = "A failed query counts as one that took forever: percentiles that it reaches are missing. "
            below += f"Queries failed (a cross) at {', '.join(f'{rate:,.6g}' for rate in failed)} a second."
            drawing = load(series, bound, failed)
            yield _figure(title, drawing, [line.label for line in series], below if failed else "")


def _ms(trial: Mapping[str, Any], name: str) -> float:
    value = reportable(trial, name)
    return float("inf") if value is None else float(value)


def _errors(
    rows: Sequence[tuple[Key, Row]], names: Mapping[Key, str], errors: Mapping[str, Any] | None
) -> Iterable[str]:
    """Yield the figure of every model at the smallest batch size, with its error by the first evaluated protocol.

    Latency and error are of the same runtime and precision.
    """
    if errors is None:
        return
    known: dict[str, list[Mapping[str, Any]]] = {}
    for result in errors.get("results", ()):
        known.setdefault(result["model"], []).append(result)
    least = min((row["batch"] for _, row in rows), default=1)
    smallest = [(key, row) for key, row in rows if row["batch"] == least]
    matches = {key: _matching(key, known) for key, _ in smallest}
    files: dict[str, set[str]] = {}
    for key, results in matches.items():
        for result in results:
            files.setdefault(result, set()).add(_file(key))
    dots, missing, unclear, elsewhere = [], [], [], []
    for key, row in smallest:
        own = known.get(matches[key][0], []) if matches[key] else []
        same = [item for item in own if _evaluated_with(item) == _timed_with(key, row)]
        if not matches[key]:
            missing.append(names[key])
        elif len(matches[key]) > 1 or len(files[matches[key][0]]) > 1:
            unclear.append(names[key])
        elif not same:
            others = dict.fromkeys(_describe(*_evaluated_with(item)) for item in own)
            elsewhere.append(
                f"{names[key]} (runs by {_describe(*_timed_with(key, row))}, evaluated by {', '.join(others)})"
            )
        else:
            top1 = same[0]["top1"]
            low, high = top1["interval"]
            full = f"{names[key]}, by {_describe(*_evaluated_with(same[0]))}"
            ms = row["stages"]["inference"]["ms"]["p50"]
            dots.append(ErrorAtLatency(names[key], ms, top1["error"], (low, high), full))
    below = "The dashed line joins those that no other beats in both." if dots else ""
    if missing:
        below += f" Without an error: {', '.join(missing)}."
    if elsewhere:
        below += f" Left out, as their errors are of another runtime or precision: {'; '.join(elsewhere)}."
    if unclear:
        below += f" Left out, as the names in the evaluation fit several models: {', '.join(unclear)}."
    if dots or unclear or elsewhere:
        title = f"Error against latency, batch {least}, on {(errors.get('data') or {}).get('name', 'the data')}"
        yield _figure(title, pareto(dots) if dots else "", below=below.strip())


def _evaluated_with(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the runtime and precision that an error was measured with; empty if the evaluation does not say."""
    runtime = result.get("runtime") or {}
    return str(runtime.get("runtime") or ""), str(runtime.get("precision") or result.get("precision") or "")


def _timed_with(key: Key, row: Row) -> tuple[str, str]:
    """Return the runtime and precision that a latency was measured with."""
    return key.runtime, str((row.get("opened") or {}).get("precision") or row.get("precision") or "")


def _describe(runtime: str, precision: str) -> str:
    return f"{runtime or 'an unknown runtime'} in {precision or 'an unknown precision'}"


def _matching(key: Key, known: Iterable[str]) -> list[str]:
    """Return the names of evaluated models that a row may be.

    That is the one of its name, or else those whose path ends the path of its artifact. If these name a runtime, it is
    the row's.
    """
    name = re.sub(r" #\d+$", "", key.model)
    if name in known:
        return [name]
    path = _parts(key.artifact)
    found = []
    for result in known:
        runtime, model = split_runtime(result)
        parts = _parts(model or "")
        if runtime in (None, key.runtime) and path[-len(parts) :] == parts:
            found.append(result)
    return found


def _file(key: Key) -> str:
    """Return what identifies an artifact: its path, or only its file name if it was exported for the benchmark.

    Such a file has a digest of its content in its name, and may lie in another folder on each machine.
    """
    file = _parts(key.artifact)[-1]
    return key.artifact if _parts(re.sub(r" #\d+$", "", key.model).rpartition(":")[2])[-1] == file else file


def _parts(path: str) -> list[str]:
    return path.replace("\\", "/").split("/")


@dataclass(frozen=True)
class Series:
    """Hold a line of a chart: its label, and its points (x, y) in the order in which they are joined."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class ErrorAtLatency:
    """Hold a model of the chart of error by latency.

    `error` and the `interval` of it are in percent; `full_label` says more than `label` where there is more to say.
    """

    label: str
    ms: float
    error: float
    interval: tuple[float, float]
    full_label: str = ""


def distribution(series: Sequence[Series]) -> str:
    """Draw the share of the calls, in percent, that ended within so many milliseconds: points (ms, percent)."""
    ends = [x for item in series for x, _ in item.points]
    x = logarithmic if max(ends) > 6 * min(ends) else linear
    chart = Chart(x("ms a call", min(ends), max(ends)), linear("% of the calls", 0, 100))
    for number, item in enumerate(series):
        chart.line(item.points, colour(number), item.label)
    return chart.svg("Distribution of the latency")


def throughput(series: Sequence[Series]) -> str:
    """Draw pictures per second by batch size: points (batch size, pictures per second)."""
    batches = sorted({x for item in series for x, _ in item.points})
    most = max(y for item in series for _, y in item.points)
    chart = Chart(logarithmic("batch size", batches[0], batches[-1], ticks=batches), linear("pictures/s", 0, most))
    for number, item in enumerate(series):
        chart.line(item.points, colour(number), item.label, marks=True)
    return chart.svg("Throughput by batch size")


def load(series: Sequence[Series], bound: float | None, failed: Sequence[float] = ()) -> str:
    """Draw latency by rate: points (queries per second, ms). `bound` is a line across, in ms.

    The rates `failed` have no latency; a cross at the top stands for each.
    """
    across = [x for item in series for x, _ in item.points] + list(failed)
    up = [y for item in series for _, y in item.points] + ([bound] if bound else []) or [1.0]
    log_x, log_y = max(across) > WIDE * min(across) > 0, max(up) > 8 * min(up) > 0
    # Lines keep away from the top where crosses are.
    most = max(up) * ((2 if log_y else 1.15) if failed else 1)
    x = (
        logarithmic("queries a second", min(across), max(across))
        if log_x
        else linear("queries a second", 0, max(across))
    )
    chart = Chart(x, logarithmic("ms", min(up), most) if log_y else linear("ms", 0, most))
    for number, item in enumerate(series):
        chart.line(item.points, colour(number), item.label, marks=True)
    if bound:
        chart.bound(bound, f"bound {bound:g} ms")
    chart.crosses(failed, "failed", lambda rate: f"{rate:,.6g} queries a second: failed")
    return chart.svg("Latency by rate")


def pareto(models: Sequence[ErrorAtLatency]) -> str:
    """Draw error by latency with its 95% interval; a line joins the models that no other beats in both."""
    lows, highs = zip(*(model.interval for model in models), strict=True)
    times = [model.ms for model in models]
    if max(times) > 6 * min(times):
        x = logarithmic("ms a call", min(times) / 1.25, max(times) * 1.25)
    else:
        x = linear("ms a call", 0, max(times))
    chart, best = Chart(x, linear("top-1 error, %", min(lows), max(highs))), frontier(models)
    chart.trend([(model.ms, model.error) for model in best])
    dots = []
    for model in models:
        low, high = model.interval
        title = f"{model.full_label or model.label}: {model.ms:.4g} ms, {model.error:.2f}% ({low:.2f} to {high:.2f})"
        kind = colour(0 if model in best else 7)
        dots.append(Dot(model.ms, model.error, low, high, kind, cut(model.label, 34), title))
    chart.dots(dots)
    return chart.svg("Error by latency")


def frontier(models: Sequence[ErrorAtLatency]) -> list[ErrorAtLatency]:
    """Return the models that no other beats in latency and error, fastest first."""
    best: list[ErrorAtLatency] = []
    for model in sorted(models, key=lambda model: (model.ms, model.error)):
        if not best or model.error < best[-1].error:
            best.append(model)
    return best
