"""Every format in small, both splits, and the ways in which data sets go wrong."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_infer.data.datasets import Dataset, open_all, open_dataset
from resnet_infer.errors import DataError, PictureError, UsageError

Files = Mapping[str, bytes]


def files(*paths: str) -> dict[str, bytes]:
    """Files whose content is their own path; a name that ends in `/` is an empty folder."""
    return {path: path.encode() for path in paths}


def as_directory(place: Path, contents: Files) -> Path:
    for name, data in contents.items():
        path = place / "set" / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return place / "set"


def as_tar(mode: str, prefix: str = "") -> Callable[[Path, Files], Path]:
    def pack(place: Path, contents: Files) -> Path:
        path = place / f"set.tar.{mode}"
        with tarfile.open(path, f"w:{mode}") as archive:  # type: ignore[call-overload]
            for name, data in contents.items():
                member = tarfile.TarInfo(prefix + name.rstrip("/"))
                member.size = 0 if name.endswith("/") else len(data)
                member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                archive.addfile(member, io.BytesIO(data))
        return path

    return pack


def as_zip(place: Path, contents: Files) -> Path:
    with zipfile.ZipFile(place / "set.zip", "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, b"" if name.endswith("/") else data)
    return place / "set.zip"


PACKINGS = {
    "directory": as_directory,
    "tar": as_tar(""),
    "tar.gz, dot in front": as_tar("gz", "./"),
    "tar.xz, folder around": as_tar("xz", "some-set/"),
    "zip": as_zip,
}


@pytest.fixture(params=list(PACKINGS.values()), ids=list(PACKINGS))
def packed(request: pytest.FixtureRequest) -> Callable[[Path, Files], Path]:
    pack: Callable[[Path, Files], Path] = request.param
    return pack


def rows(dataset: Dataset) -> list[tuple[str, Any]]:
    """The class and the content of every sample."""
    return [(dataset.classes[sample.label], sample.read()) for sample in dataset.samples]


PETS = files(
    "train/cat/2.jpg", "train/cat/1.JPG", "train/dog/a/b/3.png", "train/犬/é 4.webp", "val/cat/5.jpeg", "val/犬/6.bmp"
)


class TestClassFolders:
    def test_split_and_order(self, packed: Callable[[Path, Files], Path], tmp_path: Path) -> None:
        source = packed(tmp_path, PETS)
        train = open_dataset(source, "train")
        assert train.name == f"{source.name}/train"
        assert (train.classes, train.class_ids, train.class_order) == (("cat", "dog", "犬"), None, "string")
        assert [sample.name for sample in train.samples] == ["cat/1.JPG", "cat/2.jpg", "dog/a/b/3.png", "犬/é 4.webp"]
        assert [content for _, content in rows(train)] == [f"train/{s.name}".encode() for s in train.samples]

    def test_a_class_missing_from_a_split_shifts_no_other(
        self, packed: Callable[[Path, Files], Path], tmp_path: Path
    ) -> None:
        val = open_dataset(packed(tmp_path, PETS), "val")
        assert val.classes == ("cat", "dog", "犬")
        assert [sample.label for sample in val.samples] == [0, 2]

    def test_an_empty_class_is_named_and_an_error_only_to_train_on(
        self, packed: Callable[[Path, Files], Path], tmp_path: Path
    ) -> None:
        source = packed(tmp_path, files("cat/1.jpg", "dog/", "owl/notes.txt", "yak/1.jpg"))
        dataset = open_dataset(source)
        assert rows(dataset) == [("cat", b"cat/1.jpg"), ("yak", b"yak/1.jpg")]
        assert "without pictures: dog, owl" in dataset.notes[0]
        with pytest.raises(DataError, match="without pictures: dog, owl"):
            open_all(source)

    @pytest.mark.parametrize("spelling", ["val", "valid", "validation", "Val"])
    def test_spellings_of_validation(self, spelling: str, tmp_path: Path) -> None:
        source = as_directory(tmp_path, files("Train/cat/1.jpg", f"{spelling}/cat/2.jpg"))
        for wanted in ("val", "validation"):
            dataset = open_dataset(source, wanted)
            assert dataset.name == "set/val"
            assert len(dataset.samples) == 1

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [("test", "no split 'test' with labels; it has: train, val"), (None, "several splits: train, val")],
    )
    def test_splits_are_never_guessed(self, wanted: str | None, message: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=message):
            open_dataset(as_directory(tmp_path, PETS), wanted)

    def test_split_of_a_set_that_has_none(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="not divided into splits"):
            open_dataset(as_directory(tmp_path, files("cat/1.jpg")), "train")

    def test_a_lone_split_needs_no_name(self, tmp_path: Path) -> None:
        source = as_directory(tmp_path, files("val/cat/1.jpg", "val/dog/1.jpg", "test/unlabelled.jpg"))
        assert open_dataset(source).name == "set/val"

    def test_two_folders_for_one_split(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="two folders for the split val"):
            open_dataset(as_directory(tmp_path, files("val/cat/1.jpg", "valid/cat/1.jpg")), "val")

    def test_a_class_may_be_called_train(self, tmp_path: Path) -> None:
        dataset = open_dataset(as_directory(tmp_path, files("bus/1.jpg", "train/1.jpg")))
        assert dataset.classes == ("bus", "train")

    def test_split_or_class_is_not_guessed(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="train may be a split or a class, because there are pictures in bus"):
            open_dataset(as_directory(tmp_path, files("bus/x/1.jpg", "train/x/1.jpg")))

    def test_a_class_that_training_has_not(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="does not know: owl"):
            open_dataset(as_directory(tmp_path, files("train/cat/1.jpg", "val/cat/1.jpg", "val/owl/1.jpg")), "val")

    def test_clutter_is_ignored(self, packed: Callable[[Path, Files], Path], tmp_path: Path) -> None:
        clutter = files(".DS_Store", ".git/x.jpg", "cat/Thumbs.db", "cat/._1.jpg", "cat/1.txt", "__MACOSX/cat/1.jpg")
        dataset = open_dataset(packed(tmp_path, {**files("cat/1.jpg", "dog/1.jpg"), **clutter}))
        assert rows(dataset) == [("cat", b"cat/1.jpg"), ("dog", b"dog/1.jpg")]

    @pytest.mark.parametrize("pack", [as_directory, as_zip])
    def test_pictures_beside_the_class_folders_are_told(
        self, pack: Callable[[Path, Files], Path], tmp_path: Path
    ) -> None:
        beside = files("b.jpg", "a.png", "notes.txt", ".hidden.jpg")
        dataset = open_dataset(pack(tmp_path, {**files("cat/1.jpg", "dog/1.jpg"), **beside}))
        assert rows(dataset) == [("cat", b"cat/1.jpg"), ("dog", b"dog/1.jpg")]
        assert dataset.unlabelled == ("a.png", "b.jpg")

    def test_links_are_followed_and_loops_harmless(self, tmp_path: Path) -> None:
        source = as_directory(tmp_path, files("set/train/cat/1.jpg", "set/val/cat/9.jpg", "elsewhere/2.jpg")) / "set"
        cat = source / "train" / "cat"
        (source / "train" / "dog").symlink_to(tmp_path / "set" / "elsewhere", target_is_directory=True)
        (cat / "to-self").symlink_to(cat, target_is_directory=True)
        (cat / "to-top").symlink_to(source, target_is_directory=True)
        (cat / "to-nothing").symlink_to("to-nothing")
        (tmp_path / "set" / "elsewhere" / "back").symlink_to(source / "train" / "dog", target_is_directory=True)
        dataset = open_dataset(source, "train")
        assert [sample.name for sample in dataset.samples] == ["cat/1.jpg", "dog/2.jpg"]

    def test_nothing_is_read_before_it_is_asked_for(self, tmp_path: Path) -> None:
        source = as_directory(tmp_path, files("cat/1.jpg", "dog/1.jpg"))
        dataset = open_dataset(source)
        (source / "cat/1.jpg").write_bytes(b"later")
        (source / "dog/1.jpg").unlink()
        assert dataset.samples[0].read() == b"later"
        with pytest.raises(PictureError, match=r"dog.1\.jpg"):
            dataset.samples[1].read()

    @pytest.mark.parametrize("contents", [{}, files("1.jpg"), files("empty/"), files("docs/readme.md", "docs/x/y.md")])
    def test_nothing_to_read(self, contents: Files, tmp_path: Path) -> None:
        (tmp_path / "set").mkdir()
        with pytest.raises(DataError, match="class folders"):
            open_dataset(as_directory(tmp_path, contents))

    def test_no_such_source(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="does not exist"):
            open_dataset(tmp_path / "nowhere")


class TestClassOrder:
    @pytest.mark.parametrize("names", [("1", "2", "10"), ("class_2", "class_10"), ("a9b", "a10b", "c"), ("7", "010")])
    def test_the_trap_is_explained(self, names: Sequence[str], tmp_path: Path) -> None:
        source = as_directory(tmp_path, files(*(f"{name}/1.jpg" for name in names)))
        with pytest.raises(DataError, match="order of the classes is not clear") as caught:
            open_dataset(source)
        assert caught.value.hint is not None
        for choice in ("--class-order string", "--class-order natural", "--class-order FILE"):
            assert choice in caught.value.hint
        string, natural = (open_dataset(source, class_order=order) for order in ("string", "natural"))
        assert (string.classes, string.class_order) == (tuple(sorted(names)), "string")
        assert (natural.classes, natural.class_order) == (tuple(names), "natural")
        assert [s.label for s in natural.samples] == list(range(len(names)))
        assert [natural.classes[s.label] for s in natural.samples] == [s.name.split("/")[0] for s in natural.samples]

    @pytest.mark.parametrize("names", [("1", "2", "9"), ("01", "02", "10"), ("a 1", "a-1", "a1", "ab"), ("Zoo", "ant")])
    def test_no_trap_where_both_orders_agree(self, names: Sequence[str], tmp_path: Path) -> None:
        dataset = open_dataset(as_directory(tmp_path, files(*(f"{name}/1.jpg" for name in names))))
        assert (dataset.classes, dataset.class_order) == (tuple(names), "string")

    def test_given(self, tmp_path: Path) -> None:
        source = as_directory(tmp_path, files("1/x.jpg", "2/x.jpg", "10/x.jpg"))
        dataset = open_dataset(source, class_order=["2", "10", "1"])
        assert (dataset.classes, dataset.class_order) == (("2", "10", "1"), "given")
        assert [content for _, content in rows(dataset)] == [b"2/x.jpg", b"10/x.jpg", b"1/x.jpg"]

    @pytest.mark.parametrize(
        ("order", "message"),
        [
            (["1"], "lacks 2"),
            (["1", "2", "3"], "has 3, which"),
            (["1", "3"], "lacks 2 and has 3"),
            (["1", "2", "1"], "once there: 1"),
        ],
    )
    def test_given_must_fit(self, order: Sequence[str], message: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=message):
            open_dataset(as_directory(tmp_path, files("1/x.jpg", "2/x.jpg")), class_order=order)

    def test_unknown_order(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="'numeric'"):
            open_dataset(as_directory(tmp_path, files("1/x.jpg")), class_order="numeric")


class TestArchives:
    @pytest.mark.parametrize("mode", ["", "gz", "xz", "bz2"])
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_a_truncated_tar_never_passes_for_a_smaller_one(
        self, mode: str, data: st.DataObject, tmp_path: Path
    ) -> None:
        whole = as_tar(mode)(tmp_path, files("cat/1.jpg", "dog/1.jpg", "owl/1.jpg"))
        content = whole.read_bytes()
        # Six blocks of 512 bytes, and at least one block of the end mark.
        end = 7 * 512 if not mode else len(content)
        size = data.draw(st.integers(0, end - 1) | st.sampled_from(range(0, end, 512)))
        damaged = tmp_path / f"cut.tar.{mode}"
        damaged.write_bytes(content[:size])
        with pytest.raises(DataError, match="damaged or no archive"):
            open_dataset(damaged)

    @pytest.mark.parametrize("pack", [as_tar(""), as_tar("gz"), as_tar("xz"), as_zip], ids=["tar", "gz", "xz", "zip"])
    def test_a_flipped_byte(self, pack: Callable[[Path, Files], Path], tmp_path: Path) -> None:
        path = pack(tmp_path, files("cat/1.jpg", "dog/1.jpg"))
        content = bytearray(path.read_bytes())
        place = content.find(b"dog/1.jpg") if b"dog/1.jpg" in content else len(content) // 2
        content[place] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged or no archive"):
            open_dataset(path)

    def test_links_in_a_tar(self, tmp_path: Path) -> None:
        def pack(target: str) -> Path:
            with tarfile.open(tmp_path / "links.tar", "w") as archive:
                for name, kind, link in (
                    ("dog/soft.jpg", tarfile.SYMTYPE, target),
                    ("cat/1.jpg", tarfile.REGTYPE, ""),
                    ("dog/hard.jpg", tarfile.LNKTYPE, "cat/1.jpg"),
                ):
                    member = tarfile.TarInfo(name)
                    member.type, member.linkname, member.size = kind, link, 3 * (not link)
                    archive.addfile(member, io.BytesIO(b"cat"))
            return tmp_path / "links.tar"

        assert rows(open_dataset(pack("../cat/1.jpg"))) == [("cat", b"cat"), ("dog", b"cat"), ("dog", b"cat")]
        with pytest.raises(DataError, match=r"dog/soft\.jpg is a link to etc/1\.jpg"):
            open_dataset(pack("../etc/1.jpg"))

    def test_a_lone_picture_is_no_data_set(self, tmp_path: Path) -> None:
        (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
        with pytest.raises(DataError, match="no data set of a known format"):
            open_dataset(tmp_path / "1.png")


def cifar_pixels(count: int, seed: int) -> NDArray[np.uint8]:
    """(count, 3, 32, 32)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), np.uint8)


