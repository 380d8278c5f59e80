"""Make the page of a benchmark: charts of all runs, then each run's tables, then the environments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from resnet_infer.benchmarking.latency.measured import INFERENCE, STAGE_COLUMNS, START, cells, label, number
from resnet_infer.benchmarking.report.figures import figures
from resnet_infer.benchmarking.report.scenario_section import heading, section
from resnet_infer.errors import DataError, first_line
from resnet_infer.reporting.html import box, document, html_table
from resnet_infer.reporting.text import facts_table, words
from resnet_infer.utils.files import atomic_path

Row = Mapping[str, Any]
PASSING = ("date", "load_average", "mhz")
"""Facts of an environment that differ from run to run on the same machine."""


def write_report(documents: Sequence[Mapping[str, Any]], path: Path, errors: Mapping[str, Any] | None = None) -> None:
    """Write the page of results, see `page`. Raises `ResnetInferError` where it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(page(documents, errors), encoding="utf-8", errors="backslashreplace")


def require_drawable(
    path: Path, documents: Sequence[Mapping[str, Any]], errors: Mapping[str, Any] | None = None
) -> None:
    """Raise `DataError` unless the page of these results can be made. `path` is the file that they are from."""
    try:
        page(documents, errors)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} does not hold what the page is made of ({type(error).__name__}: {first_line(error)})",
            hint="give what benchmark -o, or for --errors evaluate --json, has written",
            source=path,
            reason="damaged",
        ) from error


def page(documents: Sequence[Mapping[str, Any]], errors: Mapping[str, Any] | None = None) -> str:
    """Return the page as HTML.

    `documents` are from `Benchmark.to_json` or a scenario's `Outcome.to_json`, one for each run. `errors` is what
    `evaluate --json` printed. The error of a model is found by its name, or by the path of its artifact.
    """
    machines = _machines(documents)
    several = len(documents) > 1
    body = [
        _subtitle(documents[0]) if len(machines) == 1 else "",
        box(_warnings(documents)),
        figures(documents, errors),
        *(
            _run(item, index if several else None, _subtitle(item) if len(machines) > 1 else _date(item))
            for index, item in enumerate(documents)
        ),
        *(_environment(documents, indices, alone=len(machines) == 1) for indices in machines),
    ]
    return document("Benchmark", body, Path(__file__).with_name("page.css"))


def _warnings(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return warnings and failures, each once, with the numbers of the runs that have them."""
    found: dict[str, list[str]] = {}
    for index, item in enumerate(documents):
        failed = [f"{label(row)} failed: {row['failure']}" for row in item.get("results") or () if row["failure"]]
        for line in dict.fromkeys([*(item.get("warnings") or ()), *failed]):
            found.setdefault(line, []).append(str(index + 1))
    if len(documents) == 1:
        return list(found)
    return [f"run{'s' * (len(runs) > 1)} {', '.join(runs)}: {line}" for line, runs in found.items()]


def _subtitle(found: Mapping[str, Any]) -> str:
    machine = found.get("environment") or {}
    gpus = [gpu.get("name") for gpu in machine.get("gpus") or ()]
    cores = machine.get("usable_cores")
    facts = [machine.get("processor"), f"{cores} cores" if cores else None, *gpus, str(machine.get("date", ""))[:10]]
    facts.append(f"resnet-infer {machine['resnet-infer']}" if "resnet-infer" in machine else None)
    return _soft(" · ".join(fact for fact in facts if fact))


def _date(found: Mapping[str, Any]) -> str:
    return _soft(str((found.get("environment") or {}).get("date", ""))[:16].replace("T", " "))


def _soft(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>' if text else ""


def _run(found: Mapping[str, Any], index: int | None, where: str) -> str:
    """Return the section of a run. Without an index it is the only run, and `where` is not repeated."""
    rows = [row for row in found.get("results") or () if "inference" in row["stages"]]
    what = heading(found) if "scenario" in found else ""
    if index is not None:
        what = f"Run {index + 1}: {what or 'models side by side'}"
    parts = [f"<h2>{escape(what)}</h2>" if what else "", where if index is not None else ""]
    parts += _tables(rows, found.get("settings") or {}, "h2" if index is None else "h3")
    if "scenario" in found:
        parts.append(section(found))
    return "".join(parts)


def _tables(rows: Sequence[Row], settings: Mapping[str, Any], tag: str) -> Iterable[str]:
    if not rows:
        return
    pictures = settings.get("pictures", {})
    yield f"<{tag}>Inference, ms a call</{tag}>" + _html(INFERENCE, rows)
    yield (
        f'<p class="soft">Calls of {settings.get("rounds", "several")} rounds in which all take turns. Spread: between '
        "the quartiles of the rounds' medians. Ratio: time over that of the first row of this run with the same batch, "
        "round by round, with its 95% interval.</p>"
    )
    yield f"<{tag}>Stages, ms</{tag}>" + _html(STAGE_COLUMNS, rows)
    yield (
        '<p class="soft">Prepare: decode, resize and crop one picture, on one core. End to end: from encoded pictures '
        f"to the five best classes. {escape(str(pictures.get('count', '')))} pictures: "
        f"{escape(str(pictures.get('source', '')))}, {number(pictures.get('mean_kb'))} kB.</p>"
    )
    yield f"<{tag}>Start and memory, ms and MB</{tag}>" + _html(START, rows)


def _html(columns: Mapping[str, Any], rows: Sequence[Row]) -> str:
    header, lines = cells(columns, rows)
    texts = ("model", "runs on", "precision")
    return html_table(
        header, [[escape(cell) for cell in line] for line in lines], numbers=sum(name in texts for name in header)
    )


def _machines(documents: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return the indices of runs with the same environment, apart from `PASSING`."""
    found: list[tuple[dict[str, Any], list[int]]] = []
    for index, item in enumerate(documents):
        lasting = {name: value for name, value in (item.get("environment") or {}).items() if name not in PASSING}
        known = next((indices for other, indices in found if other == lasting), None)
        if known is None:
            found.append((lasting, [index]))
        else:
            known.append(index)
    return [indices for _, indices in found]


def _environment(documents: Sequence[Mapping[str, Any]], indices: Sequence[int], *, alone: bool) -> str:
    environments = [documents[index].get("environment") or {} for index in indices]
    facts = {}
    for name, value in environments[0].items():
        values = [words(item.get(name)) for item in environments]
        if len(set(values)) > 1:
            facts[name] = "; ".join(f"run {index + 1}: {text}" for index, text in zip(indices, values, strict=True))
        elif value not in (None, [], {}):
            facts[name] = values[0]
    numbers = ", ".join(str(index + 1) for index in indices)
    title = "Environment" if alone else f"Environment of run{'s' * (len(indices) > 1)} {numbers}"
    return f"<h2>{title}</h2>" + facts_table(facts) if facts else ""
