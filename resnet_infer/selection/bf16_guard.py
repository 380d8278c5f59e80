"""Accept bfloat16 for a model only after its answers in bfloat16 were compared with those in FP32.

bfloat16 has 8 bits of significand and FP32's range: it does not overflow where FP16 does, and rounds 8 times as
coarsely. What that costs depends on the weights. It is therefore measured, with the runtime that will compute, on the
package's photographs, and judged by `tolerances.LIMITS`. The verdict is kept (`kept_verdicts`).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from resnet_infer._version import __version__
from resnet_infer.converters.importers.weights_check import PHOTOGRAPHS
from resnet_infer.data.feed import open_feed
from resnet_infer.errors import ParityError
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.weights.package_files import present
from resnet_infer.runtimes.artifacts import digest
from resnet_infer.runtimes.base import Runtime
from resnet_infer.runtimes.registry import RuntimeInfo, get_runtime, open_runtime, require_fp32, runtime_class
from resnet_infer.runtimes.registry import select_runtime as select
from resnet_infer.selection.kept_verdicts import find_verdict, keep_verdict
from resnet_infer.utils.console import note
from resnet_infer.utils.extras import DISTRIBUTIONS, EXTRAS, installed
from resnet_infer.verification.comparison import Comparison, compare
from resnet_infer.verification.tolerances import LIMITS, Verdict

PICTURES = 16
"""Number of photographs that are compared: all that come with the package. They take a second or two."""
_NOTED: set[tuple[str, str]] = set()
"""Models and runtimes that this process has said a note about."""


def require_compute(
    model: Path | Checkpoint, compute: str, *, runtime: str = "auto", device: str = "auto", say: bool = True
) -> RuntimeInfo:
    """Return the row of the runtime that `open_runtime` takes for `model` in `compute`, after checking that it may.

    With bf16 it is compared with FP32 (`require_bf16`), and, if `say`, a note says once what its answers are computed
    in. Raises
    `UsageError` for a model that is not FP32, `RuntimeUnavailableError` if no installed runtime or not the processor
    has `compute`, and `ParityError`.

        require_compute(Path("resnet50.onnx"), "bf16").name  # "openvino"
    """
    if compute != "auto":
        require_fp32(model, compute)
    row = select(model, runtime, compute)
    if compute == "bf16":
        require_bf16(model, row.name, device)
        name = str(model) if isinstance(model, Path) else model.spec.name
        if say and (name, row.name) not in _NOTED:
            _NOTED.add((name, row.name))
            note(f"note: {name} is computed in bf16 by {row.name}, as --compute says, and not in FP32")
    return row


def require_bf16(model: Path | Checkpoint, runtime: str, device: str = "auto") -> None:
    """Raise `ParityError` if the FP32 model `model` loses too much when `runtime` computes it in bfloat16 on `device`.

    It is run in FP32 and in bfloat16 on `PICTURES` photographs unless a verdict is kept for the same model, version of
    the runtime and hardware. Raises `RuntimeUnavailableError` for a processor or GPU without bfloat16.
    """
    opener = cast(type[Runtime], runtime_class(model, runtime))
    hardware = opener.hardware(device, "bf16")
    key = {
        "model": digest(model),
        "runtime": runtime,
        "runtime_version": _version(get_runtime(runtime)),
        "hardware": hardware,
        "compute": "bf16",
        "version": __version__,
    }
    verdict = find_verdict(key)
    if verdict is None:
        verdict = _judged(model, runtime, device)
        keep_verdict(key, verdict)
    if not verdict["passed"]:
        name = str(model) if isinstance(model, Path) else model.spec.name
        raise ParityError(
            f"{name} loses too much in bf16: {'; '.join(verdict['failures'])}, on {verdict['pictures']} photographs "
            f"against FP32 in {runtime}",
            hint="leave --compute out, which computes in FP32; export --precision int8 may be as fast",
            source=name,
        )


def compare_with_fp32(model: Path | Checkpoint, runtime: str, device: str = "auto") -> Verdict[Comparison]:
    """Compare a model in bfloat16 with the same model in FP32, both run by `runtime`, on the package's photographs."""
    with (
        open_runtime(model, runtime=runtime, device=device, compute="bf16") as lower,
        open_runtime(model, runtime=runtime, device=device, compute="fp32") as exact,
    ):
        feed = open_feed(present(PHOTOGRAPHS), exact.spec, count=PICTURES)
        return compare(lower, exact, feed, limits=LIMITS["bf16"])


def _judged(model: Path | Checkpoint, runtime: str, device: str) -> dict[str, Any]:
    """Return the verdict of the comparison as JSON."""
    found = compare_with_fp32(model, runtime, device)
    values = found.to_json()
    names = ("pictures", "error", "largest_error", "agreement", "clear", "clear_agreement", "limits")
    return {"passed": found.passed, "failures": list(found.failures), **{name: values[name] for name in names}}


def _version(row: RuntimeInfo) -> str | None:
    """Return name and version of the runtime's distribution, None if it is not known."""
    with suppress(KeyError, IndexError):
        return installed(DISTRIBUTIONS[EXTRAS[row.extra or ""][0]])
    return None


__all__ = ["PICTURES", "compare_with_fp32", "require_bf16", "require_compute"]
