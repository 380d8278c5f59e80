"""`open_feed`: which pictures are chosen, that every pass gives the same, and which class each of them is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data import feed as feeds
from resnet_infer.data.datasets import Sample
from resnet_infer.data.feed import Feed, open_feed, spread
from resnet_infer.data.image import read_image
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.errors import DataError, PictureError, UsageError
from resnet_infer.models.spec import InputSpec, ModelSpec

pytestmark = pytest.mark.usefixtures("notes_on_stderr")

GEOMETRY = InputSpec(resize=12, crop=8, mean=np.zeros(3), std=np.ones(3))


def spec_of(*classes: str, ids: tuple[str, ...] | None = None) -> ModelSpec:
    return ModelSpec("the model", None, classes, GEOMETRY, class_ids=ids)


SPEC = spec_of("dog", "cat", "bird")


def picture(path: Path, colour: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(colour).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Twelve birds, twelve cats and twelve dogs."""
    root = tmp_path / "set"
    for index in range(36):
        name = ("bird", "cat", "dog")[index // 12]
        picture(root / name / f"{index % 12:02}.png", index)
    return root


# Which pictures


@settings(max_examples=60)
@given(total=st.integers(0, 400), count=st.one_of(st.none(), st.integers(1, 500)), seed=st.integers(0, 2**32))
def test_one_is_drawn_from_each_of_equal_runs(total: int, count: int | None, seed: int) -> None:
    chosen = spread(total, count, seed)
    assert chosen == spread(total, count, seed)
    if count is None or count >= total:
        assert chosen == list(range(total))
        return
    assert len(chosen) == count
    for run, index in enumerate(chosen):
        assert run * total // count <= index < (run + 1) * total // count


def test_the_draw_is_the_same_everywhere() -> None:
    assert spread(100, 5, seed=0) == [17, 32, 50, 65, 86]
    assert spread(100, 5, seed=1) != spread(100, 5, seed=0)


def test_every_class_is_represented_and_another_seed_takes_others(folders: Path) -> None:
    feed = open_feed(folders, SPEC, count=12, labelled=True)
    assert [name.partition("/")[0] for name in feed.names] == ["bird"] * 4 + ["cat"] * 4 + ["dog"] * 4
    assert feed.labels is not None
    assert feed.labels.tolist() == [2] * 4 + [1] * 4 + [0] * 4
    assert (len(feed), feed.source, feed.name) == (12, str(folders), "set")
    assert open_feed(folders, SPEC, count=12).names == feed.names
    assert open_feed(folders, SPEC, count=12, seed=1).names != feed.names
    assert open_feed(folders, SPEC).names == open_feed(folders, SPEC, count=99).names
    assert len(open_feed(folders, SPEC)) == 36


def test_what_was_used_before_is_left_out(folders: Path) -> None:
    first = open_feed(folders, SPEC, count=12)
    second = open_feed(folders, SPEC, count=30, exclude=first.names)
    assert len(second) == 24
    assert not set(first.names) & set(second.names)
    with pytest.raises(DataError, match="has no pictures besides those left out"):
        open_feed(folders, SPEC, exclude=open_feed(folders, SPEC).names)


# The crops


def test_crops_are_those_of_the_classifier_and_batches_hold_them_in_order(folders: Path) -> None:
    feed = open_feed(folders, SPEC, count=11)
    crops = dict(feed.crops())
    assert tuple(crops) == feed.names
    for name, crop in crops.items():
        np.testing.assert_array_equal(crop, centre_crop(read_image(folders / name), GEOMETRY)[0])
    batches = list(feed.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(batches), np.stack(list(crops.values())))


@settings(max_examples=25, deadline=None)
@given(
    total=st.integers(1, 30),
    kept=st.integers(0, 40),
    passes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    workers=st.integers(1, 3),
)
def test_every_pass_gives_the_same_however_much_is_kept_and_however_far_the_last_went(
    total: int, kept: int, passes: list[int], workers: int
) -> None:
    reads: list[int] = []

    def reader(index: int) -> Callable[[], NDArray[np.uint8]]:
        def read() -> NDArray[np.uint8]:
            reads.append(index)
            return np.full((12, 12, 3), index, np.uint8)

        return read

    samples = [Sample(str(index), 0, reader(index)) for index in range(total)]
    before = feeds.MEMORY_LIMIT
    try:
        feeds.MEMORY_LIMIT = kept * 8 * 8 * 3
        feed = Feed("here", samples, GEOMETRY, workers=workers)
    finally:
        feeds.MEMORY_LIMIT = before
    for length in (*passes, total):
        for index, (name, crop) in enumerate(islice(feed.crops(), length)):
            assert (name, crop.shape, crop.min(), crop.max()) == (str(index), (8, 8, 3), index, index)
    reads.clear()
    assert len(list(feed.crops())) == total
    assert sorted(reads) == list(range(min(kept, total), total))


def test_pictures_are_read_only_as_far_as_they_are_asked_for() -> None:
    reads: list[int] = []

    def read() -> NDArray[np.uint8]:
        reads.append(1)
        return np.zeros((12, 12, 3), np.uint8)

    feed = Feed("here", [Sample(str(index), 0, read) for index in range(1000)], GEOMETRY)
    assert not reads
    next(feed.batches(8))
    assert 8 <= len(reads) < 200


def test_a_second_pass_needs_the_files_no_more(folders: Path) -> None:
    feed = open_feed(folders, SPEC, count=9)
    first = np.concatenate(list(feed.batches(2)))
    shutil.rmtree(folders)
    np.testing.assert_array_equal(np.concatenate(list(feed.batches(5))), first)


def test_a_corrupt_picture_is_named(folders: Path) -> None:
    (folders / "cat" / "03.png").write_bytes((folders / "cat" / "03.png").read_bytes()[:60])
    feed = open_feed(folders, SPEC)
    with pytest.raises(PictureError, match=rf"^{folders}: cat/03.png: damaged or truncated PNG"):
        list(feed.batches())
    (folders / "cat" / "03.png").unlink()
    with pytest.raises(PictureError, match=rf"^{folders}/cat/03.png: No such file"):
        list(feed.batches())


def test_a_picture_that_would_fill_the_memory_is_named(tmp_path: Path) -> None:
    Image.new("1", (3_000_000, 1)).save(tmp_path / "line.png")
    with pytest.raises(PictureError, match=r"line\.png: 3000000x1 pixels are too narrow to resize"):
        list(open_feed(tmp_path, SPEC).batches())


def test_the_orientation_is_obeyed_as_the_spec_says(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    views = []
    for obeyed in (True, False):
        geometry = InputSpec(resize=12, crop=8, mean=np.zeros(3), std=np.ones(3), exif=obeyed)
        feed = open_feed(tmp_path, SPEC.with_(input=geometry))
        views.append(next(feed.batches()))
        np.testing.assert_array_equal(views[-1], centre_crop(read_image(path, exif=obeyed), geometry))
    assert not np.array_equal(views[0], views[1])


# Where pictures come from


def test_any_folder_or_archive_of_pictures_will_do_without_labels(tmp_path: Path) -> None:
    album = tmp_path / "album"
    for index, name in enumerate(
        ("b.png", "a.jpg", "holiday/c.png", "holiday/sea/d.png", ".hidden/e.png", "notes.txt")
    ):
        if name.endswith("txt"):
            (album / name).write_text("no picture")
        else:
            picture(album / name, index)
    expected = ("a.jpg", "b.png", "holiday/c.png", "holiday/sea/d.png")
    assert open_feed(album, SPEC).names == expected
    flat = tmp_path / "flat"
    picture(flat / "x.png")
    picture(flat / "y.png")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", flat))
    feed = open_feed(packed, SPEC)
    assert (feed.names, feed.labels) == (("x.png", "y.png"), None)
    assert next(feed.batches()).shape == (2, 8, 8, 3)
    assert open_feed(flat / "x.png", SPEC).names == ("x.png",)
    with pytest.raises(DataError, match="no data set of a known format"):
        open_feed(flat, SPEC, labelled=True)


@pytest.mark.parametrize("labelled", [False, True])
def test_an_empty_class_folder_is_said_and_in_nobodys_way(
    labelled: bool, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "empty").mkdir()
    assert len(open_feed(folders, SPEC, labelled=labelled)) == 36
    assert "class folders without pictures: empty" in capsys.readouterr().err


def test_pictures_right_in_split_folders_will_do_without_labels(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "train" / "x.png")
    (tmp_path / "set" / "train" / "y.HEIC").write_bytes(b"y")
    with pytest.raises(DataError, match="train holds pictures and no class folders"):
        open_feed(tmp_path / "set", SPEC, labelled=True)
    assert open_feed(tmp_path / "set", SPEC).names == ("train/x.png",)


def test_a_split_is_named_or_preferred_and_never_guessed(tmp_path: Path) -> None:
    for index, split in enumerate(("train", "test")):
        for name in ("cat", "dog"):
            picture(tmp_path / "set" / split / name / f"{split}.png", index)
    source = tmp_path / "set"
    for labelled in (False, True):
        with pytest.raises(DataError, match="has several splits: train, test"):
            open_feed(source, SPEC, labelled=labelled)
        chosen = open_feed(source, SPEC, split="train", prefer=("val", "test"), labelled=labelled)
        assert (chosen.names, chosen.name) == (("cat/train.png", "dog/train.png"), "set/train")
        assert open_feed(source, SPEC, prefer=("val", "test"), labelled=labelled).names[0] == "cat/test.png"


@pytest.mark.parametrize("content", ["path,label\na.png,cat\nb.png,dog\n", "path,label\na.png,1\nb.png,0\n"])
def test_a_manifest_names_or_numbers_the_classes_of_the_model(tmp_path: Path, content: str) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "list.csv").write_text(content)
    feed = open_feed(tmp_path / "list.csv", SPEC, labelled=True)
    assert feed.labels is not None
    assert dict(zip(feed.names, feed.labels.tolist(), strict=True)) == {"a.png": 1, "b.png": 0}
    assert next(feed.batches()).shape == (2, 8, 8, 3)


def test_wordnet_ids_go_before_names(tmp_path: Path) -> None:
    for wnid in ("n00000001", "n00000002"):
        picture(tmp_path / "set" / wnid / "x.png")
    spec = spec_of("anything", "else", ids=("n00000002", "n00000001"))
    feed = open_feed(tmp_path / "set", spec, labelled=True)
    assert feed.labels is not None
    assert feed.labels.tolist() == [1, 0]


def test_folders_called_by_numbers_are_matched_by_name_in_whatever_order(tmp_path: Path) -> None:
    for name in ("1", "2", "10"):
        picture(tmp_path / "set" / name / "x.png")
    feed = open_feed(tmp_path / "set", spec_of("10", "2", "1"), labelled=True)
    assert feed.labels is not None
    assert dict(zip(feed.names, feed.labels.tolist(), strict=True)) == {"1/x.png": 2, "2/x.png": 1, "10/x.png": 0}
    assert len(open_feed(tmp_path / "set", SPEC)) == 3


def test_classes_that_the_model_does_not_know_are_named(folders: Path) -> None:
    with pytest.raises(DataError, match="set has classes that the model does not know: bird, dog") as caught:
        open_feed(folders, spec_of("cat", "fish"), labelled=True)
    assert caught.value.hint == "name the classes as the model does: cat, fish"
    assert open_feed(folders, spec_of("cat", "fish")).labels is None
    (folders.parent / "list.csv").write_text("path,label\nset/cat/00.png,7\n")
    with pytest.raises(DataError, match="does not know: 7"):
        open_feed(folders.parent / "list.csv", SPEC, labelled=True)


@pytest.mark.parametrize("labelled", [False, True])
def test_what_is_not_there_is_named(tmp_path: Path, labelled: bool) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        open_feed(tmp_path / "nowhere", SPEC, labelled=labelled)
    (tmp_path / "readme.txt").write_text("nothing, here\n")
    with pytest.raises(DataError, match="no data set of a known format"):
        open_feed(tmp_path, SPEC, labelled=labelled)
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"broken\.zip is damaged"):
        open_feed(tmp_path / "broken.zip", SPEC, labelled=labelled)


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_picture_is_asked_for(folders: Path, count: int) -> None:
    for source in (folders, None):
        with pytest.raises(UsageError, match=f"at least one picture is needed, not {count}"):
            open_feed(source, SPEC, count=count)


# Pictures made from numbers


def test_synthetic_pictures_are_the_same_each_time_and_differ_from_each_other() -> None:
    feed = open_feed(None, SPEC, count=6)
    crops = np.concatenate(list(feed.batches(4)))
    assert crops.shape == (6, 8, 8, 3)
    assert len(np.unique(crops.reshape(6, -1), axis=0)) == 6
    np.testing.assert_array_equal(np.stack([crop for _, crop in open_feed(None, SPEC, count=6).crops()]), crops)
    # The first ones do not depend on how many there are.
    np.testing.assert_array_equal(next(open_feed(None, SPEC, count=2).batches()), crops[:2])
    assert not np.array_equal(next(open_feed(None, SPEC, count=6, seed=1).batches()), crops)
    assert len(open_feed(None, SPEC)) == feeds.SYNTHETIC
    with pytest.raises(UsageError, match="have no labels"):
        open_feed(None, SPEC, labelled=True)
