"""Compare another runtime with ONNX Runtime before its answers count, once for each artifact on a machine.

The verdicts are kept in `machine/proofs.json` in the cache, by the artifact's digest, both versions, the processor, the
number of threads and what is computed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnet_infer._version import __version__
from resnet_infer.data.feed import PHOTOGRAPHS, open_feed
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import DataError
from resnet_infer.models.format_version import FileFormat
from resnet_infer.models.spec import ModelSpec
from resnet_infer.models.weights.package_files import present
from resnet_infer.runtimes.base import Images, Logits, Runtime
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.selection.machine import Machine, Model, exact, versions
from resnet_infer.selection.store import Entry, Verdicts, check_verdict
from resnet_infer.verification.comparison import Comparison, judge_logits
from resnet_infer.verification.metrics import plain
from resnet_infer.verification.tolerances import RUNTIMES, Tolerance, Verdict

PROOFS = FileFormat("proofs of runtimes", error=DataError)
"""Format of the document."""
REFERENCE = "onnxruntime"
"""Runtime that others are compared with: it proved the artifact when it was exported."""
PHOTOS, NOISE = 8, 8
"""Images that are compared: photographs of the package, and synthetic ones as in the parity check."""


@dataclass(frozen=True)
class Proof:
    """Hold why a runtime does not answer as ONNX Runtime does: no `failures` if it does.

    `error` is the mean squared change of the logits over their variance, None if it is not finite. `fresh`: it was
    compared just now, and not before.
    """

    failures: tuple[str, ...]
    error: float | None
    fresh: bool


def _check(entry: Mapping[str, Any]) -> None:
    """Check an entry. Raises `KeyError`, `TypeError` or `ValueError`."""
    check_verdict(entry, STORE.key)
    if not isinstance(entry["error"], int | float | None):
        raise TypeError("error")


STORE = Verdicts(
    "proofs.json",
    PROOFS,
    _check,
    key=("digest", "runtime", "versions", "processor", "flags", "threads", "compute", "resnet-infer"),
)
"""The document of the proofs, and what a verdict depends on."""


def prove(model: Model, candidate: Runtime, *, compute: str = "auto") -> Proof:
    """Return whether `candidate`, which has the artifact open, answers as ONNX Runtime does on this machine.

    A verdict that is kept is returned. Else both answer the same 16 images, one alone and the others in batches, and
    the verdict is kept where the cache can be written, unless the version of one of them is not known. Of several
    processes one compares and the others wait for it. Raises what opening ONNX Runtime raises.
    """
    key = _key(model, candidate, compute)

    def compare() -> Entry:
        verdict = _compare(model, candidate, compute)
        found = verdict.measured
        return {
            "passed": verdict.passed,
            "failures": list(verdict.failures),
            **plain({"error": found.error}),
            "pictures": found.pictures,
            "clear": found.clear,
            **plain({"clear_agreement": found.clear_agreement}),
            "limits": found.limits.to_json("error", "agreement"),
        }

    doing = f"comparing the runtimes {candidate.name} and {REFERENCE}"
    entry, fresh = STORE.judged(key, doing, compare, keep=all(key["versions"].values()))
    return Proof(tuple(entry["failures"]), entry["error"], fresh)


def limits_of(spec: ModelSpec, compute: str) -> Tolerance:
    """Return the limits for an artifact: those of its precision, or of what its float layers compute in if lower."""
    named = exact(compute)
    return RUNTIMES[named if spec.precision != "int8" and named != "fp32" and named in RUNTIMES else spec.precision]


def images_for(spec: ModelSpec, size: tuple[int | None, int | None]) -> Images:
    """Return the images that are compared, uint8 (PHOTOS + NOISE, height, width, 3), of the size that a model takes."""
    height, width = (side or spec.input.crop for side in size)
    noise = natural_noise(NOISE, height, width)
    if (height, width) != (spec.input.crop, spec.input.crop):
        return natural_noise(PHOTOS + NOISE, height, width)
    feed = open_feed(present(PHOTOGRAPHS), spec, count=PHOTOS, workers=1)
    return np.concatenate([*feed.batches(), noise])


def _compare(model: Model, candidate: Runtime, compute: str) -> Verdict[Comparison]:
    """Run both runtimes on the images, and judge."""
    images = images_for(candidate.spec, candidate.size)
    names = [f"picture {number}" for number in range(len(images))]
    with open_runtime(model.path, runtime=REFERENCE, device="cpu") as reference:
        expected = _logits(reference, images)
    actual = _logits(candidate, images)
    spec = candidate.spec
    return judge_logits(actual, expected, names=names, classes=spec.classes, limits=limits_of(spec, compute))


def _logits(runtime: Runtime, images: Images) -> Logits:
    """Return the logits of the images: of the first alone, and of the others in batches of at most 8."""
    parts = [images[:1], *(images[start : start + 8] for start in range(1, len(images), 8))]
    return np.concatenate([runtime(part) for part in parts])


def _key(model: Model, candidate: Runtime, compute: str) -> dict[str, Any]:
    """Return what a verdict depends on. Kernels may differ by the number of threads."""
    here = Machine.here().to_json()
    return {
        "digest": model.digest,
        "runtime": candidate.name,
        "versions": versions((REFERENCE, candidate.name)),
        "processor": here["processor"],
        "flags": here["flags"],
        "threads": candidate.describe().get("threads"),
        "compute": exact(compute),
        "resnet-infer": __version__,
    }
