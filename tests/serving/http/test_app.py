"""The HTTP API, through an ASGI client: what it answers, and what it answers to what makes no sense."""

from __future__ import annotations

import base64
import gc
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from resnet_infer.classifier import Classifier
from tests.conftest import PICTURES
from tests.serving.conftest import Service

Make = Callable[..., Service]
CAT = (PICTURES / "cat.jpg").read_bytes()
NAMES = sorted(path.name for path in PICTURES.iterdir())


@pytest.fixture(scope="module")
def local() -> Any:
    with Classifier() as classifier:
        yield classifier


def expect(answer: dict[str, Any], predictions: Any) -> None:
    """The service's answer is the one of the classifier in this process."""
    assert [item["label"] for item in answer["predictions"]] == [item.label for item in predictions]
    assert [item["index"] for item in answer["predictions"]] == [item.index for item in predictions]
    assert [item["probability"] for item in answer["predictions"]] == pytest.approx(
        [item.probability for item in predictions], abs=1e-5
    )


# Ways to ask


@pytest.mark.parametrize("kind", [None, "image/jpeg", "image/png", "application/octet-stream", "IMAGE/JPEG; a=b"])
def test_a_raw_picture_is_answered_whatever_it_is_called(service: Service, local: Classifier, kind: str | None) -> None:
    done = service.post("/classify", content=CAT, headers={"content-type": kind} if kind else {})
    assert done.status_code == 200
    expect(done.json(), local.classify(CAT))
    assert done.json()["model"] == "resnet20-cifar10"
    assert set(done.json()["timings"]) == {"queue_ms", "decode_ms", "wait_ms", "inference_ms", "total_ms"}


def test_what_curl_sends_by_itself_is_a_picture_too(service: Service) -> None:
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert service.post("/classify", content=CAT, headers=kind).json()["predictions"][0]["label"] == "cat"


@pytest.mark.parametrize("crops", [1, 10])
@pytest.mark.parametrize("top_k", [1, 3, 10, 999])
def test_options_mean_what_they_mean_to_classify(service: Service, local: Classifier, crops: Any, top_k: int) -> None:
    expected = local.classify(CAT, crops=crops, top_k=top_k)
    query = service.post("/classify", params={"crops": crops, "top_k": top_k}, content=CAT)
    form = service.post("/classify", data={"crops": crops, "top_k": top_k}, files={"image": CAT})
    text = base64.b64encode(CAT).decode()
    body = service.post("/classify", json={"crops": crops, "top_k": top_k, "image": text})
    for done in (query, form, body):
        assert done.status_code == 200
        expect(done.json(), expected)


def test_a_list_gives_a_list_and_an_error_for_each_that_fails(service: Service, local: Classifier) -> None:
    files = [("images", (name, (PICTURES / name).read_bytes())) for name in NAMES]
    files.insert(1, ("images", ("broken.jpg", CAT[:2000])))
    done = service.post("/classify", files=files)
    assert done.status_code == 200
    answers = done.json()["answers"]
    assert [answer["source"] for answer in answers] == [NAMES[0], "broken.jpg", *NAMES[1:]]
    broken = answers.pop(1)
    assert broken["status"] == 422
    assert "truncated" in broken["error"]
    for name, answer in zip(NAMES, answers, strict=True):
        expect(answer, local.classify(PICTURES / name))


def test_a_picture_that_can_hardly_be_seen_is_noted(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "dark.png"
    Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16) * 30).save(path)
    done = service.post("/classify", content=path.read_bytes()).json()
    assert "16-bit samples use only" in done["note"]
    assert "note" not in service.post("/classify", content=CAT).json()


def test_a_list_in_json(service: Service) -> None:
    good = base64.b64encode(CAT).decode()
    done = service.post("/classify", json={"images": [good, "?", base64.b64encode(b"text").decode()]})
    answers = done.json()["answers"]
    assert [answer.get("status") for answer in answers] == [None, 400, 422]
    assert [answer["source"] for answer in answers] == [f"images[{i}]" for i in range(3)]
    assert answers[0]["predictions"][0]["label"] == "cat"
    assert service.post("/classify", json={"images": [good, 7]}).status_code == 400


def test_one_picture_called_images_is_a_list_of_one(service: Service) -> None:
    assert len(service.post("/classify", files=[("images", CAT)]).json()["answers"]) == 1
    assert len(service.post("/classify", json={"images": [base64.b64encode(CAT).decode()]}).json()["answers"]) == 1


