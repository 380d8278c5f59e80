"""Define the service that BentoML runs.

It is started by `resnet-infer serve`, or by `bentoml serve resnet_infer.serving.service:service`. The settings come
from environment variables (`Settings`). The HTTP API is an ASGI application within the service, with a batcher of its
own: BentoML's own path from a request to a method costs more time than a small network. The method `classify` below is
for BentoML's typed clients only.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

from resnet_infer.errors import ResnetInferError
from resnet_infer.runtimes.nvidia.visible_gpus import take_instance
from resnet_infer.utils import console
from resnet_infer.utils.console import fail, write
from resnet_infer.utils.extras import needs

# Keeps BentoML from reporting usage. It must be set before BentoML is imported, in every process.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

with needs("serve", "a service"):
    import bentoml
    from _bentoml_sdk import Service
    from pydantic import BaseModel, Field
    from starlette.responses import JSONResponse

from resnet_infer import zoo
from resnet_infer.runtimes.nvidia.device_errors import DeviceError
from resnet_infer.selection.bf16_guard import require_compute
from resnet_infer.serving.http import protocol
from resnet_infer.serving.http.app import Api
from resnet_infer.serving.http.context import Context
from resnet_infer.serving.http.handlers import answer_pictures
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
    leave,
    reload_others,
    remove_home,
    stop_service,
    supervise,
)

SETTINGS = Settings.from_environment()
"""Settings of this service; in a bento, the packed model is the default."""
if SETTINGS.model is None and zoo.default_model() is None:
    SETTINGS = replace(SETTINGS, model=packed_model())
DEVICES = devices(SETTINGS)
"""Device of each process."""
_DEVICE = DEVICES[((bentoml.server_context.worker_index or 1) - 1) % len(DEVICES)]
DEVICE = take_instance(_DEVICE) if is_worker() else _DEVICE
"""Device of this process."""

BENTOML_ROUTES = {"/typed/classify": ("POST",), "/schema.json": ("GET", "HEAD")}
"""Paths that BentoML answers itself, and their methods."""

logger = console.logger()


def _open() -> Deployment:
    """Open a deployment on the device of this process."""
    return Deployment(SETTINGS, DEVICE, METRICS.batch, MEMORY, METRICS.waiting, _leave)


def _opened(deployment: Deployment) -> None:
    """Count the model that takes over, at the start or by a reload, and write to the log why its runtime answers."""
    METRICS.model(deployment)
    for line in deployment.choice.log() if deployment.choice else ():
        write(line)


def _label(deployment: Deployment) -> str:
    """Return how the log names a deployment: the model, what it is computed in, and by and on what."""
    runtime = deployment.runtime
    return f"{deployment.spec.name} ({runtime.precision}, {runtime.name}, {runtime.device})"


def _leave(error: DeviceError) -> None:
    """End this process, whose GPU it cannot use again; the supervisor starts another."""
    fail(f"{error.message}; this process ends, and another takes its place", error.hint)
    leave()


METRICS = Metrics(shared=len(DEVICES) > 1)
MEMORY = Memory(SETTINGS.max_memory)
TRAFFIC = Traffic(MEMORY)
KEYS = load_keys(SETTINGS)
MANAGER = ModelManager(_open, _opened)
protocol.install(METRICS.unparsed)
follow_supervisor(SETTINGS.timeout + 5)
CONTEXT = Context(MANAGER, SETTINGS, KEYS, METRICS, TRAFFIC, reload_others if len(DEVICES) > 1 else lambda: None)
API = Api(CONTEXT)


class ClassProbability(BaseModel):
    """Hold a class and its probability, in answers to BentoML's typed client."""

    label: str
    probability: float
    index: int
    id: str | None = None


class Classified(BaseModel):
    """Hold the classes of an image, most probable first, in answers to BentoML's typed client."""

    model: str
    predictions: list[ClassProbability]


