"""List the routes of the HTTP API: the application, its OpenAPI document, the key check and the log read this table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from resnet_infer.serving.http.schemas import CLASSIFY_OPTIONS, Body, Json, classify_body, json_body, ref
from resnet_infer.serving.settings import Settings

ADMIN = "/admin/"
"""Prefix of paths that need an admin key even if there is no such route."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
"""Methods that an OpenAPI document can have."""
OPEN = "/web/"
"""Prefix of paths that are answered with a 404 rather than a 401 if there is no such route."""


@dataclass(frozen=True, eq=False)
class Route:
    """Describe a method of a path: the function that answers it, its documentation, and who may use it.

    A row that says nothing about keys needs an API key where the service has one.

    >>> Route("GET", "/v2/models/{name:model}", "package.module:function", "A model", json_body("Model")).label
    '/v2/models/{name}'
    """

    method: str
    """HTTP method. A route for GET answers HEAD, too."""
    path: str
    """Path; `{name}` stands for any text without a slash, `{name:model}` for a model's name."""
    handler: str
    """`module:function`; the function takes a `Context` and Starlette's `Request`, and returns a `Response`."""
    summary: str
    """Summary in the OpenAPI document."""
    response: Body
    """Body of the response with status 200; its description is by default the summary."""
    request: Body | Callable[[Settings], Body] | None = None
    """Body of the request, or the function that returns it for the service's settings."""
    query: Json = field(default_factory=dict)
    """JSON Schema of the parameters in the query, by name."""
    errors: tuple[int, ...] = ()
    """Statuses of error responses, besides those for a missing key."""
    description: str = ""
    """Longer text in the OpenAPI document."""
    needs_key: bool = True
    """Whether the request needs an API key, if the service has one."""
    is_admin: bool = False
    """Whether that key is an admin key; without one in the service, requests are refused."""
    is_probe: bool = False
    """Whether probes request it every few seconds: it is not logged, and answered while the service drains."""
    takes_tensors: bool = False
    """Whether its JSON has tensors, which take more memory to parse than other JSON."""
    is_documented: bool = True
    """Whether the OpenAPI document has it; the files of the web page are left out."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a row that no request could fit, or that contradicts itself."""
        if self.method not in METHODS:
            raise ValueError(f"{self.method} {self.path}: the method is one of {', '.join(METHODS)}")
        names = re.findall(r"{([^\W\d]\w*)(?::\w+)?}", self.path)
        is_whole = self.path.count("{") == self.path.count("}") == len(names) == len(set(names))
        if not self.path.startswith("/") or not is_whole:
            raise ValueError(
                f"{self.method} {self.path}: a path begins with a slash, and has each parameter once, as {{name}}"
            )
        if self.is_admin and not self.needs_key:
            raise ValueError(f"{self.method} {self.path}: what needs an admin key needs a key")
        if self.path.startswith(ADMIN) and not self.is_admin:
            raise ValueError(f"{self.method} {self.path}: routes below {ADMIN} need an admin key")
        if self.path.startswith(OPEN) and self.needs_key:
            raise ValueError(f"{self.method} {self.path}: routes below {OPEN} need no key")

    @cached_property
    def label(self) -> str:
        """The path in the OpenAPI document and in the metrics: parameters without the kind of their text."""
        return re.sub(r":\w+}", "}", self.path)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods that the route answers."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)


