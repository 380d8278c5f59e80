"""Write the report of an evaluation: one HTML page that loads nothing."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer._version import __version__
from resnet_infer.data.datasets import Sample
from resnet_infer.errors import PictureError
from resnet_infer.evaluation.paper import PAPER, comparison
from resnet_infer.evaluation.result import Bin, Evaluation, Rate, Result
from resnet_infer.models.outputs import whole_file
from resnet_infer.reporting.charts import Axis, Chart, colour, cut, heat_map, legend, linear
from resnet_infer.reporting.html import box, document, html_table
from resnet_infer.reporting.text import plural

OPTION = "--report"
"""Option of the command that names the page, for messages."""
WORST = 15
"""Most classes in the table of the worst."""
MISTAKES = 24
"""Most mistakes, and most skipped pictures, that are shown."""
THUMBNAIL = 160
"""The longer side of a picture in the page, in pixels."""
MOST_CLASSES = 40
"""Most classes that a confusion matrix shows one by one; more are drawn in groups."""
GROUPS = 25
"""Most groups of a confusion matrix."""
LABEL = 44
"""Most letters of a line's label, of which a long name gives way."""
KINDS = {"top1": colour(0), "top5": colour(2)}
"""Classes of the dots of an error."""


def write_report(found: Evaluation, path: Path) -> None:
    """Write the page to `path`.

    It has the errors by model and protocol, and for each row the confusion matrix, reliability, the worst classes, and
    the most confident mistakes, whose pictures are read again from the data. Raises `ResnetInferError` if the page
    cannot be written.
    """
    text = page(found)
    with whole_file(path, OPTION) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def page(found: Evaluation) -> str:
    """Return the page as HTML."""
    details = [_details(found, item, number == 0) for number, item in enumerate(found.results)]
    skipped = [f"skipped {item.error.message}" for item in found.unreadable[:MISTAKES]]
    body = [
        _facts(found),
        box([*found.warnings, *skipped]),
        _errors(found),
        _differences(found),
        *_papers(found),
        *details,
    ]
    return document(f"Evaluation on {found.dataset.name}", body, Path(__file__).with_name("report.css"))


def _facts(found: Evaluation) -> str:
    """Return the line below the title: pictures, speed, version and date."""
    seconds = found.seconds
    facts = [plural(found.pictures, "picture")]
    if found.unreadable:
        facts.append(f"{len(found.unreadable)} skipped")
    if seconds.pictures:
        facts.append(f"{seconds.pictures / seconds.wall:,.1f} pictures/s")
    facts.append(f"resnet-infer {__version__}, {time.strftime('%Y-%m-%d', time.gmtime())}")
    return f'<p class="soft">{" · ".join(facts)}</p>'


def _errors(found: Evaluation) -> str:
    """Return the table of errors, and the chart of their intervals."""
    lines = []
    for item in found.results:
        own = next((row for table, row in item.published if table.source == PAPER), None)
        for kind, rate in (("top1", item.top1), ("top5", item.top5)):
            if rate:
                published = getattr(own, kind) if own else None
                lines.append(Interval(item.name, f"{item.protocol}, top-{kind[3:]}", kind, rate, published))
    rows = []
    for item in found.results:
        cells = [escape(item.name) + (" (reference)" if item.is_reference else ""), item.protocol, item.precision]
        cells.append(escape(item.runs_on))
        cells += [_rate(item.top1), _rate(item.top5) if item.top5 else ""]
        cells.append("; ".join(f"{row} ({escape(table.source)})" for table, row in item.published))
        rows.append(cells)
    header = [
        "model",
        "protocol",
        "precision",
        "runs on",
        "top-1 error",
        "top-5 error",
        "published",
    ]
    kinds = {line.kind for line in lines}
    keys = [
        (f"{KINDS['top1']} dot", "top-1 error with its 95% interval" if "top1" in kinds else ""),
        (f"{KINDS['top5']} dot", "top-5 error" if "top5" in kinds else ""),
        ("published", "the paper's figure" if any(line.published is not None for line in lines) else ""),
    ]
    return (
        f"<h2>Error</h2>{html_table(header, rows, skip_empty=True)}"
        f'<div class="scroll">{intervals(lines)}</div>{legend([key for key in keys if key[1]])}'
    )


@dataclass(frozen=True)
class Interval:
    """Hold a line of the chart of errors: whose error it is and which, with its interval and the paper's figure.

    `kind` is a key of `KINDS`.
    """

    name: str
    which: str
    kind: str
    rate: Rate
    published: float | None = None


