"""Which class of the model each class of the data is, and when that cannot be said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnet_infer.data.class_map import StatedOrder, map_classes, same_classes
from resnet_infer.data.datasets import Dataset, Sample, open_all
from resnet_infer.data.labelled import open_labelled
from resnet_infer.errors import DataError
from resnet_infer.models.spec import InputSpec, ModelSpec, imagenet_classes


def model(names: Sequence[str], ids: Sequence[str] | None = None) -> ModelSpec:
    geometry = InputSpec(8, 8, np.zeros(3), np.ones(3))
    return ModelSpec("net", None, tuple(names), geometry, class_ids=tuple(ids) if ids else None)


def data(
    names: Sequence[str], ids: Sequence[str] | None = None, order: str = "string", used: Sequence[int] | None = None
) -> Dataset:
    samples = [Sample(f"{label}.png", label, lambda: b"") for label in (range(len(names)) if used is None else used)]
    return Dataset("pictures", tuple(names), samples, order, tuple(ids) if ids else None)


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., Path]:
    """A data set of class folders with one picture in each."""

    def make(names: Sequence[str]) -> Path:
        for name in names:
            (tmp_path / name).mkdir()
            Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
        return tmp_path

    return make


@given(st.permutations(["cat", "dog", "great white shark", "10", "2", "tench, Tinca tinca"]))
def test_names_are_matched_in_whatever_order(names: list[str]) -> None:
    found = map_classes(data(sorted(names)), model(names))
    assert [names[index] for index in found.indices] == sorted(names)
    assert found.by == "name"


@pytest.mark.parametrize(
    ("own", "known"),
    [
        ("Great_White-Shark", "great white shark"),
        ("tench", "tench, Tinca tinca"),
        ("Tinca_tinca", "tench, Tinca tinca"),
        ("great white shark, white shark, man-eater", "white shark"),
        ("007", "7"),
    ],
)
def test_spellings_that_mean_the_same(own: str, known: str) -> None:
    assert map_classes(data([own, "other"]), model(["x", "other", known])).indices.tolist() == [2, 1]


def test_an_exact_name_goes_before_a_synonym() -> None:
    found = map_classes(data(["crane"]), model(["crane, bird", "crane"]))
    assert found.indices.tolist() == [1]


def test_a_name_that_two_classes_could_have_is_refused() -> None:
    with pytest.raises(DataError, match=r"several classes of net: crane, a bird \(number 0\), crane, a mac"):
        map_classes(data(["crane"]), model(["crane, a bird", "crane, a machine"]))
    with pytest.raises(DataError, match="car and auto of pictures are both car, auto to net"):
        map_classes(data(["car", "auto"]), model(["car, auto", "truck"]))


def test_wordnet_ids_go_before_names() -> None:
    names, ids = imagenet_classes()
    chosen = [134, 517, 3]  # two of which many lists call crane
    found = map_classes(data(["crane", "crane 2", "x"], [ids[index] for index in chosen]), model(names, ids))
    assert (found.indices.tolist(), found.by) == (chosen, "WordNet id")
    assert map_classes(data([ids[index] for index in chosen]), model(names, ids)).indices.tolist() == chosen
    with pytest.raises(DataError, match=r"does not know: tench \(n99999999\)"):
        map_classes(data(["tench"], ["n99999999"]), model(names, ids))


def test_the_model_may_know_more_and_a_class_without_pictures_may_be_strange() -> None:
    found = map_classes(data(["dog", "unheard of", "cat"], used=[0, 2, 2]), model(["cat", "dog", "bird"]))
    assert found.indices.tolist() == [1, -1, 0]
    with pytest.raises(DataError, match="does not know: unheard of"):
        map_classes(data(["dog", "unheard of", "cat"]), model(["cat", "dog", "bird"]))


# Numbers


TWELVE = [str(number) for number in range(12)]


@pytest.mark.parametrize("names", [TWELVE, sorted(TWELVE)])
def test_numbered_folders_are_matched_by_name_whichever_way_the_model_sorted_them(
    folders: Callable[..., Path], names: list[str]
) -> None:
    """The trap: sorted as text, "10" is the third class and "2" the fifth."""
    dataset = open_labelled(folders(TWELVE), None)
    found = map_classes(dataset, model(names))
    for sample in dataset.samples:
        assert names[found.indices[sample.label]] == sample.name.split("/")[0]


@pytest.mark.parametrize("stated", ["string", "natural", "numbers", sorted(TWELVE)])
@pytest.mark.parametrize("names", [TWELVE, sorted(TWELVE)])
def test_an_order_that_contradicts_the_labels_is_refused(
    folders: Callable[..., Path], stated: StatedOrder, names: list[str]
) -> None:
    dataset = open_labelled(folders(TWELVE), None)
    as_text = stated == "string" or isinstance(stated, list)
    if as_text == (names != TWELVE):
        found = map_classes(dataset, model(names), stated)
        assert found.indices.tolist() == map_classes(dataset, model(names)).indices.tolist()
        return
    with pytest.raises(DataError, match=r"by the class order stated, (2|10) of .* by its label it is class"):
        map_classes(dataset, model(names), stated)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("string", [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]),
        ("natural", list(range(12))),
        ("numbers", list(range(12))),
        (list(reversed(TWELVE)), list(reversed(range(12)))),
        (None, None),
    ],
)
def test_numbers_say_nothing_to_a_model_with_names_unless_it_is_said(
    folders: Callable[..., Path], stated: StatedOrder | None, expected: list[int] | None
) -> None:
    dataset = open_labelled(folders(TWELVE), None)
    spec = model([f"kind {chr(97 + number)}" for number in range(12)])
    if expected is None:
        with pytest.raises(DataError, match='"10" comes before "2"') as caught:
            map_classes(dataset, spec)
        assert "--class-order numbers" in (caught.value.hint or "")
        return
    indices = map_classes(dataset, spec, stated).indices
    assert {dataset.classes[label]: int(index) for label, index in enumerate(indices)} == {
        str(number): index for number, index in enumerate(expected)
    }


def test_a_stated_order_must_hold_all_classes() -> None:
    spec = model(["one", "two", "three"])
    for stated, message in (
        ("string", "has 2 classes and net 3"),
        (["a", "b"], "names 2 classes; net has 3"),
        (["a", "c", "d"], "lacks b"),
        (["a", "a", "b"], "more than once"),
        ("numbers", "no number from 0 to 2: a, b"),
    ):
        with pytest.raises(DataError, match=message):
            map_classes(data(["a", "b"]), spec, stated)
    assert map_classes(data(["a", "b"]), spec, ["b", "x", "a"]).indices.tolist() == [2, 0]
    assert map_classes(data(["0", "2"]), spec, "numbers").indices.tolist() == [0, 2]
    with pytest.raises(DataError, match="no number from 0 to 2: 3"):
        map_classes(data(["0", "3"]), spec, "numbers")


@pytest.mark.parametrize("numbers", [(1, 2), (0, 5), (3, 7, 10)])
def test_a_manifest_s_numbers_are_the_names_of_the_model_that_it_trained(
    tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    lines = []
    for number in numbers:
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{number}\n")
    (tmp_path / "list.csv").write_text("".join(lines))
    (trained,) = open_all(tmp_path / "list.csv").values()
    assert trained.classes == tuple(map(str, numbers))
    measured = open_labelled(tmp_path / "list.csv", None)
    found = map_classes(measured, model(trained.classes))
    assert [found.indices[sample.label] for sample in measured.samples] == [s.label for s in trained.samples]


def test_a_manifest_s_numbers_are_the_model_s(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    Image.new("RGB", (9, 8)).save(tmp_path / "2.png")
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label\n1.png,11\n2.png,2\n")
    dataset = open_labelled(manifest, None)
    found = map_classes(dataset, model([f"kind {chr(97 + number)}" for number in range(12)]))
    assert ([int(found.indices[sample.label]) for sample in dataset.samples], found.by) == ([11, 2], "number")
    assert map_classes(dataset, model(TWELVE)).by == "name"
    with pytest.raises(DataError, match="calls its classes by numbers, but in another order"):
        map_classes(dataset, model(sorted(TWELVE)))
    with pytest.raises(DataError, match="does not know: 2, 11"):
        map_classes(dataset, model(["a", "b", "c"]))


# Models among each other


def test_models_of_the_same_classes_are_put_into_one_order() -> None:
    assert same_classes(model(["a", "b", "c"]), model(["c", "a", "b"])).tolist() == [1, 2, 0]
    for other in (["a", "b"], ["a", "b", "d"], ["a", "b", "c", "d"]):
        with pytest.raises(DataError, match="do not know the same classes"):
            same_classes(model(["a", "b", "c"]), model(other))
