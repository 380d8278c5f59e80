"""Speak the Open Inference Protocol, version 2 (KServe), over REST, so that its clients can use the service.

It has the two extensions of Triton that `tritonclient` uses: binary tensor data, and classification.
https://github.com/kserve/open-inference-protocol, https://github.com/triton-inference-server/server (docs/protocol)
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from resnet_infer._version import __version__
from resnet_infer.errors import ModelError, RuntimeUnavailableError
from resnet_infer.runtimes.base import Images, Logits
from resnet_infer.serving.http.context import Context
from resnet_infer.serving.http.middleware import RECORD, SET_DEADLINE, HttpError
from resnet_infer.serving.http.requests import LARGE_JSON, read_body
from resnet_infer.serving.http.responses import (
    NOT_FINITE,
    as_json,
    device_failed,
    milliseconds,
    require_alive,
    require_ready,
)
from resnet_infer.serving.inference.deployment import Deployment
from resnet_infer.serving.inference.jobs import Done, RefusedError
from resnet_infer.serving.inference.model_manager import gather
from resnet_infer.utils import strict_json

INPUT, OUTPUT = "images", "logits"
"""Names of the input and the output tensor."""
VERSION = "1"
"""The only version of a model."""
HEADER_LENGTH = "inference-header-content-length"
"""Header with the length of the JSON before the binary data."""
OBJECTS, LISTS = 1000, 500_000
"""Most objects, and most lists, in large JSON. Half a million lists, one for every pixel, block the interpreter for
half a second.
"""


@dataclass(frozen=True)
class InferRequest:
    """Hold the tensor, uint8 (N, height, width, 3), and the form of the response.

    `classes` is the number of classes to return as text; 0 returns logits. `binary` requests binary tensor data,
    `timeout` is in seconds.
    """

    images: Images
    id: str | None
    classes: int
    binary: bool
    timeout: float | None


async def server(context: Context, request: Request) -> Response:
    """Answer `GET /v2`: server metadata."""
    extensions = ["binary_tensor_data", "classification"]
    return as_json({"name": "resnet-infer", "version": __version__, "extensions": extensions})


async def live(context: Context, request: Request) -> Response:
    """Answer `GET /v2/health/live`."""
    require_alive(context.manager)
    return as_json({"live": True})


async def ready(context: Context, request: Request) -> Response:
    """Answer `GET /v2/health/ready`."""
    require_ready(context.manager, context.traffic)
    return as_json({"ready": True})


async def model_ready(context: Context, request: Request) -> Response:
    """Answer `GET /v2/models/NAME/ready`."""
    name = _model(context, request).spec.name
    require_ready(context.manager, context.traffic)
    return as_json({"name": name, "ready": True})


async def metadata(context: Context, request: Request) -> Response:
    """Answer `GET /v2/models/NAME`: names, datatypes and shapes of the tensors."""
    deployment = _model(context, request)
    height, width = (side or -1 for side in deployment.runtime.size)
    return as_json(
        {
            "name": deployment.spec.name,
            "versions": [VERSION],
            "platform": deployment.runtime.name,
            "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, height, width, 3]}],
            "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(deployment.spec.classes)]}],
        }
    )


async def infer(context: Context, request: Request) -> Response:
    """Answer `POST /v2/models/NAME/infer`: logits, or classes."""
    body = await read_body(request.receive)
    deployment = _model(context, request)
    size = _json_size(request.headers.get(HEADER_LENGTH), len(body))
    if size > LARGE_JSON:
        parsed = await asyncio.to_thread(_read, body, size, _max_numbers(context, deployment))
    else:
        parsed = _read(body, size)
    timeout = min(parsed.timeout or context.settings.timeout, context.settings.timeout)
    if timeout < context.settings.timeout:
        request.scope[SET_DEADLINE](timeout)

    def send(current: Deployment) -> list[Future[Done[Any]]]:
        """Submit the tensor to a deployment that accepts it."""
        _require_name(request, current)
        _check(context, parsed.images, current)
        return [current.infer(parsed.images, timeout)]

    try:
        deployment, futures = await context.manager.submit(send)
        (done,) = await gather(futures)
    except (HttpError, RefusedError):
        raise
    except Exception:
        context.metrics.picture(None, failed=True, count=len(parsed.images))
        raise
    rows = len(parsed.images)
    if isinstance(done, ModelError):
        any_size = None in deployment.runtime.size  # such a network still has a smallest input size
        context.metrics.picture(None, failed=not any_size, count=rows)
        if any_size:
            raise HttpError(400, f"the model takes no pictures of {parsed.images.shape[1:3]} pixels") from done
        raise done
    if isinstance(done, RuntimeUnavailableError):
        context.metrics.picture(None, failed=True, count=rows)
        raise device_failed() from done
    if isinstance(done, Exception):
        context.metrics.picture(None, count=rows)
        raise HttpError(400, f"the model does not take this: {done}")
    if not np.isfinite(done.result).all():
        context.metrics.picture(None, failed=True, count=rows)
        raise HttpError(500, f"the logits of {deployment.spec.name} are not finite", reason=NOT_FINITE)
    context.metrics.picture(done.timings, count=rows)
    request.scope[RECORD].update(pictures=rows, **milliseconds(done.timings))
    return _response(parsed, done.result, deployment)


def _model(context: Context, request: Request) -> Deployment:
    """Return the deployment that the path names. Raises `HttpError`, 404, and `RefusedError`."""
    deployment = context.manager.current
    _require_name(request, deployment)
    return deployment


def _max_numbers(context: Context, deployment: Deployment) -> int:
    """Return the most numbers in a tensor that the queue accepts."""
    sides = deployment.runtime.size
    pixels = context.settings.max_pixels if None in sides else math.prod(side or 1 for side in sides)
    return 3 * pixels * context.settings.max_queue


def _check(context: Context, images: Images, deployment: Deployment) -> None:
    """Raise `HttpError`, 400 or 413, unless the deployment accepts the tensor's shape."""
    rows, *sides, channels = images.shape
    for side, wanted in zip(sides, deployment.runtime.size, strict=True):
        if channels != 3 or rows < 1 or (side != wanted if wanted else not 0 < side <= 16384):
            height, width = (side or "any" for side in deployment.runtime.size)
            raise HttpError(400, f"the shape of {INPUT} is [N, {height}, {width}, 3], not {list(images.shape)}")
    if math.prod(images.shape[1:3]) > context.settings.max_pixels or rows > context.settings.max_queue:
        raise HttpError(413, f"at most {context.settings.max_queue} pictures at a time", reason="size")


