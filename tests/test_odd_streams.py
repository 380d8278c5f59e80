"""The library in a program whose `sys.stderr` and `sys.stdout` are closed, or objects with hardly a method."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from errno import ENOSPC
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from resnet_infer import Classifier, Picture, zoo
from resnet_infer.cli.main import app
from resnet_infer.models.weights.download import download
from resnet_infer.utils.console import bar, encoding_of, fail, is_terminal, note, on_stderr
from resnet_infer.utils.files import sha256
from resnet_infer.utils.progress import progress
from tests.conftest import PICTURES

ARTIFACT = zoo.built_in(zoo.SMALL, ".onnx")


class Log:
    """What a window or a bridge to a log puts in a stream's place."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


class OnlyWrite:
    def write(self, text: str) -> None:
        pass


class Refusing(Log):
    def write(self, text: str) -> int:
        raise OSError(ENOSPC, "No space left on device")


class Unsure(Log):
    encoding = None

    def isatty(self) -> bool:
        raise ValueError("closed")

    def fileno(self) -> int:
        raise io.UnsupportedOperation


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def ascii_only() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


STREAMS: dict[str, Callable[[], object]] = {
    "none": lambda: None,
    "log": Log,
    "only write": OnlyWrite,
    "refusing": Refusing,
    "unsure": Unsure,
    "closed": closed,
    "ascii": ascii_only,
}


def make_progress(folder: Path) -> None:
    with progress("x", 2, "pictures") as advance:
        advance(1)
        advance(1, "y")


def say(folder: Path) -> None:
    note("grüße \udce9")
    fail("wrong", "do otherwise")
    assert bar(0.5)
    assert encoding_of(sys.stderr)
    assert is_terminal(sys.stderr) is False


def classify(folder: Path) -> None:
    with Classifier(ARTIFACT, device="cpu") as classifier:
        answers = list(classifier.stream([Picture("cat", PICTURES / "cat.jpg"), Picture("none", b"")]))
    assert [answer.error is None for answer in answers] == [True, False]


def fetch(folder: Path) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"abc")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    (folder / "abc").write_bytes(b"abc")
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/abc"
        download(url, folder / "made", sha256_prefix=sha256(folder / "abc"), title="abc")
        thread.join()
    assert (folder / "made").read_bytes() == b"abc"


def measure(folder: Path) -> None:
    from resnet_infer.benchmarking.latency.paired_run import Settings
    from resnet_infer.benchmarking.latency.paired_run import measure as time_calls
    from resnet_infer.benchmarking.latency.subjects import Entry, Subject, synthetic

    entry = Entry("it", Subject(ARTIFACT, device="cpu", threads=1), 1)
    assert time_calls([entry], synthetic(), Settings(rounds=1, seconds=0.02))[0].failure is None


def album(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("cat", "dog", "ship"):
            (folder / "album" / split / label).mkdir(parents=True)
            for number in range(8):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "album" / split / label / f"{number}.png")
    return folder / "album"


def evaluate(folder: Path) -> None:
    from resnet_infer.evaluation.config import EvaluationConfig
    from resnet_infer.evaluation.evaluate import evaluate as measure_error

    assert measure_error([zoo.SMALL], album(folder) / "test", EvaluationConfig(device="cpu")).results


def train(folder: Path) -> None:
    pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
    from resnet_infer.utils.console import note as log
    from tests.training.runs import trainer

    trainer(album(folder), folder / "run", log=log, iterations=2, batch_size=4, validation=3).run()


def command(folder: Path, *arguments: str, code: int = 0) -> None:
    """A command called from a program, its result in whatever stdout is."""
    with pytest.raises(SystemExit) as end:
        app(list(arguments))
    assert end.value.code in (code, 1)  # where stdout takes nothing


WAYS: dict[str, Callable[[Path], None]] = {
    "progress": make_progress,
    "say": say,
    "classify": classify,
    "download": fetch,
    "measure": measure,
    "evaluate": evaluate,
    "train": train,
}
COMMANDS: dict[str, Callable[[Path], None]] = {
    "classify": lambda folder: command(folder, "classify", str(PICTURES)),
    "models": lambda folder: command(folder, "models"),
    "inspect": lambda folder: command(folder, "inspect", zoo.SMALL),
}


@pytest.mark.parametrize(
    ("way", "stream"),
    [
        pytest.param(way, stream, marks=[pytest.mark.slow] if way == "train" and stream != "only write" else [])
        for way in WAYS
        for stream in STREAMS
    ],
)
def test_the_library_bears_any_stderr(way: str, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "stderr", STREAMS[stream]())
    with on_stderr():
        WAYS[way](tmp_path)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_called_from_a_program_bear_any_streams(
    name: str, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Log()
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(sys, "stdout", STREAMS[stream]())
    COMMANDS[name](tmp_path)
    assert "should not happen" not in said.text


def test_nothing_that_is_said_goes_to_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with on_stderr():
        note("a note")
    assert capsys.readouterr().out == ""