CIFAR_LABELS = [3, 0, 9]
CIFAR_NAMES = [f"kind {number}" for number in range(10)]
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def cifar_binary(coarse: bool = False) -> dict[str, bytes]:
    def batch(seed: int) -> bytes:
        pairs = zip(CIFAR_LABELS, cifar_pixels(3, seed), strict=True)
        return b"".join(bytes([7] * coarse + [label]) + pixels.tobytes() for label, pixels in pairs)

    names = "\n".join(CIFAR_NAMES).encode() + b"\n\n"
    if coarse:
        return {"train.bin": batch(0), "test.bin": batch(5), "fine_label_names.txt": names}
    return {
        "batches.meta.txt": names,
        "readme.html": b"",
        **{f"{name}.bin": batch(i) for i, name in enumerate(BATCHES)},
    }


def python2_pickle(value: Any) -> bytes:
    """What Python 2 wrote: text and bytes are one type, and arrays are rebuilt by numpy.core.multiarray."""

    def put(item: Any) -> bytes:
        if isinstance(item, dict):
            return b"}(" + b"".join(put(key) + put(entry) for key, entry in item.items()) + b"u"
        if isinstance(item, list):
            return b"](" + b"".join(map(put, item)) + b"e"
        if isinstance(item, int):
            return b"J" + struct.pack("<i", item)
        if isinstance(item, np.ndarray):
            dtype = b"cnumpy\ndtype\n" + put("u1") + put(0) + put(1) + b"\x87R(" + put(3) + put("|")
            dtype += b"NNN" + put(-1) + put(-1) + put(0) + b"tb"
            shape = put(item.shape[0]) + put(item.shape[1]) + b"\x86"
            made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + put(0) + b"\x85" + put("b") + b"\x87R"
            return made + b"(" + put(1) + shape + dtype + b"\x89" + put(item.tobytes()) + b"tb"
        text = item.encode() if isinstance(item, str) else item
        return b"T" + struct.pack("<i", len(text)) + text

    return b"\x80\x02" + put(value) + b"."


