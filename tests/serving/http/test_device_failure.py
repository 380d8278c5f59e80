"""A GPU that fails is the fault of no request: 503 rather than 422 or 500, not ready, and the process is given up."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from resnet_infer.runtimes.nvidia.device_errors import DeviceError
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.serving.inference import deployment as deployments
from tests.conftest import PICTURES
from tests.serving.conftest import Service

CAT = (PICTURES / "cat.jpg").read_bytes()
TENSOR = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [7] * (32 * 32 * 3)}
PROBES = ("/readyz", "/v2/health/ready", "/v2/models/resnet20-cifar10/ready")
ALIVE = ("/livez", "/healthz", "/v2/health/live")
LASTING = "CUDA failure 700: an illegal memory access was encountered ; GPU=0"
PASSING = "CUDA out of memory"


@pytest.fixture
def lost() -> list[DeviceError]:
    return []


@pytest.fixture
def broken(make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, lost: list[DeviceError]) -> Any:
    """A function that makes a service whose GPU says `text` from now on, or works again for None."""
    said: list[str | None] = [None]
    run = OnnxRuntime._run

    def failing(self: OnnxRuntime, images: Any) -> Any:
        if said[0] is not None:
            raise RuntimeError(said[0])
        return run(self, images)

    service = make_service()
    monkeypatch.setattr(OnnxRuntime, "_run", failing)
    current = service.manager.current
    monkeypatch.setattr(current, "_on_lost", lost.append)

    def say(text: str | None) -> Service:
        said[0] = text
        for runtime in (current.runtime, current._one_thread):
            runtime.device = "cuda:0" if text else "cpu"
        return service

    yield say
    say(None)


def ask_all(service: Service) -> list[Any]:
    """Every way to have an image classified."""
    several = {"files": [("images", ("1", CAT)), ("images", ("2", CAT))]}
    picture = base64.b64encode(CAT).decode()
    return [
        service.post("/classify", content=CAT),
        service.post("/classify?crops=10", content=CAT),
        service.post("/classify", **several),
        service.post("/classify", json={"image": picture}),
        service.post("/v2/models/resnet20-cifar10/infer", json={"inputs": [TENSOR]}),
    ]


@pytest.mark.parametrize("text", [LASTING, PASSING])
def test_all_requests_get_a_503_and_none_learns_of_the_machine(broken: Any, text: str) -> None:
    for response in ask_all(broken(text)):
        assert response.status_code == 503, response.text
        assert int(response.headers["retry-after"]) >= 1
        assert json.loads(response.content) == {"error": "not now: the GPU failed"}


def test_a_failure_that_lasts_is_neither_ready_nor_alive_and_is_told_once(broken: Any, lost: list[DeviceError]) -> None:
    service = broken(LASTING)
    assert [service.get(path).status_code for path in (*PROBES, *ALIVE)] == [200] * 6
    for _ in range(3):
        service.post("/classify", content=CAT)
    assert [error.sticky for error in lost] == [True]
    broken(None)  # which CUDA's never does
    assert [service.get(path).status_code for path in (*PROBES, *ALIVE)] == [503] * 6


def test_after_one_that_passes_it_is_soon_tried_again(
    broken: Any, lost: list[DeviceError], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = broken(PASSING)
    service.post("/classify", content=CAT)
    assert [service.get(path).status_code for path in PROBES] == [503] * 3
    assert [service.get(path).status_code for path in ALIVE] == [200] * 3
    broken(None)
    assert service.post("/classify", content=CAT).status_code == 200
    assert service.get("/readyz").status_code == 503
    monkeypatch.setattr(service.manager.current, "_paused_until", 0.0)
    assert [service.get(path).status_code for path in PROBES] == [200] * 3
    assert not lost
    assert deployments.PAUSE_SECONDS > 0


def test_the_metrics_count_it(broken: Any) -> None:
    service = broken(LASTING)
    service.post("/classify", content=CAT)
    lines = service.get("/metrics").text.splitlines()
    assert 'resnet_infer_rejections_total{reason="device"} 1.0' in lines
    assert 'resnet_infer_pictures_total{outcome="failed"} 1.0' in lines


def test_the_log_has_the_reason(broken: Any, caplog: pytest.LogCaptureFixture) -> None:
    broken(LASTING).post("/classify", content=CAT)
    assert "the GPU failed (CUDA failure 700: an illegal memory access" in caplog.text
