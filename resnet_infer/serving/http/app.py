"""Answer the HTTP API as an ASGI application: call the function that the table of routes names for a request.

Keys, limits and the log belong to `middleware`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router

from resnet_infer.serving.http.context import Context
from resnet_infer.serving.http.middleware import RECORD, App, HttpError, Middleware, Traffic
from resnet_infer.serving.http.responses import unavailable
from resnet_infer.serving.http.routes import ROUTES, Route
from resnet_infer.serving.http.routing import MATCH, Match, RouteTable
from resnet_infer.serving.inference.jobs import RefusedError
from resnet_infer.serving.inference.model_manager import ModelManager
from resnet_infer.serving.memory import Memory
from resnet_infer.serving.metrics import Metrics
from resnet_infer.serving.settings import ApiKeys, Settings

Handler = Callable[[Context, Request], Awaitable[Response]]
"""A function that answers a request."""


class Api:
    """Answer all requests of the service: an ASGI application, to be wrapped in `Middleware`.

    The modules of the handlers are imported when it is made.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._handlers = {route: partial(find_handler(route), context) for route in context.table.routes}
        self._lifespan = Router().lifespan

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request. Raises `HttpError`."""
        if scope["type"] != "http":
            await self._lifespan(scope, receive, send)
            return
        match: Match = scope[MATCH]
        route = match.route
        if route is None:
            raise _no_route(match, scope["method"])
        scope[RECORD]["route"] = route.label
        scope["path_params"] = match.parameters
        try:
            response = await self._handlers[route](Request(scope, receive))
            await response(scope, receive, send)
        except RefusedError as refused:
            raise unavailable(refused) from refused
        except HTTPException as error:
            raise HttpError(error.status_code, error.detail, headers=(error.headers or {}).items()) from error


def build_app(
    manager: ModelManager,
    settings: Settings,
    keys: ApiKeys,
    metrics: Metrics,
    memory: Memory | None = None,
    routes: Iterable[Route] = ROUTES,
) -> App:
    """Return the whole service without BentoML: the middleware around the API.

    `memory` is that of the deployments (default: a new one, by the settings).
    """
    traffic, table = Traffic(memory or Memory(settings.max_memory)), RouteTable(routes)
    api = Api(Context(manager, settings, keys, metrics, traffic, table=table))
    return Middleware(api, settings, keys, metrics, traffic, table)


def find_handler(route: Route) -> Handler:
    """Import the function that answers a route."""
    module, _, name = route.handler.partition(":")
    handler: Handler = getattr(import_module(module), name)
    return handler


def _no_route(match: Match, method: str) -> HttpError:
    """Return the 405 for a wrong method, or the 404."""
    if match.methods and method not in match.methods:
        return HttpError(405, "Method Not Allowed", headers=[("Allow", ", ".join(match.methods))])
    return HttpError(404, "there is nothing here; /openapi.json says what there is")
