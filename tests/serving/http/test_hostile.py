"""Requests that are made to hold the service up: refused, before they cost anything."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import numpy as np
import pytest

from resnet_infer.serving.http.middleware import HttpError
from resnet_infer.serving.http.requests import LARGE_JSON, ClassifyRequest, with_options
from resnet_infer.zoo import SMALL
from tests.conftest import PICTURES
from tests.serving.conftest import Service

CAT = (PICTURES / "cat.jpg").read_bytes()
INFER = f"/v2/models/{SMALL}/infer"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("part", [b"[],", b"{},", b"0,"])
def test_large_json_of_many_parts_is_not_parsed(service: Service, part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(body: bytes) -> Any:
        assert len(body) < LARGE_JSON, "it was parsed"
        return json.JSONDecoder().decode(body.decode())

    monkeypatch.setattr(json, "loads", loads)
    many = b"[" + part * 2_000_000 + b"0]"
    for path, content, headers in (
        ("/classify", b'{"image": "aaaa", "x": ' + many + b"}", {}),
        (INFER, b'{"inputs": ' + many + b"}", {}),
        (INFER, b'{"inputs": ' + many + b"}xxx", {"Inference-Header-Content-Length": str(len(many) + 12)}),
    ):
        done = service.post(path, content=content, headers={**JSON, **headers})
        assert (done.status_code, list(done.json())) == (413, ["error"]), done.text


def test_large_json_of_sense_is_parsed(service: Service) -> None:
    picture = base64.b64encode(CAT + bytes(400_000)).decode()
    done = service.post("/classify", json={"images": [picture] * 40, "top_k": 1})
    assert [answer["predictions"][0]["label"] for answer in done.json()["answers"]] == ["cat"] * 40
    images = np.zeros((256, 32, 32, 3), np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.tolist()}
    assert service.post(INFER, json={"inputs": [tensor]}).status_code == 200


def test_a_list_for_every_pixel_of_many_is_refused(service: Service) -> None:
    images = np.zeros((256, 32, 32, 3), np.uint8)
    data = images[..., None].tolist()
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": data}
    done = service.post(INFER, json={"inputs": [tensor]})
    assert (done.status_code, "flat or binary" in done.text) == (413, True)


def test_large_json_before_binary_data_is_read_in_a_thread(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_infer.serving.http import kserve_v2

    threads = []
    read = kserve_v2._read

    def reading(*arguments: Any) -> Any:
        import threading

        threads.append(threading.current_thread() is not service.thread)
        return read(*arguments)

    monkeypatch.setattr(kserve_v2, "_read", reading)
    for spaces in (0, LARGE_JSON):
        own = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "parameters": {"binary_data_size": 3072}}
        head = json.dumps({"inputs": [own]}).encode() + b" " * spaces
        headers = {"Inference-Header-Content-Length": str(len(head))}
        assert service.post(INFER, content=head + bytes(3072), headers=headers).status_code == 200
    assert threads == [False, True]


def test_a_length_of_many_digits_is_none(service: Service) -> None:
    done = service.post(INFER, content=b"{}", headers={"Inference-Header-Content-Length": "9" * 5000})
    assert (done.status_code, "is the length of the JSON" in done.text) == (400, True)


def test_many_names_are_not_compared_with_each_other(service: Service) -> None:
    query = "&".join(f"n{number}=1" for number in range(6_000))
    begin = time.monotonic()
    done = service.post(f"/classify?{query}", content=CAT)
    assert time.monotonic() - begin < 0.5
    assert (done.status_code, "no option" in done.text) == (400, True)


def test_what_is_repeated_of_a_request_is_short(service: Service) -> None:
    long = "x" * 100_000
    begin = time.monotonic()
    with pytest.raises(HttpError) as refused:
        with_options(ClassifyRequest((), several=False), {long: 1})
    assert time.monotonic() - begin < 0.1
    assert len(refused.value.message) < 100
    for done in (
        service.post("/classify", json={"image": "aaaa", long: 1}),
        service.post("/classify", content=CAT, params=[(long[:9999], 1), (long[:9999], 2)]),
        service.post("/classify", content=CAT, headers={"content-type": long}),
    ):
        assert done.status_code in (400, 415)
        assert len(done.text) < 200


def test_a_name_with_a_newline_is_another(service: Service) -> None:
    assert service.get(f"/v2/models/{SMALL}%0A").status_code == 404


def test_text_that_is_no_base64_counts_as_unreadable(service: Service) -> None:
    def count() -> float:
        lines = service.get("/metrics").text.splitlines()
        (line,) = (line for line in lines if line.startswith('resnet_infer_pictures_total{outcome="unreadable"}'))
        return float(line.rpartition(" ")[2])

    before = count()
    service.post("/classify", json={"images": ["?", base64.b64encode(b"text").decode(), "!"]})
    assert count() == before + 3
