"""How fast artifacts run, each alone in a process of its own, in turn, so that a drift of the machine falls on all.

Two sessions in one process, idle or not, take each other's cores and memory; two processes one after the other do not.
"""

from __future__ import annotations

import json
import pickle
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_infer.errors import UsageError
from resnet_infer.runtimes.processes import command, ending

ROUNDS = 3
SECONDS = 0.5
TIMEOUT = 600.0
"""Seconds for one sample, with the time that it takes to open the artifact; TensorRT may build an engine in it."""


@dataclass(frozen=True)
class Subject:
    """An artifact as it is to be run; all but `model` as in `open_runtime`."""

    model: Path
    runtime: str = "auto"
    device: str = "auto"
    threads: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        options = {name: str(value) if isinstance(value, Path) else value for name, value in self.options.items()}
        return {**vars(self), "model": str(self.model), "options": options}


@dataclass(frozen=True)
class Timing:
    """What was measured of a subject: the median milliseconds of a call in each round, with a batch of `batch`.

    `opened` is what the runtime says of itself. `failure` is why there is nothing, or no more than some rounds.
    """

    subject: Subject
    batch: int
    rounds: tuple[float, ...] = ()
    opened: Mapping[str, Any] = field(default_factory=dict)
    failure: str | None = None

    @property
    def ms(self) -> float:
        """Milliseconds of a call: the median of the rounds, infinite without any."""
        return statistics.median(self.rounds) if self.rounds else float("inf")

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest round."""
        return (min(self.rounds), max(self.rounds)) if self.rounds else (float("inf"), float("inf"))

    @property
    def pictures_per_second(self) -> float:
        return 1000 * self.batch / self.ms

    def ratio(self, other: Timing) -> float:
        """How many times as long as `other` it takes: the median over the rounds that both were in."""
        pairs = zip(self.rounds, other.rounds, strict=False)
        return statistics.median([mine / theirs for mine, theirs in pairs])

    def to_json(self) -> dict[str, Any]:
        measured = {
            "ms": round(self.ms, 4),
            "ms_rounds": [round(value, 4) for value in self.rounds],
            "pictures_per_second": round(self.pictures_per_second, 2),
        }
        return {
            **self.subject.to_json(),
            "batch": self.batch,
            **(measured if self.rounds else {}),
            "opened": dict(self.opened),
            "failure": self.failure,
        }


@dataclass(frozen=True)
class Job:
    """What a process is asked for: one sample of at least `seconds` of calls."""

    subject: Subject
    batch: int
    seconds: float


def measure(
    subjects: Sequence[Subject],
    batch: int,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    timeout: float = TIMEOUT,
    give_up: float | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Timing]:
    """Time a call of every subject on a batch of `batch` pictures, in their order.

    In each round every subject is started, warmed up, timed for at least `seconds` and ended; every second round goes
    backwards. One that fails, crashes or takes longer than `timeout` seconds for a sample says so in its `Timing` and
    is left out from then on; so is, without a failure, one that took `give_up` times as long as the fastest of a round.
    `advance` is told of every sample done or left out: there are `len(subjects) * rounds`. Raises
    `RuntimeUnavailableError` where no process can be started, see `interpreter`.
    """
    if batch < 1 or rounds < 1:
        raise UsageError(f"the batch size and the number of rounds are at least 1, not {batch} and {rounds}")
    timings = [Timing(subject, batch) for subject in subjects]
    places = list(range(len(subjects)))
    for number in range(rounds):
        for place in places if number % 2 == 0 else reversed(places):
            timings[place] = _with_sample(timings[place], _sample(Job(subjects[place], batch, seconds), timeout))
            advance(1)
        advance(len(subjects) - len(places))
        places = [place for place in places if timings[place].failure is None]
        fastest = min((timings[place].rounds[-1] for place in places), default=0.0)
        if give_up is not None:
            places = [place for place in places if timings[place].rounds[-1] <= give_up * fastest]
    return timings


def _with_sample(timing: Timing, sample: Mapping[str, Any]) -> Timing:
    failure = sample.get("failure")
    if failure is not None:
        return Timing(timing.subject, timing.batch, timing.rounds, timing.opened, failure)
    return Timing(timing.subject, timing.batch, (*timing.rounds, sample["ms"]), sample["opened"])


def _sample(job: Job, timeout: float) -> dict[str, Any]:
    """Have a process take the sample; `failure` in place of the result where it could not."""
    try:
        done = subprocess.run(
            command("resnet_infer.benchmarking.latency.side_by_side_worker"),
            input=pickle.dumps(job),
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"no sample within {timeout:g} seconds"}
    except OSError as error:
        return {"failure": f"its process could not be started ({error.strerror or error})"}
    try:
        result: dict[str, Any] = json.loads(done.stdout)
        return result
    except ValueError:
        return {"failure": ending(done.returncode, done.stderr)}
