"""What a run shows besides its table."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.training.loop.state import COLUMNS
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
QUICK = (
    *("--arch", "resnet8", "--recipe", "cifar10-short", "--iterations", 4, "--validation", 0),
    *("--resize", 16, "--crop", 16),
)


def test_a_run_leaves_its_curves(folder: Path, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib (the extra `report`)")
    assert cli("train", folder, *QUICK, "-b", 32, "-o", tmp_path).code == 0
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > picture.height > 500


def test_without_matplotlib_a_run_ends_well_and_says_what_to_install(
    folder: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = cli("train", folder, *QUICK, "-b", 32, "-o", tmp_path)
    assert done.code == 0
    (line,) = (line for line in done.err.splitlines() if "curves.png" in line)
    assert 'pip install "resnet-infer[report]"' in line
    assert not (tmp_path / "curves.png").exists()


def test_without_tensorboard_nothing_is_trained(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    done = cli("train", tmp_path / "no data", *QUICK, "--tensorboard", "-o", tmp_path / "run")
    assert done.code == 1
    assert "pip install tensorboard" in done.err
    assert not (tmp_path / "run").exists()


def row(**values: str) -> list[str]:
    """A row of the table; other columns are empty."""
    return [values.get(name, "") for name in COLUMNS]


def test_tensorboard_shows_the_table(folder: Path, tmp_path: Path, cli: Cli) -> None:
    """Also of a run that was stopped between a row and the save after it."""
    pytest.importorskip("tensorboard", reason="needs the package tensorboard, of the extra `test`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from resnet_infer.training.loop.records import scalars

    with scalars(tmp_path, 0) as show:
        show(row(epoch="1.00", iteration="2", train_loss="9.9"))
        show(row(epoch="2.00", iteration="4", train_loss="9.9"))
    with scalars(tmp_path, 2) as show:
        show(row(epoch="2.00", iteration="4", train_loss="0.5", val_error="45"))
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, round(event.value, 3)) for event in found.Scalars("train_loss")] == [(2, 9.9), (4, 0.5)]
    assert [(event.step, event.value) for event in found.Scalars("val_error")] == [(4, 45)]

    run = tmp_path / "run"
    assert cli("train", folder, *QUICK, "-b", 32, "--tensorboard", "-o", run).code == 0
    found = EventAccumulator(str(run)).Reload()
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in set(COLUMNS) - {"iteration", "val_error", "val_error_low", "val_error_high"}:
        shown = {event.step: event.value for event in found.Scalars(name)}
        assert shown == pytest.approx({int(row["iteration"]): float(row[name]) for row in rows})
