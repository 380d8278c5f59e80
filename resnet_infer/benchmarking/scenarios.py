"""Run loads on a system by name: MLPerf LoadGen's scenarios, closed and open loops, and the rate sweep."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import Any

from resnet_infer.benchmarking.load.image_library import ImageLibrary, open_image_library
from resnet_infer.benchmarking.load.lateness import ALLOWED
from resnet_infer.benchmarking.load.loadgen import SCENARIOS as LOADGEN
from resnet_infer.benchmarking.load.loadgen import SERVER_BOUND_MS
from resnet_infer.benchmarking.load.loops import Load, closed_loop, open_loop
from resnet_infer.benchmarking.load.mlperf import run_in_own_process
from resnet_infer.benchmarking.load.rate_sweep import LENGTHENED, RUNS, SweepResult, Trial, judge, sweep
from resnet_infer.benchmarking.load.scenario import Outcome, Scenario
from resnet_infer.benchmarking.load.system import System, open_system
from resnet_infer.errors import ResnetInferError, UsageError, did_you_mean
from resnet_infer.utils.console import note

__all__ = ["SCENARIOS", "Outcome", "Scenario", "check_scenario", "run_scenario"]

SCENARIOS: Mapping[str, str] = MappingProxyType(
    {
        "single-stream": "LoadGen: one query after the other; the 90th percentile of their latency",
        "multi-stream": "LoadGen: eight pictures a query, one query after the other; the 99th percentile",
        "server": "LoadGen: queries at random times, 99% of them answered within 15 ms",
        "offline": "LoadGen: everything at once; pictures a second",
        "closed-loop": "a number of clients, each of which asks again when it has its answer",
        "open-loop": "queries at random times at a given rate, late ones and all",
        "sweep": "the highest rate of an open loop whose 99th percentile stays within a bound",
    }
)
SECONDS = 10.0
"""Seconds of a closed or open loop by default."""
SWEEP_SECONDS = 5.0
"""Seconds of each open loop of a sweep by default."""
PICTURES = 1024
"""Most pictures that a loop keeps in memory and sends in turn."""
WARM_SECONDS = 1.0
"""Seconds of the closed loop that warms a system up."""
CLIENTS = 8
"""Clients of a closed loop by default."""


def run_scenario(scenario: Scenario) -> Outcome:
    """Run the scenario and return its outcome, in which failed and refused queries are counted.

    Raises `UsageError` for settings that do not go together, `ModelError`, `DataError`, `MissingExtraError` without
    LoadGen, and `ServiceError` for a service that is not there.

        outcome = run_scenario(Scenario("closed-loop", model="resnet50.v1", seconds=5, clients=4))
        print(outcome.table())
    """
    check_scenario(scenario)
    if scenario.name in LOADGEN:
        return run_in_own_process(scenario)
    loops: Mapping[str, Callable[[Scenario, System, ImageLibrary], Outcome]] = {
        "closed-loop": _closed_loop,
        "open-loop": _open_loop,
        "sweep": _sweep,
    }
    with _switching_often(), closing(open_system(scenario)) as system:
        return loops[scenario.name](scenario, system, open_image_library(scenario.data, system.spec))


def check_scenario(scenario: Scenario) -> None:
    """Raise `UsageError` for an unknown scenario, and for settings that do not go together."""
    if scenario.name not in SCENARIOS:
        raise UsageError(
            f"there is no scenario {scenario.name!r}" + did_you_mean(scenario.name, SCENARIOS),
            hint=f"known are {', '.join(SCENARIOS)}",
        )
    loadgen = scenario.name in LOADGEN
    if scenario.name == "open-loop" and not scenario.rates:
        raise UsageError("an open loop has a rate", hint="give one with --rate; or look for it: --scenario sweep")
    if scenario.rates and scenario.name not in ("open-loop", "server"):
        raise UsageError(f"{scenario.name} has no rate of its own", hint="rates are for open-loop and server")
    if (scenario.accuracy or scenario.official) and not loadgen:
        raise UsageError("accuracy and official runs are LoadGen's", hint=f"its scenarios: {', '.join(LOADGEN)}")
    if scenario.clients is not None and scenario.name != "closed-loop":
        raise UsageError(f"{scenario.name} has no clients", hint="they are of closed-loop")
    if scenario.output is not None and not loadgen:
        raise UsageError(f"{scenario.name} writes no logs", hint=f"these do: {', '.join(LOADGEN)}")
    if scenario.accuracy and (scenario.seconds is not None or scenario.rates or scenario.official):
        raise UsageError("accuracy is of every picture once, without a length, a rate or official settings")
    for name, value in (
        ("bound", scenario.bound_ms),
        ("length of a run", scenario.seconds),
        *(("rate", r) for r in scenario.rates),
    ):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"the {name} is a number above 0, not {value:g}")
    if scenario.clients is not None and scenario.clients < 1:
        raise UsageError(f"there is at least one client, not {scenario.clients}")


@contextmanager
def _switching_often() -> Iterator[None]:
    """Switch threads often, so that threads that decode hold the interpreter only briefly."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _closed_loop(scenario: Scenario, system: System, library: ImageLibrary) -> Outcome:
    pictures = library.some(PICTURES)
    clients = CLIENTS if scenario.clients is None else scenario.clients
    closed_loop(system, pictures, clients=clients, seconds=WARM_SECONDS)
    load = closed_loop(system, pictures, clients=clients, seconds=scenario.seconds or SECONDS)
    valid, reasons = _judge_trials(
        scenario, [judge(clients, load, (scenario.bound_ms or float("inf")) / 1000)], "clients"
    )
    length = {"clients": clients, "seconds": round(load.seconds, 2), **_bound(scenario)}
    figures = {**length, **load.to_json(), **_statuses([load])}
    notes = ("a closed loop never asks faster than it is answered: its latencies leave out the time spent in a queue",)
    return _outcome(scenario, system, library, figures, valid=valid, reasons=reasons, notes=notes)


