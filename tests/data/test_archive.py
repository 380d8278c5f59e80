"""Archives: what is read of them, what is left in them, and that memory is counted before anything is unpacked."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_infer.data.datasets import archive as archives
from resnet_infer.data.datasets import open_dataset
from resnet_infer.data.datasets.archive import open_tree
from resnet_infer.data.datasets.formats import label_files
from resnet_infer.data.datasets.tree import DirectoryTree, Tree, walk
from resnet_infer.data.formats.suffixes import is_picture
from resnet_infer.errors import DataError, PictureError

MB = 1_000_000
Entries = Sequence[tuple[str, bytes]]
MODES = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def pack(place: Path, mode: str, entries: Entries) -> Path:
    path = place / f"set.{mode}"
    if mode == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in entries:
                packed.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{mode.partition('.')[2]}") as packed:  # type: ignore[call-overload]
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


def contents(tree: Tree) -> dict[str, bytes | None]:
    """What lies where; None for what is neither a picture nor a list, and so need not be read."""
    found: dict[str, bytes | None] = {}
    for path in walk(tree):
        wanted = is_picture(path) or path.rpartition("/")[2] in label_files()
        found[path] = tree.reader(path)() if wanted else None
    return found


NAMES = st.sampled_from(
    ["1.jpg", "2.JPEG", "3.png", "readme.txt", "words.txt", "wnids.txt", "data_batch_1", "meta", "x.zip", "a.heic", "b"]
)
PATHS = st.builds(
    lambda folder, name: f"{folder}{name}", st.sampled_from(["", "./", "cat/", "dog/ä b/", "val/"]), NAMES
)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25, deadline=None)
@given(entries=st.lists(st.tuples(PATHS, st.binary(max_size=2000)), max_size=12))
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_archive_is_the_folder_that_it_unpacks_to(mode: str, entries: list[tuple[str, bytes]]) -> None:
    """Of two files of one path the last counts, as for whoever unpacks it."""
    with tempfile.TemporaryDirectory() as folder:
        path = pack(Path(folder), mode, [("cat/0.jpg", b"0"), *entries])
        out = Path(folder) / "out"
        if mode == "zip":
            with zipfile.ZipFile(path) as packed:
                packed.extractall(out)
        else:
            with tarfile.open(path) as packed:
                packed.extractall(out, filter="data")
        assert contents(open_tree(path)) == contents(DirectoryTree(str(out)))


@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_picture_takes_no_memory(mode: str, tmp_path: Path) -> None:
    path = pack(
        tmp_path,
        mode,
        [("cat/1.jpg", b"1"), ("cat/readme.txt", bytes(60 * MB)), ("dog/1.jpg", b"2"), ("dog/x.bin", b"")],
    )
    assert path.stat().st_size < MB or mode == "tar"
    tracemalloc.start()
    try:
        dataset = open_dataset(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [sample.read() for sample in dataset.samples] == [b"1", b"2"]
    assert peak < 20 * MB
    with pytest.raises(PictureError, match=r"cat/readme\.txt was left in its archive"):
        open_tree(path).reader("cat/readme.txt")()


@pytest.mark.parametrize("free", [30 * MB, 10 * MB, 0])
@pytest.mark.parametrize("mode", MODES)
def test_what_memory_does_not_hold_is_refused_before_it_is_unpacked(
    mode: str, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path, mode, [(f"{name}/1.png", bytes(20 * MB)) for name in ("cat", "dog", "owl")])
    monkeypatch.setattr(archives, "free_memory", lambda: free)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"pictures and lists up to .* take [\d.]+ MB") as caught:
            open_dataset(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in caught.value.message
    assert caught.value.hint == "unpack it and give the folder"
    assert peak < free + 22 * MB
    monkeypatch.setattr(archives, "free_memory", lambda: 100 * MB)
    assert len(open_dataset(path).samples) == 3


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE])
@pytest.mark.parametrize("name", ["cat/1.jpg", "cat/notes.txt"])
@pytest.mark.parametrize("mode", ["", "gz", "xz"])
def test_a_size_that_is_only_claimed(mode: str, name: str, kind: bytes, tmp_path: Path) -> None:
    """A tar of a few kilobytes that says it holds 8 TB."""
    member = tarfile.TarInfo(name)
    member.size, member.type = 8 << 40, kind
    path = tmp_path / f"claims.tar.{mode or 'x'}"
    with tarfile.open(path, f"w:{mode}") as packed:  # type: ignore[call-overload]
        assert packed.fileobj is not None
        packed.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))
        packed.offset = 512
    with pytest.raises(DataError) as caught:
        open_dataset(path)
    assert str(path) in caught.value.message
    if is_picture(name) and kind == tarfile.REGTYPE:
        assert "unpack it and give the folder" in str(caught.value.hint)


def header(kind: bytes, size: int, name: str = "cat/2.jpg") -> bytes:
    """A header whose size may be negative, which `tarfile` does not write."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size.to_bytes(12, "big", signed=True)
    block[124] |= 0x80
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("size", [-1, -512, -1024, -1 << 40])
def test_a_negative_size_leads_nowhere(kind: bytes, size: int, tmp_path: Path) -> None:
    """One of -512 makes the header its own successor."""
    source = pack(tmp_path, "tar", [("cat/1.jpg", b"1" * 512)])
    source.write_bytes(source.read_bytes()[:1024] + header(kind, size) + bytes(1024))
    with pytest.raises(DataError, match=r"is damaged or no archive .*negative size"):
        open_tree(source)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_name_that_would_fill_the_memory(kind: bytes, tmp_path: Path) -> None:
    source = tmp_path / "set.tar.gz"
    with gzip.open(source, "wb", compresslevel=1) as packed:
        packed.write(header(kind, 64 * MB) + bytes(64 * MB))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="a header says that it takes 64,000,000 bytes"):
            open_tree(source)
        assert tracemalloc.get_traced_memory()[1] < 8 * MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_may_be_long(form: int, tmp_path: Path) -> None:
    source = tmp_path / "set.tar"
    name = "/".join(["x" * 200] * 5) + "/1.jpg"
    with tarfile.open(source, "w", format=form) as packed:
        member = tarfile.TarInfo(name)
        member.size = 3
        packed.addfile(member, io.BytesIO(b"abc"))
    assert contents(open_tree(source)) == {name: b"abc"}


def test_a_picture_that_is_a_link_to_a_file_by_another_name(tmp_path: Path) -> None:
    """As Hugging Face and git-annex keep files: by what is in them, and linked to by name."""
    path = tmp_path / "set.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for name, link, content in (
            ("blobs/4f2a", "", b"cat"),
            ("blobs/9b1c", "", b"dog"),
            ("blobs/huge", "", b"x"),
            ("train/cat/1.jpg", "../../blobs/4f2a", b""),
            ("train/dog/1.jpg", "../../blobs/9b1c", b""),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.linkname = len(content), link
            member.type = tarfile.SYMTYPE if link else tarfile.REGTYPE
            packed.addfile(member, io.BytesIO(content))
    assert [sample.read() for sample in open_dataset(path, "train").samples] == [b"cat", b"dog"]
    with pytest.raises(PictureError):
        open_tree(path).reader("blobs/huge")()


@pytest.mark.parametrize("name", ["set.tar.zst", "set.zip"])
def test_zstandard_is_read_or_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd" + bytes(600))
    expected = "damaged or no archive" if sys.version_info >= (3, 14) else "Zstandard, which Python 3"
    with pytest.raises(DataError, match=expected):
        open_dataset(tmp_path / name)