def intervals(lines: Sequence[Interval]) -> str:
    """Draw errors with their 95% intervals, one below the other, and the paper's as a hollow square."""
    ends = [value for line in lines for value in (*line.rate.interval, line.published) if value is not None]
    x = linear("", min(ends), max(ends), least=0.1, unit="%")
    chart = Chart(x, Axis("", len(lines), 0), (520, 28 * len(lines)), left=330, right=40)
    for number, line in enumerate(lines):
        low, high = line.rate.interval
        label = f"{cut(line.name, LABEL - len(line.which))}, {line.which}"
        title = f"{line.name}, {line.which}: {line.rate} ({low:.2f} to {high:.2f})"
        chart.row(number + 0.5, line.rate.error, (low, high), KINDS[line.kind], label, title)
        if line.published is not None:
            chart.square(line.published, number + 0.5, f"published: {line.published:g}%")
    return chart.svg("Errors with their 95% intervals")


def reliability(bins: Sequence[Bin]) -> str:
    """Draw how often answers are right, by how confident they are; on the diagonal they are as right as they say."""
    percents = (0, 25, 50, 75, 100)
    chart = Chart(
        linear("confidence, %", 0, 100, ticks=percents), linear("right, %", 0, 100, ticks=percents), (260, 260)
    )
    chart.diagonal()
    chart.bars([(100 * part.confidence, part.pictures) for part in bins])
    points = [(100 * part.confidence, 100 * part.accuracy) for part in bins]
    chart.line(points, colour(0), "")
    for part, (x, y) in zip(bins, points, strict=True):
        chart.dot(x, y, colour(0), f"{part.pictures} pictures: confidence {x:.1f}%, right {y:.1f}%", radius=4.5)
    return chart.svg("Right answers by confidence")


