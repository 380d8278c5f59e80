"""Runs in processes of their own: killed at any moment, and shared by several."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.models.architectures import architecture  # noqa: E402
from resnet_infer.models.checkpoint import load_checkpoint  # noqa: E402
from resnet_infer.models.network import ResNet  # noqa: E402
from resnet_infer.training.distributed import join_world, synchronise  # noqa: E402
from tests.training.processes import Running, start, torchrun, train  # noqa: E402

TRAIN = (
    *("--arch", "resnet8", "--recipe", "cifar10-short", "--precision", "fp32", "--device", "cpu"),
    *("--data-in", "memory", "--resize", "16", "--crop", "16"),
)


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    yield
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def launch(*arguments: object, function: Callable[..., None] = train, count: int = 1) -> Running:
    """`resnet-infer train ...`; the last argument is the run's folder."""
    return start(function, *map(str, arguments), outputs=Path(f"{arguments[-1]}.outputs"), count=count)


def reached(run: Path) -> int:
    """The iteration that was saved last."""
    last = run / "last.safetensors"
    return int(load_checkpoint(last).spec.provenance["iterations"]) if last.exists() else 0


def test_a_killed_run_goes_on_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    run = (folder, *TRAIN, "--iterations", 80, "-b", 16, "--validation", 8, "--save-every", 0.05)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    launch(*run, "-o", whole).finish()
    process, step = launch(*run, "-o", parts), random.randint(1, 60)
    process.until(lambda: reached(parts) >= step)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    killed_at = reached(parts)
    assert step <= killed_at < 80
    ended = launch(*run, "-o", parts, "--resume")
    ended.finish()
    assert f"at iteration {killed_at}" in ended.err()
    one, other = (load_checkpoint(run / "last.safetensors") for run in (whole, parts))
    assert one.spec.provenance["iterations"] == other.spec.provenance["iterations"] == 80
    assert all(np.array_equal(value, other.weights[name]) for name, value in one.weights.items())
    assert all(np.array_equal(value, other.extra[name]) for name, value in one.extra.items())


def test_two_processes_train_and_measure_as_one(folder: Path, tmp_path: Path) -> None:
    """Twenty steps, at a low rate, because a high one multiplies rounding; 15 test pictures are divided unequally."""
    run = (folder, *TRAIN, "--iterations", 20, "-b", 32, "--validation", 7, "--peak-rate", 0.0001)
    one = launch(*run, "-o", tmp_path / "one").finish()
    two = launch(*run, "-o", tmp_path / "two", count=2).finish()
    assert one.replace("/one/", "/two/") == two
    assert "15 pictures" in two
    first, second = (load_checkpoint(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name, value in first.weights.items():
        # The running statistics are those of maps, which add up the rounding of many weights.
        tolerance = 1e-4 if "running" in name else 1e-5
        assert np.abs(value - second.weights[name]).max() < tolerance, name
    best = load_checkpoint(tmp_path / "one" / "best.safetensors")
    assert best.spec.measured == load_checkpoint(tmp_path / "two" / "best.safetensors").spec.measured
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("one", "two")]
    assert [row.split(",")[:2] for row in rows[0]] == [row.split(",")[:2] for row in rows[1]]


def twenty_steps(file: str) -> None:
    """In float64, at the paper's rate; alone or as one of several."""
    with join_world("cpu") as world:
        torch.manual_seed(0)
        network = ResNet(architecture("resnet8", 3)).double()
        images, labels = torch.randn(20, 12, 3, 16, 16, dtype=torch.float64), torch.randint(0, 3, (20, 12))
        model = synchronise(network, world).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        part = slice(world.rank * 12 // world.size, (world.rank + 1) * 12 // world.size)
        for batch, targets in zip(images, labels, strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch[part]), targets[part]).backward()
            optimizer.step()
        if world.writes:
            np.savez(file, **{name: value.numpy() for name, value in network.state_dict().items()})


def test_what_two_processes_do_otherwise_is_rounding(tmp_path: Path) -> None:
    for count in (1, 2):
        start(twenty_steps, str(tmp_path / f"{count}.npz"), outputs=tmp_path / str(count), count=count).finish()
    one, two = (np.load(tmp_path / f"{count}.npz") for count in (1, 2))
    for name in one:
        assert np.abs(one[name] - two[name]).max() < 1e-8, name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_stops_it_between_two_steps(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    options = ("--augmentation", "area", "--data-in", "files", "--workers", 1, "--iterations", 100_000, "-b", 16)
    process = launch(folder, *TRAIN, *options, "-o", tmp_path / "run")
    process.until(lambda: reached(tmp_path / "run") > 0)
    os.killpg(process.processes[0].pid, number)
    assert process.wait() == 128 + number, process.err()
    assert f"stopped at iteration {reached(tmp_path / 'run')}" in process.err()


def test_processes_of_torchrun_that_are_terminated_save_together(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--iterations", 100_000, "-b", 16, "--validation", 7)
    process = launch(folder, *TRAIN, *options, "-o", run, function=torchrun)
    process.until(lambda: reached(run) > 0)
    os.kill(process.processes[0].pid, signal.SIGTERM)
    assert process.wait()
    assert process.err().count(f"stopped at iteration {reached(run)}") == 2, process.err()
