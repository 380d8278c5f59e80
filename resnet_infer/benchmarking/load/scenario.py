"""Hold the settings of a load and its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_infer.reporting.text import pointed
from resnet_infer.utils.console import pairs, table


@dataclass(frozen=True)
class Scenario:
    """Hold a scenario of `scenarios.SCENARIOS`, and what it is run on.

    `model`, `runtime`, `device`, `threads` and `compute` are as in `Classifier`; with `url` the load goes to a service
    instead. `data` is a data set or a folder of pictures, None for synthetic ones. `crops` is 1 or 10. `accuracy` is
    LoadGen's accuracy mode, and `official` its official settings instead of shortened ones. `seconds` is the length of
    a run. `rates` are queries per second: an open loop for each, or the first for LoadGen's server. `clients` is the
    number of queries in progress of a closed loop. `bound_ms` is the 99th percentile that is allowed. `output` is the
    folder for LoadGen's logs.

        Scenario("open-loop", model="resnet50.v1", rates=(50.0, 100.0), bound_ms=50.0)
    """

    name: str
    model: str | None = None
    url: str | None = None
    runtime: str = "auto"
    device: str = "auto"
    threads: int | None = None
    compute: str = "auto"
    data: Path | None = None
    crops: int = 1
    accuracy: bool = False
    official: bool = False
    seconds: float | None = None
    rates: tuple[float, ...] = ()
    clients: int | None = None
    bound_ms: float | None = None
    output: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """Hold the outcome of a scenario. `valid` is None if there is no verdict; `reasons` say why it is False.

    `figures` are names and numbers, `rates` has an entry for each rate that was tried, and `notes` qualify the figures.
    `official` is None for a scenario that is not MLPerf's.
    """

    scenario: str
    system: Mapping[str, Any]
    data: Mapping[str, Any]
    figures: Mapping[str, Any]
    valid: bool | None = None
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rates: Sequence[Mapping[str, Any]] = ()
    official: bool | None = None
    accuracy: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    logs: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that have a value as JSON."""
        found = {name: value for name, value in vars(self).items() if name not in ("rates", "settings")}
        found |= {"reasons": list(self.reasons), "notes": list(self.notes)}
        if self.settings:
            found["settings"] = dict(self.settings)
        if self.rates:
            found["rates"] = [dict(item) for item in self.rates]
        return found

    def table(self) -> str:
        """Return the outcome as tables for the console."""
        rows = [("scenario", self.scenario + (", accuracy" if self.accuracy else ""))]
        rows += [("system", str(self.system["name"])), ("pictures", str(self.data["name"]))]
        rows += [(_spoken(name), _text(name, value)) for name, value in self.figures.items()]
        if self.valid is not None:
            words = ("VALID", "INVALID") if self.official is not None else ("passed", "failed")
            rows.append(("result", words[not self.valid]))
        rows += [("because", reason) for reason in self.reasons]
        rows += [("note", note) for note in self.notes]
        if self.logs:
            rows.append(("logs", self.logs))
        text = pairs(rows)
        if self.rates:
            names = list(self.rates[0])
            lines = [[_text(name, item[name]) for name in names] for item in self.rates]
            text += "\n\n" + table([_spoken(name) for name in names], lines)
        return text


def _spoken(name: str) -> str:
    return pointed(name).replace("_", " ")


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "undecided" if name == "within" else "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {count}" for key, count in value.items()) or "-"
    if isinstance(value, list):
        return " to ".join(_text(name, item) for item in value)
    if isinstance(value, float):
        return f"{value:,.3f}" if name.endswith("_ms") and value < 10 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
