"""Packages that crash, hang, print or raise when they are imported: each is reported, and the command goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer.cli.doctor import probe as module
from resnet_infer.cli.doctor.probe import Event, packages, probe, run_child, steps
from resnet_infer.runtimes.registry import RUNTIMES, RuntimeInfo
from resnet_infer.utils.extras import EXTRAS

Plant = Callable[..., list[Event]]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Put a package of this source in front of the search path, and examine it."""
    monkeypatch.syspath_prepend(tmp_path)

    def examined(source: str, name: str = "matplotlib", limit: float = 60.0) -> list[Event]:
        (tmp_path / f"{name}.py").write_text(source)
        return run_child(name, limit=limit)

    return examined


def test_all_packages_of_all_extras_are_imported() -> None:
    assert {name for names in EXTRAS.values() for name in names} < packages().keys()
    assert {"numpy", "PIL"} < packages().keys()
    for row in RUNTIMES:
        if row.extra is not None:
            assert steps(row.name) == ["import", *row.devices]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "was ended by SIGILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        ("import os; os.write(2, b'no GPU here\\n'); os._exit(3)", "ended with code 3: no GPU here"),
        ("import sys; sys.exit('I give up')", "ended with code 1: I give up"),
        ("raise ImportError('libx.so.3: cannot open shared object file')", "cannot be imported (libx.so.3"),
        ("import a_package_that_is_missing", "No module named 'a_package_that_is_missing'"),
        ("raise ValueError('numpy.dtype size changed')", "cannot be imported (ValueError: numpy.dtype size changed)"),
    ],
)
def test_a_package_that_fails_is_named_with_its_cause_and_a_command(plant: Plant, source: str, told: str) -> None:
    (event,) = plant(source)
    assert event["step"] == "import"
    assert "matplotlib" in event["error"]
    assert told in event["error"]
    assert "pip install" in event["hint"]


def test_a_package_that_hangs_is_ended(plant: Plant) -> None:
    (event,) = plant("import time; time.sleep(600)", limit=2.0)
    assert event["error"] == "matplotlib: its process did not end within 2 seconds"
    assert 1.9 < event["seconds"] < 60


def test_what_a_package_prints_is_no_event(plant: Plant) -> None:
    (event,) = plant("print('{\"step\": \"import\"}'); __version__ = '9'")
    assert (event["version"], event.get("error")) == ("9", None)


def test_a_folder_that_is_left_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(path for path in sys.path if "site-packages" not in path)])
    (tmp_path / "matplotlib").mkdir()
    (event,) = run_child("matplotlib")
    assert "only an empty folder is left" in event["error"]


def test_a_runtime_that_crashes_while_it_computes_is_reported_for_that_device(plant: Plant) -> None:
    """The import worked, so the crash belongs to the next step."""
    pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")
    (site,) = {str(Path(str(sys.modules["onnxruntime"].__file__)).parent.parent)}
    source = f"""
import importlib, sys
own, sys.path[:] = sys.path[:], [{site!r}, *sys.path]
del sys.modules["onnxruntime"]
real = importlib.import_module("onnxruntime")
def crash(*arguments, **options):
    import os, signal
    os.kill(os.getpid(), signal.SIGILL)
real.InferenceSession = crash
sys.modules["onnxruntime"] = real
"""
    first, second = plant(source, "onnxruntime")
    assert (first["step"], first.get("error")) == ("import", None)
    assert (second["step"], second["error"]) == ("cpu", "onnxruntime: its process was ended by SIGILL")


@pytest.mark.parametrize(
    "row", [row for row in RUNTIMES if row.extra and "cpu" in row.devices], ids=lambda row: row.name
)
def test_a_runtime_answers_and_a_wrong_answer_is_found(row: RuntimeInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(row.name, reason=f"the extra `{row.extra}`")
    (events,) = probe([row.name]).values()
    (event,) = (event for event in events if event["step"] == "cpu")
    assert event["answers"] is True
    monkeypatch.setattr(module, "LOGITS", (*module.LOGITS[:-1], module.LOGITS[-1] + 0.02))
    wrong = next(event for event in module.examine(row.name) if event["step"] == "cpu")
    assert wrong["error"] == f"{row.name} answers wrongly on cpu: a logit is off by 0.02"


def test_a_damaged_built_in_model_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")
    path = tmp_path / "resnet20-cifar10.onnx"
    path.write_bytes(b"damaged")
    monkeypatch.setattr("resnet_infer.models.weights.builtin.FOLDER", tmp_path)
    wrong = next(event for event in module.examine("onnxruntime") if event["step"] == "cpu")
    assert f"the built-in model {path} is damaged" in wrong["error"]
    assert "install the package again" in wrong["hint"]


def test_a_program_that_cannot_start_python_examines_in_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    (event,) = run_child("numpy")
    assert event.get("error") is None
    assert event["folder"] == os.path.dirname(str(sys.modules["numpy"].__file__))
