"""Real photographs through a network of ImageNet's size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer.converters.source import export_onnx
from resnet_infer.models.checkpoint import Checkpoint
from tests.conftest import Outcome


@pytest.mark.slow
@pytest.mark.parametrize("crops", [1, 10])
def test_all_photos_go_through_a_resnet50(
    data_folder: Path,
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
    cli: Callable[..., Outcome],
    crops: int,
) -> None:
    folder = data_folder / "imagenet-sample"
    photos = sorted(str(path) for path in folder.glob("*.JPEG"))
    if not photos:
        pytest.skip("needs imagenet-sample, a folder of photographs")
    export_onnx(make_checkpoint("resnet50", classes=1000, size=224), tmp_path / "resnet50.onnx")
    done = cli("classify", folder, "-m", tmp_path / "resnet50.onnx", "--crops", crops, "-f", "jsonl", "-k", 1000)
    assert done.code == 0, done.err
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [answer["source"] for answer in answers] == photos
    assert len(photos) == 123
    for answer in answers:
        assert sum(item["probability"] for item in answer["predictions"]) == pytest.approx(1)