def test_an_activation_map_lies_over_the_cat(service: Service) -> None:
    """The map of the class that is seen is highest where it is; its mean, and the bias, are the logit."""
    done = service.post("/classify", params={"activation_map": "true", "top_k": 3}, content=CAT)
    maps = [np.array(item["activation_map"]) for item in done.json()["predictions"]]
    assert [values.shape for values in maps] == [(8, 8)] * 3
    assert maps[0].mean() > max(values.mean() for values in maps[1:])
    assert "activation_map" not in service.post("/classify", content=CAT).json()["predictions"][0]


# What makes no sense


def picture(**options: Any) -> dict[str, Any]:
    return {"content": CAT, **options}


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"content": b""}, 400, "empty"),
        ({"content": b"hello"}, 422, "unsupported: text"),
        ({"content": CAT[:3000]}, 422, "truncated"),
        ({"content": b"\x89PNG\r\n\x1a\n"}, 422, "PNG"),
        ({"content": b"<html>", "headers": {"content-type": "text/html"}}, 415, "text/html"),
        (picture(params={"crops": 2}), 400, "crops is 1 or 10"),
        (picture(params={"crops": "ten"}), 400, "crops"),
        (picture(params={"top_k": 0}), 400, "top_k"),
        (picture(params={"top_k": "-1"}), 400, "top_k"),
        (picture(params={"top_k": "9" * 5000}), 400, "top_k"),
        (picture(params={"topk": 3}), 400, "did you mean top_k"),
        (picture(params=[("top_k", 3), ("top_k", 4)]), 400, "more than once"),
        (picture(params={"activation_map": "maybe"}), 400, "true or false"),
        (picture(params={"activation_map": "true", "crops": 10}), 400, "one crop"),
        (picture(params={"timeout_ms": "soon"}), 400, "timeout_ms"),
        ({"json": {}}, 400, "image"),
        ({"json": [1]}, 400, "image"),
        ({"json": {"image": "a", "images": ["a"]}}, 400, "image"),
        ({"json": {"images": []}}, 400, "at least one"),
        ({"json": {"images": "abc"}}, 400, "list"),
        ({"json": {"image": "not base64!"}}, 400, "base64"),
        ({"json": {"image": 5}}, 400, "base64"),
        ({"json": {"image": "äöü"}}, 400, "base64"),
        ({"json": {"image": ""}}, 422, "empty"),
        ({"json": {"image": "aaaa", "crops": True}}, 400, "crops"),
        ({"json": {"image": "aaaa", "crops": 1.5}}, 400, "crops"),
        ({"json": {"image": "aaaa", "other": 1}}, 400, "no option"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "no JSON"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "no JSON"),
        ({"content": b"\xff\xfe", "headers": {"content-type": "application/json"}}, 400, "no JSON"),
        ({"files": {"picture": CAT}}, 400, "`image`"),
        ({"files": [("image", CAT), ("image", CAT)]}, 400, "`images`"),
        ({"files": [("image", CAT), ("images", CAT)]}, 400, "`images`"),
        ({"data": {"image": "text"}, "files": {}}, 422, "text"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "form"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=a"}}, 400, "form"),
        ({"content": b"--a\r\n\r\n", "headers": {"content-type": "multipart/form-data; boundary=a"}}, 400, "form"),
        ({"files": [("images", CAT)] * 65}, 413, "64"),
        ({"json": {"images": ["aaaa"] * 65}}, 413, "64"),
    ],
    ids=repr,
)
def test_a_request_that_makes_no_sense_is_told_why(
    service: Service, request_: dict[str, Any], status: int, reason: str
) -> None:
    done = service.post("/classify", **request_)
    assert (done.status_code, done.headers["content-type"]) == (status, "application/json")
    assert list(done.json()) == ["error"]
    assert reason in done.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/classify", "POST"), ("DELETE", "/model", "GET"), ("PUT", "/v2", "GET"), ("POST", "/", "GET")],
)
def test_a_wrong_method_is_405(service: Service, method: str, path: str, allowed: str) -> None:
    done = service.run(service.client.request(method, path))
    assert done.status_code == 405
    assert allowed in done.headers["allow"]
    assert list(done.json()) == ["error"]


def test_what_is_not_there_is_404(service: Service) -> None:
    for path in ("/nothing", "/classify/", "/web/../settings.py", "/web/"):
        done = service.get(path)
        assert done.status_code == 404, path
        assert "/openapi.json" in done.json()["error"]


def test_a_body_that_is_too_large_is_413(make_service: Make) -> None:
    small = make_service(max_body_mb=0.1)
    for content in (b"x" * 150_000, b"x" * 900_000):
        assert small.post("/classify", content=content).status_code == 413

    async def parts() -> Any:
        for _ in range(30):
            yield b"x" * 10_000

    done = small.post("/classify", content=parts())  # no Content-Length
    assert (done.status_code, done.json()) == (413, {"error": "a request has at most 0.1 MB"})
    assert small.post("/classify", content=CAT).status_code == 200
    assert small.app.traffic.memory.bodies == 0


