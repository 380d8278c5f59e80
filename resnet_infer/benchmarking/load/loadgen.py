"""Run MLPerf LoadGen on a system, with its own settings, logs and verdict.

LoadGen 6.0.17 carries the settings and random seeds of MLPerf Inference v6.1 (`mlperf.conf`). Those of the installed
version are used, and its logs contain both.
"""

from __future__ import annotations

import json
import threading
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resnet_infer.benchmarking.load.image_library import ImageLibrary
from resnet_infer.benchmarking.load.loops import GIVE_UP
from resnet_infer.benchmarking.load.system import Response, System
from resnet_infer.errors import ResnetInferError
from resnet_infer.utils.extras import needs

SCENARIOS = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
"""Names of scenarios: ours to LoadGen's."""
MODEL = "resnet50"
"""Name of the MLPerf benchmark whose rules are used, whichever model runs."""
SERVER_BOUND_MS = 15.0
"""Official bound on the 99th percentile of the server scenario, in milliseconds."""
SHORT_SECONDS = 10.0
"""Seconds of a shortened run."""
SHORT_COUNTS = {"SingleStream": 64, "MultiStream": 662, "Server": 662, "Offline": 1}
"""Fewest queries of a shortened run: what early stopping needs for the 90th or 99th percentile."""


@dataclass(frozen=True)
class Plan:
    """Hold a run of LoadGen. `seconds` is the length of a shortened one; `official` takes the official length.

    `rate` is the queries per second of the server scenario, or the expected rate of the offline scenario. `latency` is
    the expected latency of a single query in seconds. `bound_ms` None is the official bound.
    """

    scenario: str
    official: bool = False
    accuracy: bool = False
    seconds: float = SHORT_SECONDS
    rate: float = 1.0
    latency: float = 0.01
    bound_ms: float | None = None


@dataclass(frozen=True)
class Log:
    """Hold LoadGen's detailed log: every entry, its verdict, and the reasons against a valid one.

    `valid` is None in accuracy mode, which has no verdict.
    """

    entries: Mapping[str, Any]
    valid: bool | None
    reasons: tuple[str, ...]

    def latency_ms(self, percentile: str) -> float | None:
        """Return a percentile of the latency of queries, named as in "99.90", or None if the log does not have it.

        A query of several pictures ends with its last response.
        """
        names = [f"result_{percentile}_percentile_{of}latency_ns" for of in ("per_query_", "")]
        return _ms(next((self.entries[name] for name in names if name in self.entries), None))

    def early_stopping_ms(self, scenario: str) -> float | None:
        """Return the figure that MLPerf publishes for single-stream and multi-stream, or None after too few queries.

        It is the upper end of a one-sided 99% interval of the 90th percentile, or of the 99th.
        """
        name = {"single-stream": "early_stopping_latency_ss", "multi-stream": "early_stopping_latency_ms"}[scenario]
        return _ms(self.entries.get(name) or None)


