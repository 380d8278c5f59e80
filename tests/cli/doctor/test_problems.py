"""The table of problems: a healthy report has none, and each row finds its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resnet_infer.cli.doctor import problems as table
from resnet_infer.cli.doctor.problems import CHECKS, Check, problems

HEALTHY: dict[str, Any] = {
    "onnxruntime": None,
    "imports": {"onnxruntime": {"step": "import"}},
    "outside_range": [],
    "runtimes": [
        {"runtime": "onnxruntime", "device": "cpu", "answers": True, "built_for_cuda": True},
        {"runtime": "onnxruntime", "device": "cuda", "error": "no driver", "built_for_cuda": True},
    ],
    "gpus": [],
    "nvidia": {"gpus": []},
    "cache": {"folder": "/c", "error": None, "hint": None, "writable": True, "damaged": []},
    "temporary_folder": "/tmp",
    "memory_free_gb": 2.0,
    "default_model": {"variable": None, "exists": True},
    "builtin_damaged": [],
    "devices": ["cpu"],
}
GPU = {"name": "H100", "driver_version": "470.1"}
CACHE = HEALTHY["cache"]
ILL: dict[str, tuple[dict[str, Any], str]] = {
    "import-fails": ({"imports": {"onnx": {"error": "onnx is broken", "hint": "mend it"}}}, "onnx is broken"),
    "version-not-supported": ({"outside_range": [("numpy", "1.25", ">=1.26")]}, "numpy 1.25 is installed"),
    "no-runtime": ({"devices": [], "runtimes": [], "imports": {"onnx": {"step": "import"}}}, "no runtime is installed"),
    "model-damaged": ({"builtin_damaged": ["/m.onnx"]}, "the built-in model /m.onnx is damaged"),
    "runtime-fails": (
        {"runtimes": [{"runtime": "onnxruntime", "device": "cpu", "error": "wrong", "built_for_cuda": False}]},
        "wrong",
    ),
    "gpu-not-usable": ({"gpus": [GPU]}, "does not use the GPU (H100, driver 470.1): no driver"),
    "cache-not-usable": ({"cache": {**CACHE, "error": "no home", "writable": False}}, "no home"),
    "cache-not-writable": ({"cache": {**CACHE, "writable": False}}, "the cache, /c, cannot be written"),
    "cache-damaged": ({"cache": {**CACHE, "damaged": ["/c/x.onnx"]}}, "/c/x.onnx is damaged"),
    "no-temporary-folder": ({"temporary_folder": None}, "no temporary folder"),
    "little-memory": ({"memory_free_gb": 0.1}, "only 0.1 GB"),
    "model-missing": ({"default_model": {"variable": "/m.onnx", "exists": False}}, "names /m.onnx"),
}
"""Row of the table -> what differs from a healthy report, and a part of the message."""


@pytest.fixture(autouse=True)
def one_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "writers", lambda _: [])


def test_a_healthy_report_has_no_problems() -> None:
    assert problems(HEALTHY) == []


@pytest.mark.parametrize("name", ILL)
def test_a_row_finds_its_problem_and_no_other_row_does(name: str) -> None:
    change, told = ILL[name]
    (found,) = problems({**HEALTHY, **change})
    assert found["name"] == name
    assert told in found["message"]
    assert found["remedy"]
    assert "{" not in found["message"] + found["remedy"]


def test_every_row_is_tried_here() -> None:
    assert {row.name for row in CHECKS} == {*ILL, "two-distributions"}
    assert len({row.name for row in CHECKS}) == len(CHECKS)


def test_two_distributions_of_a_module_are_named_with_who_wrote_what(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["onnxruntime 1.26.0", "onnxruntime-gpu 1.27.0"]
    monkeypatch.setattr(table, "writers", lambda module: both if module == "onnxruntime" else [])
    owners = {"__init__.py": "onnxruntime-gpu", "x.so": "onnxruntime"}
    (found,) = problems({**HEALTHY, "onnxruntime": {"files_of": owners}})
    assert found["message"] == (
        "onnxruntime 1.26.0 and onnxruntime-gpu 1.27.0 write into the same folder, onnxruntime, so that what is "
        "imported is a mixture (__init__.py is that of onnxruntime-gpu, x.so is that of onnxruntime)"
    )
    assert 'pip install "resnet-infer[cpu]" or ' in found["remedy"]


def test_the_same_problem_of_two_packages_is_told_once() -> None:
    event = {"error": "numpy is broken", "hint": "mend it"}
    assert len(problems({**HEALTHY, "imports": {"numpy": event, "onnx": event}})) == 1


def test_a_gpu_that_the_driver_lists_needs_no_nvidia_smi() -> None:
    (found,) = problems({**HEALTHY, "nvidia": {"gpus": ["H200"]}})
    assert "does not use the GPU (H200): no driver" in found["message"]


def test_a_runtime_for_cpus_on_a_machine_with_a_gpu_is_no_problem() -> None:
    rows = [{"runtime": "onnxruntime", "device": "cuda", "error": "no CUDA", "built_for_cuda": False}]
    assert problems({**HEALTHY, "gpus": [GPU], "runtimes": rows}) == []


def test_a_problem_is_added_by_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[[table.Report], Any] = lambda report: [{"size": report["memory_free_gb"]}]  # noqa: E731
    monkeypatch.setattr(table, "CHECKS", (*CHECKS, Check("toy", find, "a toy of {size} GB", "put it away")))
    assert problems(HEALTHY) == [{"name": "toy", "message": "a toy of 2.0 GB", "remedy": "put it away"}]


def test_packages_that_fail_for_one_reason_are_one_problem_with_the_cause_first() -> None:
    hint = "numpy is missing or incomplete; it comes with: pip install numpy"
    imports = {
        "onnxruntime": {"error": "onnxruntime needs numpy", "hint": hint},
        "numpy": {"error": "there is no numpy", "hint": hint},
        "onnx": {"error": "onnx is another matter", "hint": "mend onnx"},
    }
    first, second = problems({**HEALTHY, "imports": imports})
    assert first["message"] == "there is no numpy; for the same reason: onnxruntime"
    assert (first["remedy"], second["remedy"]) == (hint, "mend onnx")
