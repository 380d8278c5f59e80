"""What `--target auto` keeps when a runtime other than the usual one is fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_infer import zoo
from resnet_infer.errors import MissingExtraError, RuntimeUnavailableError, UsageError

for module, extra in (("onnxruntime", "cpu"), ("onnx", "export"), ("torch", "train")):
    pytest.importorskip(module, reason=f"the extra `{extra}`")
try:
    from resnet_infer.runtimes.openvino import OpenVinoRuntime
except (ImportError, MissingExtraError):
    pytest.skip("needs OpenVINO (the extra `openvino`)", allow_module_level=True)

from resnet_infer.benchmarking import autotune  # noqa: E402
from resnet_infer.benchmarking.candidates import Candidate, Trial  # noqa: E402
from resnet_infer.converters.export import ExportConfig  # noqa: E402
from resnet_infer.models.checkpoint import Checkpoint  # noqa: E402
from resnet_infer.runtimes.registry import open_runtime  # noqa: E402
from resnet_infer.selection.machine import Model  # noqa: E402
from resnet_infer.selection.profile import best_known  # noqa: E402

pytestmark = pytest.mark.usefixtures("notes_on_stderr")


@pytest.fixture(autouse=True)
def openvino_is_fastest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))

    def timed(found: Sequence[Candidate], batch: int, **options: Any) -> list[Trial]:
        return [Trial(item, batch, (1.0 if item.subject.runtime == "openvino" else 2.0,)) for item in found]

    monkeypatch.setattr(autotune, "time_candidates", timed)


def test_the_fastest_runtime_is_in_the_provenance(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = autotune.export_fastest(make_checkpoint(), tmp_path / "best.onnx", ExportConfig(), 1, ["fp32"])
    assert made.evidence["tuned"]["runtime"] == "openvino"
    said = "it is fastest when it is run with --runtime openvino, which auto means here from now on"
    assert said in capsys.readouterr().err
    best = best_known(Model(made.path), 1)
    assert best is not None
    assert (best.timing.runtime, best.ratio) == ("openvino", 2.0)
    with open_runtime(made.path, device="cpu") as opened:
        assert opened.name == "onnxruntime"
        assert opened.spec.provenance["tuned"] == made.evidence["tuned"]


@pytest.mark.parametrize("why", ["the cache cannot be written", "a GPU may be used", "it is slower side by side"])
def test_what_auto_means_is_said_only_where_it_is_so(
    why: str,
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    if why == "the cache cannot be written":
        monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "file"))
    elif why == "a GPU may be used":
        monkeypatch.setattr(autotune, "may_use_gpu", lambda: True)
    else:

        def timed(found: Sequence[Candidate], batch: int, **options: Any) -> list[Trial]:
            fast: dict[tuple[str, int | None], float] = {("openvino", 2): 1.0, ("openvino", 1): 8.0, ("auto", 1): 4.0}
            return [
                Trial(item, batch, (fast.get((item.subject.runtime, item.subject.threads), 2.0),)) for item in found
            ]

        monkeypatch.setattr("resnet_infer.benchmarking.candidates.usable_cores", lambda: 2)
        monkeypatch.setattr("resnet_infer.benchmarking.remember.usable_cores", lambda: 2)
        monkeypatch.setattr(autotune, "time_candidates", timed)
    autotune.export_fastest(make_checkpoint(), tmp_path / "best.onnx", ExportConfig(), 1, ["fp32"])
    said = capsys.readouterr().err
    assert "it is fastest when it is run with --runtime openvino\n" in said


def test_a_runtime_that_answers_otherwise_is_not_kept_however_fast(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OpenVinoRuntime._run
    monkeypatch.setattr(OpenVinoRuntime, "_run", lambda self, images: np.float32(1.01) * run(self, images))
    made = autotune.export_fastest(make_checkpoint(), tmp_path / "best.onnx", ExportConfig(), 1, ["fp32"])
    assert made.evidence["tuned"]["runtime"] in ("auto", "onnxruntime")
    failures = [item["failure"] for item in made.evidence["trials"] if item["runtime"] == "openvino"]
    assert failures
    assert all("it answers otherwise than onnxruntime" in failure for failure in failures)


def test_fp16_is_not_tried_on_a_machine_whose_gpu_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of ONNX Runtime for CUDA names it on every machine."""
    from resnet_infer.benchmarking import autotune
    from resnet_infer.runtimes import ort_session
    from resnet_infer.runtimes.nvidia.usable import usable

    monkeypatch.setattr(ort_session, "available_providers", lambda: [ort_session.CUDA, ort_session.CPU])
    for obstacle, found in ((None, True), ("no driver", False)):
        monkeypatch.setattr("resnet_infer.runtimes.nvidia.obstacles.obstacle", lambda provider, said=obstacle: said)
        assert usable("cuda") is found
        assert ("fp16" in autotune._worth_trying(ExportConfig())) is found


# bf16, where it is allowed


@pytest.fixture
def bf16_is_fastest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own, and times as on a processor with AMX."""
    try:
        OpenVinoRuntime.hardware("cpu", "bf16")
    except RuntimeUnavailableError:
        pytest.skip("needs a processor with bfloat16")
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))

    def timed(found: Sequence[Candidate], batch: int, **options: Any) -> list[Trial]:
        return [Trial(item, batch, (0.3 if item.subject.compute == "bf16" else 2.0,)) for item in found]

    monkeypatch.setattr(autotune, "time_candidates", timed)


@pytest.mark.usefixtures("bf16_is_fastest")
def test_bf16_is_tried_where_it_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, target = zoo.checkpoint(zoo.SMALL), tmp_path / "best.onnx"
    made = autotune.export_fastest(model, target, ExportConfig(), 1, ["fp32"])
    assert all(item["compute"] == "auto" for item in made.evidence["trials"])
    made = autotune.export_fastest(model, target, ExportConfig(), 1, ["fp32"], ["bf16"])
    tuned = made.evidence["tuned"]
    assert (tuned["runtime"], tuned["compute"]) == ("openvino", "bf16")
    assert "it is fastest when it is run with --runtime openvino --compute bf16" in capsys.readouterr().err
    with open_runtime(made.path, device="cpu") as opened:  # the file is FP32, and nothing computes it in bf16 unasked
        assert (opened.name, opened.precision, opened.spec.precision) == ("onnxruntime", "fp32", "fp32")
        assert opened.spec.provenance["tuned"] == tuned


@pytest.mark.usefixtures("bf16_is_fastest")
def test_bf16_that_loses_too_much_is_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = zoo.checkpoint(zoo.SMALL)
    weights = {**checkpoint.weights, "fc.weight": checkpoint.weights["fc.weight"] + np.float32(100)}
    model = replace(checkpoint, weights=weights)
    made = autotune.export_fastest(model, tmp_path / "best.onnx", ExportConfig(), 1, ["fp32"], ["bf16"])
    assert made.evidence["tuned"]["compute"] == "auto"
    assert "loses too much in bf16" in made.evidence["rejected"]["bf16"]
    assert "bf16 is out: " in capsys.readouterr().err


def test_bf16_without_fp32_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--allow bf16 is for the FP32 artifact"):
        autotune.export_fastest(zoo.checkpoint(zoo.SMALL), tmp_path / "x.onnx", ExportConfig(), 1, ["fp16"], ["bf16"])