def _ms(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6


def module() -> Any:
    """Import LoadGen. Raises `MissingExtraError`."""
    with needs("benchmark", "a scenario of MLPerf"):
        import mlperf_loadgen
    return mlperf_loadgen


def settings(plan: Plan, folder: Path, pictures: int) -> Any:
    """Return LoadGen's settings: its `mlperf.conf`, a `user.conf` written to `folder`, and what the plan changes.

    With fewer `pictures` than the official sample count, that count is lowered. LoadGen reads its `mlperf.conf` once in
    a process; raises `ResnetInferError` where it does not.
    """
    loadgen = module()
    name = SCENARIOS[plan.scenario]
    # LoadGen makes queries beforehand, for twice the duration at the expected latency. Too few would end the run.
    expected = max(1000 * plan.latency / 2, 0.001)
    user = folder / "user.conf"
    user.write_text(
        f"*.SingleStream.target_latency = {expected:.6f}\n*.MultiStream.target_latency = {expected:.6f}\n"
        f"*.Server.target_qps = {plan.rate:.3f}\n*.Offline.target_qps = {plan.rate:.3f}\n",
        encoding="utf-8",
    )
    test_settings = loadgen.TestSettings()
    if test_settings.FromConfig(str(user), MODEL, name, 1) != 0 or not test_settings.qsl_rng_seed:
        raise ResnetInferError(
            "LoadGen did not read its own settings", hint="reinstall the package mlcommons-loadgen", reason="failed"
        )
    test_settings.scenario = getattr(loadgen.TestScenario, name)
    test_settings.mode = loadgen.TestMode.AccuracyOnly if plan.accuracy else loadgen.TestMode.PerformanceOnly
    if not plan.official:
        test_settings.min_duration_ms = int(1000 * plan.seconds)
        test_settings.min_query_count = SHORT_COUNTS[name]
    if plan.bound_ms is not None:
        test_settings.server_target_latency_ns = int(1e6 * plan.bound_ms)
    test_settings.performance_sample_count_override = min(test_settings.performance_sample_count_override, pictures)
    return test_settings


def run(system: System, library: ImageLibrary, plan: Plan, folder: Path) -> tuple[Log, Counter[str]]:
    """Run LoadGen with its logs in `folder`, and return the log and the number of failures by their reason.

    LoadGen has no failed responses, so that failures count as responses to it. Raises `ResnetInferError` if the system
    stops responding; LoadGen then runs on until the process ends. It can run once in a process.
    """
    loadgen = module()
    driver = _Driver(loadgen, system, library, plan)
    sut = loadgen.ConstructSUT(driver.issue, lambda: None)
    test_settings = settings(plan, folder, len(library))
    qsl = loadgen.ConstructQSL(
        len(library), test_settings.performance_sample_count_override, driver.load, library.unload
    )
    logs = loadgen.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.enable_trace = False
    audit = folder / "audit.config"  # one in the working directory would change the settings
    audit.unlink(missing_ok=True)

    def test() -> None:
        try:
            loadgen.StartTestWithLogSettings(sut, qsl, test_settings, logs, str(audit))
        finally:
            driver.ended.set()

    threading.Thread(target=test, name="loadgen", daemon=True).start()
    while not driver.ended.wait(0.2):
        pass
    if driver.error is not None:
        raise driver.error
    loadgen.DestroyQSL(qsl)
    loadgen.DestroySUT(sut)
    return read_log(folder), driver.failures


class _Driver:
    """Pass LoadGen's queries to the system, and its responses to LoadGen."""

    def __init__(self, loadgen: Any, system: System, library: ImageLibrary, plan: Plan) -> None:
        self.failures: Counter[str] = Counter()
        self.ended = threading.Event()
        self.error: Exception | None = None
        self._loadgen, self._system, self._library = loadgen, system, library
        self._accuracy = plan.accuracy
        # The offline scenario issues everything at once. What is not urgent waits here, not in the system.
        at_once = system.at_once if plan.scenario == "offline" or plan.accuracy else 0
        self._slots = threading.Semaphore(at_once) if at_once else None
        self._lock, self._silent = threading.Lock(), 0

    def load(self, numbers: list[int]) -> None:
        """Load the files of pictures, when LoadGen calls."""
        self._catch_errors(partial(self._library.load, numbers))

    def issue(self, samples: Sequence[Any]) -> None:
        """Submit the samples of queries, when LoadGen calls."""
        self._catch_errors(partial(self._submit, [(sample.id, sample.index) for sample in samples]))

    def _catch_errors(self, work: Any) -> None:
        """Do the work and keep an exception in `error`, as LoadGen does not survive one."""
        try:
            work()
        except Exception as error:
            self.error = error
            self.ended.set()

    def _submit(self, samples: list[tuple[int, int]]) -> None:
        if self._slots is None:
            ids = [identifier for identifier, _ in samples]
            self._system.submit([self._library[index] for _, index in samples], partial(self._complete, ids))
            return
        for identifier, index in samples:
            self._slots.acquire()
            if self.ended.is_set():
                return
            self._system.submit([self._library[index]], partial(self._complete, [identifier]))

    def _complete(self, ids: Sequence[int], index: int, response: Response) -> None:
        if response.status != 200 or not response.top:
            self._fail(response)
        query_response = self._loadgen.QuerySampleResponse
        if self._accuracy:
            data = array("q", [response.top[0] if response.top else -1])
            address, length = data.buffer_info()
            self._loadgen.QuerySamplesComplete([query_response(ids[index], address, length * data.itemsize)])
        else:
            self._loadgen.QuerySamplesComplete([query_response(ids[index], 0, 0)])
        if response.status:
            self._silent = 0
        if self._slots is not None:
            self._slots.release()

    def _fail(self, response: Response) -> None:
        with self._lock:
            self.failures[f"{response.status}: {response.error}" if response.status else response.error] += 1
            self._silent += response.status == 0
            if self._silent >= GIVE_UP and self.error is None:
                self.error = ResnetInferError(
                    f"the service stopped answering: {response.error}",
                    hint="look at its log, and start it again",
                    reason="unreachable",
                )
                self.ended.set()


CONDITIONS = {
    "result_perf_constraints_met": "the latency is not within its bound",
    "result_min_duration_met": "it ended before the shortest duration",
    "result_min_queries_met": "it had too few queries",
    "early_stopping_met": "too few queries, or too many late ones, to be sure of the percentile (early stopping)",
}
"""Entries of the log that are false in an invalid run, and what they mean."""


def read_log(folder: Path) -> Log:
    """Read LoadGen's detailed log. Raises `ResnetInferError` if LoadGen did not finish it."""
    path = folder / "mlperf_log_detail.txt"
    entries: dict[str, Any] = {}
    reasons: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        _, found, text = line.partition(":::MLLOG ")
        if not found:
            continue
        entry = json.loads(text)
        entries[entry["key"]] = entry["value"]
        if entry["metadata"].get("is_error"):
            reasons.append(f"{entry['key']}: {entry['value']}")
    if "power_end" not in entries:
        raise ResnetInferError(f"{path} has no end: LoadGen did not finish", source=path, reason="incomplete")
    reasons += [text for key, text in CONDITIONS.items() if entries.get(key) is False]
    if advice := str(entries.get("result_invalid_reason", "")).strip():
        reasons.append(f"LoadGen says: {advice}")
    verdict = entries.get("result_validity")
    valid = None if verdict is None else verdict == "VALID" and not reasons
    return Log(entries, valid, tuple(reasons))


def read_answers(folder: Path) -> dict[int, int]:
    """Return the class given to every picture, by the picture's number, from LoadGen's accuracy log."""
    text = (folder / "mlperf_log_accuracy.json").read_text(encoding="utf-8")
    return {
        int(item["qsl_idx"]): int.from_bytes(bytes.fromhex(item["data"]), "little", signed=True)
        for item in json.loads(text)
    }
