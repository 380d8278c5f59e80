"""Read the error curves of training runs from their folders, and draw them in the style of the paper's Figure 6."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_infer.errors import DataError, UsageError, reason_of
from resnet_infer.models.checkpoint import SUFFIX
from resnet_infer.models.format_version import RUN
from resnet_infer.models.spec import ModelSpec
from resnet_infer.models.weights.download import library_folder
from resnet_infer.runtimes.artifacts import read_spec
from resnet_infer.utils.extras import needs
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.inputs import read_bytes, read_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
_NEEDED = ("iteration", "train_error")
# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow that is lost on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F")
_FONT = 9.0
"""Size of the letters, in points."""
_HEIGHT = 4.6
"""Height of the plot, in inches."""
_PAPER_TOP = 20.0
"""Upper end of the error axis in the paper's Figure 6, in percent."""


@dataclass(frozen=True)
class Run:
    """Hold the error curves of one training run, in percent, with one entry for each row of its `metrics.csv`.

    `val_error` is None in rows without validation. `drops` are the iterations of the rows after which a step or plateau
    schedule lowered the learning rate. `network` and `test_error` come from the checkpoints, and are None if those do
    not have them.
    """

    folder: Path
    network: str | None
    iterations: tuple[int, ...]
    train_error: tuple[float, ...]
    val_error: tuple[float | None, ...]
    drops: tuple[int, ...] = ()
    test_error: float | None = None

    @property
    def validated(self) -> tuple[tuple[int, float], ...]:
        """The pairs (iteration, validation error) of the rows with validation."""
        return tuple((i, e) for i, e in zip(self.iterations, self.val_error, strict=True) if e is not None)

    @property
    def final_error(self) -> float:
        """The last validation error, or the last training error of a run without validation."""
        return self.validated[-1][1] if self.validated else self.train_error[-1]


