"""Evaluate the model of a running service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from resnet_infer.classifier import Classifier, Crops, Picture
from resnet_infer.client import Client
from resnet_infer.data.class_map import ClassMap, StatedOrder, map_classes
from resnet_infer.data.datasets import Content, Dataset
from resnet_infer.data.protocols import find_protocol
from resnet_infer.errors import ModelError, ServiceError
from resnet_infer.evaluation.scorer import LocalScorer, OpenPicture, Probabilities, Scorer
from resnet_infer.evaluation.targets.remote_runtime import ServiceRuntime, TensorScorer
from resnet_infer.models.spec import ModelSpec

CONNECTIONS = 32
"""Requests in flight at once: enough for the batches of a service on several cores or on a GPU."""


@dataclass(frozen=True)
class ServedModel:
    """Hold the model behind `client` as an `OpenModel`; `info` is how the service describes it."""

    client: Client
    info: dict[str, Any]
    spec: ModelSpec
    classes: ClassMap
    remote: bool = True
    lanes: int = 1

    @property
    def name(self) -> str:
        """Name in results."""
        return f"{self.spec.name} at {self.client.url}"

    def describe(self) -> dict[str, Any]:
        """Return how the service describes its runtime, and the address of the service."""
        return {**self.info["runtime"], "url": self.client.url}

    def fingerprint(self) -> dict[str, Any]:
        """Return weights, runtime and version. Raises `ServiceError` if the service does not state its weights."""
        if not self.info.get("sha256"):
            raise ServiceError(
                f"{self.client.url} does not say which weights it has, so answers cannot be kept for another run",
                hint="leave --resume out, or let a newer resnet-infer serve",
                source=self.client.url,
            )
        return {**self.info["runtime"], "sha256": self.info["sha256"], "served by": self.info.get("version")}

    def scorer(self, protocol: str, *, scales: Sequence[int] | None, batch_size: int) -> Scorer:
        """Return a scorer that sends files if the service knows the protocol, else tensors of views.

        Raises `UsageError` for an unknown protocol, and for one that the model cannot follow.
        """
        if crops := find_protocol(protocol).service_crops:
            return ServiceScorer(self.client, self.spec, crops)
        runtime = ServiceRuntime(self.client, self.info, self.spec)
        return TensorScorer(LocalScorer(Classifier(runtime), protocol, scales=scales, batch_size=batch_size))

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


class ServiceScorer:
    """Send a picture's file while it is prepared, so that many requests are in flight at once."""

    rows = 1
    scales: tuple[int, ...] = ()
    clock: Callable[[], float] = staticmethod(perf_counter)

    def __init__(self, client: Client, spec: ModelSpec, crops: Crops) -> None:
        self.client, self.spec, self.crops = client, spec, crops

    def prepare(self, picture: OpenPicture) -> Probabilities:
        """Return the probabilities of one picture, (classes,). Raises `PictureError` if the service cannot read it."""
        count = len(self.spec.classes)
        picture_file = Picture(picture.name, _as_file(picture.content))
        answer = self.client.ask(picture_file, crops=self.crops, top_k=count)
        if answer.error:
            raise answer.error
        probabilities = np.full(count, np.nan)
        for entry in answer.predictions:
            probabilities[entry.index] = entry.probability
        return probabilities

    def score(self, prepared: Sequence[Probabilities]) -> Probabilities:
        """Stack the probabilities of pictures, (pictures, classes)."""
        return np.stack(prepared)


def open_service(url: str, dataset: Dataset, order: StatedOrder | None) -> ServedModel:
    """Open the model of the service at `url`. Raises `ServiceError`, and `DataError` if classes do not match."""
    client = Client(url, connections=CONNECTIONS)
    try:
        info = client.model()
        try:
            spec = ModelSpec.from_json(info, url)
        except ModelError as error:
            raise ServiceError(
                f"{url} does not say which model it has, as `resnet-infer serve` does", source=url
            ) from error
        return ServedModel(client, info, spec, map_classes(dataset, spec, order))
    except BaseException:
        client.close()
        raise


def _as_file(content: Content) -> bytes:
    """Return the bytes of a file; pixels without one become a PNG, which is lossless."""
    if isinstance(content, bytes):
        return content
    file = BytesIO()
    Image.fromarray(content).save(file, "PNG", compress_level=1)
    return file.getvalue()
