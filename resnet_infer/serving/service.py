"""The service as BentoML runs it: `bentoml serve resnet_infer.serving.service:service`, or `resnet-infer serve`.

Its settings come from the environment, see `Settings`. The HTTP API is an ASGI application in the service, with a
batcher of its own: BentoML's own path through a method costs more than a small network does. The method below is for
BentoML's typed clients.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

from resnet_infer.errors import ResnetInferError
from resnet_infer.utils.console import fail, note
from resnet_infer.utils.extras import needs

# Or BentoML reports to its maker that a service starts. Set before it looks, in whatever process this is imported.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

with needs("serve", "a service"):
    import bentoml
    from _bentoml_sdk import Service
    from pydantic import BaseModel, Field
    from starlette.responses import JSONResponse

from resnet_infer import zoo
from resnet_infer.serving.http import protocol
from resnet_infer.serving.http.app import Api
from resnet_infer.serving.http.middleware import (
    RECORD,
    App,
    HttpError,
    Message,
    Middleware,
    Receive,
    Scope,
    Send,
    Traffic,
)
from resnet_infer.serving.http.requests import (
    JSON_PARTS,
    ClassifyRequest,
    decode,
    read_body,
    require_few_parts,
    with_options,
)
from resnet_infer.serving.inference.deployment import Deployment
from resnet_infer.serving.inference.jobs import RefusedError
from resnet_infer.serving.inference.model_manager import ModelManager
from resnet_infer.serving.memory import Memory
from resnet_infer.serving.metrics import Metrics
from resnet_infer.serving.settings import Settings, load_keys, packed_model
from resnet_infer.serving.supervisor import (
    address,
    devices,
    drain_on_signals,
    follow_supervisor,
    is_worker,
    reload_others,
    remove_home,
    stop_service,
    supervise,
)

SETTINGS = Settings.from_environment()
if SETTINGS.model is None and zoo.default_model() is None:
    SETTINGS = replace(SETTINGS, model=packed_model())
DEVICES = devices(SETTINGS)
"""A process for each."""

BENTOML_ROUTES = {"/typed/classify": ("POST",), "/schema.json": ("GET", "HEAD")}
"""What BentoML answers, and to which methods."""

logger = logging.getLogger("resnet_infer")


def _open() -> Deployment:
    index = (bentoml.server_context.worker_index or 1) - 1
    return Deployment(SETTINGS, DEVICES[index % len(DEVICES)], METRICS.batch, MEMORY, METRICS.waiting)


METRICS = Metrics(shared=len(DEVICES) > 1)
MEMORY = Memory(SETTINGS.max_memory)
TRAFFIC = Traffic(MEMORY)
KEYS = load_keys(SETTINGS)
MANAGER = ModelManager(_open, METRICS.model)
protocol.install(METRICS.unparsed)
follow_supervisor(SETTINGS.timeout + 5)
API = Api(MANAGER, SETTINGS, KEYS, METRICS, TRAFFIC, reload_others if len(DEVICES) > 1 else lambda: None)


class ClassProbability(BaseModel):
    """A class and its probability."""

    label: str
    probability: float
    index: int
    id: str | None = None


class Classified(BaseModel):
    """What is in a picture, most probable class first."""

    model: str
    predictions: list[ClassProbability]


class ResNetInfer:
    """Says what is in pictures. `POST /classify` takes a picture as it is; `/openapi.json` describes the API."""

    @bentoml.on_deployment
    @staticmethod
    def find_model() -> None:
        """In the supervisor, once: what is missing is said before there are processes, and exported once for all."""
        supervise()
        if SETTINGS.runtime != "torch":
            zoo.artifact(SETTINGS.model)

    @bentoml.on_startup
    async def start(self) -> None:
        """Open the model while health is answered already; `readyz` says when it is warm."""
        self._starting = asyncio.ensure_future(self._start())
        if is_worker():
            drain_on_signals(TRAFFIC, SETTINGS.timeout + 5)
            if hasattr(signal, "SIGHUP"):
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)

    async def _start(self) -> None:
        # Threads that decode hold the interpreter only briefly; at the default of 5 ms the others wait for nothing.
        sys.setswitchinterval(0.0015)
        try:
            await MANAGER.start()
        except RefusedError:
            pass  # the service ends before the model is open
        except ResnetInferError as error:
            fail(error.message, error.hint)
            stop_service(error.message)
        except Exception as error:
            logger.exception("the model could not be opened")
            stop_service(str(error))
        else:
            spec, runtime = MANAGER.current.spec, MANAGER.current.runtime
            place = address()
            where = f" at {place}" if place else ""
            note(f"{spec.name} ({spec.precision}, {runtime.name}, {runtime.device}) is ready{where}")

    def _hang_up(self) -> None:
        self._reloading = asyncio.ensure_future(self._reload())

    async def _reload(self) -> None:
        try:
            deployment = await API.renew()
            note(f"reloaded {deployment.spec.name}")
        except ResnetInferError as error:
            fail(f"not reloaded: {error.message}", error.hint)
        except Exception:
            logger.exception("not reloaded")

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Answer what was taken."""
        await MANAGER.close()
        remove_home()

    async def __is_ready__(self) -> bool:
        return MANAGER.ready and not TRAFFIC.draining and not MANAGER.stalled

    async def __is_alive__(self) -> bool:
        return MANAGER.state != "failed"

    @bentoml.api(route="/typed/classify")
    async def classify(
        self,
        image: Annotated[str, Field(description="A picture's file in base64")],
        crops: Literal[1, 10] = 1,
        top_k: Annotated[int, Field(ge=1)] = 5,
    ) -> Classified:
        """What is in a picture."""
        request = with_options(
            ClassifyRequest((decode(image, "image"),), several=False), {"crops": crops, "top_k": top_k}
        )
        try:
            deployment, (answer,) = await API.answer(request)
            if "error" in answer:
                raise HttpError(answer["status"], answer["error"], reason=answer.get("reason", ""))
        except HttpError as error:  # what is raised here, BentoML logs with a traceback
            return cast(Classified, JSONResponse(error.to_json(), error.status, dict(error.headers)))
        return Classified(model=deployment.spec.name, predictions=answer["predictions"])


async def _read_first(receive: Receive) -> Receive:
    """`receive` for a body that has come. Raises `HttpError` and `ClientDisconnect`."""
    body = await read_body(receive)
    require_few_parts(body, JSON_PARTS)
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


class _Service(Service[Any]):
    """BentoML's service, in front of whose layers the API answers what is its own.

    They cost as much again as the API and, for every request, a timer that lives on for its whole timeout; and what
    the guard or the API raises within them, they log and answer with a 500.
    """

    def to_asgi(self, is_main: bool = True) -> App:
        bentoml_app: Any = super().to_asgi(is_main)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await bentoml_app(scope, receive, send)
            elif (methods := BENTOML_ROUTES.get(scope["path"])) is None:
                await API(scope, receive, send)
            elif scope["method"] not in methods:
                raise HttpError(405, "Method Not Allowed", headers=[("Allow", ", ".join(methods))])
            else:
                scope[RECORD]["route"] = scope["path"]
                await bentoml_app(scope, await _read_first(receive), send)

        return Middleware(answer, SETTINGS, KEYS, METRICS, TRAFFIC)


service: Any = bentoml.service(
    name="resnet_infer",
    service_class=_Service,
    workers=len(DEVICES),
    threads=1,
    # The guard and the API keep the time, measure and log their requests themselves.
    traffic={"timeout": SETTINGS.timeout + 30},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": [".*"]},
)(ResNetInfer)
service.mount_asgi_app(API, path="/", name="api")
