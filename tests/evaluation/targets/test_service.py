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
from resnet_infer.client import Client
from resnet_infer.converters.source import export_onnx
from resnet_infer.data.datasets import Dataset, Sample, open_dataset
from resnet_infer.data.preprocess import Pixels, ten_crops
from resnet_infer.data.protocols import PROTOCOLS, Protocol
from resnet_infer.errors import DataError, PictureError, ServiceError, UsageError
from resnet_infer.evaluation.config import EvaluationConfig
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.scorer import LocalScorer, OpenPicture
from resnet_infer.evaluation.targets.service import open_service
from resnet_infer.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from resnet_infer.models.spec import InputSpec
from resnet_infer.utils.files import sha256
from resnet_infer.zoo import SMALL, built_in
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
    done = cli("evaluate", SMALL, album, "--protocol", protocol, "--reference", SMALL, "--url", url, "--json")
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
    assert "pictures/s" in done.out
    assert "ms a picture" not in done.out  # all of it is elsewhere


def test_every_picture_is_answered_as_in_process(url: str, album: Path) -> None:
    found = evaluate([SMALL], album, EvaluationConfig(url=url))
    local, served = (result.answered for result in found.results)
    np.testing.assert_array_equal(served.top1, local.top1)
    np.testing.assert_allclose(served.confidence, local.confidence, atol=1e-5)
    assert found.results[1].inference_seconds is None


def test_pixels_without_a_file_arrive_as_they_are(url: str, album_set: Dataset) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 33, 3), np.uint8)
    picture = OpenPicture(Sample("pixels", 0, lambda: pixels))
    model = open_service(url, album_set, None)
    with Classifier(SMALL) as classifier:
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
        evaluate([], tmp_path, EvaluationConfig(url=url))
    assert all(f"cat/{name}" in caught.value.message for name in ("01.png", "05.png"))
    assert evaluate([], tmp_path, EvaluationConfig(url=url, skip_unreadable=True)).pictures == 7


def test_its_classes_are_matched(url: str, album_set: Dataset) -> None:
    strange = replace(album_set, classes=("airplane", "automobile", "cat", "zebra"))
    with pytest.raises(DataError, match="resnet20-cifar10 does not know: zebra"):
        open_service(url, strange, None)


def test_what_a_service_cannot_do_is_refused(cli: Cli, url: str, album: Path) -> None:
    with pytest.raises(UsageError, match="its mean is one value for each pixel"):
        evaluate([], album, EvaluationConfig(url=url, protocols=["multi-scale"]))
    with pytest.raises(UsageError, match="did you mean 10-crop"):
        evaluate([], album, EvaluationConfig(url=url, protocols=["10-crops"]))
    done = cli("evaluate", album, "--url", "http://127.0.0.1:9")
    assert (done.code, done.out) == (1, "")
    assert "no service answers at http://127.0.0.1:9" in done.err


def two_corners(picture: Image.Image, spec: InputSpec) -> Pixels:
    return ten_crops(picture, replace(spec, resize=spec.resize + 8))[[0, 3]]


