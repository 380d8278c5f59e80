"""experiments/cifar10.py on a few pictures: what it trains, what it skips, what it writes."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib (the extra `report`)")

from resnet_infer.models.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("notes_on_stderr")

Main = Callable[[Sequence[str]], int]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Main:
    """The script's `main`; what it starts finds the package and keeps to one thread."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result: Main = importlib.import_module("experiments.cifar10").main
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ with noisy squares of two colours."""
    root = tmp_path_factory.mktemp("squares")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name, colour in (("blue", (40, 60, 200)), ("red", (200, 40, 50))):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(np.array(colour) + generator.normal(0, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


def test_it_trains_what_is_left_and_tabulates_all(
    main: Main, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain, residual = tmp_path / "plain8", tmp_path / "resnet8"
    run = [str(data), "-o", str(tmp_path), "--iterations", "24", "--networks"]
    options = ["--", "-b", "4", "--validation", "2"]
    # Stopped as soon as there is something to go on from.
    with subprocess.Popen([sys.executable, "-m", "experiments.cifar10", *run, "plain8", *options]) as process:
        while process.poll() is None and not (plain / "last.safetensors").exists():
            time.sleep(0.01)
        process.terminate()
    assert process.returncode > 0
    assert "plain8 is not finished" in capfd.readouterr().err
    begun = (plain / "metrics.csv").read_text().splitlines()
    assert 2 <= len(begun) < 25
    assert not (tmp_path / "results.md").exists()

    assert main([*run, "plain8", "resnet8", *options]) == 0
    lines = (plain / "metrics.csv").read_text().splitlines()
    assert lines[:2] == begun[:2]
    assert [int(line.split(",")[1]) for line in lines[1:]] == list(range(1, 25))
    results = (tmp_path / "results.md").read_text()
    assert capfd.readouterr().out.endswith(results)
    header, _, *rows = ([cell.strip() for cell in line.split("|")] for line in results.splitlines() if line[:1] == "|")
    shown = {row[1]: dict(zip(header, row, strict=True)) for row in rows}
    assert list(shown) == ["plain8", "resnet8"]
    for name, row in shown.items():
        (measured,) = load_checkpoint(tmp_path / name / "best.safetensors").spec.measured
        assert row["test error, %"] == f"{measured.top1_error:.2f}"
        assert (row["iterations"], row["the paper's test error, %"]) == ("24", "-")
    with Image.open(tmp_path / "degradation.png") as picture:
        assert picture.width > 2 * picture.height

    before = {path: path.stat().st_mtime_ns for folder in (plain, residual) for path in folder.iterdir()}
    assert main([*run, "plain8", "resnet8", *options]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert main([str(data), "-o", str(tmp_path), "--iterations", "3", "--networks", "plain8", *options]) == 2
    assert "a run of 24 iterations, not 3" in capfd.readouterr().err


def test_mistakes_are_told_before_anything_is_trained(
    main: Main, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(data), "-o", str(tmp_path), "--networks", "resnet20", "resnet21"]) == 2
    assert "resnet21" in capfd.readouterr().err
    for wrong in (["--epochs", "0"], ["--epochs", "1", "--shortened"]):
        with pytest.raises(SystemExit) as stop:
            main([str(data), *wrong])
        assert stop.value.code == 2
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_ends_it_with_its_exit_code(
    main: Main, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(data), "-o", str(tmp_path), "--shortened", "--", "--no-such-option"]) == 2
    assert "plain20 is not finished" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
