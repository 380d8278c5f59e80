"""Time entries in turn, round by round, so that a drift of the machine falls on all of them alike.

Each entry runs in a process of its own: two sessions in one process, idle or not, take each other's cores and memory.
`benchmark` and `export --target auto` both measure here; they differ in their `Settings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from resnet_infer.benchmarking.latency.clock import LIMIT
from resnet_infer.benchmarking.latency.memory import growth
from resnet_infer.benchmarking.latency.statistics import Ratio, Seconds, Summary, paired_ratio
from resnet_infer.benchmarking.latency.subjects import Entry, Pictures
from resnet_infer.benchmarking.latency.worker import STAGES, RoundRequest, StartRequest, WarmUpRequest
from resnet_infer.benchmarking.latency.worker_process import TIMEOUT, FailedError, Worker
from resnet_infer.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """Hold how often, for how long and in what manner `measure` times its entries.

    Raises `UsageError` for a number of rounds or starts below one, for a time that is not above zero or not finite, and
    for a stage that is not in `STAGES`.
    """

    rounds: int = 20
    seconds: float = 0.2
    """Seconds of calls of each stage in each round, at least."""
    stages: tuple[str, ...] = STAGES
    least_calls: int = 1
    """Fewest calls of a stage in a round, however long they take."""
    starts: int = 3
    """Most starts of an entry, to tell what a start costs; never more than there are rounds."""
    warm_up_limit: float = LIMIT
    """Seconds after which a warm-up ends though its times are not stable."""
    restart: bool = False
    """Whether every round has a new process, so that only one model is in memory at a time."""
    give_up: float | None = None
    """Ratio of an entry's inference time to the fastest of a round, above which it is left out of later rounds."""
    timeout: float = TIMEOUT
    """Seconds within which a process has to answer."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 < self.seconds < math.inf:
            raise UsageError(
                f"there is at least one round and a time above 0, not {self.rounds} of {self.seconds:g} seconds"
            )
        if self.starts < 1:
            raise UsageError(f"an entry has at least one start, not {self.starts}")
        unknown = [name for name in self.stages if name not in STAGES]
        if unknown:
            raise UsageError(f"the stages are {', '.join(STAGES)}, not {', '.join(unknown)}")

    def steps(self, entries: int) -> int:
        """Return how many steps `measure` reports for so many entries."""
        return entries * (self.rounds if self.restart else self.first_starts + 1 + self.rounds)

    @property
    def first_starts(self) -> int:
        """How many starts an entry has before the first round, the one that stays open included."""
        return min(self.starts, self.rounds)


@dataclass
class Measured:
    """Hold what was measured of an entry.

    `about` describes it and `warm` its warm-up, both of the last start; `starts` has the seconds of every start.
    `rounds` has, by stage, the seconds of the calls of each round. `failure` says why rounds are missing.
    """

    entry: Entry
    starts: dict[str, list[float]] = field(default_factory=lambda: {"open": [], "answer": [], "first_answer": []})
    about: Mapping[str, Any] = field(default_factory=dict)
    warm: Mapping[str, Any] = field(default_factory=dict)
    rounds: dict[str, list[Seconds]] = field(default_factory=dict)
    failure: str | None = None

    def stage(self, name: str) -> Summary | None:
        """Return the calls of a stage, or None if it was not measured.

        A call of `prepare` handles one picture, whatever the batch size.
        """
        rounds = self.rounds.get(name)
        return Summary(tuple(rounds), 1 if name == "prepare" else self.entry.batch) if rounds else None

    def ratio(self, first: Measured, name: str) -> Ratio | None:
        """Return how many times as long as `first` a stage takes, over the rounds that both were in."""
        ours, theirs = self.stage(name), first.stage(name)
        return paired_ratio(ours.medians, theirs.medians) if ours and theirs else None

    def memory(self) -> dict[str, int | None]:
        """Return bytes: before the model was opened, at most until it was warm, and the growth of host and device.

        A driver reports the device memory of all processes together, and other entries are open meanwhile. Only what
        it grew by while this entry was opened, and while it was warmed up, counts.
        """
        before, peak = self.about.get("resident_before"), self.warm.get("resident")
        opened, warmed = self.about.get("device"), self.warm.get("device")
        device = None if opened is None or warmed is None else opened + warmed
        return {"host_before": before, "host_peak": peak, "host": growth(before, peak), "device": device}


def measure(
    entries: Sequence[Entry],
    pictures: Pictures,
    settings: Settings | None = None,
    *,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Measured]:
    """Time every entry in a process of its own, all of them in turn, and return what was measured in their order.

    Every entry is started `settings.first_starts` times and answers once after each start. The last process stays open
    and is warmed up; it waits while the others are at work. In each round every entry spends `settings.seconds` on
    every stage, and every second round goes backwards. With `settings.restart` nothing stays open: in each round an
    entry is started, warmed up, timed and ended.

    An entry that fails, crashes or does not answer within `settings.timeout` seconds says so in `Measured.failure`
    and is left out from then on. `advance(1)` is called for each of the `settings.steps`, done or left out. No process
    outlives the call. Raises `RuntimeUnavailableError` where no process can be started, see `interpreter`.
    """
    settings = settings or Settings()
    with _Run(entries, pictures, settings, advance) as run:
        if not settings.restart:
            run.open_all()
        for number in range(settings.rounds):
            run.round(backwards=number % 2 == 1)
    return run.measured


class _Run:
    """Run `measure`: a context manager that ends every process when it is left."""

    def __init__(
        self, entries: Sequence[Entry], pictures: Pictures, settings: Settings, advance: Callable[[int], None]
    ) -> None:
        self.measured = [Measured(entry) for entry in entries]
        self._pictures, self._settings, self._advance = pictures, settings, advance
        self._workers: dict[int, Worker] = {}
        self._left_out: set[int] = set()
        self._stack = ExitStack()
        # Entries with the same batch size are compared, so their turns follow each other.
        self._order = sorted(range(len(entries)), key=lambda index: entries[index].batch)

    def __enter__(self) -> _Run:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def open_all(self) -> None:
        """Start every entry as often as the settings say, and warm up the processes that stay."""
        starts = self._settings.first_starts
        for number in range(starts):
            for index in self._order:
                self._attempt(self._open if number == starts - 1 else self._open_once, index)
        for index in self._order:
            self._attempt(self._warm_up, index)

    def round(self, *, backwards: bool) -> None:
        """Give every entry its turn, then leave out those that are far behind."""
        for index in reversed(self._order) if backwards else self._order:
            self._attempt(self._restarted_turn if self._settings.restart else self._turn, index)
        if self._settings.give_up is not None:
            self._leave_out_the_slow(self._settings.give_up)

    def _attempt(self, action: Callable[[int], None], index: int) -> None:
        measured = self.measured[index]
        if measured.failure is None and index not in self._left_out:
            try:
                action(index)
            except FailedError as error:
                measured.failure = str(error)
                self._close(index)
        self._advance(1)

    def _open(self, index: int) -> None:
        measured, settings = self.measured[index], self._settings
        request = StartRequest(measured.entry.subject, measured.entry.batch, self._pictures.contents, settings.stages)
        worker = self._workers[index] = self._stack.enter_context(Worker(request, settings.timeout))
        for name, values in measured.starts.items():
            values.append(worker.about[name])
        measured.about = worker.about

    def _open_once(self, index: int) -> None:
        self._open(index)
        self._close(index)

    def _warm_up(self, index: int) -> None:
        self.measured[index].warm = self._workers[index].send(WarmUpRequest(self._settings.warm_up_limit))

    def _turn(self, index: int) -> None:
        request = RoundRequest(self._settings.seconds, self._settings.least_calls)
        for name, times in self._workers[index].send(request)["stages"].items():
            self.measured[index].rounds.setdefault(name, []).append(times)

    def _restarted_turn(self, index: int) -> None:
        self._open(index)
        self._warm_up(index)
        self._turn(index)
        self._close(index)

    def _close(self, index: int) -> None:
        worker = self._workers.pop(index, None)
        if worker:
            worker.close()

    def _leave_out_the_slow(self, ratio: float) -> None:
        last = {
            index: summary.medians[-1]
            for index, measured in enumerate(self.measured)
            if index not in self._left_out and measured.failure is None and (summary := measured.stage("inference"))
        }
        slow = {index for index, median in last.items() if median > ratio * min(last.values())}
        self._left_out |= slow
        for index in slow:
            self._close(index)
