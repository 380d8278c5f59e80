"""Any tree of folders gives the classes that a person would name, or is refused saying what was seen.

Trees are made from a description, so that what they should give is known without reading them.
"""

from __future__ import annotations

import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resnet_infer.data.datasets import Dataset, open_all, open_dataset
from resnet_infer.data.datasets.formats import canonical_split, folder_split
from resnet_infer.data.formats.suffixes import OTHER, READABLE, UNREADABLE
from resnet_infer.errors import DataError

pytestmark = pytest.mark.usefixtures("notes_on_stderr")

SPELLINGS = {
    "train": ("train", "Train", "TRAINING", "training_set", "trainset", "seg_train", "train-images", "train2017"),
    "val": ("val", "valid", "Validation", "dev", "eval", "valid_set", "val_images", "val2017"),
    "test": ("test", "Testing", "test_set", "testSet", "seg_test", "test data"),
}
FOLDERS = {
    "train": (
        *SPELLINGS["train"],
        "train1",
        "train_1",
        "train-jpg",
        "stage1_train",
        "trainA",
        "Train_v2",
        "train_part_1",
    ),
    "val": (*SPELLINGS["val"], "val1", "valid-png", "stage2_val", "valA"),
    "test": (*SPELLINGS["test"], "test1", "test_2", "test_stg1", "testB", "test-tif-v2", "test_images_03"),
}
"""Folders may have a number or a format in their names, or a side."""
MEANT = {name: split for split, names in FOLDERS.items() for name in names}
JUNK = (
    *(".DS_Store", ".ipynb_checkpoints/1.jpg", "__MACOSX/cat/._1.jpg", "$RECYCLE.BIN/1.jpg", "README.md", "Thumbs.db"),
    *("@eaDir/1.jpg", "desktop.ini", ".git/1.jpg", "run/recipe.json", "lost+found/"),
)
IN_CLASS = (".DS_Store", "Thumbs.db", ".ipynb_checkpoints/9.jpg", "._1.jpg", "1.txt", "1.xml", "desktop.ini")
RUN = ("run/recipe.json", "run/metrics.csv", "run/last.safetensors", "run/curves.png")
NAMES = ("cat", "dog", "owl", "Élan", "kit fox", "n02119789", "7", "train station", "bus-stop")


@dataclass(frozen=True)
class Layout:
    """`splits` maps names of folders to pictures for each class; the empty name is no split folder at all."""

    splits: dict[str, dict[str, int]]
    inner: str = ""  # each class has pictures in folders: "own", "shared" by all, or right in it
    flat: bool = False  # pictures lie in the split folders, without class folders
    doubled: bool = False  # train/train/cat
    around: tuple[str, ...] = ()
    junk: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()  # files beside what lies around
    pack: str = "directory"

    @property
    def classes(self) -> list[str]:
        return sorted({name for classes in self.splits.values() for name in classes})

    @property
    def refused(self) -> bool:
        return self.flat or self.inner == "shared" or len(self.classes) < 2

    def files(self) -> Iterator[str]:
        for split, classes in self.splits.items():
            top = (split, split) if split and self.doubled else (split,)
            for name, count in classes.items():
                for number in range(count):
                    folders = {"own": f"{name} {number % 2}", "shared": "ab"[number % 2]}.get(self.inner, "")
                    place = (*top, *(() if self.flat else (name, folders)), f"{name}-{number}.jpg")
                    yield "/".join(part for part in place if part)
                for extra in IN_CLASS if self.junk and not self.flat else ():
                    yield "/".join(part for part in (*top, name, extra) if part)
        yield from self.junk

    def make(self, place: Path) -> Path:
        names = dict.fromkeys([*("/".join((*self.around, name)) for name in self.files()), *self.beside])
        if self.pack == "zip":
            with zipfile.ZipFile(place / "set.zip", "w") as archive:
                for name in names:
                    archive.writestr(name, b"")
            return place / "set.zip"
        root = place / "set"
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(b"")
        if self.pack == "directory":
            return root
        with tarfile.open(place / "set.tar", "w") as archive:
            archive.add(root, "set")
        return place / "set.tar"


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    classes = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    present = draw(st.sampled_from([(), ("train",), ("train", "val"), ("train", "test"), ("train", "val", "test")]))
    folders = [draw(st.sampled_from(FOLDERS[split])) for split in present] or [""]
    counts = st.integers(2, 4)
    splits = {folder: {name: draw(counts) for name in classes} for folder in folders}
    flat = bool(present) and draw(st.booleans()) and draw(st.booleans())
    inner = draw(st.sampled_from(["", "", "own", "shared"])) if len(classes) > 1 and not flat else ""
    junk = tuple(draw(st.lists(st.sampled_from(JUNK), unique=True)))
    if draw(st.booleans()):
        junk = (*junk, *(name for name in RUN if name not in junk))
    around = draw(st.sampled_from([(), ("archive",), ("archive", "photos")]))
    doubled = draw(st.booleans()) and not flat
    beside = draw(st.sampled_from([(), ("LICENSE",), ("README.md", "words.md", ".hidden/1.jpg")]))
    pack = draw(st.sampled_from(["directory", "tar", "zip"]))
    return Layout(splits, inner, flat, doubled, around, junk, beside, pack)


