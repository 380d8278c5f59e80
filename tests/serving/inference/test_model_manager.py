"""The model's exchange, also while it is being opened, while a request is on its way, and when it goes wrong."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_infer.errors import ModelError
from resnet_infer.serving.inference.jobs import RefusedError
from resnet_infer.serving.inference.model_manager import ModelManager
from resnet_infer.serving.supervisor import address
from resnet_infer.zoo import SMALL, built_in
from tests.conftest import PICTURES
from tests.serving.conftest import Service

Make = Callable[..., Service]
CAT = (PICTURES / "cat.jpg").read_bytes()


class Opened:
    """In place of a deployment: what the model manager needs of one."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Slow:
    """Opens the first only when told to."""

    def __init__(self) -> None:
        self.all: list[Opened] = []
        self.go = threading.Event()

    def __call__(self) -> Any:
        opened = Opened()
        self.all.append(opened)
        if len(self.all) == 1:
            assert self.go.wait(30)
        return opened


def test_a_reload_while_the_first_model_is_opened_wins() -> None:
    slow = Slow()

    async def exchange() -> None:
        manager = ModelManager(slow)
        starting = asyncio.ensure_future(manager.start())
        while not slow.all:
            await asyncio.sleep(0.001)
        reloading = asyncio.ensure_future(manager.reload())
        await asyncio.sleep(0.05)
        slow.go.set()
        await asyncio.gather(starting, reloading)
        first, second = slow.all
        current: Any = manager.current
        assert current is second
        assert manager.state == "ready"
        assert await asyncio.to_thread(first.closed.wait, 30)
        assert not second.closed.is_set()
        await manager.close()
        assert second.closed.is_set()

    asyncio.run(exchange())


def test_a_model_that_is_open_only_after_the_end_is_closed() -> None:
    slow = Slow()

    async def leave() -> None:
        manager = ModelManager(slow)
        starting = asyncio.ensure_future(manager.start())
        while not slow.all:
            await asyncio.sleep(0.001)
        await manager.close()
        slow.go.set()
        with pytest.raises(RefusedError):
            await starting
        assert slow.all[0].closed.is_set()
        assert manager.state == "closed"

    asyncio.run(leave())


@pytest.mark.parametrize("late", [False, True])
def test_a_tensor_goes_only_to_the_model_that_it_was_sent_to(
    make_service: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Another model takes over while the body comes, or after it was read."""
    onnx = pytest.importorskip("onnx", reason="gives an artifact another name (the extra `export`)")
    artifact = tmp_path / "model.onnx"
    shutil.copy(built_in(SMALL, ".onnx"), artifact)
    service = make_service(model=str(artifact))
    manager, submit = service.manager, service.manager.submit
    model = onnx.load(artifact)
    for entry in model.metadata_props:
        entry.value = entry.value.replace(f'"{SMALL}"', '"newer"', 1)

    async def exchange() -> None:
        onnx.save(model, artifact)
        await manager.reload()

    async def submit_late(send: Any) -> Any:
        await exchange()
        return await submit(send)

    async def body() -> AsyncIterator[bytes]:
        data = np.zeros(3072, int).tolist()
        shape = "[1, 32, 32, 3]"
        yield f'{{"inputs": [{{"name": "images", "datatype": "UINT8", "shape": {shape}, '.encode()
        if not late:
            await exchange()
        yield f'"data": {data}}}]}}'.encode()

    if late:
        monkeypatch.setattr(manager, "submit", submit_late)
    done = service.post(f"/v2/models/{SMALL}/infer", content=body())
    assert manager.current.spec.name == "newer"
    assert (done.status_code, list(done.json())) == (404, ["error"])


def test_a_model_without_maps_that_takes_over_shows_no_path(
    make_service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service()
    calls = []

    def maps() -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise ModelError("/somewhere/model.onnx does not end in global average pooling")

    monkeypatch.setattr(service.manager.current, "activation_maps", maps)
    for sent in ({"content": CAT}, {"files": [("images", CAT)] * 2}):
        calls.clear()
        done = service.post("/classify", params={"activation_map": "true"}, **sent)
        assert len(calls) > 1
        assert (done.status_code, done.json()) == (400, {"error": "this model has no class activation map"})


RELOAD = """
import asyncio
from resnet_infer.serving import service
from resnet_infer.utils.console import on_stderr

async def fail():
    raise OSError("the disk is gone")

service.MANAGER.reload = fail
with on_stderr():
    asyncio.run(service.ResNetInfer._reload(None))
print("goes on")
"""


def test_a_reload_that_fails_in_an_unknown_way_is_logged() -> None:
    pytest.importorskip("bentoml", reason="a service needs the extra `serve`")
    done = subprocess.run([sys.executable, "-c", RELOAD], capture_output=True, text=True, check=False)
    assert done.stdout == "goes on\n", done.stderr
    assert "not reloaded" in done.stderr
    assert "the disk is gone" in done.stderr


def test_an_address_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, shown in (
        ('{"it": "http://::1:3000"}', "http://[::1]:3000"),
        ('{"it": "http://[::1]:3000"}', "http://[::1]:3000"),
        ('{"it": "http://127.0.0.1:3000"}', "http://127.0.0.1:3000"),
        ("{}", ""),
    ):
        monkeypatch.setenv("BENTOML_RUNNER_MAP", given)
        assert address() == shown
