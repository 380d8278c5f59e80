"""Lists of pictures and labels, of every spelling, against `csv.DictReader` and `json`."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resnet_infer.data.datasets import open_all, open_dataset
from resnet_infer.errors import DataError, SplitError

PATHS = (
    "path",
    "file_name",
    "filename",
    "filepath",
    "filepaths",
    "image_path",
    "Image",
    "image_id",
    "id",
    "img",
    "FILE",
)
LABELS = ("label", "labels", "class", "class_name", "Category", "target", "class id", "breed")
LABEL_FORMS = {
    "names": ("cat", "dog", 'a "big", owl', "é; ü", "kit fox"),
    "from 0": ("0", "1", "2"),
    "from 1": ("1", "2", "3"),
    "gaps": ("0", "5", "7"),
    "floats": ("0.0", "1.0", "2.0"),
    "signed": ("-1", "1"),
}
SPLIT_FORMS = {
    "": {},
    "split": {"train": "Train", "val": "valid", "test": "TEST"},
    "set": {"train": "training", "val": "dev", "test": "test_set"},
    "data set": {"train": "train", "val": "validation", "test": "testing"},
    "is_valid": {"train": "False", "val": "True"},
    "is_test": {"train": "0", "test": "1"},
    "is_train": {"train": "yes", "test": "no"},
    "type": {"train": "train", "val": "valid", "test": "test"},
    "train_val_test": {"train": "Train", "val": "val", "test": "Test"},
    "train": {"train": "1", "test": "0"},
    "validation": {"train": "no", "val": "yes"},
}
BY_VALUE = ("type", "train_val_test", "train", "validation")
"""Columns that are known by what is in them: by two different splits at least."""


@dataclass(frozen=True)
class Listing:
    """A list as somebody wrote it: a row is the number of a picture, a label and a split."""

    rows: tuple[tuple[int, str, str], ...]
    form: str = ","  # what parts the cells, or "json"
    path: str = "path"
    label: str = "label"
    split: str = ""
    extra: tuple[str, ...] = ()
    suffix: bool = True
    below: str = ""  # pictures lie in that folder, and the list does not say so
    encoding: str = "utf-8"
    quoting: bool = False

    @property
    def header(self) -> list[str]:
        return [*self.extra[:1], self.path, self.label, *([self.split] if self.split else []), *self.extra[1:]]

    def text(self) -> str:
        rows = []
        for number, label, split in self.rows:
            path = f"photo {number}.jpg" if self.suffix else f"photo {number}"
            said = {self.path: path, self.label: label}
            if self.split:
                said[self.split] = SPLIT_FORMS[self.split][split]
            rows.append({**dict.fromkeys(self.extra, str(number % 3)), **said})
        if self.form == "json":
            return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        file = io.StringIO(newline="")
        writer = csv.DictWriter(
            file, self.header, delimiter=self.form, quoting=csv.QUOTE_ALL if self.quoting else csv.QUOTE_MINIMAL
        )
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()

    def make(self, folder: Path) -> Path:
        (folder / self.below).mkdir(exist_ok=True)
        for number, _, _ in self.rows:
            (folder / self.below / f"photo {number}.jpg").touch()
        source = folder / ("list.jsonl" if self.form == "json" else "list.csv")
        source.write_bytes(self.text().encode(self.encoding))
        return source

    def counts(self, source: Path) -> dict[str | None, Counter[str]]:
        """Pictures of each label, split by split, by another reader."""
        with open(source, encoding=self.encoding, newline="") as file:
            if self.form == "json":
                rows = [json.loads(line) for line in file]
            else:
                rows = list(csv.DictReader(file, delimiter=self.form))
        meant = {said: split for split, said in SPLIT_FORMS[self.split].items()}
        found: dict[str | None, Counter[str]] = {}
        for row in rows:
            split = meant[row[self.split]] if self.split else None
            label = row[self.label]
            found.setdefault(split, Counter())[label.removesuffix(".0")] += 1
        return found


@st.composite
def listings(draw: st.DrawFn) -> Listing:
    split = draw(st.sampled_from(list(SPLIT_FORMS)))
    forms = SPLIT_FORMS[split]
    labels = LABEL_FORMS[draw(st.sampled_from(list(LABEL_FORMS)))]
    count = draw(st.integers(2, 12))
    numbers = draw(st.permutations(range(count)))
    label = draw(st.sampled_from(LABELS))
    extra = draw(st.sampled_from([(), ("",), ("fold", "width"), ("Unnamed: 0",), ("bbox",)]))
    if label == "breed" and any(name and not name.startswith("Unnamed") for name in extra):
        extra = ()  # of several columns, nothing says which is the label
    rows = [
        (
            number,
            labels[place] if place < 2 else draw(st.sampled_from(labels)),
            draw(st.sampled_from(list(forms) or [""])),
        )
        for place, number in enumerate(numbers)
    ]
    if split:
        rows[0] = (*rows[0][:2], "train")
    if split in BY_VALUE:
        rows[1] = (*rows[1][:2], list(forms)[-1])
    return Listing(
        tuple(rows),
        draw(st.sampled_from([",", ";", "\t", "|", "json"])),
        draw(st.sampled_from(PATHS)),
        label,
        split,
        extra,
        draw(st.booleans()),
        draw(st.sampled_from(["", "images", "train"])),
        draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])),
        draw(st.booleans()),
    )


TWO = ((0, "1", "train"), (1, "2", "train"), (2, "2", "val"))


@settings(max_examples=100, deadline=None)
@given(listing=listings())
@example(Listing(TWO))
@example(Listing(TWO, split="is_valid"))
@example(Listing(TWO, path="id", label="breed", suffix=False, below="train"))
def test_counts_are_those_of_another_reader(listing: Listing) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = listing.make(Path(folder))
        expected = listing.counts(source)
        found = open_all(source)
        for split, dataset in found.items():
            assert Counter(dataset.classes[sample.label] for sample in dataset.samples) == expected[split]
            assert all(sample.read() == b"" for sample in dataset.samples)
        assert found.keys() == expected.keys()
        labels = set().union(*expected.values())
        assert all(set(dataset.classes) == labels for dataset in found.values())


@settings(max_examples=50, deadline=None)
@given(listing=listings(), data=st.data())
def test_a_wrong_line_is_named_and_never_left_out(listing: Listing, data: st.DataObject) -> None:
    listing = replace(listing, form="," if listing.form == "json" else listing.form, encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        source = listing.make(Path(folder))
        lines = listing.text().splitlines()
        number = data.draw(st.integers(1, len(lines) - 1))
        cells = next(csv.reader([lines[number]], delimiter=listing.form))
        place = {name: listing.header.index(name) for name in listing.header}
        others = {split for row, (_, _, split) in enumerate(listing.rows, 1) if row != number}
        # With one split left, nothing says that the column is one of splits: it is reported as not used.
        known = bool(listing.split) and (listing.split not in BY_VALUE or len(others) > 1)
        faults = ["no label", "no path", "short", "twice", "gone", *(["flag"] if known else [])]
        fault = data.draw(st.sampled_from(faults))
        if fault == "no label":
            cells[place[listing.label]] = " "
        elif fault == "no path":
            cells[place[listing.path]] = ""
        elif fault == "short":
            cells = cells[:-1]
        elif fault == "twice":
            lines.append(lines[number])
        elif fault == "gone":
            cells[place[listing.path]] = "elsewhere.jpg"
        else:
            cells[place[listing.split]] = ""
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=listing.form, lineterminator="").writerow(cells)
        lines[number] = file.getvalue()
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with pytest.raises(DataError, match=rf"\bline(s|) (\d+ and )?(\d+, )*{number + 1}\b") as caught:
            open_all(source)
        assert caught.value.hint


class TestColumns:
    def source(self, folder: Path, text: str, *extra: str) -> Path:
        for name in ("a.jpg", "b.jpg", "c.jpg", *extra):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
        (folder / "list.csv").write_text(text, encoding="utf-8")
        return folder / "list.csv"

    @pytest.mark.parametrize(
        ("text", "remark"),
        [
            ("image_id,breed\na,x\nb,y\n", "image_id is taken for the path; breed is taken for the label"),
            ("path,label,age\na.jpg,x,1\nb.jpg,y,2\n", "not used: age"),
            ("path,label,set\na.jpg,x,red\nb.jpg,y,blue\n", "not used: set"),
            ("path,label,type\na.jpg,x,train\nb.jpg,y,train\n", "not used: type"),
            ("path,label,valid\na.jpg,x,1\nb.jpg,y,1\n", "not used: valid"),
            ("path,label,fold\na.jpg,x,0\nb.jpg,y,1\n", "not used: fold"),
        ],
    )
    def test_what_is_taken_for_granted_is_said(self, text: str, remark: str, tmp_path: Path) -> None:
        (line,) = open_dataset(self.source(tmp_path, text)).remarks()
        assert line.endswith(remark)

    def test_a_folder_below_is_said(self, tmp_path: Path) -> None:
        (line,) = open_dataset(self.source(tmp_path, "d.jpg,x\ne.jpg,y\n", "p/d.jpg", "p/e.jpg", "q/z.jpg")).remarks()
        assert line.endswith(f"paths are relative to {tmp_path / 'p'}")

    @pytest.mark.parametrize(
        ("text", "extra", "message"),
        [
            ("d.jpg,x\ne.jpg,y\n", ("p/d.jpg", "p/e.jpg", "q/d.jpg", "q/e.jpg"), r"d\.jpg may be \S*p.d\.jpg, \S*q.d"),
            ("path,label\nd,x\na,y\n", ("d.png", "d.jpg"), r": d may be"),
            (
                "ImageId,PredictionString\n" + "".join(f"{n},n0144 {n} 2 3 4\n" for n in range(10, 22)),
                tuple(f"{n}.JPEG" for n in range(10, 22)),
                "each of its 12 pictures is a class of its own: n0144 10 2",
            ),
            ("a.jpg,cat\nb.jpg,Cat\n", (), "differ only by capitals or spaces: 'Cat' .* and 'cat'"),
            ("a.jpg,kit fox\nb.jpg,kit  fox\n", (), "differ only by capitals or spaces"),
            ("a.jpg,cat\nb.jpg,cat\n", (), "one class, cat"),
            (
                "a.jpg,x,train\nb.jpg,y,trian\nc.jpg,x,holdout\n",
                (),
                r"none of train, val, test: trian \(1 .*holdout \(1",
            ),
            (
                "path,label,is_valid\na.jpg,x,maybe\nb.jpg,y,True\n",
                (),
                "line 2: is_valid is true or false, not 'maybe'",
            ),
            ("a.jpg,x\nb.jpg,y\na.jpg,y\n", (), r"a\.jpg \(lines 1 and 3 as x and as y\)"),
            ("a.jpg,x,train\nb.jpg,y,train\na.jpg,x,val\n", (), "lines 1 and 3 as x in train and as x in val"),
            ("path,label,valid\na.jpg,x,1\nb.jpg,y,0\n", (), "valid may say which pictures are for validation, or"),
            ("path,label,train,val\na.jpg,x,1,0\nb.jpg,y,0,1\n", (), "train and val each say something of the split"),
            ("path,label,is_valid,is_test\na.jpg,x,1,0\nb.jpg,y,0,1\n", (), "is_valid and is_test each say"),
            ("path,label,type\na.jpg,x,train\nb.jpg,y,val\nc.jpg,y,held\n", (), r"none of .*: held \(1"),
            ("image,age\na.jpg,23.5\nb.jpg,24\n", (), r"numbers, not classes: 23\.5 \(line 2\)"),
            ("a.jpg,-1e-3\nb.jpg,.5\n", (), r"numbers, not classes: -1e-3, \.5"),
            ("a.jpg,01\nb.jpg,1\nc.jpg,2\n", (), r"01 \(line 1\) and 1 \(line 2\) are the same number"),
            ("a.jpg,\u0661\nb.jpg,1\nc.jpg,2\n", (), "are the same number"),
            ("slide,grade\na,0\nb,1\n", (), "path and label, its first line does not say: slide,grade"),
            ("slide,grade,x,y\na,0,1,2\nb,1,1,2\n", (), "its first line does not say: slide,grade,x,y"),
            ("image_id,healthy,rust\na,0,1\nb,1,0\n", (), "image_id is the path; which column is the label"),
            ('{"file_name": "a.jpg", "label": ["x", "y"]}\n', (), "line 1: label is a list or an object"),
            (
                '{"file_name": "a.jpg", "label": "x"}\n{"file_name": "b.jpg", "label": {"a": 1}}\n',
                (),
                "line 2: label is a",
            ),
            ('{"file_name": "a.jpg", "label": "x"}\n{"file_name": \n', (), "line 2: no JSON object"),
        ],
    )
    def test_doubts_are_errors(self, text: str, extra: Sequence[str], message: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=message) as caught:
            open_all(self.source(tmp_path, text, *extra))
        assert caught.value.hint

    def test_another_split_can_be_named_but_not_trained_on(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, "a.jpg,x,holdout\nb.jpg,y,train\n")
        assert len(open_dataset(source, "holdout").samples) == 1
        with pytest.raises(SplitError, match="no split 'held-out'"):
            open_dataset(source, "held-out")

    def test_label_before_path_without_a_first_line(self, tmp_path: Path) -> None:
        dataset = open_dataset(self.source(tmp_path, "x,a.jpg\ny,b.jpg\n"))
        assert [(sample.name, dataset.classes[sample.label]) for sample in dataset.samples] == [
            ("a.jpg", "x"),
            ("b.jpg", "y"),
        ]

    def test_white_space_parts_cells(self, tmp_path: Path) -> None:
        dataset = open_dataset(self.source(tmp_path, "my photo.jpg 1\na.jpg 0\n", "my photo.jpg"))
        assert [sample.label for sample in dataset.samples] == [1, 0]

    @pytest.mark.parametrize("header", ["id_code,diagnosis,age", "lesion_id,image_id,dx,age", "Image ID,Species,site"])
    def test_columns_that_public_lists_have(self, header: str, tmp_path: Path) -> None:
        place = {"diagnosis": 1, "dx": 2, "Species": 1}
        label = next(number for name, number in place.items() if name in header)
        rows = [["z"] * (label - 1) + [name, number] + ["9"] for name, number in (("a", "0"), ("b", "4"))]
        text = "\n".join([header, *map(",".join, rows)])
        assert [sample.label for sample in open_dataset(self.source(tmp_path, text)).samples] == [0, 4]

    def test_measures_are_classes_if_that_is_said(self, tmp_path: Path) -> None:
        (dataset,) = open_all(self.source(tmp_path, "a.jpg,1.5\nb.jpg,2\n"), ["1.5", "2"]).values()
        assert dataset.classes == ("1.5", "2")

    def test_numbers_are_the_models_to_evaluate_and_classes_to_train(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, "a.jpg,1\nb.jpg,2\nc.jpg,10\n")
        assert open_dataset(source).classes == tuple(map(str, range(11)))
        (dataset,) = open_all(source).values()
        assert (dataset.classes, [sample.label for sample in dataset.samples]) == (("1", "2", "10"), [0, 1, 2])

    def test_a_named_class_without_pictures_is_said(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, "a.jpg,1\nb.jpg,2\n")
        (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
        (dataset,) = open_all(source).values()
        assert dataset.classes == ("background", "cat", "dog")
        assert dataset.notes == ("list.csv: no pictures of background",)
