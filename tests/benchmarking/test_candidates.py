"""`--target auto`: what is tried, what is kept, and what is said of the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

from resnet_infer import zoo  # noqa: E402
from resnet_infer.benchmarking.candidates import (  # noqa: E402
    TIMING,
    Artifact,
    Candidate,
    Trial,
    candidates,
    choose,
    report,
    time_candidates,
)
from resnet_infer.benchmarking.latency.paired_run import Measured  # noqa: E402
from resnet_infer.benchmarking.latency.subjects import Entry, Subject  # noqa: E402
from resnet_infer.errors import ResnetInferError  # noqa: E402
from resnet_infer.models.spec import Precision  # noqa: E402
from resnet_infer.runtimes.registry import get_runtime  # noqa: E402
from resnet_infer.selection.profile import ALIKE  # noqa: E402

ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")
FP32, FP16, INT8 = Path("a.onnx"), Path("b.onnx"), Path("c.onnx")
PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def provide(monkeypatch: pytest.MonkeyPatch, providers: list[str], openvino: bool = False) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr("resnet_infer.runtimes.nvidia.obstacles.obstacle", lambda provider: None)
    rows = [get_runtime("openvino")] if openvino else []
    monkeypatch.setattr("resnet_infer.benchmarking.candidates.cpu_runtimes", lambda suffix: rows)


def trial(
    path: Path, precision: Precision, threads: int, rounds: Any, failure: str | None = None, runtime: str = "auto"
) -> Trial:
    subject = Subject(path, runtime, threads=threads)
    return Trial(Candidate(f"{precision} {threads}", precision, subject), 1, tuple(rounds), {}, failure)


def test_on_a_cpu_one_half_and_all_cores_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, PROVIDERS[2:])
    for cores, threads in ((1, [1]), (2, [1, 2]), (3, [1, 3]), (16, [1, 8, 16])):
        found = candidates([Artifact(FP32, "fp32"), Artifact(INT8, "int8", ("cpu",))], cores=cores)
        assert [item.subject.threads for item in found] == 2 * threads
        assert {item.subject.device for item in found} == {"cpu"}
        assert len({item.name for item in found}) == len(found)
        assert [item.artifact for item in found] == [FP32] * len(threads) + [INT8] * len(threads)


def test_openvino_is_tried_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, PROVIDERS, openvino=True)
    found = candidates([Artifact(FP32, "fp32", ("cuda",)), Artifact(INT8, "int8", ("cpu",))], cores=2)
    assert [(item.name, item.subject.runtime, item.subject.threads) for item in found[1:]] == [
        ("int8, cpu, 1 thread", "auto", 1),
        ("int8, openvino, 1 thread", "openvino", 1),
        ("int8, cpu, 2 threads", "auto", 2),
        ("int8, openvino, 2 threads", "openvino", 2),
    ]


def test_of_what_is_as_fast_the_runtime_taken_unasked_is_kept() -> None:
    usual = trial(INT8, "int8", 2, [10.2, 10.2, 10.2])
    other = trial(INT8, "int8", 1, [10, 10, 10], runtime="openvino")
    faster = trial(INT8, "int8", 2, [8, 8, 8], runtime="openvino")
    assert choose([usual, other], {INT8}) is usual
    assert choose([usual, other, faster], {INT8}) is faster


def test_a_graph_is_tried_where_it_may_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    provide(monkeypatch, PROVIDERS)
    artifacts = [
        Artifact(FP16, "fp16"),
        Artifact(INT8, "int8", ("tensorrt",)),
        Artifact(Path("d.engine"), "int8"),
    ]
    found = candidates(artifacts, cores=1, engine_cache=tmp_path)
    cached = {"provider": "tensorrt", "engine_cache": tmp_path}
    assert [(item.name, item.subject) for item in found] == [
        ("fp16, cpu, 1 thread", Subject(FP16, device="cpu", threads=1)),
        ("fp16, onnxruntime cuda", Subject(FP16, device="cuda", options={"provider": "cuda"})),
        ("fp16, onnxruntime tensorrt", Subject(FP16, device="cuda", options=cached)),
        ("int8, onnxruntime tensorrt", Subject(INT8, device="cuda", options=cached)),
        ("int8, engine", Subject(Path("d.engine"))),
    ]


def test_the_winner_of_a_real_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the provider of CUDA in the list, whether it starts here or not."""
    provide(monkeypatch, PROVIDERS[1:])
    missing = tmp_path / "missing.onnx"
    found = candidates([Artifact(ARTIFACT, "fp32"), Artifact(missing, "int8", ("cpu",))], cores=1)
    trials = time_candidates(found, 2, settings=replace(TIMING, rounds=1))
    assert len(trials) == 3
    best = choose(trials, [ARTIFACT, missing])
    assert best.candidate.artifact == ARTIFACT
    shown = report(trials, [ARTIFACT, missing], best).splitlines()
    assert shown[1].endswith("chosen")
    assert sum("failed: " in line and "missing.onnx does not exist" in line for line in shown) == 1
    assert all(item.rounds or item.failure for item in trials)
    assert json.loads(json.dumps(best.to_json()))["ms"] > 0


