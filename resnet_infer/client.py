"""Classify images with a service of `resnet-infer serve`, through the same methods as `Classifier`.

It opens no model and no runtime. Connections (HTTP/1.1) are kept open between requests.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Generator, Iterable, Mapping
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import NDArray

from resnet_infer._version import __version__
from resnet_infer.answers import Answer, BaseClassifier, Crops, Prediction, check_options, require_seconds
from resnet_infer.connections import IdleConnections, parts_of
from resnet_infer.data.arrivals import live_map
from resnet_infer.data.image import DIRECTORY_HINT, picture_bytes
from resnet_infer.data.pictures import Picture, PictureInput, Unreadable, pictures_of
from resnet_infer.errors import AnswerError, PictureError, Reason, ServiceError, UsageError, bare, reason_of
from resnet_infer.runtimes.reopening import require_version
from resnet_infer.utils import strict_json
from resnet_infer.utils.threads import require_threads

KEY_VARIABLE = "RESNET_INFER_API_KEY"
"""Environment variable with the service's API key."""
_UNREADABLE = (400, 413, 415, 422)
"""Statuses of answers about the image itself: it cannot be read or is too large."""
_REASONS: Mapping[int, Reason] = {
    401: "invalid",
    413: "too_large",
    415: "unsupported",
    422: "damaged",
    503: "unready",
    504: "late",
}
"""Status -> `reason` of the error."""
_NOT_FINITE = "not_finite"
"""The `reason` in a 500 of a service whose model's logits are not finite."""
_EVERY_CLASS = 10**9 - 1
"""The `top_k` that asks a service for all classes: the largest that it takes."""
_SHORTEST = 1e-3
"""Shortest time limit of a socket in seconds; 0 would mean not to wait at all."""
_HEADER_LENGTH = "inference-header-content-length"
"""Header with the length of the JSON before the binary data (KServe V2, binary tensor data extension)."""


