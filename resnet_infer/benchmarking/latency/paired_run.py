"""The measurement: all subjects in turn, round by round, so that a drift of the machine falls on all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from resnet_infer.benchmarking.latency.memory import growth
from resnet_infer.benchmarking.latency.statistics import Ratio, Seconds, Summary, paired_ratio
from resnet_infer.benchmarking.latency.subjects import Entry, Pictures
from resnet_infer.benchmarking.latency.worker_process import TIMEOUT, FailedError, Worker
from resnet_infer.errors import UsageError

ROUNDS = 20
SECONDS = 0.2
STARTS = 3
"""How often a subject is started, at most, for what a start costs."""
STAGES = ("prepare", "transfer", "inference", "end_to_end")


@dataclass
class Measured:
    """What was found of an entry.

    `about` is what it is and `warm` what its warm-up took, of its last start; `starts` has the seconds of every start.
    `rounds` are seconds of calls by stage, a part for every round. `failure` is why there is nothing, or not all.
    """

    entry: Entry
    starts: dict[str, list[float]] = field(default_factory=lambda: {"open": [], "answer": [], "first_answer": []})
    about: Mapping[str, Any] = field(default_factory=dict)
    warm: Mapping[str, Any] = field(default_factory=dict)
    rounds: dict[str, list[Seconds]] = field(default_factory=dict)
    failure: str | None = None

    def stage(self, name: str) -> Summary | None:
        """`prepare` is of one picture, whatever the batch; None for a stage that was not measured."""
        rounds = self.rounds.get(name)
        return Summary(tuple(rounds), 1 if name == "prepare" else self.entry.batch) if rounds else None

    def ratio(self, first: Measured, name: str) -> Ratio | None:
        """How many times as long as `first` a stage takes, over the rounds that both were in."""
        ours, theirs = self.stage(name), first.stage(name)
        return paired_ratio(ours.medians, theirs.medians) if ours and theirs else None

    def memory(self) -> dict[str, int | None]:
        """Bytes: before the model was opened, at most until it was warm, and the difference, of host and device.

        A device's memory is that of all programs, and others are open meanwhile: what it grew by while this one was
        opened, and while it was warmed up, counts.
        """
        before, peak = self.about.get("resident_before"), self.warm.get("resident")
        opened, warmed = self.about.get("device"), self.warm.get("device")
        device = None if opened is None or warmed is None else opened + warmed
        return {"host_before": before, "host_peak": peak, "host": growth(before, peak), "device": device}


def measure(
    entries: Sequence[Entry],
    pictures: Pictures,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    timeout: float = TIMEOUT,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Measured]:
    """Measure every entry, in a process of its own that stays open and waits while the others are at work.

    First each is started, opened and has answered once, up to `STARTS` times over; the last time it stays and is
    warmed up. Then in each round every entry spends `seconds` on every stage; every second round goes backwards. One
    that fails, crashes or does not answer within `timeout` seconds says so, and is left out from then on. `advance` is
    told of every start, warm-up and turn done or left out: there are
    `steps(len(entries), rounds)`. No process outlives the call.
    """
    if rounds < 1 or not 0 < seconds < math.inf:
        raise UsageError(f"there is at least one round and a time above 0, not {rounds} of {seconds:g} seconds")
    found = [Measured(entry) for entry in entries]
    with ExitStack() as stack:
        workers: dict[int, Worker] = {}
        starts = min(STARTS, rounds)

        def attempt(place: int, action: Callable[[], None]) -> None:
            if found[place].failure is None:
                try:
                    action()
                except FailedError as error:
                    found[place].failure = str(error)
                    if place in workers:
                        workers.pop(place).close()
            advance(1)

        def start(place: int, stays: bool) -> None:
            worker = stack.enter_context(Worker(entries[place], pictures, timeout))
            for name, values in found[place].starts.items():
                values.append(worker.about[name])
            found[place].about = worker.about
            if stays:
                workers[place] = worker
            else:
                worker.close()

        def warm(place: int) -> None:
            found[place].warm = workers[place].warm()

        def turn(place: int) -> None:
            for name, times in workers[place].turn(seconds)["stages"].items():
                found[place].rounds.setdefault(name, []).append(times)

        # What is compared, the same batch, comes one after the other.
        order = sorted(range(len(entries)), key=lambda place: entries[place].batch)
        for number in range(starts):
            for place in order:
                attempt(place, partial(start, place, number == starts - 1))
        for place in order:
            attempt(place, partial(warm, place))
        for number in range(rounds):
            for place in order if number % 2 == 0 else reversed(order):
                attempt(place, partial(turn, place))
    return found


def steps(entries: int, rounds: int) -> int:
    """How many steps `measure` goes."""
    return entries * (min(STARTS, rounds) + 1 + rounds)
