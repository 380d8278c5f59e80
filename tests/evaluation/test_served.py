"""`evaluate --url`: a service gives the counts that its model gives in process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="a service needs the extra `serve`")

from resnet_infer.classifier import Classifier
from resnet_infer.data.datasets import Dataset, Sample, open_dataset
from resnet_infer.errors import DataError, PictureError, UsageError
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.protocols import LocalScorer, OpenPicture
from resnet_infer.evaluation.served import open_service
from resnet_infer.zoo import DEFAULT
from tests.conftest import Outcome
from tests.serving.conftest import Service, make_service, service

__all__ = ["make_service", "service"]

Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def url(service: Service) -> str:
    return service.listen()


@pytest.fixture
def album_set(album: Path) -> Dataset:
    return open_dataset(album)


@pytest.mark.parametrize("protocol", ["native", "1-crop", "10-crop"])
def test_the_counts_are_those_in_process(cli: Cli, url: str, album: Path, protocol: str) -> None:
    done = cli("evaluate", DEFAULT, album, "-p", protocol, "--reference", DEFAULT, "--url", url, "--json")
    reference, local, served = json.loads(done.out)["results"]
    assert 0 < local["top1"]["wrong"] < 96
    assert (served["top1"], served["top5"]) == (local["top1"], local["top5"]) == (reference["top1"], reference["top5"])
    assert served["model"] == f"resnet20-cifar10 at {url}"
    assert served["runtime"]["url"] == url


def test_a_service_alone(cli: Cli, url: str, album: Path) -> None:
    done = cli("evaluate", album, "--url", url)
    assert done.code == 0
    assert f"resnet20-cifar10 at {url}" in done.out
    assert "96 pictures" in done.out


def test_every_picture_is_answered_as_in_process(url: str, album: Path) -> None:
    found = evaluate([DEFAULT], album, url=url)
    local, served = (result.answered for result in found.results)
    np.testing.assert_array_equal(served.top1, local.top1)
    np.testing.assert_allclose(served.confidence, local.confidence, atol=1e-5)
    assert found.results[1].inference_seconds is None


def test_pixels_without_a_file_arrive_as_they_are(url: str, album_set: Dataset) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 33, 3), np.uint8)
    picture = OpenPicture(Sample("pixels", 0, lambda: pixels))
    model = open_service(url, album_set, None)
    with Classifier(DEFAULT) as classifier:
        local = LocalScorer(classifier, "native")
        expected = local.score([local.prepare(picture)])
    found = model.scorer("native", scales=None, batch_size=1)
    np.testing.assert_allclose(found.score([found.prepare(picture)]), expected, atol=1e-5)
    model.close()


def test_unreadable_pictures_are_named_or_skipped(url: str, album: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cat"
    folder.mkdir()
    for number, path in enumerate(sorted((album / "cat").iterdir())[:9]):
        (folder / path.name).write_bytes(path.read_bytes()[: 60 if number % 4 == 1 else None])
    with pytest.raises(PictureError, match="2 of the 9 pictures") as caught:
        evaluate([], tmp_path, url=url)
    assert all(f"cat/{name}" in caught.value.message for name in ("01.png", "05.png"))
    assert evaluate([], tmp_path, url=url, skip_unreadable=True).pictures == 7


def test_its_classes_are_matched(url: str, album_set: Dataset) -> None:
    strange = replace(album_set, classes=("airplane", "automobile", "cat", "zebra"))
    with pytest.raises(DataError, match="resnet20-cifar10 does not know: zebra"):
        open_service(url, strange, None)


def test_what_a_service_cannot_do_is_refused(cli: Cli, url: str, album: Path) -> None:
    with pytest.raises(UsageError, match="not by multi-scale"):
        evaluate([], album, url=url, protocols=["multi-scale"])
    done = cli("evaluate", album, "--url", "http://127.0.0.1:9")
    assert (done.code, done.out) == (1, "")
    assert "no service answers at http://127.0.0.1:9" in done.err


@pytest.fixture
def stranger() -> Iterator[str]:
    """A server that is none of ours."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"name": "something else"}')

        def log_message(self, *arguments: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_server_is_not_taken_for_ours(cli: Cli, stranger: str, album: Path) -> None:
    done = cli("evaluate", album, "--url", stranger)
    assert done.code == 1
    assert "does not say which model it has" in done.err


def test_an_ensemble_with_a_service(url: str, album: Path) -> None:
    found = evaluate([DEFAULT], album, url=url, ensemble=True)
    local, _, both = found.results
    assert both.protocol == "native"
    np.testing.assert_array_equal(both.answered.top1, local.answered.top1)
    with pytest.raises(UsageError, match="at least two"):
        evaluate([], album, url=url, ensemble=True)


def test_pictures_of_a_directory_that_the_service_never_saw(url: str, tmp_path: Path) -> None:
    """Its own size limit and pixels: an enormous picture is unreadable, not a crash."""
    (tmp_path / "cat").mkdir()
    Image.new("1", (20_000, 20_000)).save(tmp_path / "cat" / "large.png")
    with pytest.raises(PictureError, match=r"large\.png"):
        evaluate([], tmp_path, url=url)
