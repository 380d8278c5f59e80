"""Twenty steps in float64 at the paper's rate, alone or under torchrun: `python twenty_steps.py FILE`."""

import sys

import numpy as np
import torch
from torch.nn import functional

from resnet_infer.models.architectures import architecture
from resnet_infer.models.network import ResNet
from resnet_infer.training.distributed import join_world, synchronise

with join_world("cpu") as world:
    torch.manual_seed(0)
    network = ResNet(architecture("resnet8", 3)).double()
    images, labels = torch.randn(20, 12, 3, 16, 16, dtype=torch.float64), torch.randint(0, 3, (20, 12))
    model = synchronise(network, world).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    part = slice(world.rank * 12 // world.size, (world.rank + 1) * 12 // world.size)
    for batch, targets in zip(images, labels, strict=True):
        optimizer.zero_grad()
        functional.cross_entropy(model(batch[part]), targets[part]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if world.writes:
        np.savez(sys.argv[1], **{name: value.numpy() for name, value in network.state_dict().items()})
