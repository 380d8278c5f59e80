"""Classify images with a service of `resnet-infer serve`, through the same methods as `Classifier`.

It opens no model and no runtime. Connections (HTTP/1.1) are kept open between requests.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
import weakref
from collections.abc import Generator, Iterable, Mapping
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray

from resnet_infer.classifier import Answer, Crops, Picture, Prediction
from resnet_infer.data.arrivals import live_map
from resnet_infer.data.image import picture_bytes
from resnet_infer.errors import AnswerError, PictureError, ResnetInferError, UsageError
from resnet_infer.utils import strict_json
from resnet_infer.utils.threads import require_threads

KEY_VARIABLE = "RESNET_INFER_API_KEY"
"""Environment variable with the service's API key."""
_UNREADABLE = (400, 413, 415, 422)
"""Statuses of answers about the image itself: it cannot be read or is too large."""
_NOT_FINITE = "not_finite"
"""The `reason` in a 500 of a service whose model's logits are not finite."""
_HEADER_LENGTH = "inference-header-content-length"
"""Header with the length of the JSON before the binary data (KServe V2, binary tensor data extension)."""


class ServiceError(ResnetInferError):
    """A service that does not answer, or not with classes. `status` is its HTTP status, None without an answer."""

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Client:
    """Send images to a service at a URL, such as http://127.0.0.1:3000.

    `api_key` is the service's key (default: $RESNET_INFER_API_KEY). `timeout` is in seconds and bounds the wait for an
    answer, and for a busy service (503) to become free. `connections` is the number of images in flight in `stream`.
    Raises `UsageError` for a URL that is not HTTP or HTTPS.

    Instances are context managers. They are safe for use from several threads, and in forked children, which open
    connections of their own.

    >>> with Client("http://127.0.0.1:3000") as client:
    ...     client.classify("cat.jpg")[0].label
    'cat'
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 60.0, connections: int = 8) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url} is no URL of a service", hint="it looks like http://127.0.0.1:3000")
        require_threads(connections, "connections")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.timeout, self.connections = timeout, connections
        self._kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path.rstrip("/")
        key = api_key or os.environ.get(KEY_VARIABLE, "")
        self._headers: dict[str, str | bytes] = {"Authorization": b"Bearer " + key.encode()} if key else {}
        self._idle = _IdleConnections()

    def classify(self, picture: str | Path | bytes, *, crops: Crops = 1, top_k: int = 5) -> list[Prediction]:
        """Return the `top_k` most probable classes of one image, which is a path or the bytes of an encoded file.

        Raises `PictureError` if the image cannot be read, here or by the service, `AnswerError` if its logits are not
        finite, `ServiceError` if the service does not answer, and `UsageError` for options out of range.
        """
        content = picture if isinstance(picture, bytes) else Path(picture)
        source = "picture" if isinstance(picture, bytes) else str(picture)
        answer = self.ask(Picture(source, content), crops=crops, top_k=top_k)
        del picture, content  # an error that the caller keeps holds this frame
        if answer.error:
            raise answer.error
        return list(answer.predictions)

    def stream(self, pictures: Iterable[Picture], *, crops: Crops = 1, top_k: int = 5) -> Generator[Answer, None, None]:
        """Yield an answer for every image, in the order of `pictures`.

        An unreadable image gives an `Answer` with an `error`. Memory use is bounded, also for endless `pictures`. An
        error of `pictures` or of the service (`ServiceError`) is raised after the answers to all images before it. A
        live source is read as in `Classifier.stream`. Raises `UsageError` for options out of range, before anything is
        read.
        """
        _check(crops, top_k)
        ask = partial(self.ask, crops=crops, top_k=top_k)
        return live_map(ask, pictures, workers=self.connections, ahead=2 * self.connections)

    def ask(self, picture: Picture, *, crops: Crops = 1, top_k: int = 5) -> Answer:
        """Return the answer to one image. An image that cannot be read gives an `Answer` with an `error`.

        Raises `UsageError` for options out of range, and `ServiceError`.
        """
        _check(crops, top_k)
        try:
            content = picture.content if isinstance(picture.content, bytes) else picture_bytes(picture.content)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have, such as one with a null byte
            reason = getattr(error, "strerror", None) or str(error)
            return Answer(picture.source, error=PictureError(f"{picture.source}: {reason}"))
        if not content:
            return Answer(picture.source, error=PictureError(f"{picture.source}: the file is empty"))
        query = urlencode({"crops": crops, "top_k": top_k})
        status, body = self._request("POST", f"/classify?{query}", content)
        if status in _UNREADABLE and "error" in body:
            reason = str(body["error"]).removeprefix("picture: ")
            return Answer(picture.source, error=PictureError(f"{picture.source}: {reason}"))
        if status == 500 and body.get("reason") == _NOT_FINITE:
            return Answer(picture.source, error=self._no_answer(picture.source))
        if status != 200:
            raise self._failure(status, body)
        try:
            found = tuple(Prediction(**item) for item in body["predictions"])
            finite = all(math.isfinite(item.probability) for item in found)
            return (
                Answer(picture.source, found, note=body.get("note"))
                if finite
                else Answer(picture.source, error=self._no_answer(picture.source))
            )
        except (KeyError, TypeError) as error:
            raise ServiceError(f"{self.url} does not answer as `resnet-infer serve` does", status=status) from error

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
            raise AnswerError(f"the logits of {model} at {self.url} are not finite")
        if status != 200:
            raise self._failure(status, _json_object(body))
        try:
            size = int(headers[_HEADER_LENGTH])
            (output,) = json.loads(body[:size])["outputs"]
            logits: NDArray[np.float32] = np.frombuffer(body[size:], "<f4").reshape(output["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise ServiceError(f"{self.url} does not answer as `resnet-infer serve` does", status=status) from error
        if not np.isfinite(logits).all():
            raise AnswerError(f"the logits of {model} at {self.url} are not finite")
        return logits

    def close(self) -> None:
        """Close the idle connections at once, and those in use when their answer has come."""
        self._idle.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, method: str, path: str, content: bytes | None = None) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object of a response."""
        status, _, body = self._request_with_retries(method, path, content)
        return status, _json_object(body)

    def _request_with_retries(
        self, method: str, path: str, content: bytes | None, extra: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of a response; repeat a request after a 503 with a Retry-After header."""
        until = time.monotonic() + self.timeout
        while True:
            status, headers, body = self._exchange(method, path, content, extra or {})
            wait = int(headers.get("retry-after", "x")) if headers.get("retry-after", "x").isdigit() else None
            if status != 503 or wait is None or time.monotonic() + wait > until:
                return status, headers, body
            time.sleep(wait)

    def _exchange(
        self, method: str, path: str, content: bytes | None, extra: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request, or a second one if the service has closed the idle connection of the first."""
        headers = {**self._headers, **extra, **({"Content-Type": "application/octet-stream"} if content else {})}
        connection = self._idle.take()
        while True:
            fresh = connection is None
            connection = connection or self._kind(self._host, self._port, timeout=self.timeout)
            try:
                connection.request(method, self._path + path, content, headers)
                response = connection.getresponse()
                body = response.read()
            except (OSError, HTTPException) as error:
                connection.close()
                if fresh or isinstance(error, TimeoutError):
                    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise ServiceError(
                        f"no service answers at {self.url} ({reason})", hint="start one with: resnet-infer serve"
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
        return AnswerError(f"{source}: the logits of the model at {self.url} are not finite, so there is no answer")

    def _failure(self, status: int, body: Mapping[str, Any]) -> ServiceError:
        """Return the error for a response that is not a success."""
        hint = f"set {KEY_VARIABLE} to its key" if status == 401 else None
        reason = body.get("error") or "which is no answer of `resnet-infer serve`"
        return ServiceError(f"{self.url} answered {status}: {reason}", status=status, hint=hint)


class _IdleConnections:
    """Keep the open connections that are not in use, and give out the most recent one first.

    It is safe for use from several threads. A forked child begins without any: two processes that share a socket would
    read each other's responses.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: list[HTTPConnection] = []
        self._closed = False
        _ALL_POOLS.add(self)

    def forget(self) -> None:
        """Close this process's copies after a fork, and replace the lock, which a thread of the parent may hold."""
        self._lock = threading.Lock()
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()

    def take(self) -> HTTPConnection | None:
        """Return an idle connection, or None."""
        with self._lock:
            return self._connections.pop() if self._connections else None

    def give(self, connection: HTTPConnection) -> None:
        """Keep a connection for the next request, or close it after `close`."""
        with self._lock:
            if not self._closed:
                self._connections.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close all connections, and from then on each one that is given back."""
        with self._lock:
            self._closed = True
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()


_ALL_POOLS: weakref.WeakSet[_IdleConnections] = weakref.WeakSet()
"""Pools of this process, to be emptied in a forked child."""


def _forget_all() -> None:
    """Empty all pools in a child that was just forked."""
    for idle in list(_ALL_POOLS):
        idle.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _check(crops: int, top_k: int) -> None:
    """Raise `UsageError` for options that `Classifier` refuses."""
    if top_k < 1:
        raise UsageError("top-k is at least 1")
    if crops not in (1, 10):
        raise UsageError(f"crops is 1 or 10, not {crops}")


def _json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`, or an empty one if there is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
