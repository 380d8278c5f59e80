"""The Python client and `classify --url`: the same output as without a service, and clear words where there is none."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_infer.classifier import Classifier, Picture
from resnet_infer.client import Client
from resnet_infer.errors import PictureError, ServiceError, UsageError
from tests.conftest import PICTURES, Outcome
from tests.data.test_pictures import FORMS, ONE_AND_TEN, PIXELS, PNG, changed, encoded
from tests.serving.conftest import Service

Cli = Callable[..., Outcome]
Make = Callable[..., Service]
CAT = PICTURES / "cat.jpg"


@pytest.fixture(scope="module")
def url(service: Service) -> str:
    return service.listen()


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a server that answers with `handler`, each connection in a thread."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("options", [(), ("--crops", "10"), ("--top-k", "2")])
def test_classify_url_prints_what_classify_prints(cli: Cli, url: str, options: tuple[str, ...]) -> None:
    local, asked = cli("classify", PICTURES, *options), cli("classify", "--url", url, PICTURES, *options)
    assert (asked.code, asked.out) == (local.code, local.out)
    assert asked.err == ""
    local, asked = (cli("classify", *where, PICTURES, "-f", "jsonl", *options) for where in ((), ("--url", url)))
    for mine, other in zip(local.out.splitlines(), asked.out.splitlines(), strict=True):
        here, there = json.loads(mine), json.loads(other)
        assert there.pop("source") == here.pop("source")
        for one, two in zip(here["predictions"], there["predictions"], strict=True):
            assert two.pop("probability") == pytest.approx(one.pop("probability"), abs=1e-5)
        assert there == here


def test_pictures_that_cannot_be_read_are_said_alike(cli: Cli, url: str, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(CAT.read_bytes()[:3000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "good.jpg").write_bytes(CAT.read_bytes())
    (tmp_path / "text.gif").write_text("hello")
    arguments = ("classify", tmp_path, tmp_path / "absent.jpg", "-k", 1)
    local, asked = cli(*arguments), cli(*arguments, "--url", url)
    assert (asked.code, asked.out) == (local.code, local.out)
    assert asked.code == 1
    assert asked.err.splitlines() == [line for line in local.err.splitlines() if "knows" not in line]


def test_a_service_has_its_own_model(cli: Cli, url: str) -> None:
    for option in (("-m", "resnet50"), ("--device", "cpu"), ("--threads", "2"), ("--runtime", "onnxruntime")):
        done = cli("classify", CAT, "--url", url, *option)
        assert (done.code, done.out) == (2, "")
        assert "own model" in done.err


@pytest.fixture
def nobody() -> str:
    """A URL where no service is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_no_service_is_said_with_what_to_do(cli: Cli, nobody: str) -> None:
    done = cli("classify", CAT, "--url", nobody)
    assert (done.code, done.out) == (1, "")
    assert f"no service answers at {nobody}" in done.err
    assert "resnet-infer serve" in done.err


@pytest.mark.parametrize("bad", ["", "ftp://x", "http://", "://"])
def test_what_is_no_url_is_a_usage_error(bad: str) -> None:
    with pytest.raises(UsageError, match="no URL"):
        Client(bad)


def test_the_client_answers_as_the_classifier(url: str) -> None:
    with Client(url) as client, Classifier() as classifier:
        assert client.model()["name"] == classifier.spec.name
        for picture in (CAT, str(CAT), CAT.read_bytes()):
            mine, other = classifier.classify(picture, top_k=3), client.classify(picture, top_k=3)
            assert [item.label for item in mine] == [item.label for item in other]
        with pytest.raises(PictureError, match=r"^picture: unsupported: text"):
            client.classify(b"text")
        with pytest.raises(PictureError, match=r"nowhere.jpg: No such file"):
            client.classify("nowhere.jpg")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 0}, "top-k .* at least 1"),
        ({"top_k": -1}, "top-k .* at least 1"),
        ({"crops": 3}, "crops is 1 or 10, not 3"),
    ],
)
def test_what_the_classifier_refuses_is_refused_before_anything_is_sent(
    nobody: str, options: dict[str, Any], words: str
) -> None:
    with Client(nobody) as client, Classifier() as classifier:
        for answering in (classifier, client):
            with pytest.raises(UsageError, match=words):
                answering.classify("nowhere.jpg", **options)
            with pytest.raises(UsageError, match=words):
                answering.stream([], **options)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("form", FORMS)
