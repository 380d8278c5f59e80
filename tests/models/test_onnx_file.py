"""The reader of ONNX files that needs no package gives what the package `onnx` gives."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer import zoo
from resnet_infer.errors import ModelError
from resnet_infer.models.onnx_file import map_file, read_graph, read_interface, read_metadata

onnx = pytest.importorskip("onnx", reason="what the reader is compared with (the extra `export`)")
from onnx import TensorProto, helper  # noqa: E402

BUILT_IN = zoo.built_in(zoo.SMALL, ".onnx")
CONTENT = BUILT_IN.read_bytes()
sides = st.lists(st.sampled_from(["N", None, 1, 3, 224, 2**40]), max_size=4)
kinds = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
values = st.lists(st.tuples(st.sampled_from(sorted(kinds)), sides), max_size=3)


def model_of(graph: Any) -> bytes:
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


@given(values, values, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4))
def test_interface_and_metadata_are_read_as_written(
    inputs: list[tuple[str, list[Any]]], outputs: list[tuple[str, list[Any]]], properties: dict[str, str]
) -> None:
    described = [
        [helper.make_tensor_value_info(f"{side}{i}", kinds[kind], shape) for i, (kind, shape) in enumerate(items)]
        for side, items in (("in", inputs), ("out", outputs))
    ]
    weight = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "weight")
    listed = helper.make_tensor_value_info("weight", TensorProto.FLOAT, [2])
    model = helper.make_model(helper.make_graph([], "g", [*described[0], listed], described[1], [weight]))
    helper.set_model_props(model, properties)
    content = model.SerializeToString()
    found = read_interface(content)
    for side, items, read in (("in", inputs, found[0]), ("out", outputs, found[1])):
        assert read == [
            (f"{side}{i}", kind, tuple(part if isinstance(part, int) else None for part in shape))
            for i, (kind, shape) in enumerate(items)
        ]
    assert read_metadata(content) == properties


def test_a_side_below_zero_is_open_and_another_type_is_told_by_its_number() -> None:
    graph = helper.make_graph([], "g", [helper.make_tensor_value_info("x", TensorProto.STRING, [-1])], [])
    assert read_interface(model_of(graph)) == ([("x", "type 8", (None,))], [])


def test_of_two_entries_with_one_key_the_last_counts() -> None:
    model = onnx.ModelProto()
    model.graph.name = "g"
    for value in ("first", "last"):
        entry = model.metadata_props.add()
        entry.key, entry.value = "key", value
    assert read_metadata(model.SerializeToString()) == {"key": "last"}


def test_a_file_is_mapped_and_not_copied(tmp_path: Path) -> None:
    assert bytes(map_file(BUILT_IN)) == CONTENT
    (tmp_path / "empty").touch()
    assert bytes(map_file(tmp_path / "empty")) == b""
    with pytest.raises(ModelError, match="absent does not exist"):
        map_file(tmp_path / "absent")
    with pytest.raises(ModelError, match=f"{tmp_path} cannot be read"):
        map_file(tmp_path)


@given(st.binary(max_size=60) | st.integers(0, 3000).map(lambda size: CONTENT[:size]))
def test_what_is_no_onnx_file_is_an_error_of_ours_or_empty(content: bytes) -> None:
    for read in (read_metadata, read_interface, read_graph):
        with contextlib.suppress(ModelError):
            read(content)


def test_a_number_without_an_end_is_refused_at_once() -> None:
    begin = time.process_time()
    with pytest.raises(ModelError, match="more than 64 bits"):
        read_metadata(b"\x80" * 10_000_000)
    assert time.process_time() - begin < 1


def test_text_that_is_none_is_damage() -> None:
    content = CONTENT.replace(b"resnet_infer.spec", b"resnet_infer.\xff\xff\xff\xff")
    with pytest.raises(ModelError, match="m is damaged, or no ONNX file"):
        read_metadata(content, "m")


@pytest.mark.parametrize("content", [b"\0" * 10**8, b"\x08\0" * 10**7], ids=["preallocated", "fields without end"])
def test_a_file_of_the_same_bytes_is_refused_at_once(content: bytes) -> None:
    begin = time.monotonic()
    with pytest.raises(ModelError, match="damaged, or no ONNX file"):
        read_metadata(content)
    assert time.monotonic() - begin < 20