_INFER = (
    "Binary data follow the JSON where the header Inference-Header-Content-Length says how long that is. The output's "
    "parameter `classification` asks for so many classes as `value:index:label`."
)
_LOGITS = Body(
    {"application/json": ref("InferResponse"), "application/octet-stream": {"type": "string", "format": "binary"}},
    "The logits, or the classes",
)
ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/classify",
        "resnet_infer.serving.http.handlers:classify",
        "Say what is in a picture, or in several",
        Body({"application/json": {"oneOf": [ref("Answer"), ref("Answers")]}}, "The answer"),
        request=classify_body,
        query=CLASSIFY_OPTIONS,
        errors=(400, 408, 413, 415, 422, 500, 503),
        description="The body is a picture's file, a form or JSON. One picture gives an answer, several a list of "
        "answers in which those that cannot be read have an `error` and a `status` of their own.",
    ),
    Route(
        "GET",
        "/model",
        "resnet_infer.serving.http.handlers:model",
        "The model that answers",
        json_body("Model"),
        errors=(503,),
    ),
    Route(
        "GET",
        "/livez",
        "resnet_infer.serving.http.handlers:alive",
        "Whether the process works",
        json_body("Status"),
        errors=(503,),
        needs_key=False,
        is_probe=True,
    ),
    Route(
        "GET",
        "/healthz",
        "resnet_infer.serving.http.handlers:alive",
        "The same as /livez",
        json_body("Status"),
        errors=(503,),
        needs_key=False,
        is_probe=True,
    ),
    Route(
        "GET",
        "/readyz",
        "resnet_infer.serving.http.handlers:ready",
        "Whether the model is warm and requests are taken",
        json_body("Status"),
        errors=(503,),
        needs_key=False,
        is_probe=True,
    ),
    Route(
        "GET",
        "/metrics",
        "resnet_infer.serving.http.handlers:metrics",
        "Metrics",
        Body({"text/plain": {"type": "string"}}, "Prometheus' text format"),
    ),
    Route(
        "GET",
        "/openapi.json",
        "resnet_infer.serving.http.handlers:describe",
        "This document",
        json_body({"type": "object"}),
        needs_key=False,
    ),
    Route(
        "POST",
        "/admin/reload",
        "resnet_infer.serving.http.handlers:reload",
        "Read the keys and the model's file anew; requests go on",
        json_body("Reloaded"),
        errors=(409, 503),
        is_admin=True,
    ),
    Route(
        "GET",
        "/v2",
        "resnet_infer.serving.http.kserve_v2:server",
        "Open Inference Protocol: the server",
        json_body("Server"),
    ),
    Route(
        "GET",
        "/v2/health/live",
        "resnet_infer.serving.http.kserve_v2:live",
        "Open Inference Protocol: liveness",
        json_body("Live"),
        errors=(503,),
        needs_key=False,
        is_probe=True,
    ),
    Route(
        "GET",
        "/v2/health/ready",
        "resnet_infer.serving.http.kserve_v2:ready",
        "Open Inference Protocol: readiness",
        json_body("Ready"),
        errors=(503,),
        needs_key=False,
        is_probe=True,
    ),
    Route(
        "GET",
        "/v2/models/{name:model}",
        "resnet_infer.serving.http.kserve_v2:metadata",
        "Open Inference Protocol: the model",
        json_body("ModelMetadata"),
        errors=(404, 503),
    ),
    Route(
        "GET",
        "/v2/models/{name:model}/ready",
        "resnet_infer.serving.http.kserve_v2:model_ready",
        "Open Inference Protocol: whether the model is ready",
        json_body("ModelReady"),
        errors=(404, 503),
    ),
    Route(
        "POST",
        "/v2/models/{name:model}/infer",
        "resnet_infer.serving.http.kserve_v2:infer",
        "Open Inference Protocol: the logits of pictures, uint8 (N, height, width, 3)",
        _LOGITS,
        request=json_body("InferRequest"),
        errors=(400, 404, 408, 413, 500, 503),
        description=_INFER,
        takes_tensors=True,
    ),
    Route(
        "GET",
        "/v2/models/{name:model}/versions/{version}",
        "resnet_infer.serving.http.kserve_v2:metadata",
        "Open Inference Protocol: the model",
        json_body("ModelMetadata"),
        errors=(404, 503),
    ),
    Route(
        "GET",
        "/v2/models/{name:model}/versions/{version}/ready",
        "resnet_infer.serving.http.kserve_v2:model_ready",
        "Open Inference Protocol: whether the model is ready",
        json_body("ModelReady"),
        errors=(404, 503),
    ),
    Route(
        "POST",
        "/v2/models/{name:model}/versions/{version}/infer",
        "resnet_infer.serving.http.kserve_v2:infer",
        "Open Inference Protocol: the logits of pictures, uint8 (N, height, width, 3)",
        _LOGITS,
        request=json_body("InferRequest"),
        errors=(400, 404, 408, 413, 500, 503),
        description=_INFER,
        takes_tensors=True,
    ),
    Route(
        "GET",
        "/",
        "resnet_infer.serving.http.page:page",
        "The web page",
        Body({"text/html": {"type": "string"}}),
        needs_key=False,
        is_documented=False,
    ),
    Route(
        "GET",
        "/web/style.css",
        "resnet_infer.serving.http.page:page",
        "The style of the web page",
        Body({"text/css": {"type": "string"}}),
        needs_key=False,
        is_documented=False,
    ),
    Route(
        "GET",
        "/web/page.js",
        "resnet_infer.serving.http.page:page",
        "The program of the web page",
        Body({"text/javascript": {"type": "string"}}),
        needs_key=False,
        is_documented=False,
    ),
    Route(
        "GET",
        "/web/icon.svg",
        "resnet_infer.serving.http.page:page",
        "The icon of the web page",
        Body({"image/svg+xml": {"type": "string"}}),
        needs_key=False,
        is_documented=False,
    ),
)
"""Every route of the API. BentoML's own are not part of it (`service.BENTOML_ROUTES`)."""
