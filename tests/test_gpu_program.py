"""`benchmarks.gpu` takes every step with stand-ins, goes on where it stopped, and skips what it cannot do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from tests.conftest import ROOT

SLOW = {"train-bf16", "train-compiled", "train-fp16"}
"""As `train-fp32`, with other options."""


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)


def test_every_step_runs_with_stand_ins(tmp_path: Path) -> None:
    for module in ("torch", "onnx", "onnxruntime", "bentoml"):
        pytest.importorskip(module)
    names = [step.name for step in gpu.STEPS if step.name not in SLOW]
    done = call("--dry-run", "--out", tmp_path, "--only", *names)
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in names}
    assert {name: (one["state"], one.get("why")) for name, one in found.items()} == dict.fromkeys(
        names, ("passed", None)
    ), done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [step.name for step in gpu.STEPS]
    assert done.returncode == 1  # three were not taken
    assert all(one["seconds"] > 0 and one["dry_run"] for one in found.values())
    assert "images/s" in next(line for line in lines if line.startswith("trt-fp16"))
    assert (tmp_path / "trt-fp32-inspector.json").exists()


def step(tmp_path: Path, name: str = "machine", seconds: int = 60, needs: tuple[str, ...] = ()) -> dict[str, Any]:
    one = gpu.Step(name, seconds, needs, "")
    gpu.take(one, tmp_path, time.monotonic() + 60, not needs, None)
    return gpu.read(tmp_path, one)


def test_what_is_done_is_not_done_again_and_what_was_not_is(tmp_path: Path) -> None:
    first = step(tmp_path)
    assert first["state"] == "passed"
    path = tmp_path / "machine.json"
    before = path.stat().st_mtime_ns
    step(tmp_path)
    assert path.stat().st_mtime_ns == before
    path.write_text(json.dumps({**first, "state": "running"}))  # the program was killed
    assert step(tmp_path)["state"] == "passed"


def test_a_step_without_its_package_is_skipped_and_tried_again(tmp_path: Path) -> None:
    found = step(tmp_path, needs=("no_such_package",))
    assert (found["state"], found["why"]) == ("skipped", "skipped: no no_such_package")
    assert step(tmp_path)["state"] == "passed"


def test_a_step_that_is_too_slow_or_dies_keeps_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "import json,sys,time; p=sys.argv[1]; d=json.load(open(p)); d['a']=1; json.dump(d,open(p,'w')); {}"
    popen = subprocess.Popen
    for then, state in (
        ("time.sleep(60)", "too slow"),
        ("sys.exit('no')", "crashed"),
        ("import os; os.abort()", "crashed"),
    ):
        arguments = [sys.executable, "-c", command.format(then), str(tmp_path / "machine.json")]
        monkeypatch.setattr(
            "subprocess.Popen", lambda ignored, arguments=arguments, **options: popen(arguments, **options)
        )
        found = step(tmp_path, seconds=2)
        assert (found["state"], found["a"]) == (state, 1), found
        (tmp_path / "machine.json").unlink()


def test_without_time_nothing_is_begun(tmp_path: Path) -> None:
    gpu.take(gpu.STEPS[0], tmp_path, time.monotonic() + 1, True, None)
    assert gpu.read(tmp_path, gpu.STEPS[0])["state"] == "no time left"


def test_each_step_has_its_function_and_its_place_in_the_page() -> None:
    from benchmarks import gpu_steps

    page = (ROOT / "benchmarks" / "gpu.md").read_text(encoding="utf-8")
    for one in gpu.STEPS:
        assert callable(getattr(gpu_steps, one.name.replace("-", "_")))
        assert f"`{one.name}`" in page, one.name
