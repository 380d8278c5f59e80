"""How few images INT8 is calibrated on: one is refused, and few are warned of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_infer.converters.config import ExportConfig, Pictures
from resnet_infer.converters.pictures import LEAST_PICTURES, open_pictures
from resnet_infer.errors import UsageError
from resnet_infer.models.checkpoint import Checkpoint
from tests.conftest import PICTURES


def opened(folder: Path, count: int, checkpoint: Checkpoint) -> None:
    folder.mkdir()
    for number in range(count):
        shutil.copy(PICTURES / "cat.jpg", folder / f"{number}.jpg")
    open_pictures(checkpoint.spec, ExportConfig(precision="int8", pictures=Pictures(calibration=folder)))


def test_one_image_is_refused(tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]) -> None:
    with pytest.raises(UsageError, match="has 1 picture, and INT8 is calibrated on at least 2") as caught:
        opened(tmp_path / "one", 1, make_checkpoint())
    assert caught.value.source == str(tmp_path / "one")


@pytest.mark.parametrize(("count", "warned"), [(2, True), (LEAST_PICTURES, False)])
def test_few_images_are_warned_of(
    count: int,
    warned: bool,
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
    caplog: pytest.LogCaptureFixture,
) -> None:
    opened(tmp_path / "few", count, make_checkpoint())
    assert any(f"calibrated on {count} pictures only" in message for message in caplog.messages) is warned
