"""experiments/results.py on a few pictures: every row, what it says of itself, and what makes it fail."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("torch", reason="the checkpoint is run by torch (the extra `train`)")
pytest.importorskip("matplotlib", reason="the picture is drawn by matplotlib (the extra `report`)")

from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.models.checkpoint import Checkpoint, save_checkpoint

CLASSES = 6


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("experiments.results")
    monkeypatch.setattr(module, "TIMED", {"1-crop": 6, "10-crop": 3, "multi-scale": 3})
    monkeypatch.setattr(module, "CALIBRATION", 16)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, photos: Callable[..., NDArray[np.uint8]]) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 48, 1), ("val", 24, 2)):
        for number, pixels in enumerate(photos(count, 48, seed=seed)):
            path = folder / split / f"class {number % CLASSES}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def networks(tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]) -> tuple[Path, Path]:
    paths = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    one, two = (make_checkpoint(name, classes=CLASSES) for name in ("plain8", "resnet8"))
    stage = {"epochs": 3.0, "resize": 32, "crop": 28, "peak_rate": 0.1}
    start = {"recipe": {"name": "first"}, "data": "mine", "date": "2026-01-01", "iterations": 7}
    one = replace(one, spec=one.spec.with_(provenance={**start, "licence": "mine"}))
    recipe = {"name": "mine", "stages": [stage], "seed": 1}
    provenance = {**start, "from": one.spec.name, "start": start, "recipe": recipe}
    for path, checkpoint in zip(paths, (one, replace(two, spec=two.spec.with_(provenance=provenance))), strict=True):
        save_checkpoint(checkpoint, path)
    return paths


def run(results: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    monkeypatch.setattr(sys, "argv", ["results.py", *map(str, arguments)])
    return results.main()


def test_every_precision_and_protocol_has_a_row_with_evaluates_errors(
    results: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path, networks: tuple[Path, Path]
) -> None:
    one, two = networks
    options = ("--scales", "32,40", "--rounds", 2, "--work", tmp_path / "work", "-o", tmp_path / "page.md")
    assert run(results, monkeypatch, one, data, "--second", two, *options) == 0
    found = json.loads((tmp_path / "page.json").read_text())
    rows = {(row["title"], row["protocol"]): row for row in found["rows"]}
    methods = [f"INT8 {target} {method}, ONNX" for target in ("cpu", "tensorrt") for method in
               ("mse", "minmax", "entropy", "percentile")]  # fmt: skip
    precisions = ["FP32, torch", "FP32, ONNX", "FP16, ONNX", *methods]
    members = ["INT8", "INT8, the second network", "INT8, ensemble of both"]
    protocols = ("1-crop", "10-crop", "multi-scale")
    assert set(rows) == {(title, "1-crop") for title in precisions} | {
        (title, protocol) for title in ["FP32", *members] for protocol in protocols
    }
    assert all(len(row["pictures_per_s"]) == 2 for row in rows.values())
    int8 = [str(tmp_path / "work" / f"{name} of any size.onnx") for name in ("INT8", "INT8 second")]
    fp32 = [str(tmp_path / "work" / "FP32 of any size.onnx")]
    for models, titles in ((fp32, ["FP32"]), (int8, members)):
        expected = evaluate(
            models, data, EvaluationConfig(protocols=protocols, scales=(32, 40), ensemble=len(models) > 1)
        ).results
        for title, item in zip(titles * len(protocols), expected, strict=True):
            assert rows[title, item.protocol]["top1"] == item.top1.to_json()
    assert found["disagreements"] == []
    page = (tmp_path / "page.md").read_text()
    assert "predict the same class for 24 of\nthe 24 images." in page
    assert (
        "The second network: resnet8, from `plain8-test`, recipe `mine`, 3 epochs at 28 pixels with a learning rate "
        "up to 0.1, " in page
    )
    assert "seed 1.\nThe second was trained from the other's weights" in page
    assert (tmp_path / "page.svg").read_text().count("multi-scale") >= 1


def test_an_artifact_of_another_network_is_no_tie(
    results: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path, networks: tuple[Path, Path]
) -> None:
    from resnet_infer.converters.source import export_onnx
    from resnet_infer.models.checkpoint import load_checkpoint

    one, two = networks
    export_onnx(load_checkpoint(two), tmp_path / "FP32.onnx")
    monkeypatch.setattr(results, "variants", lambda *rest: [f"torch:{one}", str(tmp_path / "FP32.onnx")])
    options = ("--scales", "32,40", "--rounds", 1, "--work", tmp_path / "work", "-o", tmp_path / "page.md")
    assert run(results, monkeypatch, one, data, *options) == 1
    assert "NO TIE" in (tmp_path / "page.md").read_text()
