"""Files that are read whole, and what is refused because to read it would not end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from resnet_infer import zoo
from resnet_infer.classifier import Classifier, Picture
from resnet_infer.client import Client
from resnet_infer.data.datasets.tree import read_file
from resnet_infer.data.image import read_image
from resnet_infer.errors import PictureError
from resnet_infer.utils import inputs
from tests.conftest import PICTURES, ROOT, Outcome
from tests.deadline import within

Cli = Callable[..., Outcome]
pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and devices by name are of POSIX")
CAT = PICTURES / "cat.jpg"
HUGE = 8 << 30


@pytest.fixture
def special(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Make, in the working directory, a file that is no regular one."""
    monkeypatch.chdir(tmp_path)

    def make(kind: str, suffix: str) -> str:
        name = f"{kind}{suffix}"
        if kind == "pipe":
            os.mkfifo(name)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(name)
        else:
            os.symlink("/dev/zero", name)
        return name

    return make


CALLS: dict[str, tuple[str, list[str]]] = {
    "classify": (".jpg", ["classify", "IT"]),
    "classify -m": (".onnx", ["classify", str(CAT), "-m", "IT"]),
    "classify -m checkpoint": (".safetensors", ["classify", str(CAT), "-m", "IT"]),
    "import": (".pth", ["import", "IT", "--arch", "resnet20"]),
    "import safetensors": (".safetensors", ["import", "IT", "--arch", "resnet20"]),
    "import onnx": (".onnx", ["import", "IT"]),
    "import --labels": (".txt", ["import", "MODEL", "--labels", "IT"]),
    "import --check-data": (".zip", ["import", "foreign.safetensors", "--arch", "resnet20", "--check-data", "IT"]),
    "export": (".safetensors", ["export", "IT"]),
    "export --calibration-data": (".json", ["export", "MODEL", "-p", "int8", "--calibration-data", "IT"]),
    "export archive": (".tar", ["export", "MODEL", "-p", "int8", "--calibration-data", "IT"]),
    "evaluate data": (".csv", ["evaluate", "ARTIFACT", "IT"]),
    "evaluate archive": (".zip", ["evaluate", "ARTIFACT", "IT"]),
    "evaluate model": (".onnx", ["evaluate", "IT", "data.csv"]),
    "evaluate --class-order": (".txt", ["evaluate", "ARTIFACT", "data.csv", "--class-order", "IT"]),
    "compare": (".csv", ["compare", "ARTIFACT", "ARTIFACT", "IT"]),
    "benchmark --photos": (".zip", ["benchmark", "ARTIFACT", "--photos", "IT"]),
    "benchmark --include": (".json", ["benchmark", "ARTIFACT", "--include", "IT", "--report", "page.html"]),
    "benchmark --errors": (".json", ["benchmark", "ARTIFACT", "--errors", "IT", "--report", "page.html"]),
    "benchmark --data": (".csv", ["benchmark", "ARTIFACT", "--scenario", "offline", "--data", "IT"]),
    "train": (".csv", ["train", "IT"]),
    "train --class-order": (".txt", ["train", "data.csv", "--class-order", "IT"]),
    "inspect": (".safetensors", ["inspect", "IT"]),
    "curves": ("", ["curves", "IT"]),
}
SEVERAL = ("classify", "import", "import --labels", "evaluate data", "evaluate archive")
"""Calls that are tried with every kind of file."""


@pytest.mark.parametrize(
    ("kind", "call"),
    [*(("pipe", call) for call in CALLS), *((kind, call) for kind in ("socket", "device") for call in SEVERAL)],
)
def test_no_command_hangs_at_what_is_no_regular_file(
    cli: Cli, special: Callable[[str, str], str], kind: str, call: str
) -> None:
    suffix, arguments = CALLS[call]
    if arguments[0] == "train":
        pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
    name = special(kind, suffix)
    shutil.copy(CAT, "cat.jpg")
    Path("data.csv").write_text("path,label\ncat.jpg,cat\n")
    if "foreign.safetensors" in arguments:
        save_file(load_file(zoo.built_in(zoo.SMALL, ".safetensors")), "foreign.safetensors")
    model, artifact = (str(zoo.built_in(zoo.SMALL, suffix)) for suffix in (".safetensors", ".onnx"))
    values = {"IT": name, "MODEL": model, "ARTIFACT": artifact}
    with within(60):
        done = cli(*(values.get(argument, argument) for argument in arguments))
    assert done.code in (1, 2)
    assert name in done.err
    assert "should not happen" not in done.err


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_who_is_given_such_a_picture_names_it(special: Callable[[str, str], str], kind: str) -> None:
    name = special(kind, ".jpg")
    with within(60):
        with pytest.raises(PictureError, match=rf"^{name}: not a regular file$"):
            read_image(Path(name))
        with pytest.raises(PictureError, match=rf"^{name}: not a regular file$"):
            read_file(name)
        with Classifier() as model:
            first, second = model.stream([Picture("it", Path(name)), Picture("cat", CAT)])
        assert str(first.error) == "it: not a regular file"
        assert second.predictions[0].label == "cat"
        with Client("http://127.0.0.1:9") as client:
            assert str(client.ask(Picture("it", Path(name))).error) == "it: not a regular file"


