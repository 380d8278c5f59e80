"""Describe the HTTP API as an OpenAPI 3.1 document, from the table of routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

from resnet_infer._version import __version__
from resnet_infer.serving.http.routes import Route
from resnet_infer.serving.http.schemas import SCHEMAS, Body, Json, ref
from resnet_infer.serving.settings import Settings

SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
"""Ways to send a key, by name. A request needs one of them."""

_ERRORS = {
    400: "The request makes no sense; `error` says why",
    401: "The API key is missing or wrong",
    403: "Not without an admin key",
    404: "There is no such model",
    408: "The body did not come in time",
    409: "The keys or the new model cannot be read; the old model goes on",
    413: "Too large, or too many pictures",
    415: "Not a type of content that is read",
    422: "The picture cannot be read",
    500: "The service failed; with the reason `not_finite` the model's logits are not finite",
    503: "Not now; Retry-After says when",
}
"""Descriptions of the error statuses. Others have the phrase of HTTP."""


def document(routes: Iterable[Route], settings: Settings, with_key: bool, with_admin_key: bool) -> Json:
    """Return the OpenAPI document of these routes for these settings.

    `with_key` says that the service has an API key, `with_admin_key` that it has an admin key.
    """
    paths: Json = {}
    for route in routes:
        if route.is_documented:
            path = paths.setdefault(route.label, {})
            if names := re.findall(r"{(\w+)}", route.label):
                path["parameters"] = [_path(name) for name in names]
            is_secured = route.needs_key and (with_admin_key if route.is_admin else with_key)
            path[route.method.lower()] = _operation(route, settings, is_secured)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "resnet-infer",
            "version": __version__,
            "description": "Says what is in pictures. Every answer that is no success is JSON with an `error`.",
        },
        "paths": paths,
        "components": {"schemas": SCHEMAS, "securitySchemes": SECURITY},
    }


def _operation(route: Route, settings: Settings, is_secured: bool) -> Json:
    """Return the description of a route. `is_secured` says that a key is needed, and that the service has one."""
    statuses = {*route.errors, *((401,) if is_secured else ()), *((403,) if route.is_admin else ())}
    answer = _content(route.response, route.response.description or route.summary)
    operation: Json = {"summary": route.summary, "responses": {"200": answer, **_errors(*sorted(statuses))}}
    if route.description:
        operation["description"] = route.description
    if route.query:
        operation["parameters"] = [{"name": name, "in": "query", "schema": it} for name, it in route.query.items()]
    if route.request is not None:
        body = route.request(settings) if callable(route.request) else route.request
        operation["requestBody"] = {"required": True, **_content(body, body.description)}
    if is_secured:
        operation["security"] = [{name: []} for name in SECURITY]
    return operation


def _errors(*statuses: int) -> Json:
    """Return the descriptions of these error statuses."""
    error = Body({"application/json": ref("Error")})
    answers = {str(status): _content(error, _ERRORS.get(status, HTTPStatus(status).phrase)) for status in statuses}
    if "503" in answers:
        answers["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
    return answers


def _content(body: Body, description: str) -> Json:
    """Return the description of a body."""
    content = {kind: {"schema": schema} for kind, schema in body.content.items()}
    return {**({"description": description} if description else {}), "content": content}


def _path(name: str) -> Json:
    """Return the description of a parameter in the path."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
