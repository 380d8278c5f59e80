"""Count the wrong answers of a network in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from resnet_infer.models.spec import InputSpec
from resnet_infer.training.distributed import World
from resnet_infer.training.input.normalise import Normalise
from resnet_infer.training.input.views import Views
from resnet_infer.utils.error_statistics import interval


@dataclass(frozen=True)
class Counts:
    """Count answers: of `total`, `wrong` do not have the right class in the first place.

    `wrong5` do not have it among the first five.
    """

    wrong: int
    wrong5: int
    total: int

    def __add__(self, other: Counts) -> Counts:
        """Return the counts over the pictures of both."""
        return Counts(self.wrong + other.wrong, self.wrong5 + other.wrong5, self.total + other.total)

    @property
    def top1(self) -> float:
        """Top-1 error in percent."""
        return 100 * self.wrong / self.total

    @property
    def top5(self) -> float:
        """Top-5 error in percent."""
        return 100 * self.wrong5 / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of `top1`."""
        return interval(self.wrong, self.total)


@torch.no_grad()
def count_errors(
    network: nn.Module, views: Views, geometry: InputSpec, world: World, between: Callable[[], None] = lambda: None
) -> Counts:
    """Count the wrong answers to the single views of all processes, in float32.

    An answer that is not finite is wrong. Leaves the network in evaluation mode. `between` is called between batches,
    and what it raises is raised.
    """
    network.eval()
    normalise = Normalise(geometry, world.device)
    counts = torch.zeros(3, dtype=torch.float64, device=world.device)
    for images, targets in views.batches(geometry):
        between()
        logits = network(normalise(torch.from_numpy(images)).permute(0, 3, 1, 2))
        labels = torch.from_numpy(targets).to(world.device)
        right = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        right &= logits.isfinite().all(1, keepdim=True)
        counts[0] += (~right[:, 0]).sum()
        counts[1] += (~right.any(1)).sum()
        counts[2] += len(labels)
    return Counts(*(round(count) for count in world.sum(counts).tolist()))