def test_a_huge_file_costs_only_itself(cli: Cli, tmp_path: Path) -> None:
    for name, start in (("zeros.jpg", b""), ("begins-as-one.jpg", CAT.read_bytes())):
        with open(tmp_path / name, "wb") as file:
            file.write(start)
            file.truncate(HUGE)
    shutil.copy(CAT, tmp_path / "zz.jpg")
    code = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({4 << 30}, {4 << 30}))\n"
    code += "from resnet_infer.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "classify", str(tmp_path), "-f", "csv", "-k", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    _, large, zeros, cat = done.stdout.splitlines()
    assert done.returncode == 1
    assert "begins-as-one.jpg: its 8,589,934,592 bytes are more than 1,498,764,624" in large
    assert "zeros.jpg: unsupported: a file of this kind" in zeros
    assert ",1,cat," in cat
    with pytest.raises(PictureError, match="bytes are more than"):
        read_file(str(tmp_path / "begins-as-one.jpg"))
    with Client("http://127.0.0.1:9") as client:
        assert "bytes are more than" in str(client.ask(Picture("it", tmp_path / "begins-as-one.jpg")).error)
    os.truncate(tmp_path / "zeros.jpg", HUGE)
    labels = cli("import", zoo.built_in(zoo.SMALL, ".safetensors"), "--labels", tmp_path / "zeros.jpg")
    assert labels.code == 1
    assert "bytes are more than" in labels.err


def test_a_stream_without_end_is_read_no_further_than_it_says_what_it_is() -> None:
    with open("/dev/zero", "rb") as endless:
        done = subprocess.run(
            [sys.executable, "-m", "resnet_infer", "classify", "-"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=endless,
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 1
    assert "stdin: unsupported: a file of this kind" in done.stderr


def test_what_a_shell_hands_over_is_read(cli: Cli) -> None:
    read, write = os.pipe()

    def feed() -> None:
        os.write(write, CAT.read_bytes())
        os.close(write)

    feeding = threading.Thread(target=feed)
    feeding.start()
    done = cli("classify", f"/dev/fd/{read}", "-f", "csv", "-k", 1)
    feeding.join()
    os.close(read)
    assert (done.code, done.out.splitlines()[1].split(",")[2]) == (0, "cat")


@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 20) + 1])
def test_all_of_a_file_is_read(tmp_path: Path, size: int) -> None:
    content, path = os.urandom(size), tmp_path / "file"
    path.write_bytes(content)
    assert inputs.read_bytes(path) == content
    assert inputs.read_bytes(path, limit=size) == content
    if size:
        with pytest.raises(OSError, match="more than"):
            inputs.read_bytes(path, limit=size - 1)
    assert inputs.read_bytes("/proc/self/status").startswith(b"Name:")  # says that it has no bytes
    with pytest.raises(OSError, match="more than 3 bytes"):
        inputs.read_bytes("/proc/self/status", limit=3)
    with pytest.raises(IsADirectoryError):
        inputs.read_bytes(tmp_path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_of_a_text(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "lines.txt").write_bytes(mark + "one\r\n\r\n  zwö \n \nthree".encode())
    assert inputs.read_lines(tmp_path / "lines.txt") == ("one", "zwö", "three")
    (tmp_path / "lines.txt").write_bytes(mark)
    assert inputs.read_lines(tmp_path / "lines.txt") == ()


def test_too_little_memory_is_an_error_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("resnet_infer.classifier.centre_crop", fail)
        with Classifier() as model:
            (answer,) = model.stream([Picture("cat", CAT)])
    assert str(answer.error) == "cat: there is not enough memory to resize it"

    class Failing(FileIO):
        read = fail

    monkeypatch.setattr(inputs, "FileIO", Failing)
    with pytest.raises(PictureError, match=r"cat.jpg: there is not enough memory for its [\d,]+ bytes$"):
        read_image(CAT)
