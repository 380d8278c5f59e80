"""Which split of a labelled data set is opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from resnet_infer.data.labelled import open_labelled
from resnet_infer.errors import DataError


def test_the_test_split_goes_before_the_validation_split(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "cat" / f"{number}.png")
    assert [sample.name for sample in open_labelled(tmp_path, None).samples] == ["cat/2.png"]
    assert [sample.name for sample in open_labelled(tmp_path, "train").samples] == ["cat/0.png"]
    with pytest.raises(DataError, match="no split 'tst'"):
        open_labelled(tmp_path, "tst")
    with pytest.raises(DataError, match="does not exist"):
        open_labelled(tmp_path / "nowhere", None)


def test_what_is_wrong_with_the_split_that_is_taken_is_said_and_not_that_it_was_not_named(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(DataError) as raised:
        open_labelled(tmp_path, None)
    assert "several splits" not in raised.value.message
    assert "val" in raised.value.message
