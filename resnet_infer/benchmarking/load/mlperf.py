"""Run a scenario of LoadGen from end to end, in a process of its own.

LoadGen reads its settings once in a process and runs once in it. Only the end of the process stops it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resnet_infer.benchmarking.latency.statistics import reportable
from resnet_infer.benchmarking.load.image_library import SYNTHETIC, ImageLibrary, open_image_library
from resnet_infer.benchmarking.load.loadgen import SERVER_BOUND_MS, SHORT_SECONDS, Log, Plan, module, read_answers, run
from resnet_infer.benchmarking.load.loops import Load, closed_loop, open_loop
from resnet_infer.benchmarking.load.rate_sweep import sweep
from resnet_infer.benchmarking.load.scenario import Outcome, Scenario
from resnet_infer.benchmarking.load.system import System, open_system
from resnet_infer.errors import ResnetInferError, UsageError
from resnet_infer.runtimes.processes import answer_channel, command, ending
from resnet_infer.utils.console import note
from resnet_infer.utils.error_statistics import interval

OFFICIAL_PICTURES = 1024
"""Fewest pictures of an official run."""
WARM_SECONDS = 2.0
"""Seconds of the closed loops that come before LoadGen."""
SAFE = 0.85
"""Share of the highest rate found at which the server scenario runs if no rate is given."""
SHORT_SWEEP = 12
"""Number of open loops of the sweep that looks for that rate."""
SHORTENED = "shortened: not an official result"
"""Note on a run that is not official."""


def run_in_own_process(scenario: Scenario) -> Outcome:
    """Run the scenario in a process of its own, which ends with this one. Raises its errors."""
    start = command("resnet_infer.benchmarking.load.mlperf")
    module()
    process = subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(pickle.dumps(scenario))
        process.stdin.flush()
        answer = process.stdout.read()
        process.wait()
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stdin):
            with closing(stream):
                pass
    if not answer:
        raise ResnetInferError(f"LoadGen gave no result: {ending(process.returncode, b'')}", reason="failed")
    result = pickle.loads(answer)
    if isinstance(result, Exception):
        raise result
    assert isinstance(result, Outcome)
    return result


def main() -> None:
    """Run the scenario in that process.

    A pickled `Scenario` comes on stdin, which then stays open. A pickled `Outcome` or error goes to stdout.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    answer = answer_channel()
    scenario = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.setswitchinterval(0.0005)  # threads that decode hold the interpreter only briefly
    result: Outcome | Exception
    try:
        result = run_loadgen(scenario)
    except ResnetInferError as error:
        result = error
    except Exception as error:
        result = ResnetInferError(f"{type(error).__name__}: {error}", reason="failed")
    with answer:
        pickle.dump(result, answer)
    with suppress(OSError, AttributeError):  # None where it is closed
        sys.stderr.flush()
    os._exit(0)  # LoadGen may still be running


def _end_with_parent() -> None:
    """Wait until stdin is closed, which happens when the parent ends, and end this process."""
    sys.stdin.buffer.read()
    os._exit(1)


def run_loadgen(scenario: Scenario) -> Outcome:
    """Open the system and the pictures, measure what LoadGen has to know, run it, and read its logs."""
    with closing(open_system(scenario)) as system:
        pictures = OFFICIAL_PICTURES if scenario.official else SYNTHETIC
        library = open_image_library(scenario.data, system.spec, labelled=scenario.accuracy, synthetic=pictures)
        folder = scenario.output or Path(tempfile.mkdtemp(prefix="mlperf-"))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            plan, measured = make_plan(scenario, system, library)
            note(f"{scenario.name}: {'accuracy' if scenario.accuracy else _length(plan)}; logs in {folder}")
            log, failures = run(system, library, plan, folder)
        finally:
            if scenario.output is None:
                with suppress(OSError):  # there are logs
                    folder.rmdir()
        return _outcome(scenario, plan, system, library, log, failures, measured, folder)


