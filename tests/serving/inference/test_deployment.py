"""A deployment before its first request: every batch size that will be computed has been run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the extra `cpu` or `gpu`")

from resnet_infer.serving.inference.deployment import Deployment
from resnet_infer.serving.settings import Settings
from resnet_infer.zoo import SMALL


class Noting:
    """A runtime that notes the batch sizes that it is called with."""

    def __init__(self, runtime: Any, device: str) -> None:
        self.spec, self.size, self.device = runtime.spec, runtime.size, device
        self.close = runtime.close
        self.seen: list[int] = []

    def __call__(self, images: Any) -> Any:
        self.seen.append(len(images))
        return np.zeros((len(images), len(self.spec.classes)), np.float32)


@pytest.mark.parametrize(
    ("device", "most", "sizes"),
    [("cpu", 32, [1, 32]), ("cuda:0", 32, [1, 2, 4, 8, 16, 32]), ("cuda:1", 6, [1, 2, 4, 6])],
)
def test_all_sizes_are_run_before_the_first_request(device: str, most: int, sizes: list[int]) -> None:
    deployment = Deployment(Settings(model=SMALL, max_batch=most, threads=1))
    try:
        noting = Noting(deployment.runtime, device)
        deployment.runtime = deployment._one_thread = noting  # type: ignore[assignment]
        deployment._warm_up()
        assert noting.seen == sizes
    finally:
        deployment.close()
