"""OpenVINO behind the interface of a runtime: ONNX Runtime's answers, in float32, from many threads, in silence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_infer import zoo
from resnet_infer.classifier import Classifier, Picture
from resnet_infer.errors import MissingExtraError, ModelError, RuntimeUnavailableError, UsageError
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.utils.cpu import compute_threads
from tests.conftest import PICTURES

pytest.importorskip("onnxruntime", reason="what answers are compared with (the extra `cpu` or `gpu`)")
try:
    from resnet_infer.runtimes import openvino as ours
    from resnet_infer.runtimes.openvino import OpenVinoRuntime
except (ImportError, MissingExtraError):
    pytest.skip("needs OpenVINO (the extra `openvino`)", allow_module_level=True)

ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")
BF16 = "BF16" in ours.CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
Photos = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="module")
def runtime() -> Iterator[OpenVinoRuntime]:
    with OpenVinoRuntime(ARTIFACT) as opened:
        yield opened


@pytest.fixture(scope="module")
def images(photos: Photos) -> NDArray[np.uint8]:
    return photos(24, 32)


@pytest.fixture(scope="module")
def expected(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with open_runtime(ARTIFACT, device="cpu") as reference:
        return reference(images)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, photos: Photos) -> Path:
    """The built-in model in INT8."""
    onnx = pytest.importorskip("onnx", reason="makes an INT8 artifact (the extra `export`)")
    from resnet_infer.converters.precision.calibration import calibrate
    from resnet_infer.converters.precision.int8 import cpu_weight_bits, quantize

    model = onnx.load(ARTIFACT)
    ranges = calibrate(model, ((str(i), view) for i, view in enumerate(photos(32, 32, seed=1))))
    path = tmp_path_factory.mktemp("int8") / "int8.onnx"
    onnx.save(quantize(model, ranges, target="cpu", weight_bits=cpu_weight_bits()), path)
    return path


def test_it_says_how_it_runs(runtime: OpenVinoRuntime) -> None:
    about = runtime.describe()
    assert about.pop("version").startswith("20")
    assert about == {
        "runtime": "openvino",
        "device": "cpu",
        "threads": compute_threads(),
        "precision": "fp32",
        "computes": "f32",
    }
    crop = runtime.spec.input.crop
    assert runtime.size == (crop, crop)


@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.integers(0, 23), max_size=20))
def test_answers_are_those_of_onnx_runtime(
    runtime: OpenVinoRuntime, images: NDArray[np.uint8], expected: NDArray[np.float32], rows: list[int]
) -> None:
    logits = runtime(images[rows])
    assert (logits.dtype, logits.shape) == (np.dtype(np.float32), (len(rows), len(runtime.spec.classes)))
    np.testing.assert_allclose(logits, expected[rows], rtol=0, atol=2e-5 * expected.std())


def test_a_result_is_not_overwritten_by_the_next(runtime: OpenVinoRuntime, images: NDArray[np.uint8]) -> None:
    first = runtime(images[:1])
    kept = first.copy()
    runtime(images[1:2])
    np.testing.assert_array_equal(first, kept)


def test_pictures_may_be_read_only(runtime: OpenVinoRuntime, images: NDArray[np.uint8]) -> None:
    frozen = images[:2].copy()
    frozen.setflags(write=False)
    np.testing.assert_array_equal(runtime(frozen), runtime(images[:2]))


def test_int8_stays_int8(int8: Path, images: NDArray[np.uint8], expected: NDArray[np.float32]) -> None:
    with OpenVinoRuntime(int8) as opened, open_runtime(int8, device="cpu") as reference:
        about = opened.describe()
        assert about["precision"] == "int8"
        assert set(about["computes"].split(", ")) & {"u8", "i8"}
        logits, theirs = opened(images), reference(images)
    own, spread = np.abs(theirs - expected).max(), expected.std()
    # Both round to the same 8 bits; sums may fall to the other side of a step.
    assert np.abs(logits - theirs).max() < max(own, 0.1 * spread)
    assert np.abs(logits - theirs).mean() < 0.03 * spread


# What is computed in


def test_half_precision_only_when_asked_for(images: NDArray[np.uint8], expected: NDArray[np.float32]) -> None:
    if not BF16:
        with pytest.raises(RuntimeUnavailableError, match="this processor has none"):
            OpenVinoRuntime(ARTIFACT, bf16=True)
        return
    with OpenVinoRuntime(ARTIFACT, bf16=True) as opened:
        about = opened.describe()
        assert (about["precision"], about["computes"]) == ("bf16", "bf16")
        off = np.abs(opened(images) - expected).max() / expected.std()
        assert 1e-4 < off < 0.1


@pytest.mark.skipif(not BF16, reason="needs a processor with bfloat16")
def test_what_was_compiled_in_half_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a version that passes over the setting."""
    import openvino

    compile_model = openvino.Core.compile_model

    def without(self: Any, graph: Any, device: str, config: dict[str, Any]) -> Any:
        return compile_model(self, graph, device, {**config, "INFERENCE_PRECISION_HINT": "bf16"})

    monkeypatch.setattr(openvino.Core, "compile_model", without)
    with pytest.raises(RuntimeUnavailableError, match="OpenVINO computes in bf16 here, though float32 was asked for"):
        OpenVinoRuntime(ARTIFACT)


