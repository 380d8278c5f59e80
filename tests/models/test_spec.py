from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resnet_infer.errors import ModelError, UsageError
from resnet_infer.models.architectures import architecture, published_names
from resnet_infer.models.spec import InputSpec, Measured, ModelSpec, imagenet_classes

fractions = st.floats(0, 1, width=32)
deviations = hnp.arrays(np.float32, 3, elements=st.floats(0.125, 4, width=32))
percent = st.floats(0, 100)


@st.composite
def input_specs(draw: st.DrawFn) -> InputSpec:
    crop = draw(st.integers(1, 12))
    shape = draw(st.sampled_from([(3,), (crop, crop, 3)]))
    return InputSpec(
        resize=crop + draw(st.integers(0, 9)),
        crop=crop,
        mean=draw(hnp.arrays(np.float32, shape, elements=fractions)),
        std=draw(deviations),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic", "nearest"])),
        exif=draw(st.booleans()),
    )


@st.composite
def model_specs(draw: st.DrawFn) -> ModelSpec:
    classes = tuple(draw(st.lists(st.text(min_size=1), min_size=2, max_size=5)))
    name = draw(st.sampled_from(published_names()))
    return ModelSpec(
        name=draw(st.text(min_size=1)),
        architecture=draw(st.sampled_from([None, architecture(name, len(classes))])),
        classes=classes,
        class_ids=draw(st.sampled_from([None, tuple(f"n{i:08}" for i in range(len(classes)))])),
        input=draw(input_specs()),
        precision=draw(st.sampled_from(["fp32", "fp16", "int8"])),
        provenance=draw(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none()), max_size=3)),
        measured=(Measured("data", "1-crop", 10, draw(percent), draw(st.none() | percent)),),
    )


@given(model_specs())
def test_a_spec_survives_its_json_to_the_bit(spec: ModelSpec) -> None:
    again = ModelSpec.loads(spec.dumps(), "file")
    assert again == spec
    assert again.input.mean.dtype == np.float32
    assert np.array_equal(again.input.mean, spec.input.mean)


