"""How many cores this process may use, and that everything which computes is told."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer import zoo
from resnet_infer.classifier import Classifier
from resnet_infer.runtimes.registry import open_runtime
from resnet_infer.utils import cpu, host_memory
from resnet_infer.utils.parallel import parallel_map

COUNTS = st.integers(1, 256)


@given(cores=COUNTS, machine=COUNTS, quota=st.none() | st.floats(0.001, 300), stated=st.none() | COUNTS)
def test_the_least_of_cores_quota_and_what_the_user_states(
    cores: int, machine: int, quota: float | None, stated: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        patch.setattr(os, "cpu_count", lambda: machine)
        patch.setattr(os, "process_cpu_count", lambda: stated, raising=False)
        patch.setattr(cpu, "cpu_quota", lambda: quota)
        usable = cpu.usable_cores()
        assert usable == min(cores, math.ceil(quota or cores), stated or cores)
        assert 1 <= cpu.compute_threads() <= usable
        assert cpu.machine_cores() == machine
        patch.delattr(os, "sched_getaffinity")
        assert cpu.usable_cores() == min(machine, math.ceil(quota or machine), stated or machine)


def test_the_halves_of_a_core_compute_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, siblings in enumerate(["0,4", "1,5", "2,6", "3,7"] * 2):
        (tmp_path / f"cpu{number}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{number}" / "topology" / "thread_siblings_list").write_text(f"{siblings}\n")
    monkeypatch.setattr(cpu, "_CORES", tmp_path)
    monkeypatch.setattr(cpu, "cpu_quota", lambda: None)
    monkeypatch.setattr(os, "process_cpu_count", lambda: None, raising=False)
    for cores, threads in ((range(8), 4), ([0, 4], 1), ([0, 1, 4], 2), ([9], 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(cores), raising=False)
        assert (cpu.usable_cores(), cpu.compute_threads()) == (len(cores), threads)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a core of time, on a machine of 64."""
    monkeypatch.setattr(cpu, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_every_runtime_computes_on_what_the_quota_allows(half: None, runtime: str) -> None:
    pytest.importorskip(runtime, reason=f"opens the runtime {runtime}")
    name = "resnet20-cifar10"
    with open_runtime(zoo.checkpoint(name) if runtime == "torch" else zoo.artifact(name), runtime=runtime) as opened:
        if opened.device == "cpu":
            assert opened.describe()["threads"] == 1
    with Classifier(name, runtime=runtime, device="cpu", throughput=True) as many:
        assert many.lanes == 1


def test_every_session_of_onnx_runtime_is_told_its_threads(half: None) -> None:
    pytest.importorskip("onnxruntime", reason="makes options of ONNX Runtime")
    from resnet_infer.runtimes import ort_session

    options = ort_session.session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_torch_has_no_more_threads_while_it_trains(half: None) -> None:
    torch = pytest.importorskip("torch", reason="the extra `train`")
    from resnet_infer.training.device import bounded_threads

    before = torch.get_num_threads()
    with bounded_threads():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_service_has_threads_for_what_the_quota_allows(half: None) -> None:
    pytest.importorskip("onnxruntime", reason="opens a model")
    from resnet_infer.serving.inference.deployment import Deployment
    from resnet_infer.serving.settings import Settings

    before = set(threading.enumerate())
    deployment = Deployment(Settings(model="resnet20-cifar10", device="cpu"))
    try:
        assert len(set(threading.enumerate()) - before) == 2  # one infers, the other prepares
    finally:
        deployment.close()


def test_libraries_of_a_command_begin_with_as_many_threads(half: None, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    cpu.limit_libraries()
    assert [os.environ[name] for name in names] == ["1", "1", "7"]
    for name in names:
        monkeypatch.delenv(name)
    monkeypatch.setattr(cpu, "cpu_quota", lambda: None)
    cpu.limit_libraries()
    assert not set(names) & set(os.environ)


def test_pictures_are_decoded_in_as_many_threads(half: None) -> None:
    names = set(parallel_map(lambda _: threading.current_thread().name, range(100)))
    assert len(names) == 1


def test_the_least_of_the_machines_memory_and_the_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    physical, free = host_memory.physical_memory(), host_memory.free_memory()
    assert physical is None or physical > 1 << 26
    assert free > 0
    for limit, left in ((1 << 26, 1 << 20), (1 << 62, 1 << 62)):
        monkeypatch.setattr(host_memory, "memory_limit", lambda limit=limit: limit)
        monkeypatch.setattr(host_memory, "memory_left", lambda left=left: left)
        assert host_memory.total_memory() == min(limit, physical or limit)
        assert host_memory.free_memory() <= left
    monkeypatch.setattr(host_memory, "memory_limit", lambda: None)
    monkeypatch.setattr(host_memory, "memory_left", lambda: None)
    assert host_memory.total_memory() == physical
    monkeypatch.setattr(host_memory, "_available", lambda: None)
    assert host_memory.free_memory() == (physical or host_memory.UNKNOWN_FREE)