def _open_loop(scenario: Scenario, system: System, library: ImageLibrary) -> Outcome:
    pictures = library.some(PICTURES)
    closed_loop(system, pictures, clients=2, seconds=WARM_SECONDS)
    seconds = scenario.seconds or SECONDS
    bound = (scenario.bound_ms or float("inf")) / 1000
    trials = []
    for number, rate in enumerate(scenario.rates):
        load = open_loop(system, pictures, rate=rate, seconds=seconds, seed=number)
        trials.append(judge(rate, load, bound))
        if load.gone:
            break
    valid, reasons = _judge_trials(scenario, trials, "/s")
    figures = {"seconds": seconds, **_bound(scenario), **_statuses([item.load for item in trials])}
    rates = [item.to_json() for item in trials]
    if scenario.bound_ms is None:
        for line in rates:
            del line["within"], line["late_percent"]
    return _outcome(scenario, system, library, figures, valid=valid, reasons=reasons, rates=rates)


def _sweep(scenario: Scenario, system: System, library: ImageLibrary) -> Outcome:
    pictures = library.some(PICTURES)
    bound_ms = scenario.bound_ms or SERVER_BOUND_MS
    closed_loop(system, pictures, clients=2, seconds=WARM_SECONDS)
    first = closed_loop(system, pictures, clients=system.at_once, seconds=2 * WARM_SECONDS)
    if not first.statuses[200]:
        raise ResnetInferError(
            f"no picture is answered: {next(iter(first.errors), 'it takes too long')}", reason="failed"
        )
    seconds = scenario.seconds or SWEEP_SECONDS
    note(
        f"sweep: {RUNS} runs of {seconds:g} s or longer at different rates, and more of them until the rate is known "
        f"well or {LENGTHENED * RUNS * seconds:,.0f} s are over"
    )
    result = sweep(
        lambda rate, seconds, seed: open_loop(system, pictures, rate=rate, seconds=seconds, seed=seed),
        bound_ms / 1000,
        capacity=first.rate,
        seconds=seconds,
    )
    crossing, reasons = result.crossing, _sweep_problems(result, bound_ms)
    ends = (None, None) if crossing is None else (crossing.low, crossing.high)
    figures = {
        "rate": None if crossing is None else round(crossing.rate, 2),
        "rate_95": None if crossing is None else [None if end is None else round(end, 2) for end in ends],
        "bound_ms": bound_ms,
        "capacity": round(first.rate, 2),
        "runs": result.runs,
        "seconds": round(result.seconds, 1),
        **_statuses([trial.load for trial in result.trials]),
    }
    notes = [
        f"a Poisson process; at the rate 1% of the queries take longer than {bound_ms:g} ms; rate 95 is its interval"
    ]
    for lower, higher in result.reversals():
        notes.append(
            f"{higher.rate:.4g}/s measured better than {lower.rate:.4g}/s ({higher.late.share:.2%} late, "
            f"{lower.late.share:.2%}): chance, or a machine that is not quiet"
        )
    lines = [trial.to_json() for trial in result.trials]
    return _outcome(
        scenario, system, library, figures, valid=not reasons, reasons=reasons, notes=tuple(notes), rates=lines
    )


