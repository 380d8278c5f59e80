"""Turn results and errors into JSON responses."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from resnet_infer._version import __version__
from resnet_infer.errors import AnswerError, ModelError, ResnetInferError
from resnet_infer.serving.http.middleware import HttpError, Traffic
from resnet_infer.serving.inference.deployment import ClassifyResult, Deployment
from resnet_infer.serving.inference.jobs import Done, RefusedError, Timings
from resnet_infer.serving.inference.model_manager import ModelManager
from resnet_infer.serving.settings import Settings
from resnet_infer.utils import strict_json

STAGES = {"queue": "queue", "prepare": "decode", "wait": "wait", "infer": "inference"}
"""Names of the stages of `Timings` in responses and in the log."""
PICTURE = "picture"
"""Name of an image in the errors of the functions that read it."""


DEVICE_RETRY = "5"
"""Seconds, in `Retry-After`, until a request is worth repeating after the GPU failed: a process starts in about as
long."""
NOT_FINITE = "not_finite"
"""Reason of a 500 for logits that are not finite."""


def as_json(value: Any) -> Response:
    """Return a response with `value` as JSON."""
    return Response(strict_json.dumps(value).encode(), media_type="application/json")


def unavailable(refused: RefusedError) -> HttpError:
    """Return the 503 for a refused request, with a Retry-After header (RFC 9110, section 10.2.3)."""
    after = ("Retry-After", str(refused.retry_after))
    return HttpError(503, f"not now: {refused.message}", headers=[after], reason=refused.reason)


def require_ready(manager: ModelManager, traffic: Traffic) -> None:
    """Raise `HttpError`, 503, unless the model is warm, requests are accepted, inference goes on and the GPU works."""
    if traffic.draining or not manager.ready or manager.stalled:
        state = "ending" if traffic.draining else manager.state if not manager.ready else "stuck"
        raise HttpError(503, f"the service is {state}", headers=[("Retry-After", "1")])
    if manager.failure:
        raise device_failed()


def require_alive(manager: ModelManager) -> None:
    """Raise `HttpError`, 503, if only another process can answer: the model could not be opened, or the GPU is lost."""
    if manager.state == "failed":
        raise HttpError(503, "the model could not be opened")
    if manager.failure and manager.failure.sticky:
        raise device_failed()


def device_failed() -> HttpError:
    """Return the 503 for a GPU that failed, which is the fault of no request. The log has the reason."""
    return HttpError(503, "not now: the GPU failed", headers=[("Retry-After", DEVICE_RETRY)], reason="device")


def milliseconds(timings: Timings) -> dict[str, float]:
    """Return the milliseconds of every stage, rounded to microseconds."""
    return {f"{name}_ms": round(1000 * getattr(timings, stage), 3) for stage, name in STAGES.items()}


def answer_json(outcome: Done[Any] | ResnetInferError) -> dict[str, Any]:
    """Return the JSON for one image: its classes and timings, or the error with its status."""
    if isinstance(outcome, ModelError):  # its message may contain a path
        return {"error": "the model cannot be run; the server's log says more", "status": 500}
    if isinstance(outcome, ResnetInferError):
        body = {"error": outcome.message.removeprefix(f"{PICTURE}: ")}
        failed = isinstance(outcome, AnswerError)
        return {**body, "status": 500, "reason": NOT_FINITE} if failed else {**body, "status": 422}
    result: ClassifyResult = outcome.result
    predictions: list[dict[str, Any]] = [dict(vars(item)) for item in result.predictions]
    if result.maps is not None:
        for prediction, values in zip(predictions, result.maps.round(4).tolist(), strict=True):
            prediction["activation_map"] = values
    note = {"note": result.note} if result.note else {}
    return {"predictions": predictions, **note, "batch": outcome.batch, "timings": milliseconds(outcome.timings)}


def model_json(deployment: Deployment, settings: Settings) -> dict[str, Any]:
    """Return the JSON of `/model`: the spec, the digest of the weights, the runtime, and the limits of a request.

    It has no paths: the spec's provenance is left out.
    """
    spec, opened = deployment.spec.to_json(), deployment.runtime
    runtime = {**opened.describe(), "precision": opened.precision}
    del spec["provenance"]
    return {
        **spec,
        "sha256": deployment.sha256,
        "runtime": {name: runtime[name] for name in ("runtime", "device", "version", "precision")},
        "limits": {
            "body_bytes": settings.max_body,
            "pixels": settings.max_pixels,
            "pictures": settings.max_pictures,
            "seconds": settings.timeout,
        },
        "version": __version__,
    }
