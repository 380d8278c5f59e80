"""What is remembered of measurements, by which `auto` chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resnet_infer import zoo
from resnet_infer.benchmarking.candidates import Candidate, Trial
from resnet_infer.benchmarking.latency.paired_run import Measured
from resnet_infer.benchmarking.latency.subjects import Entry, Subject
from resnet_infer.benchmarking.remember import remember_measured, remember_trials
from resnet_infer.selection.machine import Model
from resnet_infer.selection.profile import best_known

pytest.importorskip("openvino", reason="the extra `openvino`")


def test_times_in_a_lower_precision_are_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` computes in FP32, so a runtime that is faster in bfloat16 alone is not the fastest."""
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    path = zoo.built_in(zoo.SMALL, ".onnx")
    times = {("auto", "auto"): 2.0, ("openvino", "auto"): 3.0, ("openvino", "bf16"): 0.5}
    trials = [
        Trial(Candidate("x", "fp32", Subject(path, runtime, "cpu", 1, compute)), 1, (ms,) * 8)
        for (runtime, compute), ms in times.items()
    ]
    remember_trials(path, trials, path, 1)
    best = best_known(Model(path), 1, use="service")
    assert best is not None
    assert best.timing.runtime == "onnxruntime"


def test_what_was_not_measured_on_the_cpu_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    path = zoo.built_in(zoo.SMALL, ".onnx")

    def measured(runtime: str, seconds: float, device: str = "cpu") -> Measured:
        entry = Entry(runtime, Subject(path, runtime, "auto", None if runtime == "null" else 1), 8)
        return Measured(entry, about={"opened": {"device": device}}, rounds={"inference": [np.array([seconds])] * 4})

    null = measured("null", 1e-6)
    remember_measured([measured("onnxruntime", 0.02), measured("openvino", 0.01), null])
    best = best_known(Model(path), 8, use="service")
    assert best is not None
    assert best.timing.runtime == "openvino"
    assert best.ratio == pytest.approx(2)
    remember_measured([measured("onnxruntime", 0.02), measured("openvino", 0.01, "cuda:0"), null])
    assert best_known(Model(path), 8, use="service") is None
