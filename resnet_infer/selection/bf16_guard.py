"""Accept bfloat16 for a model only after its answers in bfloat16 were compared with those in FP32.

bfloat16 has FP32's range and 8 bits of significand. It does not overflow where FP16 does, and rounds 8 times as
coarsely. What that costs depends on the weights. It is therefore measured on the package's photographs, with the
runtime that will compute, and judged by `tolerances.LIMITS`. The verdict is kept in `machine/bf16.json` in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from resnet_infer._version import __version__
from resnet_infer.data.feed import PHOTOGRAPHS, open_feed
from resnet_infer.errors import DataError, ParityError
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.format_version import FileFormat
from resnet_infer.models.weights.package_files import present
from resnet_infer.runtimes.artifacts import digest
from resnet_infer.runtimes.base import Runtime
from resnet_infer.runtimes.registry import RuntimeInfo, open_runtime, require_fp32, runtime_class
from resnet_infer.runtimes.registry import select_runtime as select
from resnet_infer.selection.machine import versions
from resnet_infer.selection.store import Entry, Verdicts, check_verdict
from resnet_infer.utils.console import note
from resnet_infer.verification.comparison import Comparison, compare
from resnet_infer.verification.tolerances import LIMITS, Verdict

BF16 = FileFormat("verdicts on bf16", error=DataError)
"""Format of the document."""
PICTURES = 16
"""Number of photographs that are compared: all that come with the package. They take a second or two."""
_MEASURED = ("pictures", "error", "largest_error", "agreement", "clear", "clear_agreement")
"""Figures of the comparison that are kept with the verdict."""
_NOTED: set[tuple[str, str]] = set()
"""Models and runtimes that this process has said a note about."""


def _check(entry: Mapping[str, Any]) -> None:
    """Check an entry. Raises `KeyError`, `TypeError` or `ValueError`."""
    check_verdict(entry, (*STORE.key, "pictures"))


STORE = Verdicts("bf16.json", BF16, _check, key=("digest", "runtime", "runtime_version", "hardware", "version"))
"""The document of the verdicts, and what one depends on: the model, the runtime and its version, what computes, and the
version of this package."""


def require_compute(
    model: Path | Checkpoint, compute: str, *, runtime: str = "auto", device: str | int = "auto", say: bool = True
) -> RuntimeInfo:
    """Return the row of the runtime that `open_runtime` takes for `model` in `compute`, after checking that it may.

    With bf16 the model is compared with itself in FP32 (`require_bf16`), and, if `say`, a note says once what its
    answers are computed in. Raises `UsageError` for a model that is not FP32, `RuntimeUnavailableError` if no installed
    runtime or not the processor has `compute`, and `ParityError`.

        require_compute(Path("resnet50.onnx"), "bf16").name  # "openvino"
    """
    if compute != "auto":
        require_fp32(model, compute)
    row = select(model, runtime, compute)
    if compute == "bf16":
        require_bf16(model, row.name, device)
        if say and (seen := (_name(model), row.name)) not in _NOTED:
            _NOTED.add(seen)
            note(f"note: {_name(model)} is computed in bf16 by {row.name}, as --compute says, and not in FP32")
    return row


def require_bf16(model: Path | Checkpoint, runtime: str, device: str | int = "auto") -> None:
    """Raise `ParityError` if the FP32 model `model` loses too much when `runtime` computes it in bfloat16 on `device`.

    It is run in FP32 and in bfloat16 on `PICTURES` photographs, unless a verdict is kept for the same model, version of
    the runtime, if that is known, and hardware. Of several processes one compares and the others wait for it. Raises
    `RuntimeUnavailableError` for a processor or GPU without bfloat16.
    """
    opener = cast(type[Runtime], runtime_class(model, runtime))
    key = {
        "digest": digest(model),
        "runtime": runtime,
        "runtime_version": _version(runtime),
        "hardware": opener.hardware(str(device), "bf16"),
        "version": __version__,
    }
    verdict, _ = STORE.judged(
        key,
        f"comparing {_name(model)} in bf16 and in FP32",
        lambda: _judged(model, runtime, device),
        keep=key["runtime_version"] is not None,
    )
    if not verdict["passed"]:
        raise ParityError(
            f"{_name(model)} loses too much in bf16: {'; '.join(verdict['failures'])}, on {verdict['pictures']} "
            f"photographs, against FP32 in {runtime}",
            hint="leave --compute out, which computes in FP32; --precision int8 of export may be as fast",
            source=_name(model),
        )


def compare_with_fp32(model: Path | Checkpoint, runtime: str, device: str | int = "auto") -> Verdict[Comparison]:
    """Compare a model in bfloat16 with the same model in FP32, both run by `runtime`, on the package's photographs."""
    with (
        open_runtime(model, runtime=runtime, device=device, compute="bf16") as lower,
        open_runtime(model, runtime=runtime, device=device, compute="fp32") as exact,
    ):
        feed = open_feed(present(PHOTOGRAPHS), exact.spec, count=PICTURES)
        return compare(lower, exact, feed, limits=LIMITS["bf16"])


def _judged(model: Path | Checkpoint, runtime: str, device: str | int) -> Entry:
    """Return the verdict of the comparison as JSON values."""
    found = compare_with_fp32(model, runtime, device)
    values = found.to_json()
    limits = found.measured.limits.to_json("error", "agreement")
    measured = {name: values[name] for name in _MEASURED}
    return {"passed": found.passed, "failures": list(found.failures), **measured, "limits": limits}


def _version(runtime: str) -> str | None:
    """Return name and version of the runtime's distribution, None if it is not known."""
    return versions((runtime,))[runtime] or None


def _name(model: Path | Checkpoint) -> str:
    """Return how messages name a model."""
    return str(model) if isinstance(model, Path) else model.spec.name


__all__ = ["PICTURES", "STORE", "compare_with_fp32", "require_bf16", "require_compute"]
