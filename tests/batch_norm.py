"""Networks whose batch normalisations have something to say, for the tests that import weights."""

from __future__ import annotations

from typing import Any


def make_busy(torch: Any, network: Any) -> None:
    """Give every batch normalisation random statistics and parameters, from torch's generator."""
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            norm.weight.data.uniform_(0.3, 0.9)
            norm.bias.data.normal_(0, 0.1)
