"""Describe the HTTP API as an OpenAPI 3.1 document."""

from __future__ import annotations

from resnet_infer._version import __version__
from resnet_infer.serving.http.schemas import SCHEMAS, Json, ref
from resnet_infer.serving.settings import Settings

PICTURES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif", "image/tiff")
"""Media types of images in the document."""


def document(settings: Settings, with_key: bool, with_admin_key: bool) -> Json:
    """Return the OpenAPI document for these settings.

    `with_key` says that requests need an API key, `with_admin_key` that the service has an admin key.
    """
    administered: Json = {"security": [{"bearer": []}, {"header": []}]} if with_admin_key else {}
    secured: Json = {"security": [{"bearer": []}, {"header": []}]} if with_key else {}
    refusals = (401,) if with_key else ()
    denials = (401,) if with_admin_key else ()
    paths: Json = {
        "/classify": {"post": {**_classify(settings, refusals), **secured}},
        "/model": {"get": {**_get("The model that answers", "Model", *refusals, 503), **secured}},
        "/livez": {"get": _get("Whether the process works", "Status", 503)},
        "/healthz": {"get": _get("The same as /livez", "Status", 503)},
        "/readyz": {"get": _get("Whether the model is warm and requests are taken", "Status", 503)},
        "/metrics": {"get": {**_metrics(refusals), **secured}},
        "/openapi.json": {"get": _get("This document", None)},
        "/admin/reload": {
            "post": {
                **_get("Read the keys and the model's file anew; requests go on", "Reloaded", *denials, 403, 409, 503),
                **administered,
            }
        },
        "/v2": {"get": {**_get("Open Inference Protocol: the server", "Server", *refusals), **secured}},
        "/v2/health/live": {"get": _get("Open Inference Protocol: liveness", "Live", 503)},
        "/v2/health/ready": {"get": _get("Open Inference Protocol: readiness", "Ready", 503)},
    }
    for path, parameters in (
        ("/v2/models/{name}", [_path("name")]),
        ("/v2/models/{name}/versions/{version}", [_path("name"), _path("version")]),
    ):
        metadata = _get("Open Inference Protocol: the model", "ModelMetadata", *refusals, 404, 503)
        ready = _get("Open Inference Protocol: whether the model is ready", "ModelReady", *refusals, 404, 503)
        paths[path] = {"get": {**metadata, **secured}, "parameters": parameters}
        paths[f"{path}/ready"] = {"get": {**ready, **secured}, "parameters": parameters}
        paths[f"{path}/infer"] = {"post": {**_infer(refusals), **secured}, "parameters": parameters}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "resnet-infer",
            "version": __version__,
            "description": "Says what is in pictures. Every answer that is no success is JSON with an `error`.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _classify(settings: Settings, refusals: tuple[int, ...]) -> Json:
    """Return the description of `/classify`; `refusals` are the statuses for a missing key."""
    picture = {"schema": {"type": "string", "format": "binary"}}
    crops: Json = {
        "type": "integer",
        "enum": [1, 10],
        "default": 1,
        "description": "Views of a picture",
    }
    top_k = {"type": "integer", "minimum": 1, "maximum": 10**9 - 1, "default": 5, "description": "Classes to answer"}
    maps = {"type": "boolean", "default": False, "description": "With a class activation map for every class; crops=1"}
    timeout = {"type": "integer", "minimum": 1, "maximum": 10**9 - 1, "description": "Milliseconds that it may take"}
    options = {"crops": crops, "top_k": top_k, "activation_map": maps, "timeout_ms": timeout}
    base64 = {"type": "string", "contentEncoding": "base64", "description": "A picture's file in base64"}
    form = {"type": "string", "format": "binary"}

    def one_or_several(picture: Json, least: Json) -> Json:
        """Return the schema of a form or JSON object with one image or with a list."""
        several = {"type": "array", "items": picture, "maxItems": settings.max_pictures, **least}
        return {
            "oneOf": [
                {
                    "type": "object",
                    "required": [name],
                    "properties": {name: schema, **options},
                    "additionalProperties": False,
                }
                for name, schema in (("image", picture), ("images", several))
            ]
        }

    return {
        "summary": "Say what is in a picture, or in several",
        "description": "The body is a picture's file, a form or JSON. One picture gives an answer, several a list of "
        "answers in which those that cannot be read have an `error` and a `status` of their own.",
        "parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in options.items()],
        "requestBody": {
            "required": True,
            "content": {
                **dict.fromkeys((*PICTURES, "application/octet-stream"), picture),
                "multipart/form-data": {"schema": one_or_several(form, {})},  # a form cannot express an empty list
                "application/json": {"schema": one_or_several(base64, {"minItems": 1})},
            },
        },
        "responses": {
            "200": _json("The answer", {"oneOf": [ref("Answer"), ref("Answers")]}),
            **_errors(400, *refusals, 408, 413, 415, 422, 500, 503),
        },
    }


def _infer(refusals: tuple[int, ...]) -> Json:
    """Return the description of KServe V2's infer."""
    return {
        "summary": "Open Inference Protocol: the logits of pictures, uint8 (N, height, width, 3)",
        "description": "Binary data follow the JSON where the header Inference-Header-Content-Length says how long "
        "that is. The output's parameter `classification` asks for so many classes as `value:index:label`.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": ref("InferRequest")}}},
        "responses": {
            "200": {
                "description": "The logits, or the classes",
                "content": {
                    "application/json": {"schema": ref("InferResponse")},
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                },
            },
            **_errors(400, *refusals, 404, 408, 413, 500, 503),
        },
    }


def _metrics(refusals: tuple[int, ...]) -> Json:
    """Return the description of `/metrics`."""
    text = {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"summary": "Metrics", "responses": {"200": text, **_errors(*refusals)}}


def _get(summary: str, schema: str | None, *errors: int) -> Json:
    """Return the description of a request without a body, with the statuses of its errors."""
    content = ref(schema) if schema else {"type": "object"}
    return {"summary": summary, "responses": {"200": _json(summary, content), **_errors(*errors)}}


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
"""Descriptions of the error statuses."""


def _errors(*statuses: int) -> Json:
    """Return the descriptions of these error statuses."""
    answers = {str(status): _json(_ERRORS[status], ref("Error")) for status in statuses}
    if "503" in answers:
        answers["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
    return answers


def _json(description: str, schema: Json) -> Json:
    """Return the description of a JSON response."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _path(name: str) -> Json:
    """Return the description of a parameter in the path."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
