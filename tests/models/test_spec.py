from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resnet_infer.errors import ModelError, UsageError
from resnet_infer.models.architectures import architecture, published_names
from resnet_infer.models.spec import InputSpec, Measured, ModelSpec

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


@given(st.data())
def test_a_damaged_spec_is_a_clear_error(data: st.DataObject) -> None:
    value = json.loads(plain_spec().dumps())
    key = data.draw(st.sampled_from([k for k in value if k not in ("provenance", "name", "class_ids")]))
    bad = data.draw(st.sampled_from([..., 7.5, {"x": 1}, [None], "resnet20"]))
    value = {k: v for k, v in value.items() if k != key} if bad is ... else {**value, key: bad}
    expected = "upgrade" if key == "format" and bad == 7.5 else "damaged"
    with pytest.raises(ModelError) as caught:
        ModelSpec.loads(json.dumps(value), "model.onnx")
    assert "model.onnx" in str(caught.value)
    assert expected in str(caught.value)


def test_text_that_is_no_json_is_a_clear_error() -> None:
    with pytest.raises(ModelError, match=r"model\.onnx: its spec is damaged"):
        ModelSpec.loads("{", "model.onnx")


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
