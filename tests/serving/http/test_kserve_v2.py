"""The Open Inference Protocol: by its own words, and by Triton's client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.data.preprocess import centre_crop
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.zoo import SMALL, built_in
from tests.conftest import PICTURES
from tests.serving.conftest import Service

Make = Callable[..., Service]
MODEL = f"/v2/models/{SMALL}"
INFER = f"{MODEL}/infer"


@pytest.fixture(scope="module")
def runtime() -> Iterator[OnnxRuntime]:
    with OnnxRuntime(built_in(SMALL, ".onnx"), device="cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def images(runtime: OnnxRuntime) -> NDArray[np.uint8]:
    """The tests' pictures as the network is given them."""
    spec: ModelSpec = runtime.spec
    return np.concatenate(
        [centre_crop(Image.open(path).convert("RGB"), spec.input) for path in sorted(PICTURES.iterdir())]
    )


def tensor(images: NDArray[np.uint8], **changes: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.tolist(), **changes}


def binary(images: NDArray[np.uint8], **request: Any) -> dict[str, Any]:
    """Content and headers of a request whose tensor follows the JSON."""
    own = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    head = json.dumps({"inputs": [{**own, "parameters": {"binary_data_size": images.nbytes}}], **request}).encode()
    return {"content": head + images.tobytes(), "headers": {"Inference-Header-Content-Length": str(len(head))}}


def test_server_and_model_are_described(service: Service) -> None:
    assert service.get("/v2").json()["extensions"] == ["binary_tensor_data", "classification"]
    for path in ("/v2/health/live", "/v2/health/ready", f"{MODEL}/ready", f"{MODEL}/versions/1/ready"):
        assert service.get(path).status_code == 200
    for path in (MODEL, f"{MODEL}/versions/1"):
        assert service.get(path).json() == {
            "name": SMALL,
            "versions": ["1"],
            "platform": "onnxruntime",
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
        }
    for path in ("/v2/models/other", f"{MODEL}/versions/2", "/v2/models/other/ready"):
        assert service.get(path).status_code == 404
    assert service.post("/v2/models/other/infer", json={}).status_code == 404


def test_a_name_may_have_slashes(make_service: Make, tmp_path: Path, images: NDArray[np.uint8]) -> None:
    onnx = pytest.importorskip("onnx", reason="gives an artifact another name (the extra `export`)")
    model = onnx.load(built_in(SMALL, ".onnx"))
    for entry in model.metadata_props:
        entry.value = entry.value.replace(f'"{SMALL}"', '"timm/resnet20.a1_in1k"', 1)
    onnx.save(model, tmp_path / "model.onnx")
    service = make_service(model=str(tmp_path / "model.onnx"))
    named = "/v2/models/timm/resnet20.a1_in1k"
    for path in (named, f"{named}/versions/1"):
        assert service.get(path).json()["name"] == "timm/resnet20.a1_in1k"
        assert service.get(f"{path}/ready").status_code == 200
        assert service.post(f"{path}/infer", **binary(images)).status_code == 200
        assert service.get(f"{path}/infer").status_code == 405


def test_json_in_and_out(service: Service, runtime: OnnxRuntime, images: NDArray[np.uint8]) -> None:
    for data in (images.tolist(), images.ravel().tolist()):
        done = service.post(INFER, json={"id": "mine", "inputs": [tensor(images, data=data)]})
        assert done.status_code == 200, done.text
        answer = done.json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == (SMALL, "1", "mine")
        (output,) = answer["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [4, 10])
        np.testing.assert_allclose(np.reshape(output["data"], (4, 10)), runtime(images), atol=1e-4)


def test_binary_in_and_out(service: Service, runtime: OnnxRuntime, images: NDArray[np.uint8]) -> None:
    for wish in (
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]},
    ):
        done = service.post(INFER, **binary(images, **wish))
        assert done.headers["content-type"] == "application/octet-stream"
        length = int(done.headers["inference-header-content-length"])
        (output,) = json.loads(done.content[:length])["outputs"]
        assert output["parameters"] == {"binary_data_size": 160}
        logits = np.frombuffer(done.content[length:], "<f4").reshape(output["shape"])
        np.testing.assert_allclose(logits, runtime(images), atol=1e-4)
    assert "data" in service.post(INFER, **binary(images)).json()["outputs"][0]


def test_the_classification_extension(service: Service, images: NDArray[np.uint8]) -> None:
    wish = {"outputs": [{"name": "logits", "parameters": {"classification": 2}}]}
    (output,) = service.post(INFER, **binary(images, **wish)).json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [4, 2])
    best = [text.split(":")[1:] for text in output["data"][::2]]
    assert best == [["0", "airplane"], ["1", "automobile"], ["3", "cat"], ["8", "ship"]]


def test_a_large_request_is_answered_in_parts(
    service: Service, runtime: OnnxRuntime, images: NDArray[np.uint8]
) -> None:
    many = np.concatenate([images] * 30)
    (output,) = service.post(INFER, json={"inputs": [tensor(many)]}).json()["outputs"]
    np.testing.assert_allclose(np.reshape(output["data"], (120, 10)), runtime(many), atol=1e-4)