def _sweep_problems(result: SweepResult, bound_ms: float) -> tuple[str, ...]:
    """Return why a sweep has no rate that surely keeps the bound, or nothing if it has one."""
    if result.gone:
        return ("the service stopped answering",)
    if result.crossing is not None and result.crossing.low is not None:
        return ()
    if result.crossing is not None:
        return (
            f"these runs do not tell which rate keeps 99% within {bound_ms:g} ms; let them last longer (--seconds)",
        )
    if all(trial.late.share <= ALLOWED for trial in result.trials):
        return (f"every rate up to {result.trials[-1].rate:.4g}/s kept 99% within {bound_ms:g} ms",)
    best = min(result.trials, key=lambda trial: (trial.load.failures > 0, trial.load.percentile(0.99)))
    return (f"no rate keeps 99% within {bound_ms:g} ms; nearest came {_describe(best)}",)


def _judge_trials(scenario: Scenario, trials: list[Trial], unit: str) -> tuple[bool | None, tuple[str, ...]]:
    """Return whether all trials kept the bound, if there is one, without a failure, and the reasons if not."""
    valid, reasons = _failures([trial.load for trial in trials])
    if scenario.bound_ms is None:
        return valid, reasons
    for verdict, words in (
        (False, "the 99th percentile is above {bound:g} ms at {rates}"),
        (
            None,
            "too few queries to be sure that 99% are within {bound:g} ms at {rates}; let it last longer (--seconds)",
        ),
    ):
        matching = [trial for trial in trials if trial.within is verdict and not trial.load.failures]
        if matching:
            gap = " " * unit.isalpha()
            rates = ", ".join(f"{trial.rate:g}{gap}{unit}" for trial in matching)
            valid, reasons = False, (*reasons, words.format(bound=scenario.bound_ms, rates=rates))
    return (True if valid is None else valid), reasons


def _bound(scenario: Scenario) -> dict[str, float]:
    return {} if scenario.bound_ms is None else {"bound_ms": scenario.bound_ms}


def _describe(trial: Trial) -> str:
    if trial.load.failures:
        return f"{trial.rate:.3g}/s, where {trial.load.failures:,} queries failed"
    return f"{trial.rate:.3g}/s, where it took {1000 * trial.load.percentile(0.99):.3g} ms"


def _failures(loads: list[Load]) -> tuple[bool | None, tuple[str, ...]]:
    total: dict[str, int] = {}
    for load in loads:
        for why, count in load.errors.items():
            total[why] = total.get(why, 0) + count
    reasons = [f"{count:,} queries failed: {why}" for why, count in total.items()]
    if any(load.gone for load in loads):
        reasons.append("the service stopped answering, which ended the run")
    return (False if reasons else None), tuple(reasons)


def _statuses(loads: list[Load]) -> dict[str, Any]:
    total: dict[str, int] = {}
    for load in loads:
        for status, count in load.statuses.items():
            name = {200: "answered", 503: "refused", 0: "no answer"}.get(status, str(status))
            total[name] = total.get(name, 0) + count
    return {"statuses": {name: count for name, count in total.items() if count}}


def _outcome(
    scenario: Scenario, system: System, library: ImageLibrary, figures: Mapping[str, Any], **more: Any
) -> Outcome:
    data = {"name": library.name, "pictures": len(library)}
    return Outcome(scenario.name, system.describe(), data, figures, **more)
