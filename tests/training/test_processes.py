"""Runs in processes of their own: killed at any moment, and shared by several."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.models.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (
    "--arch",
    "resnet8",
    "--recipe",
    "cifar10-short",
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--data-in",
    "memory",
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def python(*arguments: object, processes: int = 1) -> subprocess.Popen[str]:
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def launch(*arguments: object, processes: int = 1) -> subprocess.Popen[str]:
    return python("-m", "resnet_infer", "train", *arguments, processes=processes)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def test_a_killed_run_goes_on_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    run = (folder, *TRAIN, "--iterations", 200, "-b", 16, "--validation", 8, "--save-every", 0.05)
    finish(launch(*run, "-o", tmp_path / "whole"))
    parts = tmp_path / "parts"
    process = launch(*run, "-o", parts)
    while process.poll() is None and not (parts / "last.safetensors").exists():
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finish(launch(*run, "-o", parts))
    one, other = (load_checkpoint(folder / "last.safetensors") for folder in (tmp_path / "whole", parts))
    assert one.spec.provenance["iterations"] == other.spec.provenance["iterations"] == 200
    assert all(np.array_equal(value, other.weights[name]) for name, value in one.weights.items())
    assert all(np.array_equal(value, other.extra[name]) for name, value in one.extra.items())


def test_two_processes_train_and_measure_as_one(folder: Path, tmp_path: Path) -> None:
    """Twenty steps, at a low rate, because a high one multiplies rounding; 15 test pictures are divided unequally."""
    run = (folder, *TRAIN, "--iterations", 20, "-b", 32, "--validation", 7, "--peak-rate", 0.0005)
    one = finish(launch(*run, "-o", tmp_path / "one"))
    two = finish(launch(*run, "-o", tmp_path / "two", processes=2))
    assert one.replace("/one/", "/two/") == two
    assert "15 pictures" in two
    first, second = (load_checkpoint(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name, value in first.weights.items():
        # The running statistics are those of maps, which add up the rounding of many weights.
        tolerance = 1e-4 if "running" in name else 1e-5
        assert np.abs(value - second.weights[name]).max() < tolerance, name
    start = load_checkpoint(tmp_path / "one" / "best.safetensors")
    assert start.spec.measured == load_checkpoint(tmp_path / "two" / "best.safetensors").spec.measured
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("one", "two")]
    assert [row.split(",")[:2] for row in rows[0]] == [row.split(",")[:2] for row in rows[1]]


def test_what_two_processes_do_otherwise_is_rounding(tmp_path: Path) -> None:
    script = Path(__file__).with_name("twenty_steps.py")
    for processes in (1, 2):
        finish(python(script, tmp_path / f"{processes}.npz", processes=processes))
    one, two = (np.load(tmp_path / f"{processes}.npz") for processes in (1, 2))
    for name in one:
        assert np.abs(one[name] - two[name]).max() < 1e-8, name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_stops_it_between_two_steps(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    options = ("--augmentation", "area", "--data-in", "files", "--workers", 2, "--iterations", 100_000, "-b", 16)
    process = launch(folder, *TRAIN, *options, "-o", tmp_path)
    while process.poll() is None and not (tmp_path / "last.safetensors").exists():
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    reached = load_checkpoint(tmp_path / "last.safetensors").spec.provenance["iterations"]
    assert f"stopped at iteration {reached}" in err


def test_terminated_processes_save_together(folder: Path, tmp_path: Path) -> None:
    run = (folder, *TRAIN, "--iterations", 100_000, "-b", 16, "--validation", 7, "-o", tmp_path)
    process = launch(*run, processes=2)
    while process.poll() is None and not (tmp_path / "last.safetensors").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode
    reached = load_checkpoint(tmp_path / "last.safetensors").spec.provenance["iterations"]
    assert err.count(f"stopped at iteration {reached}") == 2, err
