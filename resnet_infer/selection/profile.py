"""Keep the machine profile: which runtime was measured to be fastest for an artifact here.

`export --target auto` and `benchmark --remember` write it, into `machine/profile.json` in the cache. Only entries of
this processor, number of cores and versions of the runtimes count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from resnet_infer.errors import DataError
from resnet_infer.models.format_version import FileFormat
from resnet_infer.runtimes.registry import select_runtime
from resnet_infer.selection.machine import Machine, Model, exact, versions
from resnet_infer.selection.rules import Use
from resnet_infer.selection.store import Entry, Store

PROFILE = FileFormat("machine profile", error=DataError)
"""Format of the document."""
ALIKE = 1.03
"""Ratio of times up to which two runtimes or candidates are as fast. Then the default runtime answers."""
SHARE = 0.75
"""Smallest share of the rounds in which another runtime than the default is faster, where rounds were kept: on a busy
machine medians alone may differ by chance."""
START_SECONDS = 0.5
"""Time by which another runtime than the default starts later, in seconds. It has to be saved before it counts."""


@dataclass(frozen=True)
class Timing:
    """Hold the milliseconds of a call of one runtime, on `threads` threads (None: all cores), with `streams` at a time.

    `streams` says how many such calls the cores can compute side by side. `rounds` has the milliseconds of a call in
    each round, in which the runtimes took turns; it may be empty.
    """

    runtime: str
    threads: int | None
    streams: int
    ms: float
    rounds: tuple[float, ...] = ()

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Timing:
        """Read JSON. Raises `KeyError`, `TypeError` or `ValueError`."""
        threads, streams, ms = value["threads"], value["streams"], value["ms"]
        whole = [number for number in (threads, streams) if number is not None]
        if any(type(number) is not int or number < 1 for number in whole) or type(ms) not in (int, float):
            raise ValueError("threads and streams are numbers from 1 on")
        if not isinstance(value["runtime"], str) or streams is None or not 0 < ms < math.inf:
            raise ValueError("a timing has a runtime and a time")
        rounds = tuple(map(float, value.get("rounds", ())))
        if not all(0 < number < math.inf for number in rounds):
            raise ValueError("rounds")
        return cls(value["runtime"], threads, streams, float(ms), rounds)

    def ratio(self, other: Timing) -> float:
        """Return how many times as fast as `other` it is: over the rounds of both, else by the medians."""
        if self.rounds and len(self.rounds) == len(other.rounds):
            return median(theirs / own for own, theirs in zip(self.rounds, other.rounds, strict=True))
        return other.ms / self.ms

    def faster(self, other: Timing) -> bool:
        """Return whether it is faster than `other` by more than the noise."""
        if self.rounds and len(self.rounds) == len(other.rounds):
            won = sum(own < theirs for own, theirs in zip(self.rounds, other.rounds, strict=True))
            if won < SHARE * len(self.rounds):
                return False
        return self.ratio(other) > ALIKE

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**vars(self), "rounds": list(self.rounds)}


@dataclass(frozen=True)
class Best:
    """Hold the runtime that the profile says is fastest, and how many times as fast as the default runtime it is.

    `saved` is the time saved for an image, in seconds, with all cores at work. `batch` is the batch of the measurement.
    """

    timing: Timing
    batch: int
    ratio: float
    saved: float

    def worthwhile(self, images: int | None) -> bool:
        """Return whether so many images (None: very many) save the time of the longer start."""
        return images is None or images * self.saved > START_SECONDS


def _check(entry: Mapping[str, Any]) -> None:
    """Check the fields of an entry that are read. Raises `KeyError`, `TypeError` or `ValueError`."""
    for key in ("processor", "digest", "precision", "compute", "runtime"):
        if not isinstance(entry[key], str):
            raise TypeError(key)
    if type(entry["batch"]) is not int or entry["batch"] < 1 or not isinstance(entry["versions"], dict):
        raise ValueError("batch or versions")
    for key in ("flags", "cores", "architecture", "crop"):
        entry[key]
    if not [Timing.of(item) for item in entry["trials"]]:
        raise ValueError("no trials")


STORE = Store("profile.json", PROFILE, _check)
"""The document of the profile."""


def remember(
    model: Model, batch: int, timings: Sequence[Timing], *, source: str, compute: str = "auto", store: Store = STORE
) -> bool:
    """Write what was measured for an artifact at a batch size. Return whether it could be written.

    `source` names the command that measured. An earlier entry of the same artifact and batch is replaced.
    """
    best = min(timings, key=lambda item: item.ms / item.streams)
    entry: Entry = {
        **Machine.here().to_json(),
        "versions": versions(sorted({item.runtime for item in timings})),
        "digest": model.digest,
        **model.kind,
        "compute": exact(compute),
        "batch": batch,
        **{key: value for key, value in best.to_json().items() if key != "rounds"},
        "trials": [item.to_json() for item in timings],
        "source": source,
    }
    keys = ("processor", "flags", "cores", "digest", "compute", "batch")
    return store.add(entry, lambda other: all(other[key] == entry[key] for key in keys))


def best_known(
    model: Model, batch: int | None, *, use: Use = "many", compute: str = "auto", store: Store = STORE
) -> Best | None:
    """Return the fastest runtime by the profile; None if nothing that holds here compares two runtimes.

    Entries of the artifact itself count before those of the same architecture, precision and size, and of these the
    ones whose batch is closest. For the uses `many` and `service` the times on the fewest threads are compared, which
    is how the cores work side by side; for `single` those on the most.
    """
    here = Machine.here().to_json()
    valid = [
        entry
        for entry in store.entries()
        if all(entry[key] == value for key, value in here.items()) and entry["compute"] == exact(compute)
    ]
    valid = [entry for entry in valid if entry["versions"] == versions_of(entry["versions"])]
    wanted, kind = batch or 1, model.kind

    def is_own(entry: Entry) -> bool:
        return bool(entry["digest"] == model.digest)

    def is_alike(entry: Entry) -> bool:
        return kind["architecture"] is not None and all(entry[key] == value for key, value in kind.items())

    def distance(entry: Entry) -> tuple[bool, float]:
        return not is_own(entry), abs(math.log2(entry["batch"] / wanted))

    for entry in sorted((entry for entry in valid if is_own(entry) or is_alike(entry)), key=distance):
        timings = [Timing.of(item) for item in entry["trials"]]
        if found := _compare(timings, select_runtime(model.path).name, entry["batch"], use):
            return found
    return None


def versions_of(kept: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the installed versions of the runtimes that an entry names; None if one of them is unknown or missing."""
    from resnet_infer.runtimes.registry import RUNTIMES

    if not kept.keys() <= {row.name for row in RUNTIMES}:
        return None
    found = versions(kept)
    return found if all(found.values()) else None


def _compare(timings: Iterable[Timing], default: str, batch: int, use: Use) -> Best | None:
    """Compare the runtimes on equal threads. Return None if no two runtimes were measured on equal threads."""
    groups: dict[int, dict[str, Timing]] = {}
    for item in timings:
        groups.setdefault(item.streams, {})[item.runtime] = item
    several = {streams: found for streams, found in groups.items() if len(found) > 1 and default in found}
    if not several:
        return None
    found = several[min(several) if use == "single" else max(several)]
    usual = found[default]
    best = max(found.values(), key=lambda item: item.ratio(usual))
    if not best.faster(usual):
        best = usual
    ratio = best.ratio(usual)
    saved = (1 - 1 / ratio) * usual.ms / 1000 / batch / best.streams
    return Best(best, batch, ratio, saved)