def test_the_figures_of_a_trial() -> None:
    entry = Entry("it", Subject(FP32, options={"provider": "tensorrt", "engine_cache": Path("engines")}), 4)
    item = Measured(entry, about={"opened": {"threads": 1}})
    nothing = Trial.of(Candidate("it", "fp32", entry.subject), item)
    assert (nothing.ms, nothing.spread, nothing.pictures_per_second) == (float("inf"), (float("inf"),) * 2, 0)
    shown = json.loads(json.dumps(nothing.to_json()))
    assert "ms" not in shown
    assert shown["options"]["engine_cache"] == "engines"
    item.rounds["inference"] = [np.array(times) for times in ([0.003, 0.9, 0.002], [0.001], [0.002, 0.002])]
    found = Trial.of(Candidate("it", "fp32", entry.subject), item)
    assert (found.ms, found.spread, found.pictures_per_second) == (2, (1, 3), 2000)
    shown = json.loads(json.dumps(found.to_json()))
    assert (shown["batch"], shown["opened"], shown["failure"]) == (4, {"threads": 1}, None)
    assert (shown["ms"], shown["ms_rounds"], shown["pictures_per_second"]) == (2, [3, 1, 2], 2000)
    assert found.ratio(trial(FP32, "fp32", 1, [1.5, 0.25])) == 3  # 3/1.5, 1/0.25: of the rounds that both were in


@given(
    st.lists(
        st.tuples(
            st.sampled_from([FP32, FP16, INT8]),
            st.integers(1, 4),
            st.lists(st.floats(0.9, 1.1), min_size=3, max_size=3),
            st.sampled_from([None, None, "it crashed"]),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sets(st.sampled_from([FP32, FP16, INT8])),
)
def test_the_fastest_that_passes_or_what_is_as_fast_and_better(rows: list[Any], passed: set[Path]) -> None:
    precisions = dict(zip((FP32, FP16, INT8), get_args(Precision), strict=True))
    trials = [trial(path, precisions[path], threads, rounds, why) for path, threads, rounds, why in rows]
    able = [item for item in trials if item.failure is None and item.candidate.artifact in passed]
    if not able:
        with pytest.raises(ResnetInferError, match=r"nothing can be kept; (fp32|fp16|int8)"):
            choose(trials, passed)
        return
    best = choose(trials, passed)
    assert best in able
    fastest = min(able, key=lambda item: item.ms)

    def rank(item: Trial) -> tuple[int, int]:
        return get_args(Precision).index(item.candidate.precision), item.candidate.subject.threads or 0

    even = [item for item in able if item is fastest or item.ratio(fastest) <= ALIKE]
    assert best in even
    assert rank(best) == min(map(rank, even))


def test_speed_decides_unless_it_is_even() -> None:
    full = trial(FP32, "fp32", 2, [10, 30, 20])
    quick = trial(INT8, "int8", 2, [5, 15, 10])
    even = trial(INT8, "int8", 1, [9.9, 29.7, 19.8])
    everything = {FP32, INT8}
    assert choose([full, quick], everything) is quick
    assert choose([full, quick], {FP32}) is full  # INT8 misses its gate
    assert choose([full, even], everything) is full
    assert choose([even, quick], everything) is quick
    shown = report([full, quick], {FP32}, full).splitlines()
    assert "costs too much accuracy" in shown[1]
    assert "chosen" in shown[2]


def test_a_gpu_that_cannot_be_used_is_no_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime names the providers that it was built with, on machines without a GPU too."""
    provide(monkeypatch, PROVIDERS)
    everywhere = {item.subject.device for item in candidates([Artifact(tmp_path / "a.onnx", "fp32")], cores=1)}
    monkeypatch.setattr("resnet_infer.runtimes.nvidia.obstacles.obstacle", lambda provider: "no driver")
    here = {item.subject.device for item in candidates([Artifact(tmp_path / "a.onnx", "fp32")], cores=1)}
    assert (everywhere, here) == ({"cpu", "cuda"}, {"cpu"})
