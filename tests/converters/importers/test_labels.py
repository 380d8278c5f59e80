"""Class names in every form that they are kept in, and what is no list of names."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_infer.converters.importers.labels import Labels, read_labels
from resnet_infer.errors import DataError
from resnet_infer.models.spec import imagenet_classes

NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1).filter(lambda t: t[0] not in "[{"),
    min_size=1,
    max_size=12,
)


def table(names: list[str], delimiter: str, ids: bool, header: bool) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    if header:
        writer.writerow(["index", "id", "name"] if ids else ["index", "name"])
    for index, name in reversed(list(enumerate(names))):
        writer.writerow([index, f"n{index:08d}", name] if ids else [index, name])
    return stream.getvalue()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(names=NAMES, header=st.booleans(), bom=st.booleans())
def test_every_form_gives_the_names_back(tmp_path: Path, names: list[str], header: bool, bom: bool) -> None:
    numbered = list(enumerate(names))
    ids = tuple(f"n{index:08d}" for index, _ in numbered)
    forms = {
        json.dumps(names): None,
        json.dumps({str(index): name for index, name in reversed(numbered)}): None,
        json.dumps({str(index): [ids[index], name] for index, name in numbered}): ids,
        table(names, "\t", True, header): ids,
        table(names, ",", True, header): ids,
        table(names, ",", False, header): None,
    }
    if not any(name[0].isdecimal() or name.startswith("index") or '"' in name for name in names):
        forms["\n".join(names) + "\n\n"] = None
    path = tmp_path / "labels"
    for text, found in forms.items():
        path.write_text(text, encoding="utf-8-sig" if bom else "utf-8")
        assert read_labels(path) == Labels(tuple(names), found, str(path))


def test_synonyms_in_a_line_are_one_name(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("tench, Tinca tinca\ngoldfish, Carassius auratus\n")
    assert read_labels(path).names == ("tench, Tinca tinca", "goldfish, Carassius auratus")


def test_the_table_of_imagenet_as_it_is_published(tmp_path: Path) -> None:
    names, ids = imagenet_classes()
    path = tmp_path / "imagenet_class_index.json"
    path.write_text(json.dumps({str(i): [ids[i], names[i]] for i in range(1000)}))
    labels = read_labels(path)
    assert (labels.names, labels.ids) == (names, ids)
    labels.require(1000)
    with pytest.raises(DataError, match=r"imagenet_class_index\.json names 1000 classes; the model has 10\n"):
        labels.require(10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no class names"),
        (b"cat\n\ndog\n", "a class has no name"),
        (b"[1, 2]", "no list of class names"),
        (b'["cat", ["n1", "dog", "third"]]', "is no name"),
        (b'{"0": "cat", "2": "dog"}', "the indices are not 0 to 1"),
        (b'{"cat": 0}', "no list of class names"),
        (b'{"0": "cat"', "no list of class names"),
        (b"[" * 100_000, "no list of class names"),
        (b"0\tcat\n0\tdog\n", "an index occurs twice"),
        (b"1,cat\n2,dog\n", "the indices are not 0 to 1"),
        (b"\xff\xfe\x00", "it is not UTF-8"),
    ],
)
def test_what_is_no_list_of_names_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_labels(path)
    assert str(path) in caught.value.message
    assert "one name per line" in (caught.value.hint or "")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_labels(tmp_path / "labels.txt")
