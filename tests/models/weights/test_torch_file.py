"""Files of weights are read exactly, and a file that wants more than to be read is refused."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import os
import pickle
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from resnet_infer.errors import MissingExtraError, ModelError, UsageError
from resnet_infer.models.architectures import architecture
from resnet_infer.models.weights.torch_file import read_state_dict, read_torch_file, read_weights

TINY = architecture("resnet8")
quickly = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is needed to write this file")


@pytest.fixture
def state(torch: Any) -> dict[str, Any]:
    from resnet_infer.models.network import ResNet

    return dict(ResNet(TINY).state_dict())


def fragment(value: object) -> bytes:
    """The opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def tensor_opcodes(
    count: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int = 0,
    kind: bytes = b"FloatStorage",
    key: str = "0",
) -> bytes:
    storage = b"(" + fragment("storage") + b"ctorch\n" + kind + b"\n" + fragment(key) + fragment("cpu")
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (storage + fragment(count) + b"tQ")
        + (fragment(offset) + fragment(shape) + fragment(strides))
        + (b"\x89" + b"}" + b"tR")
    )


def dict_opcodes(**items: bytes) -> bytes:
    pushed = b"".join(fragment(key) + value for key, value in items.items())
    return b"\x80\x02}(" + pushed + b"u."


def write_zip(path: Path, opcodes: bytes, *storages: bytes, byteorder: str | None = None, **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", opcodes)
        if byteorder:
            file.writestr("archive/byteorder", byteorder)
        for key, storage in enumerate(storages):
            file.writestr(f"archive/data/{key}", storage)
    return path


def assert_equal(read: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(read) == list(expected)
    for name, tensor in expected.items():
        half = str(tensor.dtype) in ("torch.float16", "torch.bfloat16")
        value = (tensor.float() if half else tensor).detach().numpy()
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)


class TestRoundTrip:
    """Everything that torch.save writes is read as torch.load reads it."""

    @pytest.mark.parametrize("zip_form", [True, False])
    @pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
    def test_a_network(self, torch: Any, state: dict[str, Any], tmp_path: Path, zip_form: bool, dtype: str) -> None:
        path = tmp_path / "weights.bin"
        converted = {
            name: value.to(getattr(torch, dtype)) if value.is_floating_point() else value
            for name, value in state.items()
        }
        torch.save(converted, path, _use_new_zipfile_serialization=zip_form)
        assert path.read_bytes().startswith(b"PK" if zip_form else b"\x80")
        assert_equal(read_state_dict(path), torch.load(path, weights_only=True))

    @pytest.mark.parametrize("zip_form", [True, False])
    @pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net", "model_state_dict"])
    def test_the_state_dict_is_found_among_what_a_training_script_saves(
        self, torch: Any, state: dict[str, Any], tmp_path: Path, zip_form: bool, wrapper: str | None
    ) -> None:
        moments = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3)}
        group = {"lr": 0.1, "betas": (0.9, 0.999), "foreach": None, "amsgrad": False, "params": [0]}
        beside = {
            "epoch": 3,
            "model": "resnet8",
            "best_acc1": torch.tensor(71.5),
            "optimizer": {"state": {0: moments}, "param_groups": [group]},
            "scheduler": {"milestones": Counter([5, 9]), "gamma": 0.1},
            "ema_decay": 0.99,
        }
        path = tmp_path / "checkpoint.tar"
        torch.save(
            state if wrapper is None else {**beside, wrapper: state}, path, _use_new_zipfile_serialization=zip_form
        )
        assert_equal(read_state_dict(path), state)

    @pytest.mark.parametrize("zip_form", [True, False])
    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
    )
    @given(
        raw=st.sampled_from(["state_dict", "model", "net", "model_state_dict", None]),
        averaged=st.sampled_from(["state_dict_ema", "model_ema", "ema", "ema_model", "net_ema", "swa_model", None]),
        nested=st.sampled_from([None, "module", "state_dict"]),
        prefix=st.sampled_from(["", "module."]),
        first=st.booleans(),
    )
    def test_averaged_weights_go_before_raw_ones(
        self,
        torch: Any,
        tmp_path: Path,
        zip_form: bool,
        raw: str | None,
        averaged: str | None,
        nested: str | None,
        prefix: str,
        first: bool,
    ) -> None:
        """As timm takes them, wherever they lie; what was read and what lay beside it is told, and can be chosen."""
        if raw is None and averaged is None:
            return

        def network(value: float) -> dict[str, Any]:
            return {f"{prefix}conv1.weight": torch.full((2, 3), value), f"{prefix}bn1.running_var": torch.ones(2)}

        entries: dict[str, Any] = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
        paths = {}
        if raw:
            entries[raw], paths[raw] = network(1.0), 1.0
        if averaged:
            inner = {"n_averaged": torch.tensor(7), **network(2.0)}
            entries[averaged] = {nested: inner, "decay": 0.99} if nested else inner
            paths[f"{averaged}.{nested}" if nested else averaged] = 2.0
        if first:
            entries = dict(reversed(entries.items()))
        path = tmp_path / "checkpoint.pth"
        torch.save(entries, path, _use_new_zipfile_serialization=zip_form)
        stored = read_weights(path)
        assert stored.tensors[f"{prefix}conv1.weight"].max() == (2 if averaged else 1)
        assert {stored.entry, *stored.others} == set(paths)
        assert stored.averaged == (averaged is not None)
        for entry, value in paths.items():
            chosen = read_weights(path, entry)
            assert (chosen.tensors[f"{prefix}conv1.weight"].max(), chosen.entry) == (value, entry)
        with pytest.raises(UsageError, match="has no entry 'other'"):
            read_weights(path, "other")

    def test_several_networks_that_no_custom_tells_apart(self, torch: Any, tmp_path: Path) -> None:
        path = tmp_path / "x.pth"
        torch.save({name: {"fc.weight": torch.ones(2)} for name in ("student", "teacher")}, path)
        with pytest.raises(UsageError, match="several networks: student, teacher") as caught:
            read_state_dict(path)
        assert "--entry" in (caught.value.hint or "")
        assert read_weights(path, "teacher").others == ("student",)

    def test_entries_that_hold_each_other_are_looked_into_once(self, torch: Any, tmp_path: Path) -> None:
        entries: dict[str, Any] = {"fc.weight": torch.ones(2)}
        entries |= {f"again{index}": entries for index in range(32)}
        path = tmp_path / "x.pth"
        torch.save(entries, path)
        assert read_weights(path).tensors["fc.weight"].shape == (2,)  # else it never ends

    def test_averaged_weights_without_names_are_told_of(self, torch: Any, tmp_path: Path) -> None:
        path = tmp_path / "x.pth"
        torch.save({"model": {"fc.weight": torch.ones(2)}, "ema": {"shadow_params": [torch.ones(2)]}}, path)
        stored = read_weights(path)
        assert (stored.entry, stored.others, stored.unread) == ("model", (), ("ema",))

    def test_harmless_objects_beside_the_weights_are_passed_over(
        self, torch: Any, state: dict[str, Any], tmp_path: Path
    ) -> None:
        path = tmp_path / "checkpoint.pth"
        args = argparse.Namespace(arch="resnet8", lr=0.1)
        extra = {"args": args, "acc": np.float64(91.2), "device": torch.device("cpu"), "seen": {1, 2}}
        torch.save({"state_dict": state, **extra}, path)
        assert_equal(read_state_dict(path), state)

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_data_parallel_and_pickle_protocols(self, torch: Any, tmp_path: Path, protocol: int) -> None:
        from resnet_infer.models.network import ResNet

        state = torch.nn.DataParallel(ResNet(TINY)).state_dict()
        path = tmp_path / "weights.pth"
        torch.save(state, path, pickle_protocol=protocol)
        assert_equal(read_torch_file(path), state)
        assert all(name.startswith("module.") for name in state)

    def test_views_parameters_and_types(self, torch: Any, tmp_path: Path) -> None:
        base = torch.arange(120.0).reshape(4, 5, 6)
        state = {
            "transposed": base.permute(2, 0, 1),
            "slice": base[1:3, ::2, 1::3],
            "row": base[2, 3],
            "scalar": base[3, 4, 5],
            "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
            "parameter": torch.nn.Parameter(torch.rand(3)),
            "frozen": torch.nn.Parameter(torch.rand(3), requires_grad=False),
            "empty": torch.empty(0, 3),
            "bool": torch.tensor([[True, False], [False, True]]),
            "bfloat16": torch.tensor([1.5, -0.0, 3e38, float("inf")]).bfloat16()[1:],
            **{
                str(dtype): torch.tensor([0, 1, 100], dtype=dtype)
                for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
            },
        }
        path = tmp_path / "weights.pth"
        torch.save(state, path)
        read = read_torch_file(path)
        assert_equal(read, torch.load(path, weights_only=True))
        assert np.shares_memory(read["transposed"], read["row"])

    def test_neither_form_of_today_needs_torch(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        values = np.arange(6, dtype="<f4")
        path = write_zip(tmp_path / "x.pth", dict_opcodes(w=tensor_opcodes(6, (2, 3), (3, 1))), values.tobytes())
        np.testing.assert_array_equal(read_state_dict(path)["w"], values.reshape(2, 3))
        (tmp_path / "old.pth").write_bytes(pickle.dumps({}, 2))
        with pytest.raises(MissingExtraError, match=r"torch 1\.6") as caught:
            read_state_dict(tmp_path / "old.pth")
        assert 'pip install "resnet-infer[train]"' in str(caught.value.hint)


@pytest.mark.parametrize("byteorder", ["little", "big", None])
@pytest.mark.parametrize(
    ("kind", "code", "values"),
    [
        (b"FloatStorage", "f4", [1.5, -2.0]),
        (b"DoubleStorage", "f8", [1e300, -2.0]),
        (b"HalfStorage", "f2", [0.5, 65504.0]),
        (b"LongStorage", "i8", [-(2**62), 7]),
        (b"ShortStorage", "i2", [-300, 7]),
        (b"BoolStorage", "u1", [0, 1]),
    ],
)
def test_byte_order_of_the_machine_that_wrote_it(
    tmp_path: Path, kind: bytes, code: str, values: list[float], byteorder: str | None
) -> None:
    raw = np.array(values, (">" if byteorder == "big" else "<") + code).tobytes()
    opcodes = dict_opcodes(w=tensor_opcodes(2, (2,), (1,), kind=kind))
    read = read_torch_file(write_zip(tmp_path / "x.pth", opcodes, raw, byteorder=byteorder))["w"]
    assert read.dtype.isnative
    assert read.tolist() == values


@quickly
@given(
    count=st.integers(0, 30),
    offset=st.integers(-2, 30),
    dims=st.lists(st.tuples(st.integers(-1, 4), st.one_of(st.integers(-1, 7), st.just(2**62))), max_size=4),
)
@example(count=4, offset=0, dims=[(4, 0), (2, 1)])
@example(count=4, offset=1, dims=[(2, 2)])
@example(count=4, offset=3, dims=[(1, 2**62)])
def test_a_tensor_stays_inside_its_storage(
    tmp_path: Path, count: int, offset: int, dims: list[tuple[int, int]]
) -> None:
    shape = tuple(size for size, _ in dims)
    strides = tuple(stride for _, stride in dims)
    opcodes = dict_opcodes(w=tensor_opcodes(count, shape, strides, offset))
    path = write_zip(tmp_path / "x.pth", opcodes, np.arange(count, dtype="<f4").tobytes())
    elements = [
        offset + sum(i * stride for i, stride in zip(index, strides, strict=True))
        for index in itertools.product(*(range(size) for size in shape))
    ]
    negative = min((offset, *shape, *strides)) < 0
    if negative or len(elements) > count or not all(0 <= element < count for element in elements):
        with pytest.raises(ModelError, match=r"x\.pth"):
            read_torch_file(path)
    else:
        read = read_torch_file(path)["w"]
        assert read.shape == shape
        assert read.ravel().tolist() == elements


class Payload:
    """Pickles to a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


class TestMalice:
    @pytest.mark.parametrize("zip_form", [True, False])
    @pytest.mark.parametrize("name", ["system", "eval", "exec", "getattr", "open"])
    def test_code_is_refused_and_not_run(self, torch: Any, tmp_path: Path, zip_form: bool, name: str) -> None:
        touched = tmp_path / "touched"
        payload = {
            "system": Payload(os.system, f"echo > {touched}"),
            "eval": Payload(eval, f"open({str(touched)!r}, 'w').close()"),
            "exec": Payload(exec, f"open({str(touched)!r}, 'w').close()"),
            "getattr": Payload(getattr, Payload(open, str(touched), "w"), "close"),
            "open": Payload(open, str(touched), "w"),
        }[name]
        path = tmp_path / "weights.pth"
        torch.save({"conv1.weight": torch.zeros(1), "x": payload}, path, _use_new_zipfile_serialization=zip_form)
        with pytest.raises(ModelError, match=rf"weights\.pth: refused to load \S*\.?{name}:") as caught:
            read_state_dict(path)
        assert "weights_only" not in str(caught.value)
        assert not touched.exists()

    def test_the_old_form_says_what_torch_refuses(self, torch: Any, tmp_path: Path) -> None:
        path = tmp_path / "x.pth"
        content = {"w": torch.zeros(1), "args": argparse.Namespace(lr=0.1)}
        torch.save(content, path, _use_new_zipfile_serialization=False)
        with pytest.raises(ModelError, match=r"refused to load argparse\.Namespace"):
            read_state_dict(path)

    def test_the_payload_of_these_tests_would_run(self, tmp_path: Path) -> None:
        pickle.loads(pickle.dumps(Payload(os.system, f"echo > {tmp_path / 'touched'}"), 2))
        assert (tmp_path / "touched").exists()

    @pytest.mark.parametrize(
        "opcodes",
        [
            b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00exittR.",
            b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
            b"\x80\x02(X\x04\x00\x00\x00exitios\nsystem\n.",
            b"\x80\x02ccollections\nOrderedDict.__init__\n.",
            b"\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n.",
            b"\x80\x02ctorch\nFloatStorage\n)R.",
            b"\x80\x02X\x02\x00\x00\x00osX\x06\x00\x00\x00systemR.",
            b"\x80\x02\x82\x01.",
            b"\x80\x02K\x01Q.",
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nK\x01R.",
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + tensor_opcodes(1, (1,), (1,)) + b"K\x00))tR.",
            b"\x80\x02" + tensor_opcodes(1, (0, 2**70), (1, 1)) + b".",
        ],
        ids=[
            *("global", "stack-global", "inst", "attribute", "sparse", "storage", "string", "extension"),
            *("number-as-reference", "number-as-arguments", "tensor-as-storage", "huge-empty-tensor"),
        ],
    )
    def test_nothing_but_tensors_can_be_made(self, tmp_path: Path, opcodes: bytes) -> None:
        with pytest.raises(ModelError, match=r"x\.pth"):
            read_state_dict(write_zip(tmp_path / "x.pth", opcodes, bytes(4)))

    @pytest.mark.parametrize(
        "bomb",
        [
            b"r\xff\xff\xff\xff",
            b"\x85" * 200_000 + b"q\x00",
            b"h\x00h\x00\x86q\x00" * 500,
            b"\x8b\xff\xff\xff\x7f",
            b"X\xff\xff\xff\xff",
        ],
        ids=["memo", "nested-key", "doubling-key", "long", "string"],
    )
    def test_a_few_opcodes_cannot_exhaust_the_machine(self, tmp_path: Path, bomb: bytes) -> None:
        weight = fragment("w") + tensor_opcodes(1, (1,), (1,))
        opcodes = b"\x80\x02)q\x00" + bomb + b"}h\x00Ns" + weight + b"s."
        path = write_zip(tmp_path / "x.pth", opcodes, bytes(4))
        with contextlib.suppress(ModelError):
            assert list(read_torch_file(path)) == ["w"]

    def test_a_compressed_record_is_refused(self, tmp_path: Path) -> None:
        opcodes = dict_opcodes(w=tensor_opcodes(1_000_000, (1_000_000,), (1,)))
        path = write_zip(tmp_path / "x.pth", opcodes, bytes(4_000_000), compression=zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 10_000
        with pytest.raises(ModelError, match=r"x\.pth.*compressed"):
            read_torch_file(path)

    def test_records_that_overlap_are_refused(self, tmp_path: Path) -> None:
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as file:
            file.writestr("archive/data/1", bytes(40_000))
            entry = copy.copy(file.getinfo("archive/data/1"))
            end = file.start_dir
        outside = inner.getvalue()[:end].ljust(40_400, b"\0")
        path = tmp_path / "x.pth"
        first = tensor_opcodes(10_100, (10_100,), (1,), key="0")
        second = tensor_opcodes(10_000, (10_000,), (1,), key="1")
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", dict_opcodes(a=first, b=second))
            file.writestr("archive/data/0", outside)
            entry.header_offset = file.start_dir - len(outside)
            file.filelist.append(entry)
            file.NameToInfo[entry.filename] = entry
        with zipfile.ZipFile(path) as file:
            assert len(file.read("archive/data/0")) == 40_400
        with pytest.raises(ModelError, match=r"x\.pth"):
            read_torch_file(path)

    @pytest.mark.parametrize("count", [0, 3, 5, 2**40, -4, "4"])
    def test_a_storage_has_the_size_it_declares(self, tmp_path: Path, count: Any) -> None:
        path = write_zip(tmp_path / "x.pth", dict_opcodes(w=tensor_opcodes(count, (1,), (1,))), bytes(16))
        with pytest.raises(ModelError, match=r"x\.pth.*declares"):
            read_torch_file(path)


class TestDamage:
    @pytest.fixture
    def whole(self, tmp_path: Path) -> Path:
        opcodes = dict_opcodes(a=tensor_opcodes(6, (2, 3), (3, 1)), b=tensor_opcodes(2, (2,), (1,), key="1"))
        return write_zip(tmp_path / "whole.pth", opcodes, bytes(24), bytes(8), byteorder="little")

    def test_truncation_is_a_model_error(self, tmp_path: Path, whole: Path) -> None:
        content = whole.read_bytes()
        path = tmp_path / "x.pth"
        for end in range(0, len(content), 3):
            path.write_bytes(content[:end])
            with pytest.raises(ModelError, match=r"x\.pth"):
                read_state_dict(path)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("flags", 1), ("flags", 32), ("needed version", 99), ("crc", 1), ("sizes", 0), ("header", 0)],
    )
    def test_a_zip_that_lies_about_its_last_record(self, whole: Path, field: str, value: int) -> None:
        content = bytearray(whole.read_bytes())
        entry = content.rindex(b"PK\x01\x02")
        if field == "sizes":
            value = len(content) - content.index(b"archive/data/1")
            struct.pack_into("<2I", content, entry + 20, value, value)
        elif field == "header":
            struct.pack_into("<I", content, entry + 42, len(content) - 10)
        else:
            struct.pack_into("<H", content, entry + {"needed version": 6, "flags": 8, "crc": 16}[field], value)
        whole.write_bytes(content)
        with pytest.raises(ModelError, match=r"whole\.pth"):
            read_state_dict(whole)

    def test_a_record_beyond_any_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.pth"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", dict_opcodes())
            file.filelist[0].header_offset = 2**64 - 1
        with pytest.raises(ModelError, match=r"x\.pth"):
            read_state_dict(path)

    def test_truncation_of_the_old_form_is_a_model_error(self, torch: Any, tmp_path: Path) -> None:
        path = tmp_path / "x.pth"
        torch.save({"w": torch.arange(6.0)}, path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        for end in range(0, len(content), 11):
            path.write_bytes(content[:end])
            with pytest.raises(ModelError, match=r"x\.pth"):
                read_state_dict(path)

    @pytest.mark.filterwarnings("ignore:invalid escape sequence")
    @quickly
    @given(data=st.data())
    def test_changed_bytes_raise_nothing_else(self, tmp_path: Path, whole: Path, data: st.DataObject) -> None:
        """In the file as it lies, and in the pickle alone, where no checksum catches the change."""
        content = bytearray(whole.read_bytes())
        with zipfile.ZipFile(whole) as file:
            opcodes = bytearray(file.read("archive/data.pkl"))
        target = data.draw(st.sampled_from([content, opcodes]))
        for _ in range(data.draw(st.integers(1, 3))):
            target[data.draw(st.integers(0, len(target) - 1))] = data.draw(st.integers(0, 255))
        path = tmp_path / "x.pth"
        if target is content:
            path.write_bytes(content)
        else:
            write_zip(path, bytes(opcodes), bytes(24), bytes(8))
        with contextlib.suppress(ModelError):
            read_state_dict(path)

    @pytest.mark.parametrize("content", [b"", b"PK", b"<html>Not found</html>", bytes(99)])
    def test_what_is_no_file_of_weights(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "x.pth"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"x\.pth is no file of weights"):
            read_state_dict(path)

    @pytest.mark.parametrize("read", [read_state_dict, read_torch_file])
    def test_a_missing_file(self, tmp_path: Path, read: Callable[[Path], object]) -> None:
        with pytest.raises(ModelError, match=r"nowhere\.pth does not exist"):
            read(tmp_path / "nowhere.pth")
        with pytest.raises(ModelError, match=r"cannot be read|damaged"):
            read(tmp_path)

    def test_another_programs_zip(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        np.savez(path, w=np.zeros(3))
        with pytest.raises(ModelError, match=r"x\.npz.*data\.pkl"):
            read_state_dict(path)

    def test_a_checkpoint_without_tensors(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "x.pth", dict_opcodes(epoch=fragment(3), lr=fragment(0.1)))
        with pytest.raises(ModelError, match=r"x\.pth holds no state dict \(entries: epoch, lr\)"):
            read_state_dict(path)


class TestSafetensors:
    def test_every_type(self, tmp_path: Path) -> None:
        tensors: dict[str, Any] = {
            name: np.array([[0, 1, 2]], name)
            for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
        }
        tensors["scalar"] = np.array(3.5, np.float32)
        path = tmp_path / "weights.bin"
        safetensors.numpy.save_file(tensors, path)
        read = read_state_dict(path)
        assert read.keys() == tensors.keys()
        for name, value in tensors.items():
            assert read[name].dtype == (np.float32 if name == "float16" else value.dtype)
            np.testing.assert_array_equal(read[name], value)

    def write(self, path: Path, kind: str, data: bytes) -> None:
        header = f'{{"w":{{"dtype":"{kind}","shape":[3],"data_offsets":[0,{len(data)}]}}}}'.encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + data)

    def test_bfloat16_needs_no_other_library(self, tmp_path: Path) -> None:
        self.write(tmp_path / "x.safetensors", "BF16", struct.pack("<3H", 0x3FC0, 0xC000, 0x7F80))
        read = read_state_dict(tmp_path / "x.safetensors")["w"]
        assert read.dtype == np.float32
        assert read.tolist() == [1.5, -2.0, float("inf")]

    def test_a_type_that_no_weight_has(self, tmp_path: Path) -> None:
        self.write(tmp_path / "x.safetensors", "F8_E4M3", bytes(3))
        with pytest.raises(ModelError, match=r"x\.safetensors: w has type F8_E4M3"):
            read_state_dict(tmp_path / "x.safetensors")

    def test_every_truncation_is_a_model_error(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        self.write(path, "F32", bytes(12))
        content = path.read_bytes()
        for end in range(len(content)):
            path.write_bytes(content[:end])
            with pytest.raises(ModelError, match=r"x\.safetensors"):
                read_state_dict(path)
