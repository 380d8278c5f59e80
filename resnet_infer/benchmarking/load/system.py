"""Provide the systems under test, in this process or behind a URL: an encoded picture in, its classes out."""

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

from resnet_infer import zoo
from resnet_infer.benchmarking.load.http_client import HttpClient, post
from resnet_infer.benchmarking.load.scenario import Scenario
from resnet_infer.classifier import Picture
from resnet_infer.client import KEY_VARIABLE, Client
from resnet_infer.errors import PictureError, ResnetInferError, UsageError
from resnet_infer.models.spec import ModelSpec
from resnet_infer.selection.bf16_guard import require_compute
from resnet_infer.serving.inference.deployment import ClassifyItem, ClassifyResult, Deployment
from resnet_infer.serving.inference.jobs import Done, RefusedError
from resnet_infer.serving.settings import Settings
from resnet_infer.utils.console import note

TIMEOUT = 30.0
"""Seconds that a service has for a response; `resnet-infer serve` takes no longer by default."""


@dataclass(frozen=True)
class Response:
    """Hold the outcome of a picture.

    `status` is that of HTTP: 200, 503 (refused), 422 (unreadable), or 0 for no response. `top` are class numbers, most
    probable first. `error` says what went wrong.
    """

    status: int
    top: tuple[int, ...] = ()
    error: str = ""


OnResponse = Callable[[int, Response], None]
"""Called with the index of a picture in what was submitted, and its response: once for each, from any thread."""


class System(Protocol):
    """Answer queries. `at_once` is the number of pictures that the system works on best when none is urgent."""

    at_once: int

    @property
    def spec(self) -> ModelSpec:
        """The model spec."""

    def submit(self, pictures: Sequence[bytes], on_response: OnResponse) -> None:
        """Send pictures and return at once. `on_response` may be called before this returns."""

    def drop(self) -> None:
        """Drop the pictures in progress, so that they take no more time; their responses do not count."""

    def describe(self) -> dict[str, Any]:
        """Return the `name` of the system for people, and its model and runtime."""

    def close(self) -> None:
        """Drop the pictures in progress, and free everything."""


class InProcess:
    """Run a model behind the service's adaptive batcher, with an unlimited queue."""

    at_once = 256

    def __init__(
        self,
        model: str | None = None,
        *,
        runtime: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        compute: str = "auto",
        crops: int = 1,
    ) -> None:
        self._crops = _crops(crops)
        if compute != "auto":
            require_compute(zoo.load_for(model, runtime), compute, runtime=runtime, device=device)
        settings = Settings(
            model=model, runtime=runtime, device=device, threads=threads, compute=compute, max_queue=sys.maxsize
        )
        self._deployment = Deployment(settings)
        if (choice := self._deployment.choice) and choice.missing:
            note(choice.missing)
        self._waiting: set[Future[Done[Any]]] = set()

    @property
    def spec(self) -> ModelSpec:
        """The model spec."""
        return self._deployment.spec

    def submit(self, pictures: Sequence[bytes], on_response: OnResponse) -> None:
        """Queue the pictures for the batcher."""
        items = [ClassifyItem(Picture("picture", content), self._crops) for content in pictures]
        try:
            futures = self._deployment.classify(items, math.inf)
        except RefusedError as error:
            for index in range(len(pictures)):
                on_response(index, Response(503, error=error.message))
            return
        self._waiting.update(futures)
        for index, future in enumerate(futures):
            future.add_done_callback(partial(self._respond, on_response, index))

    def drop(self) -> None:
        """Cancel the pictures in the queue."""
        for future in list(self._waiting):
            future.cancel()

    def _respond(self, on_response: OnResponse, index: int, future: Future[Done[Any]]) -> None:
        self._waiting.discard(future)
        error = None if future.cancelled() else future.exception()
        if future.cancelled():
            on_response(index, Response(503, error="dropped"))
        elif error is None:
            result: ClassifyResult = future.result().result
            on_response(index, Response(200, tuple(item.index for item in result.predictions)))
        elif isinstance(error, PictureError):
            on_response(index, Response(422, error=error.message))
        else:
            message = error.message if isinstance(error, ResnetInferError) else f"{type(error).__name__}: {error}"
            on_response(index, Response(503 if isinstance(error, RefusedError) else 500, error=message))

    def describe(self) -> dict[str, Any]:
        """Return the name, the model, and what the runtime says of itself."""
        runtime, precision = self._deployment.runtime.describe(), self._deployment.runtime.precision
        name = f"{self.spec.name} {precision}, in process, {runtime['runtime']} on {runtime['device']}"
        return {
            "name": name,
            "model": self.spec.name,
            "precision": precision,
            "crops": self._crops,
            "runtime": runtime,
        }

    def close(self) -> None:
        """Cancel the pictures in the queue, and close the model."""
        self.drop()
        self._deployment.close()


class Service:
    """Send queries to a service of `resnet-infer serve`. Raises `ServiceError` if there is none."""

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
        """The model spec, as the service reports it."""
        return self._spec

    def submit(self, pictures: Sequence[bytes], on_response: OnResponse) -> None:
        """Send a request for each picture."""
        for index, content in enumerate(pictures):
            self._http.send(post(self.url, self._path, content, self._headers), partial(_receive, on_response, index))

    def describe(self) -> dict[str, Any]:
        """Return the name, the URL, the model, and what the service says of its runtime."""
        runtime = self._model["runtime"]
        precision = runtime.get("precision", self.spec.precision)
        name = f"{self.spec.name} {precision}, {self.url}, {runtime['runtime']} on {runtime['device']}"
        return {
            "name": name,
            "url": self.url,
            "model": self.spec.name,
            "precision": precision,
            "crops": self._crops,
            "runtime": runtime,
        }

    def drop(self) -> None:
        """End the requests in progress."""
        self._http.drop()

    def close(self) -> None:
        """End the requests in progress, and close the client."""
        self._http.close()


def _receive(on_response: OnResponse, index: int, status: int, body: bytes) -> None:
    if status == 0:
        on_response(index, Response(0, error=body.decode(errors="replace")))
        return
    try:
        value = json.loads(body)
        if status == 200:
            on_response(index, Response(200, tuple(int(item["index"]) for item in value["predictions"])))
        else:
            on_response(index, Response(status, error=str(value["error"])))
    except (ValueError, KeyError, TypeError):
        on_response(index, Response(status if status != 200 else 0, error="no answer of `resnet-infer serve`"))


def open_system(scenario: Scenario) -> System:
    """Open the model or the service of a scenario. Raises `UsageError`, `ModelError` and `ServiceError`."""
    if scenario.url is None:
        return InProcess(
            scenario.model,
            runtime=scenario.runtime,
            device=scenario.device,
            threads=scenario.threads,
            compute=scenario.compute,
            crops=scenario.crops,
        )
    own = scenario.runtime, scenario.device, scenario.threads, scenario.compute
    if scenario.model is not None or own != ("auto", "auto", None, "auto"):
        raise UsageError(
            "a service has its own model, runtime, device, threads and compute", hint="leave them out with --url"
        )
    return Service(scenario.url, crops=scenario.crops)


def _crops(crops: int) -> Any:
    if crops not in (1, 10):
        raise UsageError(f"crops is 1 or 10, not {crops}")
    return crops
