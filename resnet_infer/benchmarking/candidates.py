"""Find which of a network's artifacts, run how, answers fastest on this machine: `export --target auto`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from resnet_infer.benchmarking.latency.paired_run import Measured, Settings, measure
from resnet_infer.benchmarking.latency.statistics import paired_ratio
from resnet_infer.benchmarking.latency.subjects import Entry, Subject, synthetic
from resnet_infer.errors import ResnetInferError
from resnet_infer.models.spec import Precision
from resnet_infer.models.weights.download import library_folder
from resnet_infer.runtimes.registry import RUNTIMES, RuntimeInfo, select_runtime
from resnet_infer.selection.profile import ALIKE
from resnet_infer.utils import console
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.utils.extras import needs
from resnet_infer.utils.files import suffix_of

Backend = Literal["cpu", "cuda", "tensorrt"]
"""What computes inside ONNX Runtime: the CPU, CUDA, or TensorRT."""

TIMING = Settings(
    rounds=3, seconds=0.5, stages=("inference",), least_calls=3, warm_up_limit=1.0, restart=True, give_up=3.0
)
"""How candidates are timed. There may be a dozen: one is in memory at a time, and those far behind end early."""


@dataclass(frozen=True)
class Artifact:
    """Hold a file that may be kept, and for an ONNX graph the `backends` that it is meant for.

    A graph that was quantised for a CPU is slow elsewhere. `computes` are lower precisions than its own that may also
    be tried on it, keys of `RuntimeInfo.computes`.
    """

    path: Path
    precision: Precision
    backends: tuple[Backend, ...] = get_args(Backend)
    computes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """Hold an artifact and a way to run it, with a name for the report."""

    name: str
    precision: Precision
    subject: Subject

    @property
    def artifact(self) -> Path:
        """The path of the artifact."""
        return self.subject.model


@dataclass(frozen=True)
class Trial:
    """Hold a candidate and its time: the median milliseconds of a call in each round, with a batch of `batch`.

    `opened` is what the runtime says of itself. `failure` says why there are no rounds, or fewer than asked for.
    """

    candidate: Candidate
    batch: int
    rounds: tuple[float, ...] = ()
    opened: Mapping[str, Any] = field(default_factory=dict)
    failure: str | None = None

    @classmethod
    def of(cls, candidate: Candidate, measured: Measured) -> Trial:
        """Return the trial of a candidate that was measured."""
        stage = measured.stage("inference")
        rounds = tuple(1000 * median for median in stage.medians) if stage else ()
        return cls(candidate, measured.entry.batch, rounds, measured.about.get("opened", {}), measured.failure)

    @property
    def ms(self) -> float:
        """Milliseconds of a call: the median of the rounds, infinite without any."""
        return statistics.median(self.rounds) if self.rounds else float("inf")

    @property
    def spread(self) -> tuple[float, float]:
        """Milliseconds of the fastest and of the slowest round, infinite without any."""
        return (min(self.rounds), max(self.rounds)) if self.rounds else (float("inf"), float("inf"))

    @property
    def pictures_per_second(self) -> float:
        """Pictures over the time of the median round, 0 without any."""
        return 1000 * self.batch / self.ms

    def ratio(self, other: Trial) -> float:
        """Return how many times as long as `other` it takes: the median over the rounds that both were in."""
        return paired_ratio(self.rounds, other.rounds).value

    def to_json(self) -> dict[str, Any]:
        """Return the candidate, how it was run, and its times where there are any."""
        measured = {
            "ms": round(self.ms, 4),
            "ms_rounds": [round(value, 4) for value in self.rounds],
            "pictures_per_second": round(self.pictures_per_second, 2),
        }
        return {
            "name": self.candidate.name,
            "precision": self.candidate.precision,
            **self.candidate.subject.to_json(),
            "batch": self.batch,
            **(measured if self.rounds else {}),
            "opened": dict(self.opened),
            "failure": self.failure,
        }


def candidates(
    artifacts: Sequence[Artifact], *, cores: int | None = None, engine_cache: Path | None = None
) -> list[Candidate]:
    """Return every way in which the installed runtimes might run the artifacts. Timing shows which of them work.

    On a CPU, ONNX Runtime and OpenVINO run with one thread, with half as many threads as `cores`, and with one for
    each; `cores` are by default the usable ones. `engine_cache` is the folder where ONNX Runtime keeps the engines that
    TensorRT builds for it.
    """
    count = cores or usable_cores()
    cache = engine_cache or library_folder("engines")
    return [
        Candidate(f"{artifact.precision}, {name}", artifact.precision, subject)
        for artifact in artifacts
        for name, subject in _run_options(artifact, sorted({1, max(1, count // 2), count}), cache)
    ]


def _run_options(
    artifact: Artifact, threads: Sequence[int], engine_cache: Path | None
) -> Iterator[tuple[str, Subject]]:
    path = artifact.path
    default = select_runtime(path)
    if "provider" not in default.options:
        yield suffix_of(path)[1:], Subject(path)
        return
    rows = cpu_runtimes(suffix_of(path))
    others = [(row.name, row.name, "auto") for row in rows if row is not default]
    others += [(f"{row.name} {low}", row.name, low) for low in artifact.computes for row in rows if low in row.computes]
    for backend in artifact.backends:
        if not _usable(backend):
            continue
        if backend == "cpu":
            for number in threads:
                shown = "1 thread" if number == 1 else f"{number} threads"
                yield f"cpu, {shown}", Subject(path, device="cpu", threads=number)
                for name, runtime, compute in others:
                    yield f"{name}, {shown}", Subject(path, runtime, "cpu", number, compute)
        else:
            cache = {"engine_cache": engine_cache} if engine_cache and backend == "tensorrt" else {}
            yield f"onnxruntime {backend}", Subject(path, device="cuda", options={"provider": backend, **cache})


def _usable(backend: Backend) -> bool:
    """Return whether the installed ONNX Runtime has the backend, and for a GPU whether it can be used here."""
    if find_spec("onnxruntime") is None:
        return False
    with needs("cpu", "measuring what is fastest"):
        from resnet_infer.runtimes.nvidia.usable import usable

    return usable(backend)


def cpu_runtimes(suffix: str) -> list[RuntimeInfo]:
    """Return the installed runtimes that open files with this suffix and compute on any number of CPU threads."""
    found = (row for row in RUNTIMES if row.offered and row.opens(suffix) and row.threads and "cpu" in row.devices)
    return [row for row in found if row.is_installed]


def time_candidates(
    found: Sequence[Candidate],
    batch: int,
    *,
    settings: Settings = TIMING,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Trial]:
    """Time the candidates on batches of `batch` pictures, see `measure`, and return a trial for each.

    `advance(1)` is called for each sample, taken or left out.
    """
    entries = [Entry(item.name, item.subject, batch) for item in found]
    measured = measure(entries, synthetic(), settings, advance=advance)
    return [Trial.of(*pair) for pair in zip(found, measured, strict=True)]


def choose(trials: Sequence[Trial], passed: Collection[Path]) -> Trial:
    """Return the fastest trial that ran and whose artifact is among `passed`.

    Between trials that are as fast (`ALIKE`) the higher precision, the default runtime and fewer threads decide, in
    this order.

    Raises `ResnetInferError`, with every reason, if there is none.
    """
    eligible = [item for item in trials if item.failure is None and item.candidate.artifact in passed]
    if not eligible:
        reasons = (f"{item.candidate.name}: {_status(item, passed)}" for item in trials)
        raise ResnetInferError(
            "nothing can be kept; " + ("; ".join(reasons) or "no runtime is installed"), reason="unavailable"
        )
    fastest = min(eligible, key=lambda item: item.ms)
    exact: tuple[Precision, ...] = get_args(Precision)
    return min(
        (item for item in eligible if item is fastest or item.ratio(fastest) <= ALIKE),
        key=lambda item: (
            exact.index(item.candidate.precision),
            item.candidate.subject.compute != "auto",
            item.candidate.subject.runtime != "auto",
            item.candidate.subject.threads or 0,
            item.ms,
        ),
    )


def report(trials: Sequence[Trial], passed: Collection[Path], chosen: Trial | None = None) -> str:
    """Return the trials as a table, fastest first."""
    rows = []
    for item in sorted(trials, key=lambda item: item.ms):
        figures = ("-", "-", "-")
        if item.rounds:
            low, high = item.spread
            figures = (f"{item.ms:.2f}", f"{low:.2f} to {high:.2f}", f"{item.pictures_per_second:.1f}")
        rows.append((item.candidate.name, *figures, "chosen" if item is chosen else _status(item, passed)))
    return console.table(("candidate", "ms", "rounds", "pictures/s", ""), rows)


def _status(trial: Trial, passed: Collection[Path]) -> str:
    if trial.failure is not None:
        return f"failed: {trial.failure}"
    return "" if trial.candidate.artifact in passed else "costs too much accuracy"