def test_the_client_takes_what_the_classifier_takes(form: str, url: str, tmp_path: Path) -> None:
    make, source = FORMS[form]
    with Client(url) as client:
        for crops in ONE_AND_TEN:
            expected = client.ask(PNG, crops=crops, top_k=None)
            answer = client.ask(make(tmp_path), crops=crops, top_k=None)
            assert answer.source == source.format(tmp_path)
            assert answer.predictions == expected.predictions
            assert len(answer.predictions) == 10
            assert answer.logits is None
        assert client.classify(changed()) != client.classify(PNG)


def test_the_client_answers_several_as_the_classifier(url: str, tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[274] = 6
    turned: Image.Image = Image.open(io.BytesIO(encoded(PIXELS, exif=tag)))
    with Client(url) as client:
        expected = [client.classify(PNG), client.classify(encoded(PIXELS, exif=tag))]
        assert client.classify([PIXELS, turned]) == expected
        assert client.classify(np.stack([PIXELS, PIXELS]), timeout=20) == expected[:1] * 2
        assert asyncio.run(client.aclassify((PIXELS, turned), timeout=20)) == expected
        assert [list(answer.predictions) for answer in client.stream([PIXELS, turned])] == expected
        dark = Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16) * 30)
        assert client.ask(dark).note == client.ask(encoded(dark)).note is not None
        wrong: Any
        for wrong, message in ((None, "None is no picture"), ([], "an empty list has no pictures")):
            with pytest.raises(UsageError, match=message):
                client.classify(wrong)
        with pytest.raises(UsageError, match="takes several pictures, not a str"):
            client.stream("a.jpg")
        with pytest.raises(PictureError, match=r"directory\n  hint: give the files in it"):
            client.classify(tmp_path)


def test_answers_come_in_order_over_several_connections(url: str) -> None:
    names = [str(path) for path in sorted(PICTURES.iterdir())] * 10
    with Client(url.removeprefix("http://") + "/", connections=4) as client:
        answers = list(client.stream(Picture(name, Path(name)) for name in names))
    assert [answer.source for answer in answers] == names
    assert len({answer.predictions[0].label for answer in answers}) == 4


def test_the_key_is_needed_and_can_come_from_the_environment(
    make_service: Make, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = make_service(keys=("secret", "schlüssel-ключ")).listen()
    done = cli("classify", CAT, "--url", locked)
    assert done.code == 1
    assert "401" in done.err
    assert "RESNET_INFER_API_KEY" in done.err
    for key in ("secret", "schlüssel-ключ"):
        with Client(locked, api_key=key) as client:
            assert client.classify(CAT)[0].label == "cat"
    monkeypatch.setenv("RESNET_INFER_API_KEY", "secret")
    assert cli("classify", CAT, "--url", locked).out == cli("classify", CAT).out


class Busy(BaseHTTPRequestHandler):
    """Busy twice, then an answer; and it hangs up after each."""

    asked = 0
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        Busy.asked += 1
        body: dict[str, Any] = {"error": "not now"}
        if Busy.asked > 2:
            body = {"predictions": [{"label": "cat", "probability": 1.0, "index": 3, "id": None}]}
        content = json.dumps(body).encode()
        self.send_response(200 if Busy.asked > 2 else 503)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True  # without saying so

    def log_message(self, *arguments: Any) -> None:
        pass


def test_a_busy_service_is_asked_again_and_a_closed_connection_opened_again() -> None:
    Busy.asked = 0
    with listening(Busy) as busy, Client(busy) as client:
        assert client.classify(CAT)[0].label == "cat"
        assert client.classify(CAT)[0].label == "cat"
    assert Busy.asked == 4


def test_a_service_that_stays_busy_is_an_error(make_service: Make) -> None:
    cold = make_service(start=False)
    with pytest.raises(ServiceError, match="not ready") as raised, Client(cold.listen(), timeout=1) as client:
        client.classify(CAT)
    assert raised.value.status == 503
    cold.start()


def test_another_server_is_recognised(tmp_path: Path) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *arguments: Any) -> None:
            pass

    with listening(Other) as other, Client(other) as client, pytest.raises(ServiceError, match="not answer"):
        client.classify(CAT)