def make_plan(scenario: Scenario, system: System, library: ImageLibrary) -> tuple[Plan, dict[str, Any]]:
    """Return the plan for LoadGen, with what was not given measured on the system, and the figures behind it.

    Raises `UsageError` for settings that do not go together, and `ResnetInferError` if the system answers nothing or no
    rate keeps the bound.
    """
    if scenario.name == "server" and len(scenario.rates) > 1:
        raise UsageError("LoadGen's server has one rate; a list of rates is for the open loop")
    if scenario.bound_ms is not None and scenario.name != "server":
        raise UsageError("of LoadGen's scenarios only the server has a bound")
    plan = Plan(
        scenario.name,
        scenario.official,
        scenario.accuracy,
        scenario.seconds or SHORT_SECONDS,
        bound_ms=scenario.bound_ms,
    )
    if scenario.official and scenario.seconds is not None:
        raise UsageError("an official run has its own length", hint="leave out the seconds, or --official")
    pictures = library.some(64)

    def require_answers(load: Load) -> Load:
        if not load.statuses[200]:
            raise ResnetInferError(
                f"no picture is answered: {next(iter(load.errors), 'it takes too long')}", reason="failed"
            )
        return load

    if scenario.accuracy:
        return replace(plan, rate=1000.0), {}
    if scenario.name in ("single-stream", "multi-stream"):
        count = 8 if scenario.name == "multi-stream" else 1
        load = require_answers(closed_loop(system, pictures, clients=count, seconds=WARM_SECONDS))
        return replace(plan, latency=load.median), {"expected_ms": round(1000 * load.median, 3)}
    if scenario.name == "server" and scenario.rates:
        require_answers(closed_loop(system, pictures, clients=system.at_once, seconds=WARM_SECONDS))
        return replace(plan, rate=scenario.rates[0]), {"target_rate": scenario.rates[0]}
    require_answers(closed_loop(system, pictures, clients=8, seconds=WARM_SECONDS / 2))
    capacity = require_answers(closed_loop(system, pictures, clients=system.at_once, seconds=WARM_SECONDS)).rate
    if scenario.name == "offline":
        # LoadGen ends early if the expected rate is too low; a shortened run may be longer than needed.
        expected = (1.2 if scenario.official else 1.6) * capacity
        return replace(plan, rate=expected), {"expected_rate": round(capacity, 1)}
    note("server: looking for a rate, as none is given")
    bound = (scenario.bound_ms or SERVER_BOUND_MS) / 1000

    def trial(rate: float, seconds: float, seed: int) -> Load:
        return open_loop(system, pictures, rate=rate, seconds=seconds, seed=seed)

    found = sweep(trial, bound, capacity=capacity, seconds=3, runs=SHORT_SWEEP, lengthened=1).crossing
    if found is None:
        raise ResnetInferError(
            f"no rate keeps 99% of the answers within {1000 * bound:g} ms",
            hint="allow more with --bound, or give a --rate to see LoadGen's verdict on it",
            reason="late",
        )
    return replace(plan, rate=SAFE * found.rate), {"target_rate": round(SAFE * found.rate, 2)}


def _length(plan: Plan) -> str:
    return "with the official settings, ten minutes or more" if plan.official else f"shortened to {plan.seconds:g} s"


def _outcome(
    scenario: Scenario,
    plan: Plan,
    system: System,
    library: ImageLibrary,
    log: Log,
    failures: dict[str, int],
    measured: dict[str, Any],
    folder: Path,
) -> Outcome:
    entries = log.entries
    notes, reasons = [], list(log.reasons)
    official = plan.official
    if not official and not scenario.accuracy:
        notes.append(SHORTENED)
    if scenario.bound_ms is not None:
        official = official and scenario.bound_ms == SERVER_BOUND_MS
        notes.append(f"the bound is {scenario.bound_ms:g} ms, where the official one is {SERVER_BOUND_MS:g} ms")
    if not scenario.accuracy and len(library) < OFFICIAL_PICTURES:
        if official:
            notes.append(f"not an official result: {len(library)} pictures, where {OFFICIAL_PICTURES} are needed")
        official = False
    valid = log.valid
    if failures:
        valid = False
        reasons += [f"{count:,} queries failed: {why}" for why, count in failures.items()]
    figures = _performance(scenario.name, entries)
    if scenario.accuracy:
        figures, complete = _accuracy(library, folder)
        valid = complete and not reasons
        if not complete:
            reasons.append("LoadGen's accuracy log does not have every picture once")
    settings = {
        name.removeprefix("effective_"): value for name, value in entries.items() if name.startswith("effective_")
    }
    settings |= {"loadgen": entries.get("loadgen_version")}
    return Outcome(
        scenario.name,
        system.describe(),
        {"name": library.name, "pictures": len(library)},
        {name: value for name, value in {**figures, **measured}.items() if value is not None},
        valid=valid,
        reasons=tuple(reasons),
        notes=tuple(notes),
        official=official,
        accuracy=scenario.accuracy,
        settings=settings,
        logs=str(folder),
    )


def _performance(scenario: str, entries: Any) -> dict[str, Any]:
    """Return LoadGen's figures; the first is the one that MLPerf publishes for the scenario."""
    log = Log(entries, None, ())
    latencies = {
        f"p{text.removesuffix('.00').replace('.90', '_9')}_ms": log.latency_ms(text)
        for text in ("50.00", "90.00", "95.00", "99.00", "99.90")
    }
    counts = {"queries": entries.get("result_query_count")}
    latencies = {name: reportable({**latencies, **counts}, name) for name in latencies}
    if scenario == "offline":
        samples = entries.get("generated_samples_per_query")
        return {"samples_per_second": entries.get("result_samples_per_second"), "samples": samples}
    if scenario == "server":
        return {
            "completed_per_second": entries.get("result_completed_samples_per_sec"),
            "scheduled_per_second": entries.get("result_scheduled_samples_per_sec"),
            "late_queries": entries.get("result_overlatency_query_count"),
            **latencies,
            **counts,
        }
    percentile = "p90" if scenario == "single-stream" else "p99"
    return {
        f"early_stopping_{percentile}_ms": log.early_stopping_ms(scenario),
        **latencies,
        "queries_per_second": entries.get("result_qps_with_loadgen_overhead"),
        **counts,
    }


def _accuracy(library: ImageLibrary, folder: Path) -> tuple[dict[str, Any], bool]:
    """Return right and wrong answers with the top-1 error, and whether the log has every picture once."""
    assert library.labels is not None
    answers = read_answers(folder)
    given = np.array([answers.get(number, -1) for number in range(len(library))])
    right = int((given == library.labels).sum())
    wrong = len(library) - right
    low, high = interval(wrong, len(library))
    figures = {
        "right": right,
        "wrong": wrong,
        "top1_error": round(100 * wrong / len(library), 4),
        "top1_error_95": f"{low:.2f} to {high:.2f}",
    }
    return figures, sorted(answers) == list(range(len(library)))
