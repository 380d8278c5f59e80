"""Answer the requests of the HTTP API: classification, the model, health, metrics, the document and the reload.

`routes` says which function answers which request.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from resnet_infer.classifier import Picture
from resnet_infer.errors import AnswerError, ModelError, ResnetInferError, RuntimeUnavailableError
from resnet_infer.serving.http.context import Context
from resnet_infer.serving.http.middleware import RECORD, SET_DEADLINE, HttpError
from resnet_infer.serving.http.requests import ClassifyRequest, read_classify_request
from resnet_infer.serving.http.responses import (
    PICTURE,
    answer_json,
    as_json,
    device_failed,
    model_json,
    require_alive,
    require_ready,
    unavailable,
)
from resnet_infer.serving.inference.batching import QUEUE_SHARE
from resnet_infer.serving.inference.deployment import ClassifyItem, Deployment
from resnet_infer.serving.inference.jobs import RefusedError
from resnet_infer.utils import console

NO_MAPS = "this model has no class activation map"
"""Message for a model without class activation maps."""
logger = console.logger()


async def classify(context: Context, request: Request) -> Response:
    """Answer `POST /classify`."""
    parsed = await read_classify_request(request, context.settings)
    begin = time.perf_counter()
    if parsed.timeout and parsed.timeout < context.settings.timeout:
        request.scope[SET_DEADLINE](parsed.timeout)
    deployment, answers = await answer_pictures(context, parsed)
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


async def answer_pictures(context: Context, request: ClassifyRequest) -> tuple[Deployment, list[dict[str, Any]]]:
    """Return the deployment that answered, and an answer for every image. Raises `HttpError`."""
    timeout = min(request.timeout or context.settings.timeout, context.settings.timeout)
    deadline = time.monotonic() + QUEUE_SHARE * timeout
    items = [
        ClassifyItem(Picture(PICTURE, item.content), request.crops, request.top_k, request.maps, deadline)
        for item in request.pictures
        if not item.error
    ]
    try:
        if request.maps:
            await asyncio.to_thread(context.manager.current.activation_maps)
        deployment, results = await context.manager.classify(items, timeout)
    except RefusedError as refused:
        raise unavailable(refused) from refused
    except ModelError as error:
        raise HttpError(400, NO_MAPS) from error
    except Exception:
        context.metrics.picture(None, failed=True, count=len(request.pictures))
        raise
    if any(isinstance(outcome, RuntimeUnavailableError) for outcome in results):
        context.metrics.picture(None, failed=True, count=len(request.pictures))
        raise device_failed()
    outcomes = iter(results)
    answers = []
    for item in request.pictures:
        if item.error:
            context.metrics.picture(None)
            answer: dict[str, Any] = {"error": item.error, "status": 400}
        else:
            outcome = next(outcomes)
            if request.maps and isinstance(outcome, ModelError):  # the model was exchanged in the meantime
                raise HttpError(400, NO_MAPS) from outcome
            failed = isinstance(outcome, AnswerError | ModelError)
            context.metrics.picture(None if isinstance(outcome, ResnetInferError) else outcome.timings, failed=failed)
            if failed:
                logger.error("%s", outcome)
            answer = answer_json(outcome)
        answers.append({"source": item.source, **answer})
    return deployment, answers


async def model(context: Context, request: Request) -> Response:
    """Answer `GET /model`."""
    return as_json(model_json(context.manager.current, context.settings))


async def alive(context: Context, request: Request) -> Response:
    """Answer `GET /livez` and `/healthz`."""
    require_alive(context.manager)
    return as_json({"status": "alive"})


async def ready(context: Context, request: Request) -> Response:
    """Answer `GET /readyz`."""
    require_ready(context.manager, context.traffic)
    return as_json({"status": "ready"})


async def metrics(context: Context, request: Request) -> Response:
    """Answer `GET /metrics`."""
    return Response(context.metrics.render(), headers={"Content-Type": context.metrics.content_type})


async def describe(context: Context, request: Request) -> Response:
    """Answer `GET /openapi.json`."""
    return Response(context.document, media_type="application/json")


async def reload(context: Context, request: Request) -> Response:
    """Answer `POST /admin/reload`."""
    try:
        # Shielded, because a cancelled reload would leave a model open that nothing closes.
        deployment = await asyncio.shield(asyncio.ensure_future(context.renew()))
    except ResnetInferError as error:
        logger.error("not reloaded: %s", error)
        message = "the keys or the model cannot be read, and the old model goes on; the log says why"
        raise HttpError(409, message) from error
    context.reloaded()
    return as_json({"status": "reloaded", "model": deployment.spec.name})
