"""Describe requests and responses as JSON Schema (2020-12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resnet_infer.serving.settings import Settings

Json = dict[str, Any]
"""A JSON object."""
PICTURES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif", "image/tiff")
"""Media types of images in the OpenAPI document."""
CLASSIFY_OPTIONS: Json = {
    "crops": {"type": "integer", "enum": [1, 10], "default": 1, "description": "Views of a picture"},
    "top_k": {
        "type": "integer",
        "minimum": 1,
        "maximum": 10**9 - 1,
        "default": 5,
        "description": "Classes to answer",
    },
    "activation_map": {
        "type": "boolean",
        "default": False,
        "description": "With a class activation map for every class; crops=1",
    },
    "timeout_ms": {
        "type": "integer",
        "minimum": 1,
        "maximum": 10**9 - 1,
        "description": "Milliseconds that it may take",
    },
}
"""Schemas of the options of a classification, which are in the query, the form or the JSON object."""


@dataclass(frozen=True, eq=False)
class Body:
    """Describe the body of a request or of a response: its schema for each media type, and a text."""

    content: Json
    description: str = ""


def json_body(schema: str | Json, description: str = "") -> Body:
    """Return a body of JSON, from a schema or the name of one of `SCHEMAS`."""
    return Body({"application/json": ref(schema) if isinstance(schema, str) else schema}, description)


def ref(name: str) -> Json:
    """Return a reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Json, optional: Json | None = None) -> Json:
    """Return the schema of an object with these properties and no others."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def _list(items: Json) -> Json:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def _or_null(schema: Json) -> Json:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "number"}
_WHOLE: Json = {"type": "integer", "minimum": 0}
_TRUTH: Json = {"type": "boolean"}
_TENSOR = {"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer"})}
_TIMES = dict.fromkeys(("queue_ms", "decode_ms", "wait_ms", "inference_ms"), _NUMBER)
_ANSWER = {"predictions": _list(ref("Prediction")), "batch": _WHOLE}
_NOTE: Json = {"note": {**_TEXT, "description": "Why the answer may mean little: the picture can hardly be seen"}}
SCHEMAS: Json = {
    "Error": _object({"error": _TEXT}, {"reason": _TEXT}),
    "Status": _object({"status": _TEXT}),
    "Reloaded": _object({"status": _TEXT, "model": _TEXT}),
    "Prediction": _object(
        {
            "label": _TEXT,
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
            "index": _WHOLE,
            "id": _or_null(_TEXT),
        },
        {"activation_map": {**_list(_list(_NUMBER)), "description": "Rows over the centre crop, in units of logits"}},
    ),
    "Answer": _object({"model": _TEXT, **_ANSWER, "timings": _object({**_TIMES, "total_ms": _NUMBER})}, _NOTE),
    "Answers": _object(
        {
            "model": _TEXT,
            "answers": _list(
                {
                    "oneOf": [
                        _object({"source": _TEXT, **_ANSWER, "timings": _object(_TIMES)}, _NOTE),
                        _object({"source": _TEXT, "error": _TEXT, "status": {"type": "integer"}}, {"reason": _TEXT}),
                    ]
                }
            ),
            "timings": _object({"total_ms": _NUMBER}),
        }
    ),
    "Model": _object(
        {
            "name": _TEXT,
            "precision": _TEXT,
            "sha256": {**_TEXT, "description": "Of the artifact; with torch, of the checkpoint's spec and weights"},
            "runtime": _object(
                {
                    "runtime": _TEXT,
                    "device": _TEXT,
                    "version": _TEXT,
                    "precision": {**_TEXT, "description": "What the network computes in"},
                }
            ),
            "architecture": _or_null({"type": "object"}),
            "classes": _list(_TEXT),
            "class_ids": _or_null(_list(_TEXT)),
            "input": _object(
                {
                    "resize": _WHOLE,
                    "crop": _WHOLE,
                    "interpolation": _TEXT,
                    "mean": {"description": "A number for each channel, or for each pixel"},
                    "std": _list(_NUMBER),
                    "exif": _TRUTH,
                }
            ),
            "measured": _list(
                _object(
                    {"dataset": _TEXT, "protocol": _TEXT, "pictures": _WHOLE, "top1_error": _NUMBER},
                    {"top5_error": _or_null(_NUMBER), "runtime": _or_null(_TEXT)},
                )
            ),
            "limits": _object({"body_bytes": _WHOLE, "pixels": _WHOLE, "pictures": _WHOLE, "seconds": _NUMBER}),
            "version": _TEXT,
        }
    ),
    "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "Live": _object({"live": _TRUTH}),
    "Ready": _object({"ready": _TRUTH}),
    "ModelReady": _object({"name": _TEXT, "ready": _TRUTH}),
    "ModelMetadata": _object(
        {
            "name": _TEXT,
            "versions": _list(_TEXT),
            "platform": _TEXT,
            "inputs": _list(_object(_TENSOR)),
            "outputs": _list(_object(_TENSOR)),
        }
    ),
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": _TEXT,
            "parameters": {"type": "object"},
            "inputs": {
                **_list(
                    _object(
                        {
                            "name": {"const": "images"},
                            "datatype": {"const": "UINT8"},
                            "shape": {**_list(_WHOLE), "minItems": 4, "maxItems": 4},
                            "data": {"type": "array"},
                        },
                        {"parameters": {"type": "object"}},
                    )
                ),
                "minItems": 1,
                "maxItems": 1,
            },
            "outputs": {
                **_list(_object({"name": {"const": "logits"}}, {"parameters": {"type": "object"}})),
                "maxItems": 1,
            },
        },
    },
    "InferResponse": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "outputs": _list(_object(_TENSOR, {"data": {"type": "array"}, "parameters": {"type": "object"}})),
        },
        {"id": _TEXT},
    ),
}
"""Schemas by name, for the `components` of the OpenAPI document."""


def classify_body(settings: Settings) -> Body:
    """Return the body of a request for a classification: a picture's file, a form, or JSON."""
    binary: Json = {"type": "string", "format": "binary"}
    base64 = {"type": "string", "contentEncoding": "base64", "description": "A picture's file in base64"}

    def one_or_several(picture: Json, least: Json) -> Json:
        """Return the schema of a form or JSON object with one image or with a list."""
        several = {"type": "array", "items": picture, "maxItems": settings.max_pictures, **least}
        return {
            "oneOf": [
                {
                    "type": "object",
                    "required": [name],
                    "properties": {name: schema, **CLASSIFY_OPTIONS},
                    "additionalProperties": False,
                }
                for name, schema in (("image", picture), ("images", several))
            ]
        }

    return Body(
        {
            **dict.fromkeys((*PICTURES, "application/octet-stream"), binary),
            "multipart/form-data": one_or_several(binary, {}),  # a form cannot express an empty list
            "application/json": one_or_several(base64, {"minItems": 1}),
        }
    )