ONE = np.zeros((1, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "request_",
    [
        {"content": b"{"},
        {"json": []},
        {"json": {}},
        {"json": {"inputs": []}},
        {"json": {"inputs": [tensor(ONE)] * 2}},
        {"json": {"inputs": [tensor(ONE, name="other")]}},
        {"json": {"inputs": [tensor(ONE, datatype="FP32")]}},
        {"json": {"inputs": [tensor(ONE, shape=[1, 32, 32])]}},
        {"json": {"inputs": [tensor(ONE, shape=[1, 32, 32, -3])]}},
        {"json": {"inputs": [tensor(ONE, shape="x")]}},
        {"json": {"inputs": [tensor(ONE, shape=[1.5, 32, 32, 3])]}},
        {"json": {"inputs": [tensor(ONE, data=[1, 2])]}},
        {"json": {"inputs": [tensor(ONE, data=[[1], 2])]}},
        {"json": {"inputs": [tensor(ONE, data=(ONE + 0.5).tolist())]}},
        {"json": {"inputs": [tensor(ONE, data=(ONE.astype(int) + 256).tolist())]}},
        {"json": {"inputs": [tensor(ONE, data=(ONE.astype(int) - 1).tolist())]}},
        {"json": {"inputs": [tensor(ONE, data=["a"] * ONE.size)]}},
        {"json": {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3]}]}},
        {"json": {"inputs": [tensor(ONE)], "outputs": [{"name": "other"}]}},
        {"json": {"inputs": [tensor(ONE)], "outputs": "logits"}},
        {"json": {"inputs": [tensor(ONE)], "id": 5}},
        {"json": {"inputs": [tensor(ONE)], "parameters": {"classification": -1}}},
        {"json": {"inputs": [tensor(ONE)], "parameters": {"timeout": "soon"}}},
        {"json": {"inputs": [tensor(ONE)], "parameters": 5}},
        {"json": {"inputs": [tensor(np.zeros((1, 64, 64, 3), np.uint8))]}},
        {"json": {"inputs": [tensor(np.zeros((0, 32, 32, 3), np.uint8))]}},
        {"json": {"inputs": [tensor(np.zeros((1, 32, 32, 1), np.uint8))]}},
        {**binary(ONE), "headers": {"Inference-Header-Content-Length": "999999"}},
        {**binary(ONE), "headers": {"Inference-Header-Content-Length": "-1"}},
        {**binary(ONE), "headers": {"Inference-Header-Content-Length": "4"}},
        {**binary(ONE), "content": binary(ONE)["content"][:-1]},
        {**binary(ONE), "content": binary(ONE)["content"] + b"x"},
    ],
)
def test_a_request_that_makes_no_sense_is_a_400_with_a_reason(service: Service, request_: dict[str, Any]) -> None:
    done = service.post(INFER, **request_)
    assert done.status_code == 400, done.text
    assert list(done.json()) == ["error"]


def test_more_pictures_than_the_queue_are_413(make_service: Make) -> None:
    small = make_service(max_queue=3)
    assert small.post(INFER, **binary(np.zeros((4, 32, 32, 3), np.uint8))).status_code == 413
    assert small.post(INFER, **binary(np.zeros((3, 32, 32, 3), np.uint8))).status_code == 200


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gevent's imports
def test_tritonclient_classifies(service: Service, runtime: OnnxRuntime, images: NDArray[np.uint8]) -> None:
    http = pytest.importorskip("tritonclient.http", reason="Triton's client, an extra of the tests")
    client = http.InferenceServerClient(service.listen().removeprefix("http://"), concurrency=4)
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(SMALL)
        assert client.get_server_metadata()["name"] == "resnet-infer"
        description = client.get_model_metadata(SMALL, "1")
        assert description["inputs"][0]["datatype"] == "UINT8"
        for binary_in, binary_out in ((True, True), (False, False), (True, False)):
            given = http.InferInput("images", list(images.shape), "UINT8")
            given.set_data_from_numpy(images, binary_data=binary_in)
            wanted = http.InferRequestedOutput("logits", binary_data=binary_out)
            for outputs in ([wanted], None):
                done = client.infer(SMALL, [given], outputs=outputs, request_id="7", timeout=10_000_000)
                assert done.get_response()["id"] == "7"
                np.testing.assert_allclose(done.as_numpy("logits"), runtime(images), atol=1e-4)
            classes = http.InferRequestedOutput("logits", binary_data=binary_out, class_count=1)
            labels = client.infer(SMALL, [given], outputs=[classes]).as_numpy("logits")
            found = [(text.decode() if isinstance(text, bytes) else text).split(":")[2] for text in labels[:, 0]]
            assert found == ["airplane", "automobile", "cat", "ship"]
        waiting = [client.async_infer(SMALL, [given]) for _ in range(20)]
        for request in waiting:
            np.testing.assert_allclose(request.get_result().as_numpy("logits"), runtime(images), atol=1e-4)
        with pytest.raises(Exception, match="there is no such model"):
            client.infer("other", [given])
    finally:
        client.close()
