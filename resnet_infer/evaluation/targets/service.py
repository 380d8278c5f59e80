"""A running service as one of the models that are evaluated."""

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
from resnet_infer.errors import ModelError, ServiceError
from resnet_infer.evaluation.protocols import LocalScorer, OpenPicture, Probabilities, Scorer
from resnet_infer.evaluation.targets.remote_runtime import ServiceRuntime, TensorScorer
from resnet_infer.models.spec import ModelSpec

CONNECTIONS = 32
"""Pictures that are asked about at a time: enough for batches of a service on several cores or on a GPU."""
CROPS: dict[str, Crops] = {"native": 1, "1-crop": 1, "10-crop": 10}
"""Protocol -> crops, of those that a service follows when it is sent a file."""


@dataclass(frozen=True)
class ServedModel:
    """The model behind `client`, as `OpenModel` has it; `told` is what the service says of it."""

    client: Client
    told: dict[str, Any]
    spec: ModelSpec
    classes: ClassMap
    remote: bool = True
    lanes: int = 1

    @property
    def name(self) -> str:
        return f"{self.spec.name} at {self.client.url}"

    def describe(self) -> dict[str, Any]:
        return {**self.told["runtime"], "url": self.client.url}

    def fingerprint(self) -> dict[str, Any]:
        """Its weights, and what runs them. Raises `ServiceError` where the service does not say."""
        if not self.told.get("sha256"):
            raise ServiceError(
                f"{self.client.url} does not say which weights it has, so answers cannot be kept for another run",
                hint="leave --resume out, or let a newer resnet-infer serve",
            )
        return {**self.told["runtime"], "sha256": self.told["sha256"], "served by": self.told.get("version")}

    def scorer(self, protocol: str, *, scales: Sequence[int] | None, batch_size: int) -> Scorer:
        """A service is sent files where it knows the protocol, else the views of a picture as tensors."""
        if protocol in CROPS:
            return ServiceScorer(self.client, self.spec, CROPS[protocol])
        runtime = ServiceRuntime(self.client, self.told, self.spec)
        return TensorScorer(LocalScorer(Classifier(runtime), protocol, scales=scales, batch_size=batch_size))

    def close(self) -> None:
        self.client.close()


class ServiceScorer:
    """Asks while a picture is being prepared, so that many requests are in progress at a time."""

    rows = 1
    scales: tuple[int, ...] = ()
    clock: Callable[[], float] = staticmethod(perf_counter)

    def __init__(self, client: Client, spec: ModelSpec, crops: Crops) -> None:
        self.client, self.spec, self.crops = client, spec, crops

    def prepare(self, picture: OpenPicture) -> Probabilities:
        """The probabilities of one picture, (classes,). Raises `PictureError` where the service cannot read it."""
        count = len(self.spec.classes)
        asked = Picture(picture.name, _as_file(picture.content))
        answer = self.client.ask(asked, crops=self.crops, top_k=count)
        if answer.error:
            raise answer.error
        probabilities = np.full(count, np.nan)
        for entry in answer.predictions:
            probabilities[entry.index] = entry.probability
        return probabilities

    def score(self, prepared: Sequence[Probabilities]) -> Probabilities:
        return np.stack(prepared)


def open_service(url: str, dataset: Dataset, order: StatedOrder | None) -> ServedModel:
    """Raises `ServiceError`, and `DataError` where classes do not match."""
    client = Client(url, connections=CONNECTIONS)
    try:
        told = client.model()
        try:
            spec = ModelSpec.from_json(told, url)
        except ModelError as error:
            raise ServiceError(f"{url} does not say which model it has, as `resnet-infer serve` does") from error
        return ServedModel(client, told, spec, map_classes(dataset, spec, order))
    except BaseException:
        client.close()
        raise


def _as_file(content: Content) -> bytes:
    """A file as it is; pixels that were in none as a PNG, which keeps them."""
    if isinstance(content, bytes):
        return content
    file = BytesIO()
    Image.fromarray(content).save(file, "PNG", compress_level=1)
    return file.getvalue()
