"""TensorRT engines behind the interface of a runtime, on a machine whose GPU and TensorRT are fakes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_infer.errors import ModelError, ResnetInferError, RuntimeUnavailableError, UsageError
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.runtimes.tensorrt.engine_file import sidecar_path

pytest.importorskip("onnx", reason="makes the engines (the extra `export`)")
pytest.importorskip("onnxruntime", reason="answers for the engines (the extra `cpu`)")

from tests.tensorrt import machine as machines
from tests.tensorrt.fake_driver import Code
from tests.tensorrt.fake_tensorrt import open_session
from tests.tensorrt.graphs import CLASSES, SIZE, small
from tests.tensorrt.machine import Machine

pytestmark = pytest.mark.usefixtures("notes_on_stderr")

MODEL = small()
PICTURES = np.random.default_rng(0).integers(0, 256, (23, SIZE, SIZE, 3), np.uint8)
FREES = {"cuMemFree", "cuMemFreeHost", "cuStreamDestroy", "cuGraphDestroy", "cuGraphExecDestroy"}
FREES |= {"cuCtxPopCurrent", "cuDevicePrimaryCtxRelease"}
shared_fixture = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield from machines.install(monkeypatch)


@pytest.fixture
def engine(machine: Machine, tmp_path: Path) -> Path:
    """An engine for batches of 2 to 4 pictures."""
    return build(tmp_path / "model.engine")


def build(path: Path, **options: Any) -> Path:
    from resnet_infer.converters.tensorrt.export import BuildOptions, build_engine

    build_engine(
        MODEL,
        path,
        precision="fp32",
        options=BuildOptions(**{"min_batch": 2, "opt_batch": 3, "max_batch": 4, **options}),
    )
    return path


def open_engine(path: Path, **options: Any) -> Any:
    from resnet_infer.runtimes.tensorrt.runtime import TensorRTRuntime

    return TensorRTRuntime(path, **options)


def truth(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = open_session(MODEL).run(None, {"images": images})[0]
    return logits


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_any_batch_is_answered_as_by_the_graph_itself(engine: Path, machine: Machine, cuda_graph: bool) -> None:
    expected = truth(PICTURES)

    with open_engine(engine, cuda_graph=cuda_graph) as runtime:

        @shared_fixture
        @given(st.lists(st.integers(0, len(PICTURES) - 1), max_size=11))
        def check(order: list[int]) -> None:
            machine.seen.clear()
            logits = runtime(PICTURES[order])
            assert logits.dtype == np.float32
            np.testing.assert_allclose(logits, expected[order].reshape(-1, CLASSES), rtol=1e-4, atol=1e-3)
            # As few batches as there can be, none larger than 4, the last one filled up to 2 or 4.
            rest = len(order) % 4
            assert machine.seen == [4] * (len(order) // 4) + [4 if rest == 3 else 2] * (rest > 0)

        check()
    machine.assert_clean()


def test_answers_are_not_overwritten_by_the_next(engine: Path) -> None:
    with open_engine(engine) as runtime:
        first = runtime(PICTURES[:3])
        kept = first.copy()
        runtime(PICTURES[3:6])
        np.testing.assert_array_equal(first, kept)
        read_only = PICTURES[:3].copy()
        read_only.flags.writeable = False
        np.testing.assert_array_equal(runtime(read_only[::-1]), kept[::-1])


def test_pictures_are_transferred_as_for_a_call_and_nothing_is_run(engine: Path, machine: Machine) -> None:
    calls = machine.driver.calls
    with open_engine(engine) as runtime:
        machine.seen.clear()
        calls.clear()
        assert runtime.transfer(PICTURES[:11])
        moved = [name for name in calls if name.startswith(("cuMemcpy", "cuStream", "cuGraph"))]
        assert moved == ["cuMemcpyHtoDAsync", "cuStreamSynchronize"] * 3  # of 4, 4 and 3
        assert machine.seen == []
    machine.assert_clean()


def test_a_size_of_batch_is_run_once_then_captured_then_launched(engine: Path, machine: Machine) -> None:
    calls = machine.driver.calls
    with open_engine(engine) as runtime:
        calls.clear()
        runtime(PICTURES[:3])
        once = [name for name in calls if name.startswith(("cuMemcpy", "cuStream", "cuGraph"))]
        work = ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"]
        ended = ["cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy"]
        assert once == [*work, "cuStreamSynchronize", "cuStreamBeginCapture", *work, *ended]
        for _ in range(2):
            calls.clear()
            runtime(PICTURES[:3])
            assert calls == ["cuCtxPushCurrent", "cuGraphLaunch", "cuStreamSynchronize", "cuCtxPopCurrent"]
        calls.clear()
        runtime(PICTURES[:4])  # to which 3 were padded
        assert "cuGraphLaunch" in calls
        calls.clear()
        runtime(PICTURES[:2])  # another size
        assert "cuGraphLaunch" not in calls


def test_few_graphs_are_kept_and_the_one_used_longest_ago_goes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from resnet_infer.runtimes.tensorrt import runtime as module

    monkeypatch.setattr(module, "SIZES", 3)
    path = build(tmp_path / "model.engine", min_batch=1, opt_batch=1, max_batch=20)
    with open_engine(path) as runtime:
        for count in (1, 2, 4, 1, 8):
            np.testing.assert_allclose(runtime(PICTURES[:count]), truth(PICTURES[:count]), rtol=1e-4, atol=1e-3)
        assert sum(kind == "executable graph" for kind, _ in machine.driver.held.values()) == 3
        machine.driver.calls.clear()
        runtime(PICTURES[:1])
        assert "cuGraphLaunch" in machine.driver.calls  # 2 gave way, 1 did not
        machine.driver.calls.clear()
        runtime(PICTURES[:2])
        assert "cuGraphLaunch" not in machine.driver.calls
    machine.assert_clean()


def test_random_batches_make_few_contexts(machine: Machine, tmp_path: Path) -> None:
    path = build(tmp_path / "model.engine", min_batch=1, opt_batch=8, max_batch=32)
    pictures = np.resize(PICTURES, (32, SIZE, SIZE, 3))
    with open_engine(path) as runtime:
        for count in np.random.default_rng(0).integers(1, 33, 100):
            np.testing.assert_allclose(runtime(pictures[:count]), truth(pictures[:count]), rtol=1e-4, atol=1e-3)
        assert machine.driver.calls.count("cuGraphInstantiate") == 6  # 1, 2, 4, 8, 16, 32
    machine.assert_clean()


@pytest.mark.parametrize("broken", ["cuStreamEndCapture", "cuGraphInstantiate", "the engine"])
def test_what_cannot_be_captured_runs_without_graphs(
    engine: Path, machine: Machine, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_engine(engine) as runtime:
        if broken == "the engine":
            machine.capturable = False
        else:
            machine.driver.failing[broken] = Code.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        for _ in range(3):
            np.testing.assert_allclose(runtime(PICTURES[:3]), truth(PICTURES[:3]), rtol=1e-4, atol=1e-3)
        assert runtime.describe()["cuda_graph"] is False
    assert capsys.readouterr().err.count("runs without CUDA graphs") == 1


def test_tensorrt_8_runs_several_sizes_in_contexts_that_share_the_profile(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machines.set_version(machine, monkeypatch, "8.6.1")
    path = build(tmp_path / "model.engine", min_batch=1, opt_batch=3, max_batch=8)
    with open_engine(path) as runtime:
        for count in (1, 8, 3, 1):
            np.testing.assert_allclose(runtime(PICTURES[:count]), truth(PICTURES[:count]), rtol=1e-4, atol=1e-3)
        assert runtime.cuda_graph
    machine.assert_clean()


def test_an_engine_of_tensorrt_8_that_does_not_share_its_profile_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machines.set_version(machine, monkeypatch, "8.6.1")
    monkeypatch.setattr("tests.tensorrt.fake_tensorrt.Config.set_preview_feature", lambda *arguments: None)
    with open_engine(build(tmp_path / "model.engine")) as runtime:
        runtime(PICTURES[:3])
        with pytest.raises(ModelError, match=r"runs it for one batch size only .Profile 0 has been chosen") as caught:
            runtime(PICTURES[:2])
        assert "export it again" in str(caught.value.hint)
        del caught  # its traceback holds the context
    machine.assert_clean()


def test_threads_wait_for_each_other(engine: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = truth(PICTURES)
    parts = [slice(i, i + 3) for i in range(20)]
    with open_engine(engine) as runtime, ThreadPoolExecutor(4) as pool:
        launch = runtime._gpu.launch

        def launch_slowly(graph: Any) -> None:
            launch(graph)
            time.sleep(0.001)

        monkeypatch.setattr(runtime._gpu, "launch", launch_slowly)
        for part, logits in zip(parts, pool.map(lambda part: runtime(PICTURES[part]), parts), strict=True):
            np.testing.assert_allclose(logits, expected[part], rtol=1e-4, atol=1e-3)


def test_a_call_that_waited_while_another_closed_is_refused(engine: Path) -> None:
    with open_engine(engine) as runtime, ThreadPoolExecutor(1) as pool:
        with runtime._lock:
            waiting = pool.submit(runtime, PICTURES)
            runtime.closed = True
        with pytest.raises(UsageError, match="was closed"):
            waiting.result()


def test_it_says_what_it_is(engine: Path) -> None:
    with open_runtime(engine, device="cuda:0") as runtime:
        assert runtime.size == (SIZE, SIZE)
        assert runtime.describe() == {
            "runtime": "tensorrt",
            "device": "cuda:0",
            "version": "10.3.0",
            "gpu": "NVIDIA Test GPU",
            "precision": "fp32",
            "batch": "2-4",
            "cuda_graph": True,
        }
        with pytest.raises(UsageError, match="takes pictures of"):
            runtime(np.zeros((2, SIZE, SIZE + 1, 3), np.uint8))
    runtime.close()
    with pytest.raises(UsageError, match="was closed"):
        runtime(PICTURES)


def test_a_second_gpu_is_used_if_it_is_asked_for(machine: Machine, engine: Path) -> None:
    machine.driver.devices *= 2
    with open_engine(engine, device="cuda:1") as runtime:
        assert runtime.device == "cuda:1"
        assert ("context", 1) in machine.driver.held.values()


# Failures: a clear error, and nothing left


def test_whatever_fails_leaves_nothing(engine: Path, machine: Machine) -> None:
    machine.driver.calls.clear()
    with open_engine(engine) as runtime:
        runtime(PICTURES[:3])
        runtime(PICTURES[:3])
    used = set(machine.driver.calls) - FREES
    assert {"cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuGraphLaunch", "cuStreamSynchronize"} <= used
    uncaptured = {"cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch"}
    for name in sorted(used - uncaptured):
        machine.driver.failing[name] = Code.CUDA_ERROR_ILLEGAL_ADDRESS
        with pytest.raises(ResnetInferError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS"), open_engine(engine) as runtime:
            runtime(PICTURES[:3])
        machine.driver.failing.clear()
        machine.assert_clean()


@pytest.mark.parametrize("what", ["load_error", "context_error"])
def test_what_tensorrt_refuses_is_said_with_its_reason(engine: Path, machine: Machine, what: str) -> None:
    setattr(machine, what, "Error Code 2: OutOfMemory")
    with pytest.raises(ResnetInferError, match=r"model\.engine: TensorRT cannot .* \(Error Code 2: OutOfMemory\)"):
        open_engine(engine)
    machine.assert_clean()


def test_a_reason_is_none_of_earlier_work(engine: Path, machine: Machine) -> None:
    from resnet_infer.runtimes.tensorrt.library import process_logger

    tensorrt = sys.modules["tensorrt"]
    logger = process_logger(tensorrt)
    logger.log(tensorrt.ILogger.Severity.ERROR, "an error of a build that went well")
    with open_engine(engine) as runtime:
        assert runtime._engine.logger is logger  # TensorRT keeps the first
        logger.log(tensorrt.ILogger.Severity.ERROR, "another")
        machine.context_error = "no memory"
        with pytest.raises(ResnetInferError, match="no memory"):
            runtime(PICTURES[:2])
    for number in range(100):
        logger.log(tensorrt.ILogger.Severity.ERROR, str(number))
    assert len(logger.errors) < 100
    assert logger.reason() == "0"
    assert logger.reason() == "it does not say why"


def test_layers_are_not_marked_in_every_call(engine: Path) -> None:
    with open_engine(engine) as runtime:
        (sized,) = runtime._sizes.values()
        assert sized._context.nvtx_verbosity.name == "NONE"


def test_too_little_memory_is_said_in_numbers(engine: Path, machine: Machine) -> None:
    machine.driver.memory = 800
    with pytest.raises(RuntimeUnavailableError, match=r"0\.0 MB do not fit on NVIDIA Test GPU: 0 of 0 MB are free"):
        open_engine(engine)
    machine.assert_clean()


def test_a_gpu_that_breaks_is_said_and_can_be_closed(engine: Path, machine: Machine) -> None:
    runtime = open_engine(engine)
    machine.driver._broken = True
    for _ in range(2):
        with pytest.raises(RuntimeUnavailableError, match="cuStreamSynchronize gave CUDA_ERROR_ILLEGAL_ADDRESS"):
            runtime(PICTURES[:3])
    machine.driver.failing["cuCtxPushCurrent"] = Code.CUDA_ERROR_ILLEGAL_ADDRESS
    runtime.close()


def test_without_a_gpu_tensorrt_is_not_touched(engine: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # importing it would fail
    with pytest.raises(RuntimeUnavailableError, match="a TensorRT engine runs on an NVIDIA GPU only") as caught:
        open_engine(engine, device="cpu")
    assert "--format onnx" in str(caught.value.hint)
    machine.driver.devices.clear()
    with pytest.raises(RuntimeUnavailableError, match="there is no GPU 0"):
        open_engine(engine)
    machine.assert_clean()


# The sidecar


def test_all_that_differs_is_named_before_tensorrt_sees_the_file(
    engine: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.set_version(machine, monkeypatch, "11.4.0")
    machine.driver.devices = [("NVIDIA Other GPU", (8, 6))]
    monkeypatch.setattr(sys.modules["tensorrt"], "Runtime", None)
    with pytest.raises(
        ModelError, match=r"model\.engine does not run here: it was built by TensorRT 10\.3\.0"
    ) as caught:
        open_engine(engine)
    assert "NVIDIA Test GPU (compute capability 9.0), and this is NVIDIA Other GPU (compute" in caught.value.message
    assert "export it again" in str(caught.value.hint)
    machine.assert_clean()


def test_a_version_compatible_engine_may_bring_its_own_runtime(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = build(tmp_path / "model.engine", version_compatible=True)
    machines.set_version(machine, monkeypatch, "10.16.1.11")
    with open_engine(path) as runtime:
        np.testing.assert_allclose(runtime(PICTURES), truth(PICTURES), rtol=1e-4, atol=1e-3)


def test_files_that_are_missing_or_not_each_others_are_named(engine: Path, machine: Machine) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.engine does not exist"):
        open_engine(engine.with_name("nowhere.engine"))
    content = engine.read_bytes()
    engine.write_bytes(content[:-1])
    with pytest.raises(ModelError, match=r"model\.engine is damaged, or model\.engine\.json belongs to another"):
        open_engine(engine)
    engine.write_bytes(content)
    sidecar_path(engine).unlink()
    with pytest.raises(ModelError, match=r"model\.engine lacks its sidecar model\.engine\.json"):
        open_engine(engine)
