"""experiments/fine_tuning.py on a few pictures: as many steps for each, what it writes, and that it goes on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import ROOT

pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

CLASSES = 4


def test_both_learn_in_as_many_steps_and_a_finished_run_is_not_trained_again(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
    photos: Callable[..., NDArray[np.uint8]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    experiment = importlib.import_module("experiments.fine_tuning")
    monkeypatch.setattr(experiment, "SCRATCH_RATES", (0.05,))
    for split, count, seed in (("train", 80, 1), ("test", 20, 2)):
        for number, pixels in enumerate(photos(count, 32, seed=seed)):
            path = tmp_path / "data" / split / f"kind {number % CLASSES}" / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    save_checkpoint(make_checkpoint("plain8", classes=6), tmp_path / "start.safetensors")
    output = tmp_path / "out"
    arguments = [str(tmp_path / "start.safetensors"), str(tmp_path / "data"), "--per-class", "9", "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", ["fine_tuning.py", *arguments, "-o", str(output)])
    monkeypatch.setattr(experiment, "MARGIN", -100)
    assert experiment.main() == 0
    assert len(list((output / "data" / "train").rglob("*.png"))) == 9 * CLASSES
    specs = [load_checkpoint(output / name / "best.safetensors").spec for name in ("tuned", "scratch-0.05")]
    assert [spec.provenance["iterations"] for spec in specs] == [2, 2]
    assert [spec.provenance.get("from") for spec in specs] == ["plain8-test", None]
    page = (output / "results.md").read_text()
    for spec in specs:
        assert (spec.measured[0].pictures, spec.input.crop) == (20, 32)
        assert f"| {spec.measured[0].top1_error:.2f} |" in page
    monkeypatch.setattr(experiment, "train", lambda arguments: pytest.fail("trained again"))
    monkeypatch.setattr(experiment, "MARGIN", 101)
    assert experiment.main() == 1