class Echo(BaseHTTPRequestHandler):
    """Answers with the body as the label, a `slow` one when it may; it counts its connections."""

    lock = threading.Lock()
    ever = now = 0
    may: threading.Event
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        with Echo.lock:
            Echo.ever += 1
            Echo.now += 1

    def finish(self) -> None:
        super().finish()
        with Echo.lock:
            Echo.now -= 1

    def do_POST(self) -> None:
        label = self.rfile.read(int(self.headers["content-length"])).decode()
        if label == "slow":
            assert Echo.may.wait(20)
        content = json.dumps({"predictions": [{"label": label, "probability": 1.0, "index": 3, "id": None}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        try:
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:  # the client did not wait
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    Echo.ever = Echo.now = 0
    Echo.may = threading.Event()
    with listening(Echo) as url:
        yield url


def wait_until(state: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not state():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_connections_are_used_again_and_closed_with_the_client(echo: str) -> None:
    with Client(echo, connections=3) as client:
        for _ in range(10):
            pictures = [Picture(str(number), str(number).encode()) for number in range(12)]
            assert [answer.predictions[0].label for answer in client.stream(pictures)] == [
                picture.source for picture in pictures
            ]
        assert 1 <= Echo.ever <= 3
        assert Echo.now == Echo.ever
    wait_until(lambda: Echo.now == 0)


def test_a_connection_in_use_is_closed_after_its_answer(echo: str) -> None:
    client = Client(echo)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.classify, b"slow")
        wait_until(lambda: Echo.now == 1)
        client.close()
        Echo.may.set()
        assert answer.result(20)[0].label == "slow"
    wait_until(lambda: Echo.now == 0)


def test_a_connection_whose_answer_came_too_late_is_not_used_again(echo: str) -> None:
    with Client(echo, timeout=0.5) as client:
        assert client.classify(b"first")[0].label == "first"
        with pytest.raises(ServiceError, match="timed out"):
            client.classify(b"slow")
        Echo.may.set()
        assert client.classify(b"next")[0].label == "next"
        wait_until(lambda: Echo.now == 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_children_are_answered_for_their_own_pictures(echo: str) -> None:
    """The parent leaves an idle connection, and a lock that another thread holds at the time of the fork."""
    with Client(echo, timeout=10) as client:
        assert client.classify(b"first")[0].label == "first"
        begin, started = os.pipe()
        children = []
        with client._idle._lock:
            for child in range(4):
                pid = os.fork()
                if not pid:
                    code = 1
                    try:
                        os.close(started)
                        os.read(begin, 1)  # all at once, when the parent closes its end
                        labels = [client.classify(f"{child}-{number}".encode())[0].label for number in range(100)]
                        code = int(labels != [f"{child}-{number}" for number in range(100)])
                    finally:
                        os._exit(code)
                children.append(pid)
        os.close(begin)
        os.close(started)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
        assert client.classify(b"last")[0].label == "last"
        assert Echo.ever == 5  # the parent's, and one of each child


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 40])
@pytest.mark.parametrize("connections", [1, 8])
def test_answers_before_an_error_are_given_before_it(echo: str, count: int, connections: int) -> None:
    def source() -> Iterator[Picture]:
        for number in range(count):
            yield Picture(str(number), str(number).encode())
        raise OSError("the bucket is gone")

    answers: list[Any] = []
    with Client(echo, connections=connections) as client, pytest.raises(OSError, match="the bucket is gone"):
        answers.extend(client.stream(source()))
    assert [answer.predictions[0].label for answer in answers] == [str(number) for number in range(count)]
