"""The Python client and `classify --url`: the same output as without a service, and clear words where there is none."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from resnet_infer.classifier import Classifier, Picture
from resnet_infer.client import Client, ServiceError
from resnet_infer.errors import PictureError, UsageError
from tests.conftest import PICTURES, Outcome

from .conftest import Service

Cli = Callable[..., Outcome]
Make = Callable[..., Service]
CAT = PICTURES / "cat.jpg"


@pytest.fixture(scope="module")
def url(service: Service) -> str:
    return service.listen()


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


def test_no_service_is_said_with_what_to_do(cli: Cli) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
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
        with pytest.raises(PictureError, match=r"^picture: text is not supported"):
            client.classify(b"text")
        with pytest.raises(PictureError, match=r"nowhere.jpg: No such file"):
            client.classify("nowhere.jpg")


def test_answers_come_in_order_over_several_connections(url: str) -> None:
    names = [str(path) for path in sorted(PICTURES.iterdir())] * 10
    with Client(url.removeprefix("http://") + "/", connections=4) as client:
        answers = list(client.stream(Picture(name, Path(name)) for name in names))
    assert [answer.source for answer in answers] == names
    assert len({answer.predictions[0].label for answer in answers}) == 4


def test_the_key_is_needed_and_can_come_from_the_environment(
    make_service: Make, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = make_service(keys=("secret",)).listen()
    done = cli("classify", CAT, "--url", locked)
    assert done.code == 1
    assert "401" in done.err
    assert "RESNET_INFER_API_KEY" in done.err
    with Client(locked, api_key="secret") as client:
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
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with Client(f"http://127.0.0.1:{server.server_port}") as client:
                assert client.classify(CAT)[0].label == "cat"
                assert client.classify(CAT)[0].label == "cat"
        finally:
            server.shutdown()
            thread.join()
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

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with (
                Client(f"http://127.0.0.1:{server.server_port}") as client,
                pytest.raises(ServiceError, match="not answer"),
            ):
                client.classify(CAT)
        finally:
            server.shutdown()
            thread.join()
