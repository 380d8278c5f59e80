"""Run the network of a service as a runtime: views are made in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from resnet_infer.client import Client
from resnet_infer.errors import ServiceError
from resnet_infer.evaluation.scorer import LocalScorer, OpenPicture, Probabilities
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Images, Logits, Runtime

BODY_BYTES = 32_000_000
"""Largest request in bytes, if the service does not state its limit."""
HEAD_BYTES = 4096
"""Bytes that are left for the JSON before a tensor."""


class ServiceRuntime(Runtime):
    """Run the network behind `client` by the Open Inference Protocol.

    `info` is how the service describes its model. Raises `ServiceError` if it does not say what its model takes.
    """

    name = "service"
    in_child = "as it is"

    def __init__(self, client: Client, info: Mapping[str, Any], spec: ModelSpec) -> None:
        self.client = client
        try:
            (images,) = client.tensors(spec.name)["inputs"]
            height, width = (None if side < 0 else int(side) for side in images["shape"][1:3])
            device = str(info["runtime"]["device"])
        except (KeyError, TypeError, ValueError) as error:
            raise ServiceError(f"{client.url} does not say what its model takes", source=client.url) from error
        self._bytes = max(info.get("limits", {}).get("body_bytes", BODY_BYTES) - HEAD_BYTES, 1)
        super().__init__(spec, device, (height, width))

    def _run(self, images: Images) -> Logits:
        """Send `images` in requests as large as the service allows. Raises `ServiceError`."""
        rows = max(self._bytes // images[0].nbytes, 1)
        parts = [
            self.client.infer(self.spec.name, images[start : start + rows]) for start in range(0, len(images), rows)
        ]
        logits = np.concatenate(parts)
        if logits.shape != (len(images), len(self.spec.classes)):
            raise ServiceError(
                f"{self.client.url} answered with logits of the shape {list(logits.shape)}", source=self.client.url
            )
        return logits


class TensorScorer:
    """Score a picture while it is prepared, so that many requests are in flight at once."""

    rows = 1
    clock: Callable[[], float] = staticmethod(perf_counter)

    def __init__(self, local: LocalScorer) -> None:
        self.local = local
        self.scales = local.scales

    @property
    def spec(self) -> ModelSpec:
        """Spec of the model."""
        return self.local.spec

    def prepare(self, picture: OpenPicture) -> Probabilities:
        """Return the probabilities of one picture, (classes,). Raises `PictureError` and `ServiceError`."""
        probabilities: Probabilities = self.local.score([self.local.prepare(picture)])[0]
        return probabilities

    def score(self, prepared: Sequence[Probabilities]) -> Probabilities:
        """Stack the probabilities of pictures, (pictures, classes)."""
        return np.stack(prepared)
