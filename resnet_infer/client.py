"""A service of `resnet-infer serve`, asked from Python as a `Classifier` is."""

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
from resnet_infer.errors import AnswerError, PictureError, ServiceError, UsageError
from resnet_infer.utils import strict_json
from resnet_infer.utils.threads import require_threads

KEY_VARIABLE = "RESNET_INFER_API_KEY"
_UNREADABLE = (400, 413, 415, 422)
"""Statuses that say something of the picture."""
_NOT_FINITE = "not_finite"
"""The reason of a 500 of a service whose model's logits are not finite."""
_HEADER_LENGTH = "inference-header-content-length"
"""The header that says where JSON ends and binary data begins."""


class Client:
    """A service at a URL, e.g. http://127.0.0.1:3000.

    `api_key` is the service's key, if it has one; default: $RESNET_INFER_API_KEY. `timeout` is in seconds: for an
    answer, and for a service that is busy (503) to have time. `connections` is how many pictures are asked about at
    a time. Instances are context managers, and safe for use from several threads and in forked children, which open
    connections of their own.
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
        self._idle = _Idle()

    def classify(self, picture: str | Path | bytes, *, crops: Crops = 1, top_k: int = 5) -> list[Prediction]:
        """The `top_k` most probable classes of one picture (a path, or the bytes of a file).

        Raises `PictureError` if it cannot be read, here or by the service, `AnswerError` if the logits for it are not
        finite, `ServiceError`, and `UsageError`.
        """
        content = picture if isinstance(picture, bytes) else Path(picture)
        source = "picture" if isinstance(picture, bytes) else str(picture)
        answer = self.ask(Picture(source, content), crops=crops, top_k=top_k)
        del picture, content  # an error that is kept holds this frame
        if answer.error:
            raise answer.error
        return list(answer.predictions)

    def stream(self, pictures: Iterable[Picture], *, crops: Crops = 1, top_k: int = 5) -> Generator[Answer, None, None]:
        """Answers in the order of `pictures`; unreadable ones give an `Answer` with its `error`.

        Raises `UsageError` at once, and `ServiceError`. Memory is bounded however many pictures there are. An error of
        `pictures`, or of the service, is raised after the answers to all pictures before it. `pictures` that keep
        their reader waiting are read as in `Classifier.stream`.
        """
        _check(crops, top_k)
        ask = partial(self.ask, crops=crops, top_k=top_k)
        return live_map(ask, pictures, workers=self.connections, ahead=2 * self.connections)

    def ask(self, picture: Picture, *, crops: Crops = 1, top_k: int = 5) -> Answer:
        """The answer to one picture, or why it has none. Raises `UsageError` and `ServiceError`."""
        _check(crops, top_k)
        try:
            content = picture.content if isinstance(picture.content, bytes) else picture_bytes(picture.content)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
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
        """What the service says of its model (`GET /model`). Raises `ServiceError`."""
        status, body = self._request("GET", "/model")
        if status != 200:
            raise self._failure(status, body)
        return body

    def tensors(self, model: str) -> dict[str, Any]:
        """What the service says of the model's tensors (`GET /v2/models/MODEL`). Raises `ServiceError`."""
        status, body = self._request("GET", f"/v2/models/{quote(model, safe='')}")
        if status != 200:
            raise self._failure(status, body)
        return body

    def infer(self, model: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits (N, classes) of `images`, uint8 (N, height, width, 3), by the Open Inference Protocol.

        Tensors travel as binary data. Raises `ServiceError`, and `AnswerError` if the logits are not finite.
        """
        tensor = {"name": "images", "datatype": "UINT8", "shape": images.shape}
        request = {
            "inputs": [{**tensor, "parameters": {"binary_data_size": images.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
        head = strict_json.dumps(request).encode()
        status, headers, body = self._patiently(
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
        """Close the connections; those in use when their answer is there."""
        self._idle.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, method: str, path: str, content: bytes | None = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an answer."""
        status, _, body = self._patiently(method, path, content)
        return status, _json_object(body)

    def _patiently(
        self, method: str, path: str, content: bytes | None, extra: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """An answer as it is; a service that is busy is asked again when it says so."""
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
        """One request; a second one if the service had closed the idle connection of the first."""
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
        return AnswerError(f"{source}: the logits of the model at {self.url} are not finite, so there is no answer")

    def _failure(self, status: int, body: Mapping[str, Any]) -> ServiceError:
        hint = f"set {KEY_VARIABLE} to its key" if status == 401 else None
        reason = body.get("error") or "which is no answer of `resnet-infer serve`"
        return ServiceError(f"{self.url} answered {status}: {reason}", status=status, hint=hint)


class _Idle:
    """Connections that nobody uses; the one used last is taken first.

    Safe for use from several threads. A forked child begins without any: on a socket that two processes share, each
    would read the other's answers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: list[HTTPConnection] = []
        self._closed = False
        _EVERY.add(self)

    def forget(self) -> None:
        """In a child that was just forked: close its copies, and free the lock that a thread of the parent may hold."""
        self._lock = threading.Lock()
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()

    def take(self) -> HTTPConnection | None:
        with self._lock:
            return self._connections.pop() if self._connections else None

    def give(self, connection: HTTPConnection) -> None:
        with self._lock:
            if not self._closed:
                self._connections.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close them all, and each one given from now on."""
        with self._lock:
            self._closed = True
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()


_EVERY: weakref.WeakSet[_Idle] = weakref.WeakSet()


def _forget_all() -> None:
    for idle in list(_EVERY):
        idle.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _check(crops: int, top_k: int) -> None:
    """Refuse what `Classifier` refuses."""
    if top_k < 1:
        raise UsageError("top-k is at least 1")
    if crops not in (1, 10):
        raise UsageError(f"crops is 1 or 10, not {crops}")


def _json_object(body: bytes) -> dict[str, Any]:
    """The object that `body` is as JSON; empty if it is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