def counts(dataset: Dataset) -> dict[str, int]:
    found = Counter(dataset.classes[sample.label] for sample in dataset.samples)
    return {name: found[name] for name in dataset.classes}


def two(count: int = 2) -> dict[str, int]:
    return {"cat": count, "dog": count}


@settings(max_examples=80, deadline=None)
@given(layout=layouts())
@example(Layout({"seg_train": two(), "seg_test": two()}, doubled=True))
@example(Layout({"training_set": two(), "test_set": two()}))
@example(Layout({"train": two(), "test": two()}, flat=True))
@example(Layout({"train1": two(), "test1": two()}, flat=True))
@example(Layout({"train": two()}, flat=True, junk=("labels.csv",)))
@example(Layout({"": {"cat": 2}}))
@example(Layout({"": two()}, around=("images",), beside=("attributes/a.txt", "LICENSE")))
@example(Layout({"": two(4)}, inner="shared"))
@example(Layout({"": two()}, junk=RUN))
def test_the_classes_are_those_a_person_would_name_or_it_is_refused(layout: Layout) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = layout.make(Path(folder))
        if layout.refused:
            with pytest.raises(DataError) as caught:
                open_all(source)
            seen = (*layout.splits, *layout.classes, *layout.around, "class folders", "one class, set")
            assert any(name and name in caught.value.message for name in seen), caught.value
            assert caught.value.hint
            return
        found = open_all(source)
    expected = {MEANT[split] if split else None: count for split, count in layout.splits.items()}
    assert {split: counts(dataset) for split, dataset in found.items()} == expected
    assert all(dataset.classes == tuple(layout.classes) for dataset in found.values())


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(
        st.tuples(
            st.sampled_from(["cat", "dog/young", "dog"]),
            st.integers(0, 99),
            st.sampled_from([*READABLE, *UNREADABLE, *OTHER, ".HEIC", ".JFIF", ".mov", ".part", ".jpg~", ""]),
        ),
        unique=True,
        max_size=40,
    )
)
def test_every_file_is_read_or_counted(names: Sequence[tuple[str, int, str]]) -> None:
    paths = {"cat/a.jpg", "dog/a.jpg", *(f"{folder}/{number}{ending}" for folder, number, ending in names)}
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            (Path(folder, path).parent).mkdir(parents=True, exist_ok=True)
            Path(folder, path).touch()
        dataset = open_dataset(Path(folder))
    read, skipped = counts(dataset), {item.folder: item for item in dataset.skipped}
    for name in ("cat", "dog"):
        own = [path for path in paths if path.startswith(f"{name}/") and Path(path).suffix.lower() not in OTHER]
        count = skipped[name].count if name in skipped else 0
        assert read[name] == sum(Path(path).suffix.lower() in READABLE for path in own)
        assert read[name] + count == len(own)
    assert bool(skipped) == any("not read" in line for line in dataset.remarks())


