"""`--target auto`: which of a network's artifacts, run how, answers fastest on this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from resnet_infer.benchmarking.latency.side_by_side import ROUNDS, Subject, Timing, measure
from resnet_infer.errors import ResnetInferError
from resnet_infer.models.spec import Precision
from resnet_infer.models.weights.download import library_folder
from resnet_infer.runtimes.registry import RUNTIMES
from resnet_infer.utils import console
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.utils.extras import needs

Place = Literal["cpu", "cuda", "tensorrt"]
"""What in ONNX Runtime computes: the CPU, CUDA, or TensorRT inside it."""

GIVE_UP = 3.0
"""What takes so many times as long as the fastest of a round is not timed again."""
ALIKE = 1.03
"""Up to this ratio of their times, precision, then the runtime that is taken unasked, then fewer threads decide."""

_PROVIDERS: Mapping[Place, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


@dataclass(frozen=True)
class Artifact:
    """A file that may be kept. `places` are for a graph: one that is quantised for the CPU is slow elsewhere."""

    path: Path
    precision: Precision
    places: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class Candidate:
    """An artifact and a way to run it, with a name for the report."""

    name: str
    precision: Precision
    subject: Subject

    @property
    def artifact(self) -> Path:
        return self.subject.model


@dataclass(frozen=True)
class Trial:
    """A candidate and what was measured of it."""

    candidate: Candidate
    timing: Timing

    def to_json(self) -> dict[str, Any]:
        return {"name": self.candidate.name, "precision": self.candidate.precision, **self.timing.to_json()}


def candidates(
    artifacts: Sequence[Artifact], *, cores: int | None = None, engine_cache: Path | None = None
) -> list[Candidate]:
    """Every way in which what is installed might run the artifacts; whether it can is seen when they are timed.

    On the CPU by ONNX Runtime and by OpenVINO, with one thread, one for every second core, and one for every core;
    `cores` are by default the usable ones. `engine_cache` is the folder where ONNX Runtime keeps the engines that
    TensorRT builds for it.
    """
    count = cores or usable_cores()
    cache = engine_cache or library_folder("engines")
    return [
        Candidate(f"{artifact.precision}, {name}", artifact.precision, subject)
        for artifact in artifacts
        for name, subject in _ways(artifact.path, artifact.places, sorted({1, max(1, count // 2), count}), cache)
    ]


def _ways(
    path: Path, places: Collection[Place], threads: Sequence[int], engine_cache: Path | None
) -> Iterator[tuple[str, Subject]]:
    if RUNTIMES.get(path.suffix) != "onnxruntime":
        yield path.suffix[1:], Subject(path)
        return
    for place in places:
        if _PROVIDERS[place] not in _providers():
            continue
        if place == "cpu":
            for number in threads:
                shown = "1 thread" if number == 1 else f"{number} threads"
                yield f"cpu, {shown}", Subject(path, device="cpu", threads=number)
                if _has_openvino():
                    yield f"openvino, {shown}", Subject(path, runtime="openvino", device="cpu", threads=number)
        else:
            cache = {"engine_cache": engine_cache} if engine_cache and place == "tensorrt" else {}
            yield f"onnxruntime {place}", Subject(path, device="cuda", options={"provider": place, **cache})


def _providers() -> Collection[str]:
    """What the installed ONNX Runtime was built with."""
    if find_spec("onnxruntime") is None:
        return ()
    with needs("cpu", "measuring what is fastest"):
        from resnet_infer.runtimes import ort_session

    return ort_session.available_providers()


def _has_openvino() -> bool:
    return find_spec("openvino") is not None


def time_candidates(
    found: Sequence[Candidate],
    batch: int,
    *,
    rounds: int = ROUNDS,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Trial]:
    """Time the candidates on batches of `batch` pictures, see `measure`; those far behind only once."""
    timings = measure([item.subject for item in found], batch, rounds=rounds, give_up=GIVE_UP, advance=advance)
    return [Trial(*pair) for pair in zip(found, timings, strict=True)]


def choose(trials: Sequence[Trial], passed: Collection[Path]) -> Trial:
    """The fastest of those that ran and whose artifact is among `passed`; of those as good as even, see `ALIKE`.

    Raises `ResnetInferError`, with every reason, if there is none.
    """
    able = [item for item in trials if item.timing.failure is None and item.candidate.artifact in passed]
    if not able:
        reasons = (f"{item.candidate.name}: {_status(item, passed)}" for item in trials)
        raise ResnetInferError("nothing can be kept; " + ("; ".join(reasons) or "no runtime is installed"))
    fastest = min(able, key=lambda item: item.timing.ms)
    exact: tuple[Precision, ...] = get_args(Precision)
    return min(
        (item for item in able if item is fastest or item.timing.ratio(fastest.timing) <= ALIKE),
        key=lambda item: (
            exact.index(item.candidate.precision),
            item.candidate.subject.runtime != "auto",
            item.candidate.subject.threads or 0,
            item.timing.ms,
        ),
    )


def report(trials: Sequence[Trial], passed: Collection[Path], chosen: Trial | None = None) -> str:
    """The trials as a table, fastest first."""
    rows = []
    for item in sorted(trials, key=lambda item: item.timing.ms):
        timing = item.timing
        figures = ("-", "-", "-")
        if timing.rounds:
            low, high = timing.spread
            figures = (f"{timing.ms:.2f}", f"{low:.2f} to {high:.2f}", f"{timing.pictures_per_second:.1f}")
        rows.append((item.candidate.name, *figures, "chosen" if item is chosen else _status(item, passed)))
    return console.table(("candidate", "ms", "rounds", "pictures/s", ""), rows)


def _status(trial: Trial, passed: Collection[Path]) -> str:
    if trial.timing.failure is not None:
        return f"failed: {trial.timing.failure}"
    return "" if trial.candidate.artifact in passed else "costs too much accuracy"
