"""How many answers of a network in training are wrong."""

from __future__ import annotations

import torch
from torch import nn

from resnet_infer.models.spec import InputSpec
from resnet_infer.training.distributed import World
from resnet_infer.training.prepare import Normalise
from resnet_infer.training.views import Views


@torch.no_grad()
def error_rates(network: nn.Module, views: Views, geometry: InputSpec, world: World) -> tuple[float, float]:
    """Top-1 and top-5 error in percent over the views of all processes: single view, float32.

    Leaves the network in evaluation mode.
    """
    network.eval()
    normalise = Normalise(geometry, world.device)
    counts = torch.zeros(3, dtype=torch.float64, device=world.device)
    for images, targets in views.batches(geometry):
        logits = network(normalise(torch.from_numpy(images)).permute(0, 3, 1, 2))
        labels = torch.from_numpy(targets).to(world.device)
        right = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        counts[0] += (~right[:, 0]).sum()
        counts[1] += (~right.any(1)).sum()
        counts[2] += len(labels)
    first, fifth, total = world.sum(counts).tolist()
    return 100 * first / total, 100 * fifth / total