class TestSaid:
    """What is passed over, and what is refused, in the words that people read."""

    def source(self, folder: Path, *names: str) -> Path:
        for name in names:
            path = folder / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("file_name,label\ncat_1.jpg,cat\ndog_1.jpg,dog\n" if name.endswith(".csv") else "")
        return folder / "set"

    def test_a_class_of_which_little_is_read_comes_first(self, tmp_path: Path) -> None:
        heic = [f"dog/{number}.HEIC" for number in range(30)]
        cats, dogs = [f"cat/{n}.jpg" for n in range(20)], [f"dog/{n}.jpg" for n in range(10)]
        dataset = open_dataset(self.source(tmp_path, *cats, *dogs, *heic, "cat/x.avif"))
        assert dataset.remarks() == [
            "set: 31 files are not read: dog 30 of 40: .heic (HEIC) 30; cat 1 of 21: .avif (AVIF) 1"
        ]

    @pytest.mark.parametrize(
        ("names", "message", "hint"),
        [
            (
                ["labels.csv", "train/cat_1.jpg", "train/dog_1.jpg"],
                "train holds pictures",
                r"set/labels\.csv says what",
            ),
            (["train/metadata.csv", "train/cat_1.jpg", "train/dog_1.jpg"], "train holds", r"train/metadata\.csv says"),
            (["labels.csv", "photos/cat_1.jpg", "photos/dog_1.jpg"], "one class, photos", r"set/labels\.csv says what"),
            (["labels.csv", "cat_1.jpg", "dog_1.jpg"], "no data set of a known format", r"set/labels\.csv says what"),
            (["cat/1.jpg", "cat/2.jpg"], "one class, cat", "a folder of pictures for each class"),
            (["cat/1.jpg", "dog/1.heic"], r"without pictures: dog \(\.heic only\)", "that can be read"),
            (["cat/1.jpg", "Cat/1.jpg"], r"'Cat' \(1 pictures\) and 'cat' \(1 pictures\)", "--class-order FILE"),
            (
                ["a/cat/1.jpg", "a/dog/1.jpg", "b/cat/1.jpg", "b/dog/1.jpg"],
                "which are the classes",
                "upper ones as DATA",
            ),
            (["cat/train/1.jpg", "cat/test/1.jpg", "dog/x/1.jpg"], "divided into test, train", "around the classes"),
            (["cat/1.jpg", "cat/dog/1.jpg", "dog/1.jpg"], "there is a folder cat/dog too", "where they belong"),
            (
                ["train/cat/1.jpg", "train/dog/1.jpg", "holdout/cat/1.jpg"],
                "pictures in holdout too",
                "if it is a split",
            ),
            (["train/cat/1.jpg", "train/dog/1.jpg", "val/owl/1.jpg"], "does not know: owl", "every class needs"),
            (["train1/cat.1.jpg", "test1/1.jpg"], "test1, train1 hold pictures and no class", "expected is"),
            (["train/1.jpg", "test/1.jpg", "extra/1.jpg"], "test, train look like splits", "expected is"),
            (["part_1/cat_1.jpg", "part_2/dog_1.jpg", "x.csv"], "numbered parts", r"set/x\.csv says what"),
            (["images/1.jpg", "masks/1.png"], "images, masks look like pictures and what belongs", "expected is"),
            (["a/cat_1.jpg", "a/dog_1.jpg", "b/1.jpg", "a/l.csv"], r"a/l\.csv gives pictures in one folder", "as DATA"),
            (["images/1.jpg", "labels/1.txt"], r"one class|without pictures: labels", "YOLO|expected"),
            (["images/train/1.jpg", "images/val/2.jpg", "labels/train/1.txt"], "train, val hold pictures", "YOLO"),
            (["JPEGImages/1.jpg", "SegmentationClass/1.png", "Annotations/1.xml"], "what belongs to them", "VOC"),
            (["train/images/1.jpg", "train/labels/1.txt"], "without pictures: labels", "YOLO"),
            (
                ["train/caf\u00e9/1.jpg", "train/b/1.jpg", "val/cafe\u0301/1.jpg"],
                r"written 'cafe\\u0301'.*'caf\\xe9'",
                "",
            ),
            (["caf\u00e9/1.jpg", "cafe\u0301/1.jpg"], r"accents are written: 'cafe\\u0301' .* 'caf\\xe9'", "FILE"),
        ],
    )
    def test_refusals_name_what_was_met_and_the_way_out(
        self, names: Sequence[str], message: str, hint: str, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match=message) as caught:
            open_all(self.source(tmp_path, *names))
        assert caught.value.hint is not None
        assert caught.match(hint)

    @pytest.mark.parametrize(
        ("names", "remark"),
        [
            (["cat/x/1.jpg", "cat/y/1.jpg", "dog/1.jpg"], "below a class folder are of that class: cat/x, cat/y"),
            (["train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg"], "no class folders of a split: test"),
            (["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg"], "val: no pictures of dog"),
            (["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.txt"], "val: no pictures of dog"),
            (["train/cat/1.jpg", "train/dog/1.jpg", "test/test/1.jpg"], "no class folders of a split: test"),
            (["train/cat/1.jpg", "train/dog/1.jpg", "test_stg1/1.jpg"], "no class folders of a split: test_stg1"),
            (["cat/1.jpg", "dog/1.jpg", *RUN], "not used, as they hold training runs: run"),
            (["cat/1.jpg", *(f"cat/{name}" for name in RUN), "dog/1.jpg"], "hold training runs: cat/run"),
            (["1/a.jpg", "2/b.jpg", "names.csv"], "the folders are taken for the classes, not"),
        ],
    )
    def test_what_is_not_used_is_said(self, names: Sequence[str], remark: str, tmp_path: Path) -> None:
        found = open_all(self.source(tmp_path, *names))
        assert any(remark in line for dataset in found.values() for line in dataset.remarks())

    @pytest.mark.parametrize("name", ["recipe.json", "metrics.csv", "split.csv"])
    @pytest.mark.parametrize("inner", ["", "images/"])
    def test_a_class_with_one_such_file_is_no_run(self, name: str, inner: str, tmp_path: Path) -> None:
        source = self.source(tmp_path, f"pizza/{inner}1.jpg", f"pizza/{name}", "soup/1.jpg")
        (dataset,) = open_all(source).values()
        assert counts(dataset) == {"pizza": 1, "soup": 1}

    def test_a_list_that_agrees_with_the_folders_is_no_doubt(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, "cat/1.jpg", "dog/1.jpg", "cat/2.jpg")
        (source / "list.csv").write_text("path,label\ncat/1.jpg,Felis\ndog/1.jpg,Canis\ncat/2.jpg,Felis\n")
        (dataset,) = open_all(source).values()
        assert counts(dataset) == {"cat": 2, "dog": 1}

    def test_the_list_that_opens_is_pointed_to(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, "train/cat_1.jpg", "train/dog_1.jpg", "z.csv")
        (source / "a.csv").write_text("slide,grade\ns1,0\ns2,1\n")
        (source / "sample_submission.csv").write_text("id,label\ncat_1,0\n")
        with pytest.raises(DataError) as caught:
            open_all(source)
        assert "z.csv says what" in str(caught.value.hint)

    def test_pictures_beside_class_folders_are_said_before_training(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        open_all(self.source(tmp_path, "cat/1.jpg", "dog/1.jpg", "stray.jpg", "lost.heic"))
        assert "not used, as no label says what they show: lost.heic, stray.jpg" in capsys.readouterr().err

    def test_whoever_lists_the_classes_is_believed(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, "A/x/1.jpg", "A/y/1.jpg", "a/x/1.jpg", "a/y/1.jpg")
        (dataset,) = open_all(source, ["a", "A"]).values()
        assert counts(dataset) == {"a": 2, "A": 2}

    def test_a_member_that_leads_out_of_an_archive(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for name in ("../cat/1.jpg", "dog/1.jpg"):
                archive.writestr(name, b"")
        with pytest.raises(DataError, match=r"\.\./cat/1\.jpg leads out of the archive"):
            open_dataset(tmp_path / "set.zip")

    def test_backslashes_in_a_zip_part_folders(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for name in ("cat\\1.jpg", "dog\\1.jpg"):
                archive.writestr(name, b"")
        assert counts(open_dataset(tmp_path / "set.zip")) == {"cat": 1, "dog": 1}


@pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in SPELLINGS.items() for name in names])
def test_spellings_of_splits(split: str, name: str) -> None:
    assert canonical_split(name) == split


@pytest.mark.parametrize(("name", "split"), MEANT.items())
def test_spellings_of_split_folders(name: str, split: str) -> None:
    assert folder_split(name) == split
    if name not in SPELLINGS[split]:
        assert canonical_split(name) not in SPELLINGS  # a list may have val1 and val2


@pytest.mark.parametrize(
    "name",
    ["trains", "test tube", "bus", "trainer", "validator", "data", "images", "训练test", "dev board", "test1 tube"],
)
def test_other_names_are_no_splits(name: str) -> None:
    assert canonical_split(name) == folder_split(name) == name


@settings(max_examples=60, deadline=None)
@given(
    word=st.sampled_from(["part", "images", "batch", "Fold", "chunk", "shard", "HAM_images_part"]),
    between=st.sampled_from(["", "_", "-", " "]),
    width=st.integers(1, 3),
    count=st.integers(2, 4),
    inner=st.sampled_from(["", "images/"]),
)
def test_numbered_parts_are_no_classes_unless_that_is_said(
    word: str, between: str, width: int, count: int, inner: str
) -> None:
    names = [f"{word}{between}{number:0{width}}" for number in range(1, count + 1)]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, name, inner).mkdir(parents=True)
            Path(folder, name, inner, "1.jpg").touch()
        with pytest.raises(DataError, match="look like numbered parts of one set") as caught:
            open_all(Path(folder))
        assert "--class-order" in str(caught.value.hint)
        assert any("look like" in note for note in open_dataset(Path(folder)).notes)
        (dataset,) = open_all(Path(folder), names).values()
        assert dataset.classes == tuple(names)


@pytest.mark.parametrize(
    "names",
    [
        *(["0", "1", "2"], ["class1", "class2"], ["class_1", "class_2"], ["n01440764", "n01443537"], ["c0", "c1"]),
        *(["images", "drawings"], ["train", "plane", "car"], ["test", "control"], ["valid", "invalid"]),
        *(["part_1", "whole", "other"], ["data", "noise"], ["photo", "painting"]),
    ],
    ids=str,
)
def test_classes_with_such_names_stay_classes(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    (dataset,) = open_all(tmp_path).values()
    assert dataset.classes == tuple(sorted(names))
