from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="training needs torch (the extra `train`)")

from resnet_infer.errors import DataError
from resnet_infer.training.input.splits import open_splits


def pictures(place: Path, count: int) -> None:
    place.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(place / f"{index}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """20 to train, 6 to validate, 4 to test."""
    for split, count in (("train", 10), ("val", 3), ("test", 2)):
        for name in ("cat", "dog"):
            pictures(tmp_path / "data" / split / name, count)
    return tmp_path / "data"


def sizes(*arguments: object, **options: object) -> tuple[int | None, ...]:
    splits = open_splits(*arguments, **options)  # type: ignore[arg-type]
    parts = (splits.train, splits.validation, splits.test)
    return tuple(len(part.samples) if part else None for part in parts)


def test_the_datas_own_splits_are_used(data: Path) -> None:
    splits = open_splits(data)
    assert [part and part.name for part in (splits.train, splits.validation, splits.test)] == [
        *("data/train", "data/val", "data/test")
    ]
    assert sizes(data) == (20, 6, 4)


def test_pictures_are_held_out_where_there_is_no_validation_split(data: Path, tmp_path: Path) -> None:
    assert sizes(data / "train") == (16, 4, None)
    assert sizes(data / "train", validation=5) == (15, 5, None)
    assert sizes(data / "train", validation=0) == (20, None, None)
    first, again, other = (open_splits(data / "train", validation=5, seed=seed) for seed in (0, 0, 1))
    names = [{sample.name for sample in splits.validation.samples} for splits in (first, again, other)]  # type: ignore[union-attr]
    assert names[0] == names[1] != names[2]
    assert not names[0] & {sample.name for sample in first.train.samples}


def test_a_validation_split_becomes_the_test_when_others_are_held_out(data: Path) -> None:
    assert sizes(data, validation=5) == (15, 5, 4)
    for path in (data / "test").rglob("*.png"):
        path.unlink()
    for path in (data / "test" / "cat", data / "test" / "dog", data / "test"):
        path.rmdir()
    assert sizes(data, validation=5) == (15, 5, 6)
    assert sizes(data) == (20, 6, None)


def test_archives_and_manifests_are_taken_too(data: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as archive:
        archive.add(data, "data")
    assert sizes(tmp_path / "data.tar.gz") == (20, 6, 4)
    lines = [f"{path},{path.parent.name},{path.parts[-3]}" for path in sorted(data.rglob("*.png"))]
    (tmp_path / "list.csv").write_text("path,label,split\n" + "\n".join(lines))
    assert sizes(tmp_path / "list.csv") == (20, 6, 4)


def test_what_cannot_be_trained_on_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot hold out 20"):
        open_splits(data, validation=20)
    (tmp_path / "list.csv").write_text("path,label,split\ndata/val/cat/0.png,cat,val\n")
    with pytest.raises(DataError, match="no split train"):
        open_splits(tmp_path / "list.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data set"):
        open_splits(tmp_path / "empty")


def test_a_tenth_is_the_papers_split_of_cifar(tmp_path: Path) -> None:
    """Section 4.2: 45k to train on, 5k to validate."""
    generator = np.random.default_rng(0)
    place = tmp_path / "cifar-10-batches-bin"
    place.mkdir()
    (place / "batches.meta.txt").write_text("\n".join(f"class {label}" for label in range(10)))
    record = np.zeros((10_000, 3073), np.uint8)
    record[:, 0] = generator.integers(0, 10, 10_000)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (place / f"{name}.bin").write_bytes(record.tobytes())
    assert sizes(place) == (45_000, 5_000, 10_000)
