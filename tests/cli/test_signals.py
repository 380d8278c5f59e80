"""SIGTERM and SIGHUP end a command in order: with the signal's exit code, what is answered kept, and nothing hidden."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from resnet_infer import zoo
from tests.conftest import PICTURES, ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")
LISTEN = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
"""Or the signal stays ignored where the tests run under nohup."""
COMMAND = "from resnet_infer.cli.main import main; main()"
PAUSE = """
import os, sys, time

def fsync(descriptor, real=os.fsync):
    real(descriptor)
    print("writing", file=sys.stderr, flush=True)
    time.sleep(SECONDS)

os.fsync = fsync
"""
"""The result is written, and not yet renamed."""
CALLS: dict[str, tuple[list[str], set[str]]] = {
    "classify": (["classify", ".", "-o", "result.csv"], {"result.part.csv"}),
    "export": (["export", "model.safetensors", "-o", "result.onnx"], set()),
    "classify, exports": (["classify", "cat.jpg", "-m", "model.safetensors"], set()),
    "import": (
        ["import", "foreign.safetensors", "--arch", "resnet20", "--padding", "append", "-o", "result.safetensors"],
        set(),
    ),
    "evaluate --report": (["evaluate", "model.onnx", "data.csv", "--report", "result.html"], set()),
    "evaluate --resume": (["evaluate", "model.onnx", "data.csv", "--answers", "result.jsonl"], set()),
    "benchmark": (["benchmark", "model.onnx", "--rounds", "1", "--seconds", "0.01", "-o", "result.json"], set()),
    "train": (["train", "photos", "--iterations", "2", "-b", "4", "--validation", "0", "-o", "result"], set()),
    "curves": (["curves", "run", "-o", "result.svg"], set()),
}
"""The command, and what it leaves when it is ended while it writes."""
NEEDS = {"evaluate --report": "matplotlib", "curves": "matplotlib", "train": "torch"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with what the commands read, and folders for a cache and for temporary files."""
    from safetensors.numpy import load_file, save_file

    for place in ("tmp", "cache", "run", "photos/cat", "photos/ship"):
        (tmp_path / place).mkdir(parents=True)
    for suffix in (".onnx", ".safetensors"):
        shutil.copy(zoo.built_in(zoo.SMALL, suffix), tmp_path / f"model{suffix}")
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "foreign.safetensors")
    shutil.copy(PICTURES / "cat.jpg", tmp_path)
    for name in ("cat", "ship"):
        for number in range(2):
            shutil.copy(PICTURES / f"{name}.jpg", tmp_path / "photos" / name / f"{number}.jpg")
    (tmp_path / "data.csv").write_text("path,label\ncat.jpg,cat\n")
    (tmp_path / "run" / "metrics.csv").write_text("epoch,iteration,rate,train_error,val_error\n1,10,0.1,50,60\n")
    return tmp_path


def start(folder: Path, code: str, arguments: Iterable[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", LISTEN + code, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder / "tmp"),
            "RESNET_INFER_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        },
    )


def files(folder: Path) -> set[str]:
    """All but empty lock files, which stay, and what libraries keep in the cache."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {path.relative_to(folder).as_posix() for path in found}


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("classify", signal.SIGHUP),
        *(pytest.param(call, signal.SIGTERM, marks=[pytest.mark.slow] * (call in NEEDS)) for call in CALLS),
    ],
)
def test_a_command_that_is_ended_while_it_writes_leaves_nothing_half(
    folder: Path, call: str, number: signal.Signals
) -> None:
    if call in NEEDS:
        pytest.importorskip(NEEDS[call])
    arguments, left = CALLS[call]
    before = files(folder)
    process = start(folder, PAUSE.replace("SECONDS", "1" if call == "train" else "60") + COMMAND, arguments)
    assert process.stderr is not None
    said = b""
    while b"writing" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(number)
    said += process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, said
    assert b"Traceback" not in said
    found = {name for name in files(folder) - before if call != "train" or ".part" in name or name.startswith("tmp/")}
    assert {name for name in found if "torch" not in name and not name.startswith("cache/matplotlib/")} == left
    if call == "classify":
        assert f"ended by {number.name}" in said.decode()
        assert "answers are kept in result.part.csv" in said.decode()


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_answers_so_far_are_kept_and_the_next_run_says_so(tmp_path: Path, form: str) -> None:
    result = tmp_path / f"result.{form}"
    result.write_bytes(b"")
    arguments = ["classify", *["cat.jpg"] * 20_000, "-k", "1", "-o", str(result)]
    (tmp_path / "tmp").mkdir()

    def parts() -> list[Path]:
        return [path for path in tmp_path.iterdir() if ".part" in path.name and path.stat().st_size > 1 << 15]

    def stop(number: signal.Signals) -> int:
        process = start(PICTURES, COMMAND, arguments)
        known = set(parts())
        deadline = time.monotonic() + 60
        while not set(parts()) - known:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=60)
        return process.returncode

    assert stop(signal.SIGTERM) == 143
    part = tmp_path / f"result.part.{form}"
    text = part.read_text(encoding="utf-8")
    if form == "json":
        assert 100 < len(json.loads(text)["answers"]) < 20_000
    elif form == "jsonl":
        assert all(json.loads(line)["source"] == "cat.jpg" for line in text.splitlines())
    elif form == "csv":
        assert {row["label"] for row in csv.DictReader(text.splitlines())} == {"cat"}
    if form != "jsonl":
        return
    # A killed run cannot tidy up; the next one names what it has left, and replaces nothing of it.
    assert stop(signal.SIGKILL) == -signal.SIGKILL
    (hidden,) = (path for path in tmp_path.iterdir() if path.name.startswith("."))
    done = start(PICTURES, COMMAND, ["classify", "cat.jpg", "-o", str(result)])
    _, err = done.communicate(timeout=60)
    assert done.returncode == 0
    for left in (hidden, part):
        assert f"note: {left} has answers of another run" in err.decode()
        assert left.stat().st_size > 1 << 14
    assert json.loads(result.read_text())["source"] == "cat.jpg"


def test_what_is_ignored_stays_ignored(folder: Path) -> None:
    """As under nohup."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start(folder, code + PAUSE.replace("SECONDS", "2") + COMMAND, CALLS["classify"][0])
    assert process.stderr is not None
    while b"writing" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (folder / "result.csv").exists()