class ResNetInfer:
    """Classify images. `POST /classify` takes an image's file as its body; `/openapi.json` describes the API."""

    @bentoml.on_deployment
    @staticmethod
    def find_model() -> None:
        """Find the model, in the supervisor and before there are processes.

        An error is reported once, and a checkpoint is exported once for all processes.
        """
        supervise()
        with console.on_stderr():
            path = zoo.file_for(SETTINGS.model, SETTINGS.runtime)
            if SETTINGS.compute != "auto":
                model = zoo.load_for(path, SETTINGS.runtime)  # what `Deployment` opens, whose verdict is then found
                require_compute(model, SETTINGS.compute, runtime=SETTINGS.runtime, device=DEVICES[0])

    @bentoml.on_startup
    async def start(self) -> None:
        """Open the model in the background.

        Liveness probes succeed meanwhile; `readyz` succeeds when the model is warm.
        """
        self._notes = console.on_stderr()
        self._notes.__enter__()
        self._starting = asyncio.ensure_future(self._start())
        if is_worker():
            drain_on_signals(TRAFFIC, SETTINGS.timeout + 5)
            if hasattr(signal, "SIGHUP"):
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)

    async def _start(self) -> None:
        """Open the model, and end the service if that fails."""
        # Decoding threads run Python code only briefly: at the default of 5 ms other threads would wait for nothing.
        sys.setswitchinterval(0.0015)
        try:
            await MANAGER.start()
        except RefusedError:
            pass  # the service ended before the model was open
        except ResnetInferError as error:
            fail(error.message, error.hint)
            stop_service(error.message)
        except Exception as error:
            logger.exception("the model could not be opened")
            stop_service(str(error))
        else:
            place = address()
            where = f" at {place}" if place else ""
            write(f"{_label(MANAGER.current)} is ready{where}")

    def _hang_up(self) -> None:
        """Reload in the background (SIGHUP)."""
        self._reloading = asyncio.ensure_future(self._reload())

    async def _reload(self) -> None:
        """Reload keys and model, and write the outcome to stderr."""
        try:
            deployment = await CONTEXT.renew()
            write(f"reloaded {_label(deployment)}")
        except ResnetInferError as error:
            fail(f"not reloaded: {error.message}", error.hint)
        except Exception:
            logger.exception("not reloaded")

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Finish the accepted requests and close the model."""
        await MANAGER.close()
        remove_home()
        self._notes.__exit__(None, None, None)

    async def __is_ready__(self) -> bool:
        """Return whether the service accepts requests, for BentoML."""
        return MANAGER.ready and not TRAFFIC.draining and not MANAGER.stalled and not MANAGER.failure

    async def __is_alive__(self) -> bool:
        """Return whether the process works, for BentoML."""
        return MANAGER.state != "failed" and not (MANAGER.failure and MANAGER.failure.sticky)

    @bentoml.api(route="/typed/classify")
    async def classify(
        self,
        image: Annotated[str, Field(description="A picture's file in base64")],
        crops: Literal[1, 10] = 1,
        top_k: Annotated[int, Field(ge=1)] = 5,
    ) -> Classified:
        """Classify an image."""
        request = with_options(
            ClassifyRequest((decode(image, "image"),), several=False), {"crops": crops, "top_k": top_k}
        )
        try:
            deployment, (answer,) = await answer_pictures(CONTEXT, request)
            if "error" in answer:
                raise HttpError(answer["status"], answer["error"], reason=answer.get("reason", ""))
        except HttpError as error:  # BentoML would log an error raised here with a traceback
            return cast(Classified, JSONResponse(error.to_json(), error.status, dict(error.headers)))
        return Classified(model=deployment.spec.name, predictions=answer["predictions"])


async def _read_first(receive: Receive) -> Receive:
    """Return a `receive` that gives the body, which has been read and checked, in one message.

    Raises `HttpError` for a body that is too large or too complex, and `ClientDisconnect`.
    """
    body = await read_body(receive)
    require_few_parts(body, JSON_PARTS)
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        """Return the body, then what the client sends."""
        return messages.pop() if messages else await receive()

    return replay


class _Service(Service[Any]):
    """Answer the API's own requests before BentoML's layers of middleware.

    Those layers double the cost of a request, and each request gets a timer that lives for its whole timeout. They also
    log errors of the middleware or the API, and answer them with a 500.
    """

    def to_asgi(self, is_main: bool = True) -> App:
        """Return the ASGI application: the API, and behind it BentoML's application."""
        bentoml_app: Any = super().to_asgi(is_main)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            """Answer a request of the API, or hand it to BentoML."""
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
    # The middleware and the API have timeouts, metrics and a log of their own.
    traffic={"timeout": SETTINGS.timeout + 30},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": [".*"]},
)(ResNetInfer)
"""The service that BentoML starts."""
service.mount_asgi_app(API, path="/", name="api")