def cifar_python(dumps: Callable[[Any], bytes], fine: bool = False) -> dict[str, bytes]:
    def batch(seed: int) -> bytes:
        labels = {"fine_labels" if fine else "labels": CIFAR_LABELS, "filenames": ["a.png"] * 3}
        return dumps({"batch_label": "one", "data": cifar_pixels(3, seed).reshape(3, -1), **labels})

    meta = dumps({"num_vis": 3072, "fine_label_names" if fine else "label_names": CIFAR_NAMES})
    if fine:
        return {"train": batch(0), "test": batch(5), "meta": meta}
    return {"batches.meta": meta, **{name: batch(i) for i, name in enumerate(BATCHES)}}


CIFAR_VERSIONS = {
    "binary": cifar_binary(),
    "binary-100": cifar_binary(coarse=True),
    "python 2": cifar_python(python2_pickle),
    "python 2-100": cifar_python(python2_pickle, fine=True),
    **{f"protocol {n}": cifar_python(lambda value, n=n: pickle.dumps(value, n)) for n in range(2, 6)},  # type: ignore[misc]
}


class Touch:
    """Pickled, it stands for a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class TestCifar:
    @pytest.mark.parametrize("version", CIFAR_VERSIONS)
    @pytest.mark.parametrize("pack", [as_directory, as_tar("gz", "cifar-10-batches/")], ids=["directory", "tar.gz"])
    def test_versions(self, version: str, pack: Callable[[Path, Files], Path], tmp_path: Path) -> None:
        source = pack(tmp_path, CIFAR_VERSIONS[version])
        train, test = open_dataset(source, "train"), open_dataset(source, "test")
        batches = 1 if version.endswith("-100") else 5
        for dataset, seeds in ((train, range(batches)), (test, [5])):
            assert (dataset.classes, dataset.class_order) == (tuple(CIFAR_NAMES), "published")
            assert [sample.label for sample in dataset.samples] == CIFAR_LABELS * len(seeds)
            expected = np.concatenate([cifar_pixels(3, seed) for seed in seeds]).transpose(0, 2, 3, 1)
            pictures = [sample.read() for sample in dataset.samples]
            assert all(isinstance(p, np.ndarray) and p.dtype == np.uint8 and p.flags.c_contiguous for p in pictures)
            np.testing.assert_array_equal(np.stack([np.asarray(p) for p in pictures]), expected)
            assert len({sample.name for sample in dataset.samples}) == len(pictures)

    def test_splits_are_never_guessed(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="train, test"):
            open_dataset(as_directory(tmp_path, cifar_binary()))

    def test_its_order_is_fixed(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="fixed"):
            open_dataset(as_directory(tmp_path, cifar_binary()), "train", class_order="natural")

    @pytest.mark.parametrize("file", ["batches.meta", "test_batch"])
    @pytest.mark.parametrize("protocol", [0, 2, 4, 5])
    def test_a_malicious_pickle_runs_nothing(self, file: str, protocol: int, tmp_path: Path) -> None:
        marker = tmp_path / "ran"
        good = pickle.loads(cifar_python(pickle.dumps)[file])
        contents = {**cifar_python(pickle.dumps), file: pickle.dumps({**good, "x": Touch(marker)}, protocol)}
        with pytest.raises(DataError, match=rf"{file}: refused.*(posix|nt)\.mkdir"):
            open_dataset(as_directory(tmp_path, contents), "test")
        assert not marker.exists()
        pickle.loads(contents[file])
        assert marker.exists(), "the pickle of this test is harmless, so the test shows nothing"

    @pytest.mark.parametrize(
        "array",
        [np.zeros((3, 3072), np.int16), np.zeros((3, 3072), object), np.zeros((3, 3071), np.uint8), [1, 2], None],
    )
    def test_another_array_than_promised(self, array: Any, tmp_path: Path) -> None:
        batch = pickle.dumps({"data": array, "labels": [0, 1, 2]})
        with pytest.raises(DataError, match="test_batch"):
            open_dataset(as_directory(tmp_path, {**cifar_python(pickle.dumps), "test_batch": batch}), "test")

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(place=st.integers(0, 400), value=st.integers(0, 255), cut=st.booleans())
    def test_a_damaged_pickle_is_read_or_named(self, place: int, value: int, cut: bool, tmp_path: Path) -> None:
        source = tmp_path / "set"
        if not source.exists():
            as_directory(tmp_path, cifar_python(python2_pickle))
        batch = bytearray(cifar_python(python2_pickle)["test_batch"])
        batch[place] = value
        (source / "test_batch").write_bytes(batch[: place if cut else None])
        message = "test_batch"
        try:
            count = len(open_dataset(source, "test").samples)
        except DataError as error:
            count, message = 3, error.message
        assert count == 3
        assert "test_batch" in message

    @pytest.mark.parametrize("change", [b"", b"x", bytes(3072), bytes(3074)])
    def test_a_truncated_binary_is_named(self, change: bytes, tmp_path: Path) -> None:
        contents = cifar_binary()
        contents["data_batch_2.bin"] = contents["data_batch_2.bin"] + change if change else b""
        with pytest.raises(DataError, match=r"data_batch_2\.bin.*multiple of 3073"):
            open_dataset(as_directory(tmp_path, contents), "train")

    def test_a_label_out_of_range(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"test_batch\.bin: has labels from 0 to 10"):
            open_dataset(
                as_directory(tmp_path, {**cifar_binary(), "test_batch.bin": bytes(3073) + b"\x0a" + bytes(3072)}),
                "test",
            )

    @pytest.mark.parametrize("lost", ["data_batch_3.bin", "batches.meta.txt"])
    def test_a_lost_file_is_named(self, lost: str, tmp_path: Path) -> None:
        contents = cifar_binary()
        del contents[lost]
        with pytest.raises(DataError, match=f"lacks {lost}"):
            open_dataset(as_directory(tmp_path, contents), "train")


BIRD, CRANE, FOX = "n02012849", "n03126707", "n02119789"
TINY: dict[str, bytes] = {
    "wnids.txt": f"{CRANE}\n{BIRD}\n{FOX}\n".encode(),
    "words.txt": f"{CRANE}\tcrane\n{BIRD}\tcrane, wader\nn00000001\t10 x\n{FOX}\tkit fox, Vulpes macrotis\n".encode(),
    "val/val_annotations.txt": f"val_0.JPEG\t{FOX}\t0\t0\t62\t63\nval_1.JPEG\t{BIRD}\t1\t2\t3\t4\n".encode(),
    **files("val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/test_0.JPEG"),
    **{f"train/{wnid}/{wnid}_boxes.txt": b"" for wnid in (BIRD, CRANE, FOX)},
    **files(*(f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in (BIRD, CRANE, FOX) for i in (0, 1))),
}
TINY_CLASSES = (f"crane ({BIRD})", "kit fox", f"crane ({CRANE})")


class TestTinyImageNet:
    def test_both_splits(self, packed: Callable[[Path, Files], Path], tmp_path: Path) -> None:
        source = packed(tmp_path, TINY)
        train, val = open_dataset(source, "train"), open_dataset(source, "val")
        for dataset in (train, val):
            assert dataset.classes == TINY_CLASSES
            assert dataset.class_ids == (BIRD, FOX, CRANE)
            assert dataset.class_order == "string"
        assert [sample.label for sample in train.samples] == [0, 0, 1, 1, 2, 2]
        assert train.samples[2].read() == f"train/{FOX}/images/{FOX}_0.JPEG".encode()
        assert [(s.label, s.read()) for s in val.samples] == [
            (0, b"val/images/val_1.JPEG"),
            (1, b"val/images/val_0.JPEG"),
        ]

    def test_the_unlabelled_test_pictures(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="'test' with labels; it has: train, val"):
            open_dataset(as_directory(tmp_path, TINY), "test")

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("val/val_annotations.txt", f"val_0.JPEG\t{FOX}\n".encode(), r"without a label: val_1\.JPEG"),
            ("val/val_annotations.txt", TINY["val/val_annotations.txt"] * 2, r"once there: val_0\.JPEG"),
            (
                "val/val_annotations.txt",
                TINY["val/val_annotations.txt"] + f"v.JPEG\t{FOX}".encode(),
                r"missing: v\.JPEG",
            ),
            ("val/val_annotations.txt", b"val_0.JPEG\tn00000001\t0", "line 1"),
            ("wnids.txt", b"\xff", "no text in UTF-8"),
        ],
    )
    def test_what_does_not_fit_is_named(self, file: str, content: bytes, message: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=message):
            open_dataset(as_directory(tmp_path, {**TINY, file: content}), "val")

    def test_a_missing_training_class_is_named(self, tmp_path: Path) -> None:
        contents = {name: data for name, data in TINY.items() if not name.startswith(f"train/{FOX}")}
        with pytest.raises(DataError, match=f"lacks {FOX}"):
            open_dataset(as_directory(tmp_path, contents), "train")


TENCH = "n01440764"
VAL = [f"val/ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2, 3)]
NAMED = [Path(name).name for name in VAL]
# ILSVRC ids are not in the order of the WordNet ids.
MAP = f"{FOX} 1 kit_fox\n{TENCH} 2 tench\n{CRANE} 3 crane\n".encode()
TRAIN = files(*(f"train/{wnid}/{wnid}_1.JPEG" for wnid in (FOX, TENCH, CRANE)))


class TestImageNet:
    @pytest.mark.parametrize(
        ("labels", "extra"),
        [
            (
                {"val_labels.txt": f"{NAMED[2]} {TENCH}\n{NAMED[0]} {CRANE}\n{NAMED[1]} {FOX}\n".encode()},
                {"map_clsloc.txt": MAP},
            ),
            ({"val_labels.txt": f"{CRANE}\n{FOX}\n{TENCH}\n".encode()}, {"val/map_clsloc.txt": MAP}),
            ({"val.txt": f"{NAMED[0]} 2\n{NAMED[1]} 1\n{NAMED[2]} 0\n".encode()}, {"devkit/data/map_clsloc.txt": MAP}),
            ({"ILSVRC2012_validation_ground_truth.txt": b"3\n1\n2\n"}, {"map_clsloc.txt": MAP}),
            (
                {"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": b"3\n1\n2\n"},
                {
                    "synsets.txt": f"{FOX}\n{TENCH}\n{CRANE}\n".encode(),
                    "words.txt": f"{FOX}\tkit fox\n{TENCH}\ttench, Tinca\n{CRANE}\tcrane\n".encode(),
                },
            ),
        ],
        ids=["file and id", "id", "file and position", "ILSVRC id by map", "ILSVRC id by list"],
    )
    @pytest.mark.parametrize("train", [TRAIN, {}], ids=["with train", "val alone"])
    def test_flat_validation(self, labels: Files, extra: Files, train: Files, tmp_path: Path) -> None:
        source = as_directory(tmp_path, {**files(*VAL), **labels, **extra, **train})
        for split in ["val", "train"][: 1 + bool(train)]:
            dataset = open_dataset(source, split)
            assert dataset.class_ids == (TENCH, FOX, CRANE)
            assert dataset.classes == ("tench", "kit fox", "crane")
        dataset = open_dataset(source, "val")
        assert [(s.label, s.name) for s in dataset.samples] == [(0, NAMED[2]), (1, NAMED[1]), (2, NAMED[0])]
        assert dataset.samples[0].read() == VAL[2].encode()

    def test_the_flat_folder_itself(self, packed: Callable[[Path, Files], Path], tmp_path: Path) -> None:
        source = packed(tmp_path, {**files(*NAMED), "val_labels.txt": f"{FOX}\n{FOX}\n{TENCH}\n".encode()})
        dataset = open_dataset(source)
        assert dataset.name == source.name
        assert dataset.classes == dataset.class_ids == (TENCH, FOX)
        assert [sample.name for sample in dataset.samples] == [NAMED[2], NAMED[0], NAMED[1]]

    @pytest.mark.parametrize(
        ("file", "lines"),
        [
            ("LOC_synset_mapping.txt", f"{TENCH} 35-mm film, x\n{FOX} kit fox\n{CRANE} crane\n"),
            ("words.txt", f"n00000001\tother\n{TENCH}\t35-mm film, x\n{FOX}\tkit fox, y\n{CRANE}\tcrane\n"),
            ("map_clsloc.txt", f"{FOX} 1 kit_fox\n{TENCH} 2 35-mm_film\n{CRANE} 3 crane\n"),
        ],
    )
    def test_class_folders_get_readable_names(self, file: str, lines: str, tmp_path: Path) -> None:
        dataset = open_dataset(as_directory(tmp_path, {**TRAIN, file: lines.encode()}), "train")
        assert (dataset.classes, dataset.class_ids) == (("35-mm film", "kit fox", "crane"), (TENCH, FOX, CRANE))

    def test_a_name_in_words_may_begin_with_a_number(self, tmp_path: Path) -> None:
        dataset = open_dataset(as_directory(tmp_path, {**TRAIN, "words.txt": f"{FOX}\t35 mm film\n".encode()}), "train")
        assert dataset.classes == (TENCH, "35 mm film", CRANE)

    @pytest.mark.parametrize(
        ("contents", "message"),
        [
            ({}, "no labels"),
            ({"val.txt": f"{FOX}\n{FOX}\n".encode()}, rf"no label for {NAMED[2]}"),
            ({"val.txt": f"{FOX}\n{FOX}\n{FOX}\n{FOX}\n".encode()}, "not there, by number: 4"),
            ({"val.txt": f"{FOX}\nfox and more\n".encode()}, "line 2: expected one label"),
            ({"val.txt": f"{NAMED[0]} {FOX}\n{NAMED[0]} {FOX}\n".encode()}, "there twice"),
            ({"val.txt": f"{NAMED[0]} {FOX}\ncat.jpg {FOX}\n".encode()}, "line 2: expected a picture and its label"),
            ({"val.txt": f"{FOX}\n2\n3\n".encode()}, "all of one kind"),
            ({"val.txt": b"1\n2\n3\n"}, "nothing says which class has which id"),
            ({"val.txt": b"1\n2\n3\n", "synsets.txt": f"{TENCH}\n{FOX}\n{CRANE}\n".encode()}, "is in sorted order"),
            ({"val.txt": b"1\n2\n4\n", "map_clsloc.txt": MAP}, "4 is no class; they run from 1 to 3"),
            ({"val.txt": b"1\n2\n1\n", "map_clsloc.txt": MAP + f"{BIRD} 3 bird".encode()}, "occur twice"),
            (
                {"val.txt": "\n".join(f"{name} {i}" for i, name in enumerate(NAMED, 1)).encode(), **TRAIN},
                "run from 0 to 2",
            ),
            ({"val.txt": "\n".join(f"{name} 0" for name in NAMED).encode()}, "no list of classes"),
            ({"val.txt": f"{BIRD}\n{FOX}\n{FOX}\n".encode(), **TRAIN}, f"not in train: {BIRD}"),
        ],
    )
    def test_what_does_not_fit_is_named(self, contents: Files, message: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=message):
            open_dataset(as_directory(tmp_path, {**files(*VAL), **contents}), "val")


class TestManifest:
    def source(self, tmp_path: Path, text: str, *extra: str, encoding: str = "utf-8") -> Path:
        folder = as_directory(tmp_path, files("a.jpg", "sub/b, c.jpg", "d.jpg", *extra))
        (folder / "list.csv").write_text(text, encoding=encoding)
        return folder / "list.csv"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    @pytest.mark.parametrize(
        "text",
        [
            'path,label\na.jpg,犬\n"sub/b, c.jpg",cat\n\nd.jpg,犬\n',
            'Label , path\r\n犬,a.jpg\r\ncat,"sub/b, c.jpg"\r\n犬,d.jpg\r\n',
            'a.jpg,犬\n"sub/b, c.jpg",cat\nd.jpg,犬',
        ],
        ids=["header", "other order, Windows", "no header"],
    )
    def test_names(self, text: str, encoding: str, tmp_path: Path) -> None:
        dataset = open_dataset(self.source(tmp_path, text, encoding=encoding))
        assert (dataset.name, dataset.classes, dataset.class_order) == ("list.csv", ("cat", "犬"), "string")
        assert rows(dataset) == [("犬", b"a.jpg"), ("cat", b"sub/b, c.jpg"), ("犬", b"d.jpg")]

    @pytest.mark.parametrize(
        "text", ["path,label,split\na.jpg,x,Train\nd.jpg,y,valid\n", "a.jpg,x,train\nd.jpg,y,val\n"]
    )
    def test_split_column(self, text: str, tmp_path: Path) -> None:
        source = self.source(tmp_path, text)
        train, val = open_dataset(source, "train"), open_dataset(source, "validation")
        assert train.classes == val.classes == ("x", "y")
        assert (rows(train), rows(val)) == ([("x", b"a.jpg")], [("y", b"d.jpg")])
        with pytest.raises(DataError, match="it has: train, val"):
            open_dataset(source, "test")

    def test_numbers(self, tmp_path: Path) -> None:
        dataset = open_dataset(self.source(tmp_path, "a.jpg,10\nd.jpg,2\n"))
        assert (dataset.classes, dataset.class_order) == (tuple(map(str, range(11))), "numbered")
        assert [sample.label for sample in dataset.samples] == [10, 2]

    @pytest.mark.parametrize("labels", [("2", "0"), ("cat", "dog")])
    def test_a_classes_file_and_a_given_order(self, labels: tuple[str, str], tmp_path: Path) -> None:
        source = self.source(tmp_path, f"a.jpg,{labels[0]}\nd.jpg,{labels[1]}\n")
        names = ["dog", "cat"] if labels[0] == "cat" else ["dog", "owl", "cat"]
        given = open_dataset(source, class_order=names)
        (source.parent / "classes.txt").write_text("\n".join(names) + "\n")
        beside = open_dataset(source)
        assert (given.class_order, beside.class_order) == ("given", "classes.txt")
        for dataset in (given, beside):
            assert dataset.classes == tuple(names)
            assert rows(dataset) == [("cat", b"a.jpg"), ("dog", b"d.jpg")]

    def test_wordnet_ids(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, f"a.jpg,{FOX}\nd.jpg,{TENCH}\n")
        (source.parent / "synset_words.txt").write_text(f"{TENCH} tench, Tinca tinca\n{FOX} kit fox\n")
        dataset = open_dataset(source)
        assert (dataset.classes, dataset.class_ids) == (("tench", "kit fox"), (TENCH, FOX))

    def test_the_order_trap(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="order of the classes is not clear"):
            open_dataset(self.source(tmp_path, "a.jpg,c10\nd.jpg,c9\n"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a.jpg,x\nsub/../a.jpg,y\n", r"more than once there: \S*a\.jpg"),
            ("path,label,split\na.jpg,x,train\na.jpg,x,val\n", "more than once"),
            ("a.jpg,x\n" + "".join(f"m{i}.jpg,x\n" for i in range(9)), r"9 files .*: m0\.jpg, m1\.jpg.* and 4 more"),
            ("a.jpg,x\nm.jpg,x\n", r"lists 1 file that is not there: m\.jpg"),
            ("day,species\na.jpg,x\n", "its first line does not say: day,species"),
            ("day,species,split\na.jpg,x,train\n", "its first line does not say: day,species,split"),
            ("path,cat,dog\na.jpg,0,1\n", "its first line does not say: path,cat,dog"),
            ("filename,image,label\na.jpg,b.jpg,x\n", "its first line does not say: filename,image,label"),
            ("name,label\na.jpg,x\n", "path is also filename, file, image, .*; label is also class, category, target"),
            ("path,label\na.jpg,x\nd.jpg\n", "line 3: expected path,label"),
            ("path,label\na.jpg,\n", "line 2"),
            ("path,label,split\na.jpg,x,\n", "line 2"),
            ('path,label\na.jpg,"x\n', "line 2: unexpected end of data"),
            ("path,label\n", "lists no pictures"),
            ("", "lists no pictures"),
            ("a.jpg,4000000000\nd.jpg,1\n", r"a\.jpg has the label 4000000000"),
        ],
    )
    def test_what_does_not_fit_is_named(self, text: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            open_dataset(self.source(tmp_path, text), "train" if "split" in text else None)
        assert re.search(message, str(caught.value))

    @pytest.mark.parametrize("path", ["path", "filename", "file", "image", "Image"])
    @pytest.mark.parametrize("label", ["label", "class", "category", "target"])
    def test_synonyms_of_columns(self, path: str, label: str, tmp_path: Path) -> None:
        dataset = open_dataset(self.source(tmp_path, f"id,{label},{path}\n1,x,a.jpg\n2,y,d.jpg\n"))
        assert rows(dataset) == [("x", b"a.jpg"), ("y", b"d.jpg")]

    def test_the_own_name_of_a_column_goes_before_a_synonym(self, tmp_path: Path) -> None:
        dataset = open_dataset(self.source(tmp_path, "image,path,label,class\nother,a.jpg,x,mammal\n"))
        assert rows(dataset) == [("x", b"a.jpg")]

    @pytest.mark.parametrize("text", ["a.jpg,class\nd.jpg,target\n", "raw,x\na.jpg,y\n"])
    def test_a_first_line_that_names_a_picture_is_no_header(self, text: str, tmp_path: Path) -> None:
        assert len(open_dataset(self.source(tmp_path, text, "raw")).samples) == 2

    @pytest.mark.parametrize("text", ["", "path,label\n", "a.jpg,\n", "a.jpg,x\nm.jpg,x\n", "day,species\na.jpg,x\n"])
    def test_the_format_is_said(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            open_dataset(self.source(tmp_path, text))
        assert "the columns are path,label or path,label,split" in str(caught.value.hint)

    def test_missing_files_may_be_left_to_whoever_reads_them(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, "a.jpg,x\nm.jpg,x\nd.jpg,y\n")
        dataset = open_dataset(source, missing_ok=True)
        assert [sample.name for sample in dataset.samples] == ["a.jpg", "m.jpg", "d.jpg"]
        with pytest.raises(PictureError, match=r"m\.jpg: No such file"):
            dataset.samples[1].read()
        source.write_text("m.jpg,x\nn.jpg,y\n")
        with pytest.raises(DataError, match="lists 2 files that are not there"):
            open_dataset(source, missing_ok=True)

    def test_too_few_classes_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="label 2, but only 2 classes"):
            open_dataset(self.source(tmp_path, "a.jpg,0\nd.jpg,2\n"), class_order=["x", "y"])


@pytest.mark.slow
def test_cifar10_as_jpeg(data_folder: Path) -> None:
    source = data_folder / "cifar10-jpeg.tar.xz"
    if not source.exists():
        pytest.skip("needs cifar10-jpeg.tar.xz in the folder that RESNET_INFER_DATA names")
    for split, each in (("train", 5000), ("test", 1000)):
        dataset = open_dataset(source, split)
        assert len(dataset.classes) == 10
        assert Counter(sample.label for sample in dataset.samples) == dict.fromkeys(range(10), each)
        content = dataset.samples[-1].read()
        assert isinstance(content, bytes)
        assert content.startswith(b"\xff\xd8")