def confusion(labels: NDArray[np.int64], top1: NDArray[np.int64], names: Sequence[str]) -> str:
    """Draw the confusion matrix. Rows are right classes and columns are answers; colour is the share of the row.

    `labels` and `top1` are numbers of classes, (pictures,) each, where -1 in `top1` is no answer. More than
    `MOST_CLASSES` are drawn in groups of neighbours; ImageNet's are in the order of their WordNet ids, in which
    neighbours are of a kind.
    """
    size = 1 if len(names) <= MOST_CLASSES else -(-len(names) // GROUPS)
    firsts = range(0, len(names), size)
    heads = [
        names[first] if size == 1 else f"{names[first]} … {names[min(first + size, len(names)) - 1]}"
        for first in firsts
    ]
    counts = np.zeros((len(firsts), len(firsts)), np.int64)
    given = top1 >= 0
    np.add.at(counts, (labels[given] // size, top1[given] // size), 1)
    totals = np.bincount(labels // size, minlength=len(firsts))
    cell = "{row} answered {column}: {count} of {total}"
    return heat_map(heads, counts.tolist(), totals.tolist(), "Confusion matrix", cell)


def _differences(found: Evaluation) -> str:
    """Return the table that compares every model with the reference; empty without one."""
    reference = next((item for item in found.results if item.is_reference), None)
    rows = [
        [
            *(escape(item.name), item.protocol, f"{part.top1:+.2f}"),
            *(f"{part.only_model_wrong:,}", f"{part.only_reference_wrong:,}", f"{part.p:.2g}"),
        ]
        for item in found.results
        if (part := item.difference)
    ]
    if reference is None or not rows:
        return ""
    header = ["model", "protocol", "top-1 error, points", "only it is wrong", "only the reference", "McNemar's p"]
    return f"<h2>Against {escape(reference.name)}</h2>{html_table(header, rows, numbers=2)}"


def _papers(found: Evaluation) -> Iterable[str]:
    """Yield a table for each protocol that puts these results among the published ones."""
    seen = set()
    for first in found.results:
        if first.spec.architecture is None or first.is_ensemble:
            continue
        rows = [
            (row.top1, row.top5, escape(row.label), escape(table.source), False)
            for table, row in comparison(first.spec.architecture, first.protocol, first.data)
        ]
        if not rows or first.protocol in seen:
            continue
        seen.add(first.protocol)
        rows += [
            (
                *(item.top1.error, item.top5.error if item.top5 else None, escape(item.name)),
                *(escape(f"measured here, {item.runs_on}"), True),
            )
            for item in found.results
            if item.protocol == first.protocol
        ]
        rows.sort(key=lambda row: (row[0] is None, -(row[0] or row[1] or 0)))
        five = any(row[1] is not None and not row[4] for row in rows)
        cells = [
            [name, source, _number(top1), *([_number(top5)] if five else [])] for top1, top5, name, source, _ in rows
        ]
        own = [number for number, row in enumerate(rows) if row[4]]
        header = ["network", "from", "top-1", *(["top-5"] if five else [])]
        yield (
            f"<h2>Beside the paper: {first.data}, {first.protocol}, error in %</h2>"
            + html_table(header, cells, numbers=2, own=own)
            + '<p class="soft">Published figures are of the whole of that data set.</p>'
        )


def _details(found: Evaluation, item: Result, opened: bool) -> str:
    """Return the foldable section of one row."""
    answered, names = item.answered, item.spec.classes
    grouped = "" if len(names) <= MOST_CLASSES else f", {len(names)} classes in groups of neighbours"
    parts = [
        f'<h3>Confusion matrix{grouped}</h3><p class="soft">Rows are right classes, columns answers; the colour is '
        "the share of the row.</p>",
        f'<div class="scroll">{confusion(answered.labels, answered.top1, names)}</div>',
        '<div class="pair"><div><h3>Reliability</h3>',
        f'<div class="scroll">{reliability(answered.reliability())}</div>',
        f'<p class="soft">Expected calibration error {answered.calibration_error():.2f}%. Bars: how many pictures.</p>',
        f"</div><div><h3>Worst classes</h3>{_worst(item)}</div></div>",
        "<h3>Most confident mistakes</h3>",
        _mistakes(found, item),
    ]
    head = escape(f"{item.name}, {item.protocol} ({item.runs_on})")
    return f"<details{' open' if opened else ''}><summary>{head}</summary>{''.join(parts)}</details>"


def _worst(item: Result) -> str:
    """Return the table of the classes with the largest error."""
    answered, names = item.answered, item.spec.classes
    total = np.bincount(answered.labels, minlength=len(names))
    wrong = np.bincount(answered.labels[~answered.right], minlength=len(names))
    rows = []
    for label in sorted(np.flatnonzero(wrong), key=lambda label: (-wrong[label] / total[label], -total[label]))[:WORST]:
        answers = answered.top1[(answered.labels == label) & ~answered.right & (answered.top1 >= 0)]
        taken = ""
        if len(answers):
            counts = np.bincount(answers)
            taken = f"{escape(names[int(counts.argmax())])} ({counts.max()})"
        rate = Rate(int(wrong[label]), int(total[label]))
        rows.append([escape(names[label]), f"{rate.total:,}", _rate(rate), taken])
    return html_table(["class", "pictures", "error", "most often taken for"], rows)


def _mistakes(found: Evaluation, item: Result) -> str:
    """Return the pictures of the most confident mistakes."""
    answered, names = item.answered, item.spec.classes
    wrong = np.flatnonzero(~answered.right & (answered.top1 >= 0))
    order = wrong[np.argsort(-answered.confidence[wrong], kind="stable")][:MISTAKES]
    figures = []
    for number in order:
        sample = found.dataset.samples[int(answered.pictures[number])]
        drawn, name = _thumbnail(sample, item.spec.input.exif), escape(sample.name)
        figures.append(
            f"<figure>{drawn}<figcaption>is <b>{escape(names[answered.labels[number]])}</b><br>answered "
            f"<b>{escape(names[answered.top1[number]])}</b>, {100 * answered.confidence[number]:.1f}%<br>"
            f'<span class="soft" title="{name}">{escape(_tail(sample.name))}</span></figcaption></figure>'
        )
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else "<p>None.</p>"


def _tail(name: str) -> str:
    """Return the last folder and the file of a name."""
    return "/".join(name.split("/")[-2:])


def _thumbnail(sample: Sample, exif: bool) -> str:
    """Return the picture as an HTML image, empty if it cannot be read any more."""
    try:
        picture = sample.image(exif=exif)
    except PictureError:
        return ""  # the file has vanished since it was answered
    tiny = max(picture.size) <= THUMBNAIL // 2
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG") if tiny else picture.save(file, "JPEG", quality=80)
    kind, text = "png" if tiny else "jpeg", base64.b64encode(file.getvalue()).decode()
    style = ' class="tiny"' if tiny else ""
    return f'<img{style} alt="{escape(sample.name)}" src="data:image/{kind};base64,{text}">'


def _rate(rate: Rate) -> str:
    """Return an error and its interval as HTML."""
    low, high = rate.interval
    return f'{rate} <span class="soft">{low:.2f}–{high:.2f}</span>'


def _number(value: float | None) -> str:
    """Return a percentage as text, empty for None."""
    return "" if value is None else f"{value:.2f}"
