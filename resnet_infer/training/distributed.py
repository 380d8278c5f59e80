"""Join the processes that `torchrun` starts: ranks, collective operations, and batch norm over the whole batch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from resnet_infer.errors import RuntimeUnavailableError, UsageError

_GROUPS: list[Any] = []
"""Process groups of gloo, kept until the process ends.

If the network's `DistributedDataParallel` held the last reference to a group, its destructor would wait for the group's
threads while it holds the GIL. Those threads may wait for the GIL, so that the process would never end.
"""


@dataclass(frozen=True)
class World:
    """Identify this process: `rank` of `size` processes, and its device. One process is a world of size 1."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and messages: the one of rank 0."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes. `values` itself stays as it is."""
        if self.size == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total

    def any(self, wish: bool, number: int) -> tuple[bool, int]:
        """Return whether `wish` is true in any process, and the greatest `number` of all."""
        if self.size == 1:
            return wish, number
        both = torch.tensor([int(wish), number], device=self.device)
        distributed.all_reduce(both, distributed.ReduceOp.MAX)
        return bool(both[0]), int(both[1])

    def fair_share(self, cores: int) -> int:
        """Return this process's share of the cores, from 1 to 16."""
        return max(1, min(cores // self.size, 16))

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            distributed.barrier()


@contextlib.contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Yield the world that `torchrun` describes in the environment, or a world of one.

    `device` is auto, cpu or cuda[:N]; of several processes each takes the GPU of its local rank. Raises `UsageError`
    for another value, and `RuntimeUnavailableError` if there is no such device.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)) if size > 1 else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(chosen)
        return
    if chosen.type == "cuda":
        distributed.init_process_group("nccl", device_id=chosen)
    else:
        distributed.init_process_group("gloo")
        _GROUPS.append(distributed.group.WORLD)
    try:
        yield World(chosen, rank, size)
    finally:
        distributed.destroy_process_group()


def choose_device(device: str, local_rank: int | None) -> torch.device:
    """Return the device that is named, never another one; auto is a GPU if there is one.

    Raises `UsageError` for a name that is none, and `RuntimeUnavailableError` if there is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise UsageError(f"the device is auto, cpu or cuda[:N], not {device!r}")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeUnavailableError("no CUDA device can be used here", hint="train with --device cpu", source="cuda")
    index = local_rank if local_rank is not None else int(number or 0)
    if index >= torch.cuda.device_count():
        raise RuntimeUnavailableError(
            f"there is no device cuda:{index}; there are {torch.cuda.device_count()}",
            hint="lower --nproc-per-node" if local_rank is not None else None,
            source=f"cuda:{index}",
        )
    return torch.device("cuda", index)


def synchronise(network: nn.Module, world: World) -> nn.Module:
    """Wrap the network so that gradients and the statistics of batch norm are those of all processes' batches."""
    if world.size == 1:
        return network
    if world.device.type == "cuda":
        whole = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return nn.parallel.DistributedDataParallel(whole, device_ids=[world.device.index])
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = WholeBatchNorm
    return nn.parallel.DistributedDataParallel(network)


class WholeBatchNorm(nn.BatchNorm2d):
    """Normalise over the batches of all processes, which are equally large.

    It works with every backend; `torch.nn.SyncBatchNorm` works on GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (N, C, H, W); in training mode by mean and variance over all processes. Keeps the dtype."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        values = x if x.dtype == torch.float64 else x.float()
        mean = _mean_over_all(values.mean((0, 2, 3)))
        centred = values - mean[:, None, None]
        variance = _mean_over_all(centred.square().mean((0, 2, 3)))
        out = centred * (variance + self.eps).rsqrt()[:, None, None]
        with torch.no_grad():
            count = x.numel() // x.shape[1] * distributed.get_world_size()
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)
        return (out * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _SumOverAll(torch.autograd.Function):
    """Sum over all processes, with a gradient: the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


def _mean_over_all(value: Tensor) -> Tensor:
    """Return the mean over all processes, through which gradients flow."""
    total = cast(Tensor, _SumOverAll.apply(value))  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()
