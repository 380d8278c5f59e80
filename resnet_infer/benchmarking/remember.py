"""Write measurements into the machine profile, by which `auto` chooses the runtime: `benchmark --remember`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from resnet_infer.benchmarking.candidates import Trial, cpu_runtimes
from resnet_infer.benchmarking.latency.paired_run import Measured
from resnet_infer.benchmarking.latency.subjects import Entry, Subject
from resnet_infer.runtimes.registry import get_runtime, select_runtime
from resnet_infer.selection.machine import Model
from resnet_infer.selection.profile import Timing, remember
from resnet_infer.utils.console import note, warn
from resnet_infer.utils.cpu import usable_cores
from resnet_infer.utils.files import suffix_of

Sample = tuple[str, int | None, Sequence[float]]
"""Runtime, threads (None: all cores) and milliseconds of a call in each round."""

UNASKED = ("auto", "fp32")
"""Values of `compute` whose times are remembered: `auto` never means a lower precision."""


def spread_out(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries, those of the runtime `auto` once for each installed runtime that computes them on the CPU.

    The default runtime comes first. Names get the runtime in front of them, as in `openvino:model.onnx`.
    """
    found = []
    for entry in entries:
        path, subject = entry.subject.model, entry.subject
        if subject.runtime != "auto":
            found.append(entry)
            continue
        default = select_runtime(path)
        rows = [default, *(row for row in cpu_runtimes(suffix_of(path)) if row is not default)]
        for row in rows:
            name = entry.name if row is default else f"{row.name}:{entry.name}"
            found.append(Entry(name, replace(subject, runtime=row.name, device="cpu"), entry.batch))
    return found


def remember_measured(measured: Sequence[Measured]) -> None:
    """Write what `benchmark` measured on the CPU, one entry for each artifact and batch, and note what was written."""
    groups: dict[tuple[Path, int], list[Sample]] = {}
    for item in measured:
        stage, subject = item.stage("inference"), item.entry.subject
        name = _runtime(subject)
        on_cpu = item.about.get("opened", {}).get("device") == "cpu" and get_runtime(name).offered
        if item.failure is None and stage and on_cpu and subject.compute in UNASKED:
            key = subject.model, item.entry.batch
            groups.setdefault(key, []).append((name, subject.threads, [1000 * value for value in stage.medians]))
    for (path, batch), samples in groups.items():
        _remember(path, batch, samples, "benchmark --remember")


def remember_trials(path: Path, trials: Sequence[Trial], kept: Path, batch: int) -> None:
    """Write the trials of the artifact at `kept`, which `--target auto` chose and wrote to `path`."""
    samples = [
        (_runtime(item.candidate.subject), item.candidate.subject.threads, item.rounds)
        for item in trials
        if item.candidate.artifact == kept
        and item.failure is None
        and item.candidate.subject.device == "cpu"
        and item.candidate.subject.compute in UNASKED
    ]
    if samples:
        _remember(path, batch, samples, "export --target auto")


def _runtime(subject: Subject) -> str:
    """Return the name of the runtime of a subject."""
    return select_runtime(subject.model, subject.runtime).name


def _remember(path: Path, batch: int, samples: Sequence[Sample], source: str) -> None:
    """Write an entry of the profile, and note it."""
    cores = usable_cores()
    timings = [
        Timing(
            runtime,
            threads,
            max(cores // threads, 1) if threads else 1,
            round(median(rounds), 4),
            tuple(round(ms, 4) for ms in rounds),
        )
        for runtime, threads, rounds in samples
    ]
    if remember(Model(path), batch, timings, source=source):
        runtimes = ", ".join(dict.fromkeys(item.runtime for item in timings))
        note(f"the machine profile remembers {path.name}, batches of {batch}: {runtimes}")
    elif source.startswith("benchmark"):  # an export was not asked to
        warn("the machine profile cannot be written: the cache is not writable; see RESNET_INFER_CACHE")


__all__ = ["remember_measured", "remember_trials", "spread_out"]
