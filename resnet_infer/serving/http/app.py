"""Answer the HTTP API as an ASGI application: classification, the model, health, metrics and the web page.

Keys, limits and the log belong to `middleware`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from resnet_infer.classifier import Picture
from resnet_infer.errors import AnswerError, ModelError, ResnetInferError
from resnet_infer.serving.http.kserve_v2 import InferenceProtocol
from resnet_infer.serving.http.middleware import RECORD, SET_DEADLINE, App, HttpError, Middleware, Traffic
from resnet_infer.serving.http.openapi import document
from resnet_infer.serving.http.page import FILES, page
from resnet_infer.serving.http.requests import ClassifyRequest, read_classify_request
from resnet_infer.serving.http.responses import (
    PICTURE,
    answer_json,
    as_json,
    model_json,
    require_ready,
    unavailable,
)
from resnet_infer.serving.inference.batching import QUEUE_SHARE
from resnet_infer.serving.inference.deployment import ClassifyItem, Deployment
from resnet_infer.serving.inference.jobs import RefusedError
from resnet_infer.serving.inference.model_manager import ModelManager
from resnet_infer.serving.memory import Memory
from resnet_infer.serving.metrics import Metrics
from resnet_infer.serving.settings import ApiKeys, Settings
from resnet_infer.utils import strict_json

Handler = Callable[[Request], Awaitable[Response]]
"""A function that answers a request."""
Entry = tuple[str, Handler, str]
"""Path, handler and method of a route."""
NO_MAPS = "this model has no class activation map"
"""Message for a model without class activation maps."""
logger = logging.getLogger("resnet_infer")


class Api:
    """Answer all requests of the service: an ASGI application, to be wrapped in `Middleware`.

    `reloaded` is called after a reload by HTTP request, which other processes must follow.
    """

    def __init__(
        self,
        manager: ModelManager,
        settings: Settings,
        keys: ApiKeys,
        metrics: Metrics,
        traffic: Traffic,
        reloaded: Callable[[], None] = lambda: None,
    ) -> None:
        self.manager, self.settings, self.keys = manager, settings, keys
        self.metrics, self.traffic = metrics, traffic
        self._reloaded = reloaded
        self._document = strict_json.dumps(document(settings, bool(keys), keys.has_admin)).encode()
        protocol = InferenceProtocol(manager, settings, traffic, metrics)
        entries: list[Entry] = [
            ("/classify", self.classify, "POST"),
            *protocol.entries(),
            ("/model", self.model, "GET"),
            ("/livez", self.alive, "GET"),
            ("/healthz", self.alive, "GET"),
            ("/readyz", self.ready, "GET"),
            ("/metrics", self.show_metrics, "GET"),
            ("/openapi.json", self.describe, "GET"),
            ("/admin/reload", self.reload, "POST"),
            *((path, page, "GET") for path in FILES),
        ]
        self._direct = {(method, path): handler for path, handler, method in entries if "{" not in path}
        self._router = Router([_route(*entry) for entry in entries], redirect_slashes=False, default=_not_found)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request. Raises `HttpError`."""
        handler = self._direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        try:
            if handler is not None:  # skips the four layers of the router
                scope[RECORD]["route"] = scope["path"]
                response = await handler(Request(scope, receive))
                await response(scope, receive, send)
                return
            scope.setdefault("app", self)  # with an application in the scope, the router raises instead of responding
            await self._router(scope, receive, send)
        except HTTPException as error:
            raise HttpError(error.status_code, error.detail, headers=(error.headers or {}).items()) from error

    async def classify(self, request: Request) -> Response:
        """Answer `POST /classify`."""
        parsed = await read_classify_request(request, self.settings)
        begin = time.perf_counter()
        if parsed.timeout and parsed.timeout < self.settings.timeout:
            request.scope[SET_DEADLINE](parsed.timeout)
        deployment, answers = await self.answer(parsed)
        total = round(1000 * (time.perf_counter() - begin), 3)
        record = request.scope[RECORD]
        record["pictures"] = len(answers)
        if parsed.several:
            return as_json({"model": deployment.spec.name, "answers": answers, "timings": {"total_ms": total}})
        (answer,) = answers
        if "error" in answer:
            reason = answer.get("reason", "")
            raise HttpError(answer["status"], f"{answer['source']}: {answer['error']}", reason=reason)
        record.update(answer["timings"])
        answer["timings"]["total_ms"] = total
        del answer["source"]
        return as_json({"model": deployment.spec.name, **answer})

    async def answer(self, request: ClassifyRequest) -> tuple[Deployment, list[dict[str, Any]]]:
        """Return the deployment that answered, and an answer for every image. Raises `HttpError`."""
        timeout = min(request.timeout or self.settings.timeout, self.settings.timeout)
        deadline = time.monotonic() + QUEUE_SHARE * timeout
        items = [
            ClassifyItem(Picture(PICTURE, item.content), request.crops, request.top_k, request.maps, deadline)
            for item in request.pictures
            if not item.error
        ]
        try:
            if request.maps:
                await asyncio.to_thread(self.manager.current.activation_maps)
            deployment, results = await self.manager.classify(items, timeout)
        except RefusedError as refused:
            raise unavailable(refused) from refused
        except ModelError as error:
            raise HttpError(400, NO_MAPS) from error
        except Exception:
            self.metrics.picture(None, failed=True, count=len(request.pictures))
            raise
        outcomes = iter(results)
        answers = []
        for item in request.pictures:
            if item.error:
                self.metrics.picture(None)
                answer: dict[str, Any] = {"error": item.error, "status": 400}
            else:
                outcome = next(outcomes)
                if request.maps and isinstance(outcome, ModelError):  # the model was exchanged in the meantime
                    raise HttpError(400, NO_MAPS) from outcome
                failed = isinstance(outcome, AnswerError | ModelError)
                self.metrics.picture(None if isinstance(outcome, ResnetInferError) else outcome.timings, failed=failed)
                if failed:
                    logger.error("%s", outcome)
                answer = answer_json(outcome)
            answers.append({"source": item.source, **answer})
        return deployment, answers

    async def model(self, request: Request) -> Response:
        """Answer `GET /model`."""
        try:
            return as_json(model_json(self.manager.current, self.settings))
        except RefusedError as refused:
            raise unavailable(refused) from refused

    async def alive(self, request: Request) -> Response:
        """Answer `GET /livez` and `/healthz`."""
        if self.manager.state == "failed":
            raise HttpError(503, "the model could not be opened")
        return as_json({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Answer `GET /readyz`."""
        require_ready(self.manager, self.traffic)
        return as_json({"status": "ready"})

    async def show_metrics(self, request: Request) -> Response:
        """Answer `GET /metrics`."""
        return Response(self.metrics.render(), headers={"Content-Type": self.metrics.content_type})

    async def describe(self, request: Request) -> Response:
        """Answer `GET /openapi.json`."""
        return Response(self._document, media_type="application/json")

    async def reload(self, request: Request) -> Response:
        """Answer `POST /admin/reload`."""
        try:
            # Shielded, because a cancelled reload would leave a model open that nothing closes.
            deployment = await asyncio.shield(asyncio.ensure_future(self.renew()))
        except ResnetInferError as error:
            logger.error("not reloaded: %s", error)
            message = "the keys or the model cannot be read, and the old model goes on; the log says why"
            raise HttpError(409, message) from error
        self._reloaded()
        return as_json({"status": "reloaded", "model": deployment.spec.name})

    async def renew(self) -> Deployment:
        """Reload the keys, and then the model.

        Raises the errors of both. Keys that could be read take effect even if the model could not.
        """
        outcome = "failed"
        try:
            self.keys.reload()
            deployment = await self.manager.reload()
            outcome = "done"
        finally:
            self.metrics.reloaded(outcome)
        return deployment


def build_app(
    manager: ModelManager, settings: Settings, keys: ApiKeys, metrics: Metrics, memory: Memory | None = None
) -> App:
    """Return the whole service without BentoML: the middleware around the API.

    `memory` is that of the deployments (default: a new one, by the settings).
    """
    traffic = Traffic(memory or Memory(settings.max_memory))
    return Middleware(Api(manager, settings, keys, metrics, traffic), settings, keys, metrics, traffic)


def _route(path: str, handler: Handler, method: str) -> Route:
    """Return Starlette's route for an entry."""
    label = path.replace(":model", "")

    async def endpoint(request: Request) -> Response:
        """Note the route for the log and the metrics, and call the handler."""
        request.scope[RECORD]["route"] = label
        return await handler(request)

    return Route(path, endpoint, methods=[method])


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    """Raise `HttpError`, 404."""
    raise HttpError(404, "there is nothing here; /openapi.json says what there is")
