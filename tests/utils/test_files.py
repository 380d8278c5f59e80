"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resnet_infer.errors import ResnetInferError
from resnet_infer.evaluation.journal import Journal
from resnet_infer.evaluation.record import Record
from resnet_infer.models.outputs import Output, require_free, whole_file
from resnet_infer.models.weights import cache
from resnet_infer.utils.files import REMEDIES, atomic_pair, atomic_path, sha256

needs_posix = pytest.mark.skipif(os.name != "posix", reason="pipes and devices by name are of POSIX")


def write(target: Path, content: bytes | None, error: BaseException | None = None) -> None:
    with atomic_path(target) as temporary:
        if content is not None:
            temporary.write_bytes(content)
        if error:
            raise error


def test_the_file_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "model.tar.onnx"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        assert not target.exists()
        assert temporary.suffix == ".onnx"
        assert temporary.parent == target.parent
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(error):
        write(target, b"half", error())
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [target.name]


def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    with atomic_path(target) as one:
        with atomic_path(target) as other:
            one.write_bytes(b"one")
            other.write_bytes(b"other")
        assert target.read_bytes() == b"other"
    assert target.read_bytes() == b"one"
    assert os.listdir(tmp_path) == [target.name]


def test_the_file_can_be_read_by_whom_the_system_lets(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.touch()
    with atomic_path(ours) as temporary:
        temporary.touch()
    assert stat.filemode(ours.stat().st_mode) == stat.filemode(plain.stat().st_mode)


@pytest.mark.parametrize("kind", ["the folder is a file", "the target is a folder", "nothing was written"])
def test_what_the_system_refuses_is_named_with_a_way_out(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "taken" / "model.onnx"
    if kind == "the folder is a file":
        target.parent.write_bytes(b"")
    elif kind == "the target is a folder":
        target.mkdir(parents=True)
    with pytest.raises(ResnetInferError, match=r"^cannot write .*model\.onnx: ") as caught:
        write(target, None if kind == "nothing was written" else b"x")
    assert "-o" in str(caught.value.hint)
    assert caught.value.exit_code == 1
    assert not [name for _, _, files in os.walk(tmp_path) for name in files if "part" in name]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResnetInferError, match="No space left"):
        write(tmp_path / "model.onnx", b"half", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert not os.listdir(tmp_path)


@needs_posix
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    real, link = tmp_path / "store" / "model.onnx", tmp_path / "latest.onnx"
    real.parent.mkdir()
    real.write_bytes(b"old")
    link.symlink_to(real)
    with atomic_path(link) as temporary:
        temporary.write_bytes(b"new")
        assert real.read_bytes() == b"old"
    assert link.is_symlink()
    assert real.read_bytes() == b"new"


@needs_posix
def test_devices_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    with atomic_path(pipe) as path:
        path.write_bytes(b"through")
    reader.join(timeout=20)
    assert received == [b"through"]
    assert pipe.is_fifo()

    null = tmp_path / "null"
    null.symlink_to(os.devnull)  # so that a mistake would cost the link and not the machine's device
    with atomic_path(null) as path:
        path.write_bytes(b"away")
    assert Path(os.devnull).is_char_device()
    assert null.is_char_device()


def weights(path: Path) -> Path:
    """Return the path of the second file of a pair in these tests."""
    return path.with_suffix(".bin")


def write_pair(target: Path, content: bytes) -> None:
    with atomic_pair(target, weights) as temporary:
        temporary.write_bytes(content)
        weights(temporary).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("there", [True, False], ids=["old pair", "no pair"])
@pytest.mark.parametrize("step", [1, 2], ids=["after the second file", "after the first file"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_pair_is_replaced_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, step: int, error: type[BaseException]
) -> None:
    target = tmp_path / "model.xml"
    if there:
        write_pair(target, b"old")
    before = contents(tmp_path)
    renames: list[object] = []
    rename = os.replace

    def replace(source: Path, destination: Path) -> None:
        rename(source, destination)
        renames.append(destination)
        if len(renames) == step:
            raise error("stopped")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises((error, ResnetInferError)):
        write_pair(target, b"new")
    assert contents(tmp_path) == (before if step == 1 else {"model.xml": b"new", "model.bin": b"new"})


def test_a_pair_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pair(tmp_path / "model.xml", b"old")

    def refuse(*names: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    rename = os.replace

    def replace(source: Path, destination: Path) -> None:
        if Path(destination).suffix == ".xml":
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_pair(tmp_path / "model.xml", b"new")
    assert contents(tmp_path) == {"model.xml": b"old", "model.bin": b"old"}


@needs_posix
def test_a_pipe_gets_what_the_block_has_written_and_read(tmp_path: Path) -> None:
    pipe = tmp_path / "model.onnx"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    with atomic_pair(pipe, lambda _: None) as path:
        path.write_bytes(b"through")
        assert (path.suffix, path.read_bytes()) == (".onnx", b"through")
    reader.join(timeout=20)
    assert received == [b"through"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("number", sorted(REMEDIES))
def test_what_to_do_follows_from_what_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Wherever a file is written; only a full disk is helped by space."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    def with_atomic_path() -> None:
        write(tmp_path / "x", b"x")

    def with_option() -> None:
        with whole_file(tmp_path / "x", "--report") as path:
            path.write_bytes(b"x")

    def as_output() -> None:
        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        require_free([Output("--report", tmp_path / "x", "report")], [])

    def as_journal() -> None:
        Journal(tmp_path / "x", {}, Record(1, 1))

    def into_the_cache() -> None:
        monkeypatch.setattr(Path, "mkdir", refuse)
        cache._locked(tmp_path / "x")

    monkeypatch.setattr("os.replace", refuse)
    for road in (with_atomic_path, with_option, as_journal, as_output, into_the_cache):
        with pytest.raises(ResnetInferError) as error:
            road()
        assert os.strerror(number) in error.value.message
        assert (error.value.hint or "").startswith(f"{REMEDIES[number]}, or "), road
        assert ("space" in (error.value.hint or "")) == (number == errno.ENOSPC), road


def test_names_that_the_system_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for target, what in (
        (tmp_path / ("x" * 300), "take a shorter name"),
        (tmp_path / "file" / "x", "one of the folders of this path is a file"),
    ):
        with pytest.raises(ResnetInferError, match="cannot write") as error:
            write(target, b"x")
        assert what in (error.value.hint or "")


@pytest.mark.parametrize("size", [0, 1, 1 << 18, (1 << 18) + 1, 1 << 20])
def test_the_digest_of_a_file(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_what_only_writes_files_does_not_load_openssl() -> None:
    """It takes as long to load as a tenth of `classify`."""
    told = "import sys, resnet_infer.utils.files, resnet_infer.models.checkpoint; print('_hashlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout == "False\n"
