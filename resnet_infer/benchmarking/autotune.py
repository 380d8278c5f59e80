"""Export, time and keep what is fastest on this machine: `export --target auto`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from resnet_infer.benchmarking.candidates import Artifact, Backend, Trial, candidates, choose, report, time_candidates
from resnet_infer.benchmarking.latency.subjects import Subject
from resnet_infer.benchmarking.remember import remember_trials
from resnet_infer.converters.config import ExportConfig
from resnet_infer.converters.export import CALIBRATION_SUFFIX, ExportResult, check_precision, export
from resnet_infer.converters.source import read_artifact
from resnet_infer.data.feed import open_feed
from resnet_infer.errors import ModelError, ParityError, RuntimeUnavailableError, UsageError
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.spec import Precision
from resnet_infer.runtimes.processes import interpreter
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.selection.bf16_guard import require_compute
from resnet_infer.selection.machine import Model, may_use_gpu
from resnet_infer.selection.profile import best_known
from resnet_infer.utils.console import note
from resnet_infer.utils.extras import needs
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.progress import progress
from resnet_infer.verification.comparison import compare

with needs("cpu", "measuring what is fastest"):
    from resnet_infer.runtimes.nvidia.usable import usable


def export_fastest(
    model: Checkpoint | Path,
    target: Path,
    config: ExportConfig,
    batch: int,
    precisions: Collection[Precision] | None = None,
    allowed: Collection[str] = (),
) -> ExportResult:
    """Write `target`, an ONNX file, in the precision that answers batches of `batch` pictures fastest on this machine.

    `precisions` are those to try; by default FP32, INT8 if there are calibration pictures, and FP16 if there is a GPU.
    `allowed` are lower precisions that the FP32 artifact may also be computed in, such as bf16. It is then kept as it
    is, and a note says with which options it is that fast. A table of the trials goes to stderr, and their times go
    into the machine profile (`selection.profile`). The trials, the fastest runtime, its number of threads and what it
    computes in go into the evidence, and all but the trials into the artifact's provenance. Raises `ParityError` if
    only one precision is tried and loses too much accuracy, `UsageError` for `allowed` without FP32, and
    `RuntimeUnavailableError` where no process can be started for timing.
    """
    interpreter()  # fail before the slow exports if no process can be started
    tried = tuple(precisions or _worth_trying(config))
    if allowed and "fp32" not in tried:
        raise UsageError(
            f"--allow {' '.join(allowed)} is for the FP32 artifact, which is not among the precisions to try",
            hint="leave --allow or --precision out",
        )
    if len(tried) == 1:
        check_precision(replace(config, precision=tried[0]))
    if tried == ("fp32",) and config.max_drop is not None:
        raise UsageError("only FP32 can be tried, and it costs nothing that --max-drop could limit")
    rejected: dict[str, str] = {}
    exported: dict[Path, ExportResult] = {}
    artifacts = []
    with TemporaryDirectory() as scratch:
        for name, variant, backends in _variants(config, tried):
            path = Path(scratch) / f"{name}.onnx"
            try:
                exported[path] = export(model, path, variant)
            except (ParityError, ModelError) as error:
                if len(tried) == 1:
                    raise
                rejected[name] = error.message
                note(f"{variant.precision} is out: {error.message}")
                continue
            computes = tuple(_passing(path, allowed, rejected) if variant.precision == "fp32" else ())
            artifacts.append(Artifact(path, variant.precision, backends, computes))
        found = candidates(artifacts)
        with progress("timing", None, "runs") as advance:
            trials = time_candidates(found, batch, advance=advance)
        best = choose(trials, exported)
        while (difference := _difference(best.candidate.subject)) is not None:
            failed = replace(best, failure=difference)
            trials = [failed if item is best else item for item in trials]
            best = choose(trials, exported)
        table = report(trials, exported, best)
        for line in (f"batches of {batch}:", *table.splitlines()):
            note(line)
        chosen = exported[best.candidate.artifact]
        tuned = _tuned(best, batch)
        graph = read_artifact(chosen.path)
        noted = graph.spec.with_(provenance={**graph.spec.provenance, "tuned": tuned})
        with atomic_path(target) as temporary:
            temporary.write_bytes(graph.with_spec(noted).content)
        evidence = {**chosen.evidence, "tuned": tuned, "trials": [item.to_json() for item in trials]}
        evidence["rejected"] = rejected
        calibration = chosen.path.with_suffix(CALIBRATION_SUFFIX)
        if calibration.exists():
            kept = target.with_suffix(CALIBRATION_SUFFIX)
            with atomic_path(kept) as temporary:
                temporary.write_bytes(calibration.read_bytes())
            evidence["calibration"] = {**evidence["calibration"], "file": str(kept)}
        remember_trials(target, trials, chosen.path, batch)
        if (subject := best.candidate.subject).runtime != "auto":
            unasked = ", which auto means here from now on where there are many pictures"
            unasked = unasked if _is_auto(target, batch, subject) else ""
            note(f"it is fastest when it is run with {_run_with(subject)}{unasked}")
    return ExportResult(target, chosen.precision, evidence)


def _worth_trying(config: ExportConfig) -> list[Precision]:
    found: list[Precision] = ["fp32"]
    if usable("cuda"):
        found.append("fp16")
    if config.pictures.calibration:
        found.append("int8")
    else:
        note("INT8 is not tried: it needs pictures, --calibration-data")
    return found


def _variants(
    config: ExportConfig, tried: Collection[Precision]
) -> list[tuple[str, ExportConfig, tuple[Backend, ...]]]:
    """Return the name, the configuration and the intended backends of each artifact to export."""
    gpu: tuple[Backend, ...] = ("cuda", "tensorrt")
    found: list[tuple[str, ExportConfig, tuple[Backend, ...]]] = []
    for precision in tried:
        if precision == "int8":
            found.append(("int8-cpu", replace(config, precision=precision, target="cpu"), ("cpu",)))
            if usable("cuda"):
                found.append(("int8-gpu", replace(config, precision=precision, target="tensorrt"), ("tensorrt",)))
            continue
        variant = replace(config, precision=precision, float_layers=())
        variant = replace(variant, pictures=replace(config.pictures, calibration=None))
        if precision == "fp32":
            variant = replace(variant, max_drop=None, pictures=replace(variant.pictures, check=None))
        found.append((precision, variant, ("cpu", *gpu)))
    return found


def _passing(path: Path, allowed: Collection[str], rejected: dict[str, str]) -> Iterator[str]:
    """Yield those of `allowed` that an FP32 artifact may be computed in here, and put the others into `rejected`."""
    for compute in allowed:
        try:
            require_compute(path, compute, say=False)
            yield compute
        except (ParityError, RuntimeUnavailableError) as error:
            rejected[compute] = error.message
            note(f"{compute} is out: {error.message}")


def _run_with(subject: Subject) -> str:
    """Return the options with which other commands run an artifact as a trial did."""
    compute = f" --compute {subject.compute}" if subject.compute != "auto" else ""
    return f"--runtime {subject.runtime}{compute}"


def _is_auto(path: Path, batch: int, subject: Subject) -> bool:
    """Return whether `auto` takes the runtime of a trial for many images, by the machine profile.

    A lower precision to compute in is never taken unasked.
    """
    if subject.compute != "auto" or may_use_gpu():
        return False
    best = best_known(Model(path), batch)
    return best is not None and best.timing.runtime == subject.runtime


def _difference(subject: Subject) -> str | None:
    """Return how the fastest runtime's answers differ from those of the runtime that proved the artifact.

    Returns None if they agree within the tolerance, or if it is the same runtime.
    """
    if subject.runtime == "auto":
        return None
    with (
        open_runtime(subject.model, device=subject.device) as proven,
        open_runtime(
            subject.model,
            runtime=subject.runtime,
            device=subject.device,
            threads=subject.threads,
            compute=subject.compute,
        ) as other,
    ):
        found = compare(other, proven, open_feed(None, proven.spec))
    return None if found.passed else f"it answers otherwise than {proven.name}: {'; '.join(found.failures)}"


def _tuned(best: Trial, batch: int) -> dict[str, Any]:
    subject = best.candidate.subject
    return {
        "batch": batch,
        "runtime": best.opened.get("runtime", subject.runtime),
        "device": subject.device,
        "threads": subject.threads,
        "compute": subject.compute,
        "options": {name: str(value) for name, value in (subject.options or {}).items()},
        "ms": round(best.ms, 3),
    }