def _require_name(request: Request, deployment: Deployment) -> None:
    """Raise `HttpError`, 404, unless the request's path names this deployment."""
    name, version = request.path_params["name"], request.path_params.get("version", VERSION)
    if (name, version) != (deployment.spec.name, VERSION):
        raise HttpError(404, "there is no such model; /model says what is served, in version 1")


def _json_size(header: str | None, size: int) -> int:
    """Return the length of the JSON in a body of `size` bytes. Raises `HttpError`, 400."""
    if header is None:
        return size
    if not (header.isascii() and header.isdigit() and len(header) < 16) or int(header) > size:
        raise HttpError(400, "Inference-Header-Content-Length is the length of the JSON before the binary data")
    return int(header)


def _read(body: bytes, size: int, max_numbers: int | None = None) -> InferRequest:
    """Return the request in a body whose first `size` bytes are JSON, and the rest binary data.

    `max_numbers` bounds the numbers in the JSON, if they are to be counted first. Raises `HttpError`, 400 or 413.
    """
    head = body[:size]
    if max_numbers is not None and (head.count(b",") > max_numbers + OBJECTS or head.count(b"{") > OBJECTS):
        raise HttpError(413, "the JSON has more parts than the pictures of a request", reason="size")
    if max_numbers is not None and head.count(b"[") > LISTS:
        raise HttpError(413, f"the JSON has more than {LISTS} lists; send flat or binary data", reason="size")
    try:
        request = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "the body is no JSON") from error
    try:
        (tensor,) = request["inputs"]
        outputs = request.get("outputs") or [{"name": OUTPUT}]
        (output,) = outputs
        options = {**_parameters(request), **_parameters(output)}
        names = (tensor["name"], tensor["datatype"], output["name"])
        shape = [int(side) for side in tensor["shape"] if isinstance(side, int) and 0 <= side < 2**31]
        if len(shape) != len(tensor["shape"]) or len(shape) != 4:
            raise HttpError(400, f"the shape of {INPUT} is [N, height, width, 3]")
        if names != (INPUT, "UINT8", OUTPUT):
            raise HttpError(400, f"the input is {INPUT}, UINT8, and the output {OUTPUT}")
        identity = request.get("id")
        if identity is not None and not isinstance(identity, str):
            raise HttpError(400, "the id of a request is text")
        return InferRequest(
            _tensor(tensor, shape, memoryview(body)[size:]),
            identity,
            _whole(options, "classification"),
            bool(options.get("binary_data", options.get("binary_data_output", False))),
            _whole(options, "timeout") / 1e6 or None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HttpError(400, f"the request has one input, {INPUT}, with name, shape, datatype and data") from error


def _parameters(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the `parameters` of a request, input or output."""
    parameters: Mapping[str, Any] = value.get("parameters") or {}
    return parameters


def _whole(options: Mapping[str, Any], name: str) -> int:
    """Return a parameter that is a whole number from 0; 0 without it. Raises `HttpError`, 400."""
    value = options.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise HttpError(400, f"the parameter {name} is a whole number")
    return value


def _tensor(tensor: Mapping[str, Any], shape: list[int], binary: memoryview) -> Images:
    """Return the tensor, uint8, from binary data or from the JSON's numbers. Raises `HttpError`, 400."""
    count = math.prod(shape)
    if "binary_data_size" in _parameters(tensor):
        size = _whole(_parameters(tensor), "binary_data_size")
        if size != len(binary) or size != count:
            raise HttpError(400, f"{shape} are {count} bytes, not {min(size, len(binary))}")
        return np.frombuffer(binary, np.uint8).reshape(shape)
    values = np.asarray(tensor["data"])
    if values.size != count or (values.size and values.dtype.kind not in "iu"):
        raise HttpError(400, f"the data of {INPUT} are {count} whole numbers")
    if values.size and not 0 <= values.min() <= values.max() <= 255:
        raise HttpError(400, f"the data of {INPUT} are numbers from 0 to 255")
    return values.astype(np.uint8).reshape(shape)


def _response(request: InferRequest, logits: Logits, deployment: Deployment) -> Response:
    """Return the response for logits (N, classes)."""
    labels = _classified(logits, request.classes, deployment.spec.classes) if request.classes else []
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "BYTES" if labels else "FP32"}
    output["shape"] = [len(labels), len(labels[0])] if labels else list(logits.shape)
    response = {"model_name": deployment.spec.name, "model_version": VERSION, "outputs": [output]}
    if request.id is not None:
        response["id"] = request.id
    if not request.binary:
        output["data"] = [label for row in labels for label in row] or logits.ravel().tolist()
        return as_json(response)
    encoded = [label.encode() for row in labels for label in row]
    data = b"".join(len(text).to_bytes(4, "little") + text for text in encoded) or logits.astype("<f4").tobytes()
    output["parameters"] = {"binary_data_size": len(data)}
    head = strict_json.dumps(response).encode()
    return Response(
        head + data,
        media_type="application/octet-stream",
        headers={"Inference-Header-Content-Length": str(len(head))},
    )


def _classified(logits: Logits, count: int, classes: tuple[str, ...]) -> list[list[str]]:
    """Return the classification extension's texts `value:index:label` for every row, highest value first."""
    order = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    return [
        [f"{row[index]:f}:{index}:{classes[index]}" for index in best] for row, best in zip(logits, order, strict=True)
    ]