class Client(BaseClassifier):
    """Send images to a service at a URL, such as http://127.0.0.1:3000.

    `api_key` is the service's key (default: $RESNET_INFER_API_KEY). `timeout` is in seconds and bounds the wait for an
    answer, and for a busy service (503) to become free. `connections` is the number of images in flight in `stream`.
    A URL without a scheme, such as 127.0.0.1:3000, is taken as HTTP. Raises `UsageError` for another scheme than HTTP
    or HTTPS, for a user or password in the URL, and for options out of range.

    Instances are context managers. They are safe for use from several threads, and in forked children, which open
    connections of their own. `pickle` and `copy` give a client for the same URL; a pickle contains an `api_key` that
    was given here, but not one of the environment.

    `classify`, `ask` and `aclassify` are those of `Classifier`, and also raise `ServiceError`. Their `timeout` bounds
    the whole call; after it the connection is closed. Answers have no `logits`. An array or PIL image is sent as a PNG.

    >>> with Client("http://127.0.0.1:3000") as client:
    ...     client.classify("cat.jpg")[0].label
    'cat'
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 60.0, connections: int = 8) -> None:
        parts = parts_of(url)
        require_seconds(timeout)
        require_threads(connections, "connections")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.timeout, self.connections = timeout, connections
        self._kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port, self._path = str(parts.hostname), parts.port, parts.path.rstrip("/")
        self._key = api_key
        key = api_key or os.environ.get(KEY_VARIABLE, "")
        if not isinstance(key, str) or not key.isprintable():
            hint = "strip the line break of a file that it was read from: text.strip()"
            raise UsageError("an API key is text of one line, without control characters", hint=hint)
        self._headers: dict[str, str | bytes] = {"Authorization": b"Bearer " + key.encode()} if key else {}
        self._idle = IdleConnections()

    def stream(
        self, pictures: Iterable[PictureInput], *, crops: Crops = 1, top_k: int | None = 5
    ) -> Generator[Answer, None, None]:
        """Yield an answer for every image, in the order of `pictures`: an iterable of what `classify` takes as one.

        An unreadable image gives an `Answer` with an `error`. Memory use is bounded, also for endless `pictures`. An
        error of `pictures` or of the service (`ServiceError`) is raised after the answers to all images before it. A
        live source is read as in `Classifier.stream`. Raises `UsageError` for options out of range, before anything is
        read.
        """
        check_options(crops, top_k)
        return self._answers_to(pictures, crops, top_k, None)

    _bounds_itself = True

    def _answers_to(
        self, items: Iterable[object], crops: Crops, top_k: int | None, timeout: float | None
    ) -> Generator[Answer, None, None]:
        """Yield an answer for every item. Raises `AnswerTimeoutError` when the time is over before the last one."""
        until = None if timeout is None else (time.monotonic() + timeout, timeout)
        answer = partial(self._answer, crops=crops, top_k=top_k, until=until)
        return live_map(answer, pictures_of(items), workers=self.connections, ahead=2 * self.connections)

    def _answer(
        self, picture: Picture | Unreadable, *, crops: Crops, top_k: int | None, until: tuple[float, float] | None
    ) -> Answer:
        """Return the answer to one image, `until` a time by the monotonic clock (and the seconds that it came of)."""
        if isinstance(picture, Unreadable):
            return Answer(picture.source, error=picture.error)
        try:
            content, note = _file_of(picture)
        except PictureError as error:
            return Answer(picture.source, error=bare(error))
        query = urlencode({"crops": crops, "top_k": _EVERY_CLASS if top_k is None else top_k})
        status, body = self._request("POST", f"/classify?{query}", content, until)
        if status in _UNREADABLE and "error" in body:
            reason = str(body["error"]).removeprefix("picture: ")
            why = _REASONS.get(status, "damaged")
            failure = PictureError(f"{picture.source}: {reason}", source=picture.source, reason=why)
            return Answer(picture.source, error=failure)
        if status == 500 and body.get("reason") == _NOT_FINITE:
            return Answer(picture.source, error=self._no_answer(picture.source))
        if status != 200:
            raise self._failure(status, body)
        try:
            found = tuple(Prediction(**item) for item in body["predictions"])
            finite = all(math.isfinite(item.probability) for item in found)
            return (
                Answer(picture.source, found, note=body.get("note") or note)
                if finite
                else Answer(picture.source, error=self._no_answer(picture.source))
            )
        except (KeyError, TypeError) as error:
            raise self._no_service(status) from error

    def model(self) -> dict[str, Any]:
        """Return the service's description of its model (`GET /model`): spec, digest, runtime and limits.

        Raises `ServiceError`.
        """
        status, body = self._request("GET", "/model")
        if status != 200:
            raise self._failure(status, body)
        return body

    def tensors(self, model: str) -> dict[str, Any]:
        """Return the metadata of the model's input and output tensors (`GET /v2/models/MODEL` of KServe V2).

        Raises `ServiceError`, with the status 404 for a model that is not served.
        """
        status, body = self._request("GET", f"/v2/models/{quote(model, safe='')}")
        if status != 200:
            raise self._failure(status, body)
        return body

    def infer(self, model: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits, float32 (N, classes), of `images`, uint8 (N, height, width, 3).

        The request is one of the Open Inference Protocol (KServe V2); tensors travel in its binary tensor data
        extension. Raises `ServiceError`, and `AnswerError` if the logits are not finite.
        """
        tensor = {"name": "images", "datatype": "UINT8", "shape": images.shape}
        request = {
            "inputs": [{**tensor, "parameters": {"binary_data_size": images.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
        head = strict_json.dumps(request).encode()
        status, headers, body = self._request_with_retries(
            "POST",
            f"/v2/models/{quote(model, safe='')}/infer",
            head + images.tobytes(),
            {_HEADER_LENGTH: str(len(head))},
        )
        if status == 500 and _json_object(body).get("reason") == _NOT_FINITE:
            raise AnswerError(f"the logits of {model} at {self.url} are not finite", source=self.url)
        if status != 200:
            raise self._failure(status, _json_object(body))
        try:
            size = int(headers[_HEADER_LENGTH])
            (output,) = json.loads(body[:size])["outputs"]
            logits: NDArray[np.float32] = np.frombuffer(body[size:], "<f4").reshape(output["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._no_service(status) from error
        if not np.isfinite(logits).all():
            raise AnswerError(f"the logits of {model} at {self.url} are not finite", source=self.url)
        return logits

    def close(self) -> None:
        """Close the idle connections at once, and those in use when their answer has come."""
        self._idle.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._idle.closed:
            message = f"the client of {self.url} was closed; it can be neither pickled nor copied"
            raise UsageError(message, source=self.url, reason="closed")
        return _reopened, (__version__, self.url, self._key, self.timeout, self.connections)

    def __repr__(self) -> str:
        return f"<Client {self.url}{', closed' * self._idle.closed}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(
        self, method: str, path: str, content: bytes | None = None, until: tuple[float, float] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object of a response, `until` a time as in `_answer`."""
        if until is None:
            status, _, body = self._request_with_retries(method, path, content)
            return status, _json_object(body)
        from resnet_infer.calls import timed_out

        end, seconds = until
        late = timed_out(seconds, still=f"the connection to {self.url} is closed")
        left = min(end - time.monotonic(), self.timeout)
        if left <= 0:
            raise late
        try:
            status, _, body = self._request_with_retries(method, path, content, timeout=left)
        except ServiceError as error:
            if isinstance(error.__cause__, TimeoutError) and time.monotonic() >= end:
                raise late from error
            raise
        return status, _json_object(body)

    def _request_with_retries(
        self,
        method: str,
        path: str,
        content: bytes | None,
        extra: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of a response; repeat a request after a 503 with a Retry-After header."""
        until = time.monotonic() + (timeout or self.timeout)
        while True:
            left = self.timeout if timeout is None else max(until - time.monotonic(), _SHORTEST)
            status, headers, body = self._exchange(method, path, content, extra or {}, left)
            wait = int(headers.get("retry-after", "x")) if headers.get("retry-after", "x").isdigit() else None
            if status != 503 or wait is None or time.monotonic() + wait > until:
                return status, headers, body
            time.sleep(wait)

    def _exchange(
        self, method: str, path: str, content: bytes | None, extra: Mapping[str, str], timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request, or a second one if the service has closed the idle connection of the first.

        `timeout` bounds each wait for the service, in seconds.
        """
        headers = {**self._headers, **extra, **({"Content-Type": "application/octet-stream"} if content else {})}
        connection = self._idle.take()
        while True:
            fresh = connection is None
            connection = connection or self._kind(self._host, self._port, timeout=timeout)
            try:
                if connection.sock is not None:
                    connection.sock.settimeout(timeout)
                connection.request(method, self._path + path, content, headers)
                response = connection.getresponse()
                body = response.read()
            except (OSError, HTTPException) as error:
                connection.close()
                if fresh or isinstance(error, TimeoutError):
                    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise ServiceError(
                        f"no service answers at {self.url} ({reason})",
                        hint="start one with: resnet-infer serve",
                        source=self.url,
                        reason="late" if isinstance(error, TimeoutError) else "unreachable",
                    ) from error
                connection = None
            except BaseException:
                connection.close()
                raise
            else:
                self._idle.give(connection)
                return response.status, {name.lower(): value for name, value in response.getheaders()}, body

    def _no_answer(self, source: str) -> AnswerError:
        """Return the error for an image whose logits are not finite."""
        message = f"{source}: the logits of the model at {self.url} are not finite, so there is no answer"
        return AnswerError(message, source=source)

    def _no_service(self, status: int) -> ServiceError:
        """Return the error for a response that is none of this package's service."""
        message = f"{self.url} does not answer as `resnet-infer serve` does"
        return ServiceError(message, status=status, source=self.url, reason="unsupported")

    def _failure(self, status: int, body: Mapping[str, Any]) -> ServiceError:
        """Return the error for a response that is not a success."""
        hint = f"set {KEY_VARIABLE} to its key" if status == 401 else None
        reason = body.get("error") or "which is no answer of `resnet-infer serve`"
        message = f"{self.url} answered {status}: {reason}"
        return ServiceError(message, status=status, hint=hint, source=self.url, reason=_REASONS.get(status, "failed"))


def _file_of(picture: Picture) -> tuple[bytes, str | None]:
    """Return the bytes to send for an image, and the note on its pixels. Raises `PictureError`."""
    content, note, hint = picture.content, None, None
    if isinstance(content, Path):
        try:
            content = picture_bytes(content)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have, such as with a null byte
            reason = getattr(error, "strerror", None) or str(error)
            hint = DIRECTORY_HINT if isinstance(error, IsADirectoryError) else None
            message = f"{picture.source}: {reason}"
            raise PictureError(message, hint=hint, source=picture.source, reason=reason_of(error)) from None
    elif not isinstance(content, bytes):
        from resnet_infer.data.picture_kinds import encoded

        note = content.info.get("note")
        content = encoded(content)
    if not content:
        raise PictureError(f"{picture.source}: the file is empty", source=picture.source, reason="empty")
    return content, note


def _reopened(version: str, url: str, key: str | None, timeout: float, connections: int) -> Client:
    """Return a client for a pickled one. Raises `UsageError` for one of another version of the package."""
    require_version(version)
    return Client(url, api_key=key, timeout=timeout, connections=connections)


def _json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`, or an empty one if there is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