def test_bodies_beyond_the_memory_for_all_are_503(make_service: Make) -> None:
    small = make_service(max_body_mb=0.05, max_memory_mb=20)
    small.app.traffic.memory.bodies += 10_000_000
    done = small.post("/classify", content=CAT)
    assert (done.status_code, done.headers["retry-after"]) == (503, "1")
    small.app.traffic.memory.bodies -= 10_000_000
    assert small.post("/classify", content=CAT).status_code == 200


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(make_service: Make) -> None:
    small = make_service(max_pixels=10_000)
    picture = io.BytesIO()
    Image.new("RGB", (200, 200)).save(picture, "PNG")
    done = small.post("/classify", content=picture.getvalue())
    assert done.status_code == 422
    assert "limit of 10000" in done.json()["error"]


def test_a_body_that_does_not_come_is_408(make_service: Make) -> None:
    import asyncio

    impatient = make_service(timeout=0.2)

    async def slow() -> Any:
        yield CAT[:100]
        await asyncio.sleep(5)
        yield CAT[100:]

    assert impatient.post("/classify", content=slow()).status_code == 408
    assert impatient.app.traffic.memory.bodies == 0


def test_a_client_that_leaves_while_it_sends_is_nobodys_fault(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    sent = []
    messages = iter([{"type": "http.request", "body": CAT[:100], "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/classify", "headers": [], "query_string": b""}
    service.run(service.app(scope, receive, send))
    assert sent == []
    assert "failed" not in caplog.text
    assert service.app.traffic.memory.bodies == 0
    assert 'route="/classify",status="499"' in service.get("/metrics").text


# Around a request


def test_a_request_keeps_its_id_or_gets_one(service: Service) -> None:
    assert service.get("/livez", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    made = [service.get("/livez", headers={"x-request-id": bad}).headers["x-request-id"] for bad in ("a b", "x" * 65)]
    assert len({*made, service.get("/livez").headers["x-request-id"]}) == 3
    assert service.post("/classify", content=b"", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"


def test_the_key_opens_and_nothing_else_does(make_service: Make) -> None:
    locked = make_service(keys=("secret", "second"))
    opened = [{"Authorization": "Bearer secret"}, {"authorization": "bearer second"}, {"X-API-Key": "secret"}]
    closed = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}, {"X-API-Key": ""}]
    for headers in opened:
        assert locked.post("/classify", content=CAT, headers=headers).status_code == 200
    for headers in closed:
        for method, path in (
            ("POST", "/classify"),
            ("GET", "/model"),
            ("GET", "/metrics"),
            ("GET", "/v2"),
            ("GET", "/x"),
        ):
            done = locked.run(locked.client.request(method, path, headers=headers))
            assert (done.status_code, done.headers["www-authenticate"]) == (401, "Bearer"), path
            assert "secret" not in done.text
    for path in ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready", "/openapi.json", "/"):
        assert locked.get(path).status_code == 200


def test_before_the_model_is_warm_it_is_alive_and_not_ready(make_service: Make) -> None:
    cold = make_service(start=False)
    assert cold.get("/livez").status_code == cold.get("/healthz").status_code == 200
    for path in ("/readyz", "/v2/health/ready", "/model", "/v2/models/resnet20-cifar10/ready"):
        done = cold.get(path)
        assert (done.status_code, "retry-after" in done.headers) == (503, True), path
    assert cold.post("/classify", content=CAT).status_code == 503
    assert cold.get("/metrics").status_code == 200
    cold.start()
    assert cold.get("/readyz").status_code == 200
    assert cold.post("/classify", content=CAT).status_code == 200


def test_while_it_drains_it_takes_no_more(make_service: Make) -> None:
    leaving = make_service()
    leaving.app.traffic.draining = True
    assert leaving.get("/livez").status_code == 200
    assert leaving.get("/readyz").status_code == 503
    done = leaving.post("/classify", content=CAT)
    assert (done.status_code, "retry-after" in done.headers) == (503, True)


def test_a_model_that_cannot_be_opened_is_said(make_service: Make, tmp_path: Path) -> None:
    from resnet_infer.errors import ModelError

    broken = make_service(start=False, model=str(tmp_path / "nothing.onnx"))
    with pytest.raises(ModelError):
        broken.start()
    for path in ("/livez", "/readyz", "/v2/health/live"):
        done = broken.get(path)
        assert done.status_code == 503
        assert str(tmp_path) not in done.text


def test_what_goes_wrong_inside_is_a_500_that_says_nothing(
    make_service: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = make_service()
    monkeypatch.setattr(failing.manager.current.runtime, "_run", lambda images: 1 / 0)
    monkeypatch.setattr(failing.manager.current._one_thread, "_run", lambda images: 1 / 0)
    done = failing.post("/classify", content=CAT, headers={"x-request-id": "bad"})
    assert done.status_code == 500
    assert "division" not in done.text
    assert "request bad failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_the_model_is_described_without_paths(service: Service) -> None:
    done = service.get("/model").json()
    assert (done["name"], done["precision"], done["runtime"]["device"]) == ("resnet20-cifar10", "fp32", "cpu")
    assert done["classes"][3] == "cat"
    assert done["input"]["crop"] == 32
    assert done["measured"][0]["top1_error"] == pytest.approx(12.07)
    assert str(Path.home()) not in json.dumps(done)
    assert "provenance" not in done


def test_metrics_count_what_happened(make_service: Make) -> None:
    fresh = make_service(keys=("k",))
    headers = {"X-API-Key": "k"}
    for _ in range(3):
        fresh.post("/classify", content=CAT, headers=headers)
    fresh.post("/classify", content=CAT[:3000], headers=headers)
    fresh.post("/classify", content=CAT)
    fresh.get("/nothing", headers=headers)
    text = fresh.get("/metrics", headers=headers).text
    for line in (
        'resnet_infer_requests_total{route="/classify",status="200"} 3.0',
        'resnet_infer_requests_total{route="/classify",status="422"} 1.0',
        'resnet_infer_requests_total{route="other",status="401"} 1.0',
        'resnet_infer_requests_total{route="other",status="404"} 1.0',
        'resnet_infer_request_duration_seconds_count{route="/classify",status_class="2xx"} 3.0',
        'resnet_infer_request_duration_seconds_count{route="/classify",status_class="4xx"} 1.0',
        'resnet_infer_stage_seconds_count{stage="decode"} 3.0',
        'resnet_infer_stage_seconds_count{stage="inference"} 3.0',
        'resnet_infer_pictures_total{outcome="answered"} 3.0',
        'resnet_infer_pictures_total{outcome="unreadable"} 1.0',
        'resnet_infer_rejections_total{reason="key"} 1.0',
        "resnet_infer_batch_rows_count 3.0",
        "resnet_infer_queue_rows 0.0",
        'resnet_infer_model_info{device="cpu",model="resnet20-cifar10",precision="fp32",runtime="onnxruntime"} 1.0',
    ):
        assert line in text, line


def test_a_request_is_a_line_in_the_log_if_that_is_wanted(
    make_service: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    quiet, talking = make_service(), make_service(access_log=True)
    quiet.post("/classify", content=CAT)
    assert capfd.readouterr().err == ""
    talking.post("/classify", content=CAT, headers={"x-request-id": "seen"})
    talking.post("/classify", content=b"", headers={"x-request-id": "refused"})
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["id"], line["status"], line["path"]) for line in lines] == [
        ("seen", 200, "/classify"),
        ("refused", 400, "/classify"),
    ]
    assert {"time", "ms", "queue_ms", "decode_ms", "inference_ms", "pictures"} <= set(lines[0])


def test_a_request_leaves_nothing_for_the_garbage_collector(make_service: Make) -> None:
    """Bodies and connections in cycles would stay until a collection, and slow everything down."""
    url = make_service().listen()
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/classify", {"content": CAT}),
        ("POST", "/classify?crops=10", {"content": CAT}),
        ("POST", "/classify", {"files": [("images", CAT), ("images", b"damaged")]}),
        ("POST", "/classify", {"json": {"image": base64.b64encode(CAT).decode()}}),
        ("POST", "/classify", {"content": b"damaged"}),
        ("POST", "/classify?top=1", {"content": CAT}),
        ("POST", "/nowhere", {"content": CAT}),
        ("GET", "/model", {}),
        ("GET", "/v2/models/resnet20-cifar10", {}),
        ("HEAD", "/livez", {}),
    ]
    ours = {"resnet_infer", "starlette", "uvicorn", "multipart", "python_multipart"}  # httpx leaves things of its own

    def ask_all(client: httpx.Client) -> None:
        for method, path, options in requests:
            client.request(method, path, **options)

    with httpx.Client(base_url=url) as client:  # a connection leaves something when it ends
        ask_all(client)
        gc.collect()
        gc.disable()
        try:
            ask_all(client)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [type(thing) for thing in gc.garbage if type(thing).__module__.partition(".")[0] in ours]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not left
