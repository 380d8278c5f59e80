"""What the service says where the model's logits are not finite: a 500 with a reason, for that picture alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_infer.client import Client
from resnet_infer.errors import AnswerError
from tests.conftest import PICTURES, Outcome
from tests.not_finite import black, write_model
from tests.serving.conftest import Service

pytest.importorskip("onnx", reason="the model is made with onnx")
CAT = (PICTURES / "cat.jpg").read_bytes()


@pytest.fixture(scope="module")
def service(make_service: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory) -> Service:
    return make_service(model=str(write_model(tmp_path_factory.mktemp("model") / "model.onnx")))


@pytest.mark.parametrize("query", ["", "?crops=10", "?activation_map=true"])
def test_a_picture_without_an_answer_is_a_failure(service: Service, query: str) -> None:
    done = service.post(f"/classify{query}", content=black())
    assert done.status_code == 500
    assert "not finite" in done.json()["error"]
    assert done.json()["reason"] == "not_finite"
    assert service.post(f"/classify{query}", content=CAT).status_code == 200


def test_of_several_pictures_only_one_fails(service: Service) -> None:
    files = [("images", (f"{number}", content)) for number, content in enumerate((CAT, black(), CAT))]
    done = service.post("/classify", files=files)
    assert done.status_code == 200
    assert [answer.get("status") for answer in done.json()["answers"]] == [None, 500, None]


def test_neighbours_in_a_batch_are_answered(service: Service) -> None:
    contents = [CAT, black()] * 6
    done = service.posts([("/classify", {"content": content}) for content in contents])
    assert [answer.status_code for answer in done] == [200, 500] * 6


@pytest.mark.parametrize("parameters", [{}, {"binary_data_output": True}, {"classification": 3}])
def test_tensors_without_logits_are_a_failure(service: Service, parameters: dict[str, Any]) -> None:
    def ask(value: int) -> Any:
        data = np.full((2, 32, 32, 3), value).ravel().tolist()
        tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 32, 32, 3], "data": data}
        outputs = [{"name": "logits", "parameters": parameters}]
        return service.post("/v2/models/resnet20-cifar10/infer", json={"inputs": [tensor], "outputs": outputs})

    assert ask(7).status_code == 200
    assert ask(0).status_code == 500
    assert ask(0).json()["reason"] == "not_finite"


def test_the_metrics_count_it_apart(service: Service) -> None:
    service.post("/classify", content=black())
    counted = [line for line in service.get("/metrics").text.splitlines() if 'pictures_total{outcome="failed"}' in line]
    assert float(counted[0].split()[-1]) >= 1


def test_the_client_has_an_error_for_the_picture(service: Service, cli: Callable[..., Outcome], tmp_path: Path) -> None:
    for name, content in (("1.jpg", CAT), ("2.png", black()), ("3.jpg", CAT)):
        (tmp_path / "pictures" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "pictures" / name).write_bytes(content)
    url = service.listen()
    done = cli("classify", "--url", url, tmp_path / "pictures", "-f", "json", "--on-error", "skip")
    assert done.code == 1
    assert "2.png: the logits of the model at" in done.err
    assert ["error" in row for row in json.loads(done.out)["answers"]] == [False, True, False]
    with Client(url) as client:
        with pytest.raises(AnswerError):
            client.classify(black())
        with pytest.raises(AnswerError):
            client.infer("resnet20-cifar10", np.zeros((1, 32, 32, 3), np.uint8))
