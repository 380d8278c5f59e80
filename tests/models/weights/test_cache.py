"""What the cache holds is compared with its digests, and made again where it is damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_infer import zoo
from resnet_infer.errors import ModelError
from resnet_infer.models.weights import builtin, cache
from tests.conftest import PICTURES, Outcome

Cli = Callable[..., Outcome]


def damage(path: Path, kind: str) -> None:
    """Cut a file, flip a bit in its middle, or empty it."""
    content = bytearray(path.read_bytes())
    if kind == "flipped":
        content[len(content) // 2] ^= 0x40
    path.write_bytes({"cut": bytes(content[: len(content) // 3]), "empty": b""}.get(kind, bytes(content)))


@settings(max_examples=60)
@given(content=st.binary(min_size=1, max_size=200), data=st.data())
def test_any_other_content_is_noticed(
    content: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cache") / "x.onnx"
    path.write_bytes(content)
    cache.seal(path)
    assert cache.state(path) == "good"
    other = data.draw(st.binary(max_size=200).filter(lambda value: value != content))
    path.write_bytes(other)
    assert cache.state(path) == "damaged"
    made: list[Path] = []

    def make() -> None:
        made.append(path)
        path.write_bytes(content)

    assert cache.kept(path, make) == path
    assert cache.kept(path, make) == path
    assert (path.read_bytes(), made) == (content, [path])


def test_a_file_without_its_digest_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"who knows")
    assert cache.state(path) == "without digest"

    def make() -> None:
        path.write_bytes(b"new")

    cache.kept(path, make)
    assert path.read_bytes() == b"new"


def test_the_digest_is_the_one_of_sha256sum(tmp_path: Path) -> None:
    program = shutil.which("sha256sum")
    if not program:
        pytest.skip("there is no sha256sum here")
    path = tmp_path / "x.onnx"
    path.write_bytes(b"content")
    cache.seal(path)
    subprocess.run([program, "-c", "x.onnx.sha256"], cwd=tmp_path, check=True, capture_output=True)


def test_of_several_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    path, made, begun = tmp_path / "x.onnx", [], threading.Barrier(8)

    def make() -> None:
        made.append(1)
        path.write_bytes(b"content")

    def ask() -> None:
        begun.wait()
        cache.kept(path, make)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


# Through the commands


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    pytest.importorskip("onnx", reason="the extra `export`")
    path = tmp_path / "model.safetensors"
    shutil.copy(zoo.built_in(zoo.SMALL, ".safetensors"), path)
    return path


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty"])
def test_a_damaged_export_is_made_again_once(cli: Cli, checkpoint: Path, kind: str, tmp_path: Path) -> None:
    command = ("classify", PICTURES / "cat.jpg", "-m", checkpoint)
    first = cli(*command)
    (artifact,) = (tmp_path / "cache" / "artifacts").glob("*.onnx")
    good = artifact.read_bytes()
    damage(artifact, kind)
    assert cli("cache", "verify").code == 1
    second, third = cli(*command), cli(*command)
    assert (first.code, second.code, third.code) == (0, 0, 0)
    assert first.out == second.out == third.out
    assert artifact.read_bytes() == good
    assert "parity PASS" in second.err
    assert "parity" not in third.err
    assert cli("cache", "verify").code == 0


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "absent"])
def test_a_damaged_built_in_says_reinstall(
    kind: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in builtin.FOLDER.iterdir():
        if path.name == builtin.LIST or path.name.startswith(zoo.SMALL):
            shutil.copy(path, tmp_path)
    monkeypatch.setattr(builtin, "FOLDER", tmp_path)
    path = zoo.built_in(zoo.SMALL, suffix)
    find = zoo.find if suffix == ".onnx" else zoo.checkpoint_file
    assert find(zoo.SMALL) == path
    builtin.require_whole.cache_clear()
    damage(path, kind) if kind != "absent" else path.unlink()
    with pytest.raises(ModelError, match="damaged") as caught:
        find(zoo.SMALL)
    assert "--force-reinstall" in (caught.value.hint or "")


def test_the_list_has_every_built_in_file() -> None:
    files = sorted(path for path in builtin.FOLDER.iterdir() if path.name != builtin.LIST)
    assert (builtin.FOLDER / builtin.LIST).read_text() == "".join(map(builtin.line, files))


def test_listed_and_cleared(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    assert "the cache is empty" in cli("cache").err
    cli("classify", PICTURES / "cat.jpg", "-m", checkpoint)
    folder = tmp_path / "cache"
    (folder / "artifacts" / "notes.txt").write_text("mine")
    (folder / "downloads").mkdir()
    (folder / "downloads" / "resnet50-11111111.pth.part").write_bytes(b"begun")
    listed = cli("cache", "list")
    assert listed.code == 0
    assert "artifacts" in listed.out
    (file,) = json.loads(cli("cache", "verify", "--json").out)["files"]
    assert (file["kind"], file["state"], Path(file["file"]).suffix) == ("artifacts", "good", ".onnx")
    foreign = folder / "downloads" / "my-net.pth"
    foreign.write_bytes(b"somebody's")
    verified = cli("cache", "verify")
    assert (verified.code, "without digest" in verified.out) == (0, True)
    foreign.unlink()
    cleared = cli("cache", "clear")
    assert (cleared.code, cleared.out[:5]) == (0, "freed")
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["notes.txt"]


def test_several_processes_export_once(checkpoint: Path, tmp_path: Path) -> None:
    code = "import sys; from resnet_infer import zoo; from resnet_infer.utils.console import on_stderr\n"
    code += "with on_stderr():\n    print(zoo.artifact(sys.argv[1]))"
    environment = {**os.environ, "RESNET_INFER_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(checkpoint)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    told = [process.communicate(timeout=200) for process in processes]
    assert len({out for out, _ in told}) == 1
    assert sum("exporting" in err for _, err in told) == 1
