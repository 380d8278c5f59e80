"""A system answers every picture once: in this process as the classifier does, behind a URL as the service does."""

from __future__ import annotations

import gc
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="the built-in model needs onnxruntime")

from resnet_infer.benchmarking.load.http_client import HttpClient, post
from resnet_infer.benchmarking.load.image_library import open_image_library
from resnet_infer.benchmarking.load.scenario import Scenario
from resnet_infer.benchmarking.load.system import InProcess, Response, Service, System, open_system
from resnet_infer.classifier import Classifier
from resnet_infer.errors import ServiceError, UsageError
from tests.benchmarking.stub import GOOD, stub
from tests.conftest import PICTURES


def ask(system: System, pictures: Sequence[bytes], seconds: float = 60) -> list[Response]:
    found: dict[int, Response] = {}
    done = threading.Event()

    def told(index: int, response: Response) -> None:
        assert index not in found
        found[index] = response
        if len(found) == len(pictures):
            done.set()

    system.submit(pictures, told)
    assert done.wait(seconds)
    return [found[index] for index in range(len(pictures))]


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [path.read_bytes() for path in sorted(PICTURES.iterdir())]


def test_in_process_it_answers_as_the_classifier(files: list[bytes]) -> None:
    with closing(InProcess()) as system, Classifier() as classifier:
        responses = ask(system, [*files, b"no picture"])
        for content, response in zip(files, responses, strict=False):
            assert response == Response(200, tuple(item.index for item in classifier.classify(content)))
        assert responses[-1].status == 422
        assert responses[-1].error
        assert system.describe()["model"] == "resnet20-cifar10"


def test_ten_crops_are_asked_for(files: list[bytes]) -> None:
    with closing(InProcess(crops=10)) as system, Classifier() as classifier:
        (response,) = ask(system, files[:1])
        assert response.top == tuple(item.index for item in classifier.classify(files[0], crops=10))
    with pytest.raises(UsageError):
        InProcess(crops=3)


def test_what_is_dropped_is_not_done(files: list[bytes]) -> None:
    responses: list[Response] = []
    with closing(InProcess()) as system:
        system.submit(files * 500, lambda index, response: responses.append(response))
        system.drop()
    assert len(responses) == 500 * len(files)
    assert sum(response.status == 200 for response in responses) < len(responses) / 2


def test_the_real_service_answers_alike(files: list[bytes]) -> None:
    for module in ("starlette", "httpx", "uvicorn", "prometheus_client"):
        pytest.importorskip(module, reason="a service needs the extra `serve`")
    from resnet_infer.serving.settings import Settings
    from tests.serving.conftest import Service as RealService

    real = RealService(Settings(), keys=("secret",)).start()
    try:
        url = real.listen()
        with pytest.raises(ServiceError, match="401"):
            Service(url)
        with closing(Service(url, api_key="secret")) as system, closing(InProcess()) as own:
            pictures = [*files, b"no picture"]
            there, here = ask(system, pictures), ask(own, pictures)
            assert [item.top for item in there] == [item.top for item in here]
            assert there[-1].status == 422
            assert system.spec.classes == own.spec.classes
    finally:
        real.close()


def test_a_service_is_asked_with_its_options() -> None:
    with stub() as service, closing(Service(service.url, crops=10, api_key="key")) as system:
        (response,) = ask(system, [b"content"])
        assert response == Response(200, (3,))
        ((path, body, headers),) = service.requests
        assert (path, body) == ("/classify?crops=10&top_k=5", b"content")
        assert headers["authorization"] == "Bearer key"
        assert headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((503, {"error": "the queue is full"}), Response(503, error="the queue is full")),
        ((422, {"error": "no picture"}), Response(422, error="no picture")),
        ((200, {"other": 1}), Response(0, error="no answer of `resnet-infer serve`")),
        ((500, []), Response(500, error="no answer of `resnet-infer serve`")),
    ],
)
def test_every_status_is_told(answer: tuple[int, Any], expected: Response) -> None:
    with stub(lambda *_: answer) as service, closing(Service(service.url)) as system:
        assert ask(system, [b"x", b"y"]) == [expected, expected]


def test_a_connection_that_breaks_is_no_answer() -> None:
    with stub(lambda *_: None) as service, closing(Service(service.url)) as system:
        assert [item.status for item in ask(system, [b"x"] * 5)] == [0] * 5


def test_a_request_on_a_connection_that_was_just_closed_is_sent_again() -> None:
    told: list[int] = []

    def answer(path: str, body: bytes, headers: Any) -> tuple[int, Any] | None:
        told.append(1)
        return None if len(told) == 2 else (200, GOOD)

    with stub(answer) as service, closing(Service(service.url)) as system:
        assert ask(system, [b"x"])[0].status == 200
        assert ask(system, [b"x"])[0].status == 200
        assert len(service.requests) == 3


def test_a_service_that_takes_too_long_is_given_up() -> None:
    release = threading.Event()

    def answer(*_: Any) -> tuple[int, Any]:
        release.wait(60)
        return 200, GOOD

    with stub(answer) as service, closing(Service(service.url, timeout=0.5)) as system:
        assert ask(system, [b"x"] * 3) == [Response(0, error="no answer in 0.5 s")] * 3
        release.set()


def test_a_service_that_goes_away() -> None:
    with stub() as service:
        system = Service(service.url)
        assert ask(system, [b"x"])[0].status == 200
    with closing(system):
        time.sleep(0.05)
        responses = ask(system, [b"x"] * 20)
        assert {item.status for item in responses} == {0}
        assert "Connect call failed" in responses[-1].error


def test_a_service_that_is_not_there() -> None:
    with pytest.raises(ServiceError, match="no service answers"):
        Service("http://127.0.0.1:9")
    with pytest.raises(UsageError):
        HttpClient("ftp://somewhere")
    with pytest.raises(UsageError, match="own model"):
        open_system(Scenario("offline", url="http://127.0.0.1:9", model="resnet50"))


def test_nothing_is_left_of_a_client_that_is_closed_at_any_moment() -> None:
    with stub() as service:
        for number in range(60):
            client = HttpClient(service.url)
            for _ in range(8):
                client.send(post(service.url, "/classify", b"x"), lambda status, body: None)
            time.sleep(0.0001 * number)
            client.close()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del client
            gc.collect()
    assert [item.message for item in caught] == []


def test_more_requests_than_connections_wait_their_turn() -> None:
    running: list[int] = []
    most: list[int] = []

    def answer(*_: Any) -> tuple[int, Any]:
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()
        return 200, {}

    done = threading.Event()
    statuses: list[int] = []

    def answered(status: int, body: bytes) -> None:
        statuses.append(status)
        if len(statuses) == 40:
            done.set()

    with stub(answer) as service, closing(HttpClient(service.url, connections=3)) as client:
        for _ in range(40):
            client.send(post(service.url, "/classify", b"x"), answered)
        assert done.wait(60)
    assert statuses == [200] * 40
    assert max(most) <= 3


def test_the_library_of_pictures_without_data() -> None:
    with closing(InProcess()) as system:
        library = open_image_library(None, system.spec, synthetic=5)
        library.load(range(5))
        assert all(library[number][:2] == b"\xff\xd8" for number in range(5))
        assert {item.status for item in ask(system, library.some(5))} == {200}
        library.unload(range(5))
        with pytest.raises(KeyError):
            library[0]
        with pytest.raises(UsageError):
            open_image_library(None, system.spec, labelled=True)
        folder = open_image_library(PICTURES, system.spec)
        assert len(folder) == len(list(PICTURES.iterdir())) == len(set(folder.some(1000)))