def plain_spec() -> ModelSpec:
    return ModelSpec("net", architecture("resnet20", 2), ("cat", "dog"), InputSpec(32, 32, np.zeros(3), np.ones(3)))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**70),
    st.sampled_from([10**400, -1, 1.0, 32.5, 20000, math.nan, math.inf, -math.inf, 1e300, 1e-300]),
    st.floats(),
    st.text(st.characters(codec=None), max_size=5),  # halves of surrogate pairs too
    st.sampled_from(["", "resnet20", "resnet600002", "bilinear", "abcdefghij", "AAAA"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every list and object in `value` with every key that it has."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += [(value, key), *places(item)]
    return found


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A spec with a few of its parts replaced, dropped or added to, or its text cut or changed."""
    value = {"": json.loads(draw(model_specs()).dumps())}
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(st.sampled_from(places(value)))
        change = draw(st.sampled_from(["replace", "replace", "drop", "add", "deep"]))
        if change == "drop" and parent is not value:
            del parent[key]
        elif change == "add" and isinstance(parent[key], dict):
            parent[key][draw(st.text(max_size=3))] = draw(VALUES)
        elif change == "deep":
            for _ in range(draw(st.sampled_from([10, 33, 200]))):
                parent[key] = [parent[key]]
        else:
            parent[key] = draw(VALUES)
    text = json.dumps(value[""], ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.text(max_size=2)) + text[place + draw(st.integers(0, 3)) :]
    return text


@settings(max_examples=400)
@given(mutated())
def test_any_spec_is_read_and_written_again_or_is_a_clear_error(text: str) -> None:
    spec = None
    with suppress(ModelError):
        spec = ModelSpec.loads(text, "model.onnx")
    if spec is None:
        return
    written = spec.dumps()
    assert ModelSpec.loads(written, "again") == spec
    written.encode()
    assert all(type(side) is int for side in (spec.input.resize, spec.input.crop))
    assert type(spec.input.exif) is bool
    assert all(type(name) is str for name in (spec.name, *spec.classes, *(spec.class_ids or ())))
    assert isinstance(spec.provenance, dict)


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(plain_spec().dumps()), **changes})


def geometry(**changes: Any) -> dict[str, Any]:
    return {"input": {**plain_spec().input.to_json(), **changes}}


MEASURED = {"dataset": "d", "protocol": "p", "pictures": 1, "top1_error": 1.0}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format": "1"}, "format"),
        ({"format": True}, "format"),
        ({"name": {}}, "name"),
        ({"name": ""}, "name"),
        ({"architecture": {}}, "architecture"),
        ({"architecture": {"name": "resnet20", "num_classes": 2.0}}, "num_classes"),
        ({"classes": "ab"}, "classes"),
        ({"classes": [1, None]}, r"classes\[0\]"),
        ({"classes": ["a", "\ud800"]}, r"classes\[1\]"),
        ({"class_ids": "ab"}, "class_ids"),
        ({"class_ids": []}, "class_ids"),
        (geometry(resize=32.5), r"input\.resize"),
        (geometry(resize=20000, crop=20000), r"input\.crop"),
        (geometry(exif=[]), r"input\.exif"),
        (geometry(mean={"shape": [32, 32, 3], "float32": "AAAA"}), r"input\.mean"),
        (geometry(mean=[0, 0, "0"]), r"input\.mean\[2\]"),
        (geometry(std=[1, 1, 10**400]), r"input\.std\[2\]"),
        (geometry(flip=True), "flip"),
        ({"precision": ["fp32"]}, "precision"),
        ({"provenance": "x"}, "provenance"),
        ({"provenance": None}, "provenance"),
        ({"provenance": [1]}, "provenance"),
        ({"measured": {}}, "measured"),
        ({"measured": [{**MEASURED, "pictures": "x"}]}, r"measured\[0\]\.pictures"),
        ({"measured": [{**MEASURED, "top1_error": 101}]}, r"measured\[0\]\.top1_error"),
    ],
)
def test_a_field_of_another_type_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelError, match=rf"model\.onnx: its spec (cannot be used|is damaged): .*{field}"):
        ModelSpec.loads(changed(**changes), "model.onnx")


@pytest.mark.parametrize(
    "text", ["{", "", "[]", "null", '{"format": NaN}', "[" * 100_000, '{"provenance": ' + "9" * 5000]
)
def test_text_that_is_no_spec_is_a_clear_error(text: str) -> None:
    with pytest.raises(ModelError, match=r"model\.onnx: its spec is damaged"):
        ModelSpec.loads(text, "model.onnx")


def test_a_newer_format_says_upgrade() -> None:
    with pytest.raises(ModelError, match="upgrade"):
        ModelSpec.loads(changed(format=7), "model.onnx")


@pytest.mark.parametrize(
    "changes",
    [
        {"resize": 31},
        {"mean": np.zeros(1)},
        {"mean": np.zeros((16, 16, 3))},
        {"mean": np.full(3, np.nan)},
        {"std": np.array([1.0, 0.0, 1.0])},
        {"interpolation": "linear"},
    ],
)
def test_an_impossible_input_is_refused(changes: dict[str, object]) -> None:
    good = {"resize": 32, "crop": 32, "mean": np.zeros(3), "std": np.ones(3)}
    with pytest.raises(UsageError):
        InputSpec(**{**good, **changes})  # type: ignore[arg-type]


def test_classes_must_fit_the_architecture() -> None:
    with pytest.raises(UsageError, match="3 class names for 2 classes"):
        plain_spec().with_(classes=("a", "b", "c"))


# The classes of ImageNet


def test_a_thousand_classes_that_can_be_told_apart() -> None:
    names, wordnet_ids = imagenet_classes()
    assert len(names) == len(wordnet_ids) == 1000
    assert len({name.casefold() for name in names}) == 1000
    assert all(name == name.strip() and name.isascii() for name in names)


def test_wordnet_ids_ascend_as_class_folders_sort() -> None:
    _, wordnet_ids = imagenet_classes()
    assert all(len(i) == 9 and i[0] == "n" and i[1:].isdecimal() for i in wordnet_ids)
    assert list(wordnet_ids) == sorted(set(wordnet_ids))


def test_names_stand_at_their_index() -> None:
    names, wordnet_ids = imagenet_classes()
    table = dict(zip(wordnet_ids, names, strict=True))
    assert (names[0], names[207], names[281], names[999]) == ("tench", "golden retriever", "tabby", "toilet tissue")
    assert (table["n02012849"], table["n03126707"]) == ("crane (bird)", "crane (machine)")
    assert (table["n02113186"], table["n02963159"]) == ("Cardigan Welsh corgi", "cardigan")
    assert (table["n03710637"], table["n03710721"]) == ("maillot", "maillot, tank suit")