def read_run(folder: Path) -> Run:
    """Read `metrics.csv`, `recipe.json` and the checkpoints of a run's folder; only the first must exist.

    Columns are found by name. Rows that a resumed run wrote again replace the older ones.
    Raises `DataError` naming the file and line if it is missing, broken or empty, and `ModelError` for a damaged
    checkpoint.
    """
    path = folder / "metrics.csv"
    if not path.exists():
        raise DataError(
            f"{folder} is no run: there is no {path}",
            hint="name the folder that was given to train as -o",
            source=folder,
            reason="missing",
        )
    rows: dict[int, tuple[float, float | None]] = {}
    rates: dict[int, float] = {}
    try:
        with io.StringIO(read_bytes(path).decode(), newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in _NEEDED if name not in (reader.fieldnames or ())]:
                raise DataError(
                    f"{path} has no column {', '.join(missing)} in its first line", source=path, reason="unsupported"
                )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                iteration = int(_number(row, "iteration", where, math.inf))
                while rows and next(reversed(rows)) >= iteration:
                    rates.pop(rows.popitem()[0], None)
                rows[iteration] = (
                    _number(row, "train_error", where),
                    _number(row, "val_error", where) if row.get("val_error") else None,
                )
                if row.get("rate"):
                    rates[iteration] = _number(row, "rate", where, math.inf)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error})", source=path, reason=reason_of(error)) from error
    if not rows:
        raise DataError(
            f"{path} has no rows",
            hint="a run writes its first one at the end of its first epoch",
            source=path,
            reason="empty",
        )
    best, last = (_spec(folder / f"{name}{SUFFIX}") for name in ("best", "last"))
    spec = best or last
    # Without a test split the checkpoint holds the validation error, marked as such.
    tested = [item.top1_error for item in (best.measured if best else ()) if not item.dataset.endswith("(validation)")]
    return Run(
        folder=folder,
        network=spec.architecture.name if spec and spec.architecture else None,
        iterations=tuple(rows),
        train_error=tuple(train for train, _ in rows.values()),
        val_error=tuple(val for _, val in rows.values()),
        drops=_drops(folder / "recipe.json", rates),
        test_error=tested[0] if tested else None,
    )


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a distinct name for each run: its network, or its folder if networks are unknown or the same."""
    folders = [run.folder.resolve().name for run in runs]
    networks = [run.network or name for run, name in zip(runs, folders, strict=True)]
    for names in (networks, folders):
        if len(set(names)) == len(runs):
            return names
    return [str(run.folder) for run in runs]


def draw(runs: Sequence[Run], output: Path) -> None:
    """Draw all runs into one plot, a PNG or an SVG by the suffix of `output`.

    Error (%) against iteration: training error thin and dashed, validation error bold, a colour for each run, and
    dotted lines where the learning rate drops. The same runs give the same bytes. Raises `UsageError` for another
    suffix and `MissingExtraError` without matplotlib.
    """
    draw_panels({"": runs}, output)


def draw_panels(panels: Mapping[str, Sequence[Run]], output: Path) -> None:
    """Draw plots side by side on the same scale, like `draw`. The keys of `panels` are the titles."""
    check_output(output)
    # By default matplotlib writes its list of fonts below the home folder.
    if "MPLCONFIGDIR" not in os.environ and (folder := library_folder("matplotlib")):
        os.environ["MPLCONFIGDIR"] = str(folder)
    with needs("report", "drawing curves"):
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.style import context
    everything = [run for runs in panels.values() for run in runs]
    if not everything:
        raise UsageError("there are no runs to draw")
    # The reader's own settings would make another picture of the same runs.
    with context("default"), matplotlib.rc_context({"svg.hashsalt": "resnet-infer", "font.size": _FONT}):
        figure = Figure(figsize=(1.6 + 5.6 * len(panels), _HEIGHT), layout="constrained", dpi=160)
        every = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
        for axes, (title, runs) in zip(every, panels.items(), strict=True):
            axes.set_title(title)
            _plot(axes, runs, _top(everything), max(1, *(run.iterations[-1] for run in everything)))
        every[0].set_ylabel("error (%)")
        _explain(every[-1], everything)
        suffix = output.suffix.lower()
        with atomic_path(output) as path:
            figure.savefig(path, format=suffix[1:], metadata={"Date": None} if suffix == ".svg" else {"Software": None})


def check_output(output: Path) -> None:
    """Raise `UsageError` unless the suffix is one that can be drawn."""
    if output.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{output} names no kind of picture that can be drawn", hint=f"end it with {' or '.join(SUFFIXES)}"
        )


def _plot(axes: Axes, runs: Sequence[Run], top: float, end: int) -> None:
    """Draw the curves of the runs, up to the error `top` and the iteration `end`."""
    with needs("report", "drawing curves"):
        from matplotlib.ticker import MultipleLocator

    scale, unit = (1e4, " (1e4)") if end >= 10_000 else (1, "")
    for drop in sorted({drop for run in runs for drop in run.drops}):
        axes.axvline(drop / scale, color="#999999", linewidth=0.9, linestyle=":", zorder=1)
    for index, run in enumerate(runs):
        # A line through few points hides where they are, and one point makes no line at all.
        style: dict[str, Any] = {
            "color": _COLOURS[index % len(_COLOURS)],
            "marker": "o" if len(run.iterations) <= 20 else "",
        }
        axes.plot([i / scale for i in run.iterations], run.train_error, "--", linewidth=0.9, markersize=2.5, **style)
        axes.plot(
            [i / scale for i, _ in run.validated], [e for _, e in run.validated], linewidth=1.8, markersize=4, **style
        )
    axes.set(xlim=(0, 1.01 * end / scale), ylim=(0, top), xlabel=f"iteration{unit}")
    axes.yaxis.set_major_locator(MultipleLocator(5 if top <= _PAPER_TOP else 10))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _label(axes, runs, top, scale)


def _label(axes: Axes, runs: Sequence[Run], top: float, scale: float) -> None:
    """Write the name of each curve at its right end, and move names apart that would overlap."""
    gap = 1.35 * _FONT / (0.85 * _HEIGHT * 72) * top
    names = labels(runs)
    for end in {run.iterations[-1]: None for run in runs}:
        group = sorted((r.final_error, i) for i, r in enumerate(runs) if r.iterations[-1] == end)
        places = spread([error for error, _ in group], gap, top)
        for (error, index), place in zip(group, places, strict=True):
            colour = _COLOURS[index % len(_COLOURS)]
            axes.annotate(
                f"{names[index]}  {error:.1f}%",
                xy=(end / scale, error),
                xytext=(end / scale + axes.get_xlim()[1] * 0.025, place),
                va="center",
                color=colour,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkB": 0},
                annotation_clip=False,
            )


def _explain(axes: Axes, runs: Sequence[Run]) -> None:
    """Add the legend of line styles at the upper right, or at the lower left if a curve ends high."""
    with needs("report", "drawing curves"):
        from matplotlib.lines import Line2D

    kinds: list[tuple[str, dict[str, Any]]] = [("training error", {"linestyle": "--", "linewidth": 0.9})]
    if any(run.validated for run in runs):
        kinds.insert(0, ("validation error", {"linewidth": 1.8}))
    if any(run.drops for run in runs):
        kinds.append(("learning rate drops", {"linestyle": ":", "linewidth": 0.9}))
    lines = [Line2D([], [], color="#555555", label=label, **style) for label, style in kinds]
    high = any(max(run.final_error, run.train_error[-1]) > 0.7 * axes.get_ylim()[1] for run in runs)
    axes.legend(handles=lines, loc="lower left" if high else "upper right", framealpha=0.9, edgecolor="none")


def _top(runs: Sequence[Run]) -> float:
    """Return the upper end of the error axis: the paper's 20% if every curve's later half is below it, else more."""
    curves = [run.train_error for run in runs] + [tuple(e for _, e in run.validated) for run in runs]
    if all(error < _PAPER_TOP for curve in curves for error in curve[len(curve) // 2 :]):
        return _PAPER_TOP
    return min(100.0, 10 * math.ceil(max(map(max, filter(None, curves))) / 10 + 0.05))


def spread(wanted: Sequence[float], gap: float, top: float) -> list[float]:
    """Move positions (ascending) at least `gap` apart, by as little as possible, within [0, `top`] if there is room."""
    # Neighbours that are too close form a block around the mean of their wanted positions (isotonic regression).
    blocks: list[tuple[float, int]] = []
    for index, value in enumerate(wanted):
        total, count = value - index * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            total, count = total + blocks[-1][0], count + blocks.pop()[1]
        blocks.append((total, count))
    shifts = [total / count for total, count in blocks for _ in range(count)]
    highest = top - (len(wanted) - 0.5) * gap
    return [max(gap / 2, min(shift, highest)) + index * gap for index, shift in enumerate(shifts)]


def _number(row: Mapping[str, str | None], column: str, where: str, most: float = 100.0) -> float:
    """Read a number from 0 to `most`. Raises `DataError` naming the line, `where`."""
    text = row.get(column)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (0 <= value <= most and math.isfinite(value)):
        raise DataError(
            f"{where}: {column} is {text!r}",
            hint="remove the line if the run was cut off while writing it",
            source=where,
            reason="damaged",
        )
    return value


def _spec(path: Path) -> ModelSpec | None:
    """Read the spec of a checkpoint, None if there is no such file."""
    return read_spec(path) if path.exists() else None


def _drops(recipe: Path, rates: Mapping[int, float]) -> tuple[int, ...]:
    """Return the iterations after which the learning rate dropped. Smooth schedules have none, however steep."""
    if not recipe.exists():
        return ()
    try:
        value = json.loads(read_text(recipe))
        RUN.check(value, str(recipe))
        schedule = value["schedule"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{recipe} is damaged ({type(error).__name__}: {error})", source=recipe, reason="damaged"
        ) from error
    if schedule not in ("step", "plateau"):
        return ()
    return tuple(i for (i, before), (_, after) in pairwise(rates.items()) if after < before)
