"""A running service as a runtime: views are made here, and only the network is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from resnet_infer.client import Client
from resnet_infer.errors import ServiceError
from resnet_infer.evaluation.protocols import LocalScorer, OpenPicture, Probabilities
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime

BODY_BYTES = 32_000_000
"""The largest request, if the service does not say."""
HEAD_BYTES = 4096
"""More than the JSON before a tensor has."""


class ServiceRuntime(Runtime):
    """The network behind `client`, by the Open Inference Protocol; `told` is what the service says of it.

    Raises `ServiceError`.
    """

    name = "service"
    in_child = "as it is"

    def __init__(self, client: Client, told: Mapping[str, Any], spec: ModelSpec) -> None:
        self.client = client
        try:
            (images,) = client.tensors(spec.name)["inputs"]
            height, width = (None if side < 0 else int(side) for side in images["shape"][1:3])
            device = str(told["runtime"]["device"])
        except (KeyError, TypeError, ValueError) as error:
            raise ServiceError(f"{client.url} does not say what its model takes") from error
        self._bytes = max(told.get("limits", {}).get("body_bytes", BODY_BYTES) - HEAD_BYTES, 1)
        super().__init__(spec, device, (height, width))

    def _run(self, images: Images) -> Logits:
        rows = max(self._bytes // images[0].nbytes, 1)
        parts = [
            self.client.infer(self.spec.name, images[start : start + rows]) for start in range(0, len(images), rows)
        ]
        logits = np.concatenate(parts)
        if logits.shape != (len(images), len(self.spec.classes)):
            raise ServiceError(f"{self.client.url} answered with logits of the shape {list(logits.shape)}")
        return logits


class TensorScorer:
    """Asks for one picture's views while it is being prepared, so that many requests are in progress at a time."""

    rows = 1
    clock: Callable[[], float] = staticmethod(perf_counter)

    def __init__(self, local: LocalScorer) -> None:
        self.local = local
        self.scales = local.scales

    @property
    def spec(self) -> ModelSpec:
        return self.local.spec

    def prepare(self, picture: OpenPicture) -> Probabilities:
        """The probabilities of one picture, (classes,). Raises `PictureError` and `ServiceError`."""
        probabilities: Probabilities = self.local.score([self.local.prepare(picture)])[0]
        return probabilities

    def score(self, prepared: Sequence[Probabilities]) -> Probabilities:
        return np.stack(prepared)
