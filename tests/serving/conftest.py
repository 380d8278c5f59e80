"""A service in this process, over the real model manager and the built-in model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

pytest.importorskip("starlette", reason="a service needs the extra `serve`")
httpx = pytest.importorskip("httpx", reason="a service needs the extra `serve`")
uvicorn = pytest.importorskip("uvicorn", reason="a service needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="a service needs the extra `serve`")
pytest.importorskip("onnxruntime", reason="the built-in model needs onnxruntime")

from resnet_infer.serving.http.app import build_app  # noqa: E402
from resnet_infer.serving.http.protocol import bounded  # noqa: E402
from resnet_infer.serving.http.routes import ROUTES, Route  # noqa: E402
from resnet_infer.serving.inference.deployment import Deployment  # noqa: E402
from resnet_infer.serving.inference.model_manager import ModelManager  # noqa: E402
from resnet_infer.serving.memory import Memory  # noqa: E402
from resnet_infer.serving.metrics import Metrics  # noqa: E402
from resnet_infer.serving.settings import ApiKeys, Settings, load_keys  # noqa: E402
from tests.serving.browsing import Open  # noqa: E402

Result = TypeVar("Result")


@dataclass
class Service:
    """The application on an event loop of its own, and a client that calls it directly."""

    settings: Settings
    keys: tuple[str, ...] = ()
    admin: tuple[str, ...] = ()
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    server: Any = None
    routes: Sequence[Route] = ROUTES

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        memory = Memory(self.settings.max_memory)
        self.manager = ModelManager(
            lambda: Deployment(self.settings, None, self.metrics.batch, memory, self.metrics.waiting),
            self.metrics.model,
        )
        files = self.settings.api_key_file or self.settings.admin_key_file
        keys = load_keys(self.settings, {}) if files else ApiKeys(self.keys, self.admin)
        self.app: Any = build_app(self.manager, self.settings, keys, self.metrics, memory, self.routes)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://service", timeout=60)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)

    def start(self) -> Service:
        self.run(self.manager.start())
        return self

    def get(self, path: str, **options: Any) -> Any:
        return self.run(self.client.get(path, **options))

    def post(self, path: str, **options: Any) -> Any:
        return self.run(self.client.post(path, **options))

    def posts(self, requests: list[tuple[str, dict[str, Any]]]) -> list[Any]:
        """All at once."""

        async def together() -> list[Any]:
            return await asyncio.gather(*(self.client.post(path, **options) for path, options in requests))

        return self.run(together())

    def listen(self) -> str:
        """Answer on a port of this machine, too; its URL."""
        protocol = bounded(self.metrics.unparsed)
        config = uvicorn.Config(self.app, port=0, lifespan="off", log_config=None, loop="asyncio", http=protocol)
        self.server = uvicorn.Server(config)
        self.serving = asyncio.run_coroutine_threadsafe(self.server.serve(), self.loop)
        while not self.server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def close(self) -> None:
        if self.server is not None:
            self.server.should_exit = True
            self.serving.result(30)
        self.run(self.client.aclose())
        self.run(self.manager.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def make_service() -> Iterator[Callable[..., Service]]:
    """`make_service(max_queue=4, keys=("secret",))`: a service that is ready; `start=False` one that is not yet."""
    services = []

    def make(keys: tuple[str, ...] = (), start: bool = True, admin: tuple[str, ...] = (), **settings: Any) -> Service:
        service = Service(Settings(**settings), keys, admin)
        services.append(service)
        return service.start() if start else service

    yield make
    for service in services:
        service.close()


@pytest.fixture(scope="module")
def service(make_service: Callable[..., Service]) -> Service:
    """With the settings as they come."""
    return make_service()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    opener = Open(browser)
    yield opener
    for context in opener.contexts:
        context.close()
    assert opener.faults == []