def test_a_service_that_does_not_know_a_protocol_is_sent_its_views(
    url: str, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Protocol("corners", 2, f"{__name__}:two_corners")
    monkeypatch.setattr("resnet_infer.data.protocols.PROTOCOLS", (*PROTOCOLS, own))
    found = evaluate([SMALL], album, EvaluationConfig(url=url, protocols=["corners", "native"]))
    local, served, one, _ = found.results
    assert (served.protocol, served.published) == ("corners", [])
    assert served.answered.ranks.tolist() == local.answered.ranks.tolist()
    np.testing.assert_allclose(served.answered.confidence, local.answered.confidence, atol=1e-5)
    assert np.abs(served.answered.confidence - one.answered.confidence).max() > 1e-3


# Several scales


@pytest.fixture(scope="module")
def open_model(make_checkpoint: Callable[..., Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that takes pictures of any size, and beside it one of a fixed size."""
    pytest.importorskip("onnx", reason="the extra `export`")
    checkpoint = make_checkpoint("resnet8")
    classes = load_checkpoint(built_in(SMALL, ".safetensors")).spec.classes
    checkpoint = replace(checkpoint, spec=checkpoint.spec.with_(classes=classes, name="of any size"))
    folder = tmp_path_factory.mktemp("open")
    export_onnx(checkpoint, folder / "open.onnx", dynamic_size=True)
    export_onnx(checkpoint, folder / "fixed.onnx")
    return folder / "open.onnx"


@pytest.mark.parametrize("max_body_mb", [32.0, 0.015])
def test_several_scales_are_answered_as_in_process(
    make_service: Callable[..., Service], open_model: Path, album: Path, max_body_mb: float
) -> None:
    """Also where a request has no room for both views of a picture."""
    url = make_service(model=str(open_model), max_body_mb=max_body_mb).listen()
    found = evaluate(
        [str(open_model)], album, EvaluationConfig(url=url, protocols=["multi-scale"], scales=(32, 40), device="cpu")
    )
    local, served = found.results
    assert served.name == f"of any size at {url}"
    assert served.scales == local.scales == (32, 40)
    assert served.answered.ranks.tolist() == local.answered.ranks.tolist()
    assert 0 < served.top1.wrong < 96
    np.testing.assert_allclose(served.answered.confidence, local.answered.confidence, atol=1e-5)


def test_a_service_of_one_size_has_no_scales(
    make_service: Callable[..., Service], open_model: Path, album: Path
) -> None:
    url = make_service(model=str(open_model.with_name("fixed.onnx"))).listen()
    with pytest.raises(UsageError, match="takes pictures of 32 x 32 pixels only") as caught:
        evaluate([], album, EvaluationConfig(url=url, protocols=["multi-scale"], scales=(32, 40)))
    assert "--dynamic-size" in str(caught.value.hint)


# Kept answers


def published(url: str) -> dict[str, Any]:
    with Client(url) as client:
        return client.model()


def test_kept_answers_belong_to_the_weights_and_not_to_the_limits(
    make_service: Callable[..., Service], url: str, album_set: Dataset, album: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(built_in(SMALL, ".onnx").read_bytes())
    journal = tmp_path / "answers.jsonl"
    evaluate([], album, EvaluationConfig(url=url, answers=journal))
    other = make_service(model=str(artifact), timeout=7.0, max_body_mb=9.0, max_pictures=3).listen()
    assert evaluate([], album, EvaluationConfig(url=other, answers=journal, resume=True)).resumed == 96
    checkpoint = load_checkpoint(built_in(SMALL, ".safetensors"))
    bias = checkpoint.weights["fc.bias"] + np.eye(10, dtype=np.float32)[2]
    checkpoint = replace(checkpoint, weights={**checkpoint.weights, "fc.bias": bias})
    save_checkpoint(checkpoint, tmp_path / "other.safetensors")  # of the same spec
    pytest.importorskip("onnx", reason="the extra `export`")
    export_onnx(checkpoint, artifact)
    changed = make_service(model=str(artifact)).listen()
    with pytest.raises(DataError, match="belongs to another evaluation: the models differ"):
        evaluate([], album, EvaluationConfig(url=changed, answers=journal, resume=True))
    by_torch = make_service(model=str(tmp_path / "other.safetensors"), runtime="torch").listen()
    told = [published(place)["sha256"] for place in (url, other, changed, by_torch)]
    assert told[0] == told[1] == sha256(built_in(SMALL, ".onnx"))
    assert len(set(told)) == 3


def test_a_service_that_hides_its_weights_is_not_gone_on_with(
    url: str, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of an older version."""
    told = {name: value for name, value in published(url).items() if name != "sha256"}
    monkeypatch.setattr(Client, "model", lambda client: told)
    with pytest.raises(ServiceError, match="does not say which weights it has"):
        evaluate([], album, EvaluationConfig(url=url, answers=tmp_path / "answers.jsonl"))
    assert evaluate([], album, EvaluationConfig(url=url)).pictures == 96


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
    found = evaluate([SMALL], album, EvaluationConfig(url=url, ensemble=True))
    local, _, both = found.results
    assert both.protocol == "native"
    np.testing.assert_array_equal(both.answered.top1, local.answered.top1)
    with pytest.raises(UsageError, match="at least two"):
        evaluate([], album, EvaluationConfig(url=url, ensemble=True))


def test_pictures_of_a_directory_that_the_service_never_saw(url: str, tmp_path: Path) -> None:
    """Its own size limit and pixels: an enormous picture is unreadable, not a crash."""
    (tmp_path / "cat").mkdir()
    Image.new("1", (20_000, 20_000)).save(tmp_path / "cat" / "large.png")
    with pytest.raises(PictureError, match=r"large\.png"):
        evaluate([], tmp_path, EvaluationConfig(url=url))
