"""The system under test: a file's bytes in, its classes out; in this process, or behind a URL."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from resnet_infer.benchmarking.load.http_client import HttpClient, post
from resnet_infer.benchmarking.load.scenario import Scenario
from resnet_infer.classifier import Picture
from resnet_infer.client import KEY_VARIABLE, Client
from resnet_infer.errors import PictureError, ResnetInferError, UsageError
from resnet_infer.models.spec import ModelSpec
from resnet_infer.serving.inference.deployment import ClassifyItem, ClassifyResult, Deployment
from resnet_infer.serving.inference.jobs import Done, RefusedError
from resnet_infer.serving.settings import Settings

TIMEOUT = 30.0
"""Seconds that a service has for an answer; `resnet-infer serve` takes no longer unless it is told to."""


@dataclass(frozen=True)
class Verdict:
    """What became of a picture: `status` is HTTP's (200, 503 refused, 422 unreadable), 0 if there was no answer.

    `top` are class numbers, most probable first. `error` says what went wrong.
    """

    status: int
    top: tuple[int, ...] = ()
    error: str = ""


Told = Callable[[int, Verdict], None]
"""Called with the place of a picture in what was submitted, and its verdict; from any thread, with each once."""


class System(Protocol):
    """What answers. `at_once` is how many pictures it likes to be asked about at a time when there is no hurry."""

    at_once: int

    @property
    def spec(self) -> ModelSpec: ...

    def submit(self, pictures: Sequence[bytes], told: Told) -> None:
        """Ask about files, at once and without waiting for anything. `told` may be called before this returns."""

    def drop(self) -> None:
        """Forget what is not answered yet, so that nothing of it is left to do; its verdict is of no use any more."""

    def describe(self) -> dict[str, Any]:
        """`name` in words, and what it consists of."""

    def close(self) -> None:
        """Drop what is not answered, and free everything."""


class InProcess:
    """A model behind the service's own adaptive batcher, with a queue that takes everything."""

    at_once = 256

    def __init__(
        self,
        model: str | None = None,
        *,
        runtime: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        crops: int = 1,
    ) -> None:
        self._crops = _crops(crops)
        settings = Settings(model=model, runtime=runtime, device=device, threads=threads, max_queue=sys.maxsize)
        self._deployment = Deployment(settings)
        self._waiting: set[Future[Done[Any]]] = set()

    @property
    def spec(self) -> ModelSpec:
        return self._deployment.spec

    def submit(self, pictures: Sequence[bytes], told: Told) -> None:
        items = [ClassifyItem(Picture("picture", content), self._crops) for content in pictures]
        try:
            futures = self._deployment.classify(items, math.inf)
        except RefusedError as error:
            for place in range(len(pictures)):
                told(place, Verdict(503, error=error.message))
            return
        self._waiting.update(futures)
        for place, future in enumerate(futures):
            future.add_done_callback(partial(self._tell, told, place))

    def drop(self) -> None:
        for future in list(self._waiting):
            future.cancel()

    def _tell(self, told: Told, place: int, future: Future[Done[Any]]) -> None:
        self._waiting.discard(future)
        error = None if future.cancelled() else future.exception()
        if future.cancelled():
            told(place, Verdict(503, error="dropped"))
        elif error is None:
            result: ClassifyResult = future.result().result
            told(place, Verdict(200, tuple(item.index for item in result.predictions)))
        elif isinstance(error, PictureError):
            told(place, Verdict(422, error=error.message))
        else:
            message = error.message if isinstance(error, ResnetInferError) else f"{type(error).__name__}: {error}"
            told(place, Verdict(503 if isinstance(error, RefusedError) else 500, error=message))

    def describe(self) -> dict[str, Any]:
        runtime = self._deployment.runtime.describe()
        name = f"{self.spec.name} {self.spec.precision}, in process, {runtime['runtime']} on {runtime['device']}"
        return {
            "name": name,
            "model": self.spec.name,
            "precision": self.spec.precision,
            "crops": self._crops,
            "runtime": runtime,
        }

    def close(self) -> None:
        self.drop()
        self._deployment.close()


class Service:
    """A service of `resnet-infer serve`. Raises `ServiceError` if none is there."""

    at_once = 32

    def __init__(self, url: str, *, crops: int = 1, timeout: float = TIMEOUT, api_key: str | None = None) -> None:
        self._crops = _crops(crops)
        with Client(url, timeout=timeout, api_key=api_key) as client:
            self.url = client.url
            self._model = client.model()
        self._spec = ModelSpec.from_json(self._model, self.url)
        key = api_key or os.environ.get(KEY_VARIABLE, "")
        self._headers = [("Content-Type", "application/octet-stream")]
        self._headers += [("Authorization", f"Bearer {key}")] if key else []
        path = self.url.partition("://")[2].partition("/")[2]
        self._path = f"{'/' if path else ''}{path}/classify?crops={self._crops}&top_k=5"
        self._http = HttpClient(self.url, timeout=timeout)

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def submit(self, pictures: Sequence[bytes], told: Told) -> None:
        for place, content in enumerate(pictures):
            self._http.send(post(self.url, self._path, content, self._headers), partial(_hear, told, place))

    def describe(self) -> dict[str, Any]:
        runtime = self._model["runtime"]
        name = f"{self.spec.name} {self.spec.precision}, {self.url}, {runtime['runtime']} on {runtime['device']}"
        return {
            "name": name,
            "url": self.url,
            "model": self.spec.name,
            "precision": self.spec.precision,
            "crops": self._crops,
            "runtime": runtime,
        }

    def drop(self) -> None:
        self._http.drop()

    def close(self) -> None:
        self._http.close()


def _hear(told: Told, place: int, status: int, body: bytes) -> None:
    if status == 0:
        told(place, Verdict(0, error=body.decode(errors="replace")))
        return
    try:
        value = json.loads(body)
        if status == 200:
            told(place, Verdict(200, tuple(int(item["index"]) for item in value["predictions"])))
        else:
            told(place, Verdict(status, error=str(value["error"])))
    except (ValueError, KeyError, TypeError):
        told(place, Verdict(status if status != 200 else 0, error="no answer of `resnet-infer serve`"))


def open_system(asked: Scenario) -> System:
    """The system that is asked for. Raises `UsageError`, `ModelError` and `ServiceError`."""
    if asked.url is None:
        return InProcess(
            asked.model, runtime=asked.runtime, device=asked.device, threads=asked.threads, crops=asked.crops
        )
    if asked.model is not None or (asked.runtime, asked.device, asked.threads) != ("auto", "auto", None):
        raise UsageError("a service has its own model, runtime, device and threads", hint="leave them out with --url")
    return Service(asked.url, crops=asked.crops)


def _crops(crops: int) -> Any:
    if crops not in (1, 10):
        raise UsageError(f"crops is 1 or 10, not {crops}")
    return crops