# Threads


@pytest.mark.parametrize("threads", [None, 1])
def test_many_threads_get_their_own_answers(
    threads: int | None, images: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    lanes = 4
    start = Barrier(lanes)
    with OpenVinoRuntime(ARTIFACT, threads=threads) as opened:

        def ask(lane: int) -> None:
            start.wait()
            for number in range(12):
                rows = np.random.default_rng((lane, number)).permutation(len(images))[: 1 + number % 5]
                np.testing.assert_allclose(opened(images[rows]), expected[rows], rtol=0, atol=2e-5 * expected.std())

        with ThreadPoolExecutor(lanes) as pool:
            list(pool.map(ask, range(lanes)))
        assert opened.describe()["threads"] == (threads or compute_threads())


def test_lanes_of_a_classifier_answer_as_one_after_the_other() -> None:
    pictures = [Picture(f"{path.name} {i}", path) for i in range(4) for path in sorted(PICTURES.iterdir())]
    answers = {}
    for runtime, throughput in (("onnxruntime", False), ("openvino", True)):
        with Classifier(runtime=runtime, device="cpu", throughput=throughput) as classifier:
            answers[runtime] = list(classifier.stream(pictures))
    for ours_, theirs in zip(answers["openvino"], answers["onnxruntime"], strict=True):
        assert ours_.source == theirs.source
        assert [item.label for item in ours_.predictions] == [item.label for item in theirs.predictions]
        own, other = ([item.probability for item in answer.predictions] for answer in (ours_, theirs))
        np.testing.assert_allclose(own, other, atol=1e-4)


# What it refuses


def test_a_gpu_is_refused() -> None:
    with pytest.raises(RuntimeUnavailableError, match="cuda:1 was asked for, and the runtime openvino has only the"):
        open_runtime(ARTIFACT, runtime="openvino", device="cuda:1")


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(ARTIFACT.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"damaged\.onnx: OpenVINO cannot load it \(\S+"):
        OpenVinoRuntime(damaged)
    with pytest.raises(ModelError, match=r"missing\.onnx does not exist"):
        OpenVinoRuntime(tmp_path / "missing.onnx")


def test_a_graph_without_a_spec_is_to_be_adopted(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="takes the spec out of an artifact (the extra `export`)")
    model = onnx.load(ARTIFACT)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ModelError, match=r"foreign\.onnx carries no model spec") as caught:
        OpenVinoRuntime(tmp_path / "foreign.onnx")
    assert "resnet-infer import" in str(caught.value.hint)


def test_closed_it_answers_no_more(images: NDArray[np.uint8]) -> None:
    with OpenVinoRuntime(ARTIFACT, threads=1) as opened:
        opened(images[:1])
    with pytest.raises(UsageError, match="was closed"):
        opened(images[:1])


def _script(code: str, folder: Path) -> str:
    """What `code` printed, run by an interpreter of its own whose home is `folder`."""
    environment = {
        **os.environ,
        "HOME": str(folder),
        "USERPROFILE": str(folder),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs the signals of a Unix")
def test_signals_arrive_after_models_were_closed_in_the_order_they_came(tmp_path: Path) -> None:
    code = """
import os, signal
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.zoo import SMALL, built_in
signal.signal(signal.SIGUSR1, lambda number, frame: print("arrived"))
opened = [open_runtime(built_in(SMALL, ".onnx"), runtime="openvino") for _ in range(3)]
for runtime in opened:
    runtime.close()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    assert _script(code, tmp_path) == "arrived\n"


def test_threads_whose_first_calls_come_at_once_do_not_wait_for_each_other(tmp_path: Path) -> None:
    code = """
import os, threading
from resnet_infer.runtimes import openvino as ours
together = threading.Barrier(8)
def first():
    together.wait()
    ours.openvino.Type.u8.to_dtype()  # what a call begins with
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("done")
"""
    assert _script(code, tmp_path) == "done\n"


def test_nothing_is_reported_and_no_file_is_left(tmp_path: Path) -> None:
    code = """
import json, sys
import numpy
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.zoo import SMALL, built_in
with open_runtime(built_in(SMALL, ".onnx"), runtime="openvino") as runtime:
    runtime(numpy.zeros((1, 32, 32, 3), numpy.uint8))
print(json.dumps([name for name in sys.modules if "telemetry" in name or name.startswith("openvino.tools")]))
"""
    assert json.loads(_script(code, tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_service_answers_many_at_a_time(images: NDArray[np.uint8], expected: NDArray[np.float32]) -> None:
    from resnet_infer.serving.inference.deployment import Deployment
    from resnet_infer.serving.settings import Settings

    deployment = Deployment(Settings(model=str(ARTIFACT), runtime="openvino", device="cpu"))
    try:
        futures = [deployment.infer(images[i : i + 1 + i % 3], timeout=60) for i in range(20)]
        for i, future in enumerate(futures):
            logits = future.result(60).result
            assert isinstance(logits, np.ndarray)
            np.testing.assert_allclose(logits, expected[i : i + 1 + i % 3], rtol=0, atol=2e-5 * expected.std())
    finally:
        deployment.close()
