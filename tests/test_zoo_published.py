"""Published weights by name: downloaded once, checked, turned into a checkpoint and an artifact, and kept."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save

from resnet_infer import zoo
from resnet_infer.errors import MissingExtraError, ModelError
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint
from resnet_infer.models.weights import published
from resnet_infer.models.weights.published import PublishedWeights
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from tests.conftest import PICTURES

pytestmark = pytest.mark.usefixtures("notes_on_stderr")


class Server(ThreadingHTTPServer):
    """Serves `content` and counts."""

    daemon_threads = True
    content = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("RESNET_INFER_WEIGHTS_URL", f"http://127.0.0.1:{server.server_address[1]}/mirror")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def weights(
    server: Server, make_checkpoint: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> PublishedWeights:
    """A row of the table for a network that is small enough to be served here."""
    server.content = save(dict(make_checkpoint("plain8", classes=1000).weights))
    digest = hashlib.sha256(server.content).hexdigest()
    found = published.find_published("resnet50.v2")
    assert found is not None
    row = replace(found, arch="plain8", sha256_prefix=digest[:8], crop=32, resize=37)
    monkeypatch.setattr(published, "PUBLISHED", (row,))
    monkeypatch.setattr(published, "_BY_NAME", {"resnet50": row, "resnet50.v2": row})
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    return row


def test_downloaded_once_and_used_offline(
    server: Server, weights: PublishedWeights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = zoo.find("resnet50")
    assert server.requests == [f"/mirror/plain8-{weights.sha256_prefix}.pth"]
    assert f"downloading resnet50.v2 (BSD-3-Clause) from {weights.url}" in capsys.readouterr().err
    checkpoint = load_checkpoint(path)
    assert (checkpoint.spec.name, checkpoint.spec.input.resize, checkpoint.spec.input.crop) == ("resnet50.v2", 37, 32)
    assert (checkpoint.spec.classes[0], len(checkpoint.spec.measured)) == ("tench", 1)
    assert checkpoint.spec.provenance["source_file"] == weights.filename

    artifact = zoo.artifact("ResNet-50.v2")
    with OnnxRuntime(artifact, device="cpu") as runtime:
        assert runtime.spec == checkpoint.spec
    assert len(server.requests) == 1

    monkeypatch.setenv("RESNET_INFER_WEIGHTS_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RESNET_INFER_MODEL", "resnet50")
    written = artifact.stat().st_mtime_ns
    capsys.readouterr()
    assert (zoo.find("resnet50.v2"), zoo.artifact(None)) == (path, artifact)
    assert zoo.checkpoint(None).spec == checkpoint.spec
    assert artifact.stat().st_mtime_ns == written
    assert capsys.readouterr().err == ""


def test_a_newer_version_makes_its_own_checkpoint_without_a_download(
    server: Server, weights: PublishedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = zoo.find("resnet50")
    monkeypatch.setattr(zoo, "__version__", "99.0")
    second = zoo.find("resnet50")
    assert first != second
    assert second.is_file()
    assert len(server.requests) == 1


def test_another_file_is_refused_and_nothing_is_kept(server: Server, weights: PublishedWeights, tmp_path: Path) -> None:
    server.content = server.content[::-1]
    with pytest.raises(ModelError, match="is not the file that was published"):
        zoo.artifact("resnet50")
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert kept == []


def test_offline(weights: PublishedWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_INFER_WEIGHTS_URL", "http://127.0.0.1:1")
    with pytest.raises(ModelError, match=r"cannot reach 127\.0\.0\.1:1 to download resnet50\.v2") as caught:
        zoo.find("resnet50")
    assert str(zoo.cached_file(weights)) in (caught.value.hint or "")


def test_a_file_that_was_put_there_by_hand(server: Server, weights: PublishedWeights) -> None:
    place = zoo.cached_file(weights)
    place.parent.mkdir(parents=True)
    place.write_bytes(server.content)
    assert zoo.find("resnet50").is_file()
    assert server.requests == []


@pytest.mark.parametrize(("module", "extra"), [("onnx", "export"), ("onnxruntime", "cpu")])
def test_the_missing_extra_is_named_before_the_download(
    server: Server, weights: PublishedWeights, monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    if module == "onnxruntime":  # which this process has imported before
        monkeypatch.delitem(sys.modules, "resnet_infer.runtimes.ort_session", raising=False)
        monkeypatch.delattr("resnet_infer.runtimes.ort_session", raising=False)
    with pytest.raises(MissingExtraError, match=f"making resnet50 ready to run needs the package {module},") as caught:
        zoo.artifact("resnet50")
    assert caught.value.hint == f'install it with: pip install "resnet-infer[{extra}]"'
    assert server.requests == []


def test_an_artifact_in_the_cache_needs_no_extra(weights: PublishedWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zoo.artifact("resnet50")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert zoo.artifact("resnet50") == path


def test_a_file_goes_before_a_name(
    server: Server, weights: PublishedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet50").write_bytes(b"")
    with pytest.raises(ModelError, match=r"resnet50 is no checkpoint"):
        zoo.find("resnet50")
    assert server.requests == []
    (tmp_path / "resnet50").unlink()
    (tmp_path / "resnet50").mkdir()
    assert zoo.find("resnet50").is_file()


@pytest.mark.parametrize(("name", "close"), [("resnet5", "resnet50"), ("RESNET101.V3", "resnet101.v"), ("cat", "")])
def test_an_unknown_name(name: str, close: str) -> None:
    with pytest.raises(ModelError, match=f"no model called {name}") as caught:
        zoo.find(name)
    assert f"did you mean {close}" in caught.value.message or not close
    assert "to download: resnet18, resnet18.v1" in (caught.value.hint or "")


def test_commands_take_the_name(cli: Callable[..., Any], server: Server, weights: PublishedWeights) -> None:
    outcome = cli("classify", PICTURES / "cat.jpg", "-m", "resnet50", "--format", "csv", "-k", 3)
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 4
    assert "parity PASS" in outcome.err
    assert "shorter side to 37" in cli("inspect", "resnet50").out
    assert cli("inspect", "resnet50.v3").code == 1
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["cut", "flipped"])
@pytest.mark.parametrize("part", ["downloads", "checkpoints", "artifacts"])
def test_what_is_damaged_is_made_again_from_what_it_was_made_of(
    server: Server,
    weights: PublishedWeights,
    part: str,
    kind: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From a damaged file nothing further is made, whichever of the three it is."""
    artifact = zoo.artifact("resnet50")
    good = artifact.read_bytes()
    (path,) = (
        item
        for item in (tmp_path / "cache" / part).iterdir()
        if item.suffix in (".pth", ".safetensors", ".onnx") and not item.name.startswith(".")
    )
    content = path.read_bytes()
    path.write_bytes(content[:1000] if kind == "cut" else content[:-5] + bytes([content[-5] ^ 0x40]) + content[-4:])
    for later in ("checkpoints", "artifacts"):  # made of what is damaged, and gone
        if part in ("downloads", "checkpoints") and later != part:
            for item in (tmp_path / "cache" / later).iterdir():
                item.unlink()
    assert zoo.artifact("resnet50").read_bytes() == good
    assert path.read_bytes() == content
    assert len(server.requests) == (2 if part == "downloads" else 1)
    assert "damaged" in caplog.text or "it is replaced" in caplog.text
