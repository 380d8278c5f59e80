"""One process among several, as `torchrun` starts them: who it is, and batch norm over the whole batch."""

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
"""Keeps gloo's groups to the end of the process.

A group that the network's `DistributedDataParallel` is the last to let go of waits for its threads without giving up
Python's lock, and they may be waiting for the lock: the process never ends.
"""


@dataclass(frozen=True)
class World:
    """`rank` of `size` processes, and this one's device."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total

    def any(self, wish: bool, number: int) -> tuple[bool, int]:
        """Whether any process has the wish, and the greatest number of all."""
        if self.size == 1:
            return wish, number
        both = torch.tensor([int(wish), number], device=self.device)
        distributed.all_reduce(both, distributed.ReduceOp.MAX)
        return bool(both[0]), int(both[1])

    def fair_share(self, cores: int) -> int:
        """This process's share of the cores, 16 at most."""
        return max(1, min(cores // self.size, 16))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()


@contextlib.contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """The world that `torchrun` describes in the environment, or a world of one.

    `device` is auto, cpu or cuda[:N]; with several processes each takes the GPU of its local rank. Raises
    `RuntimeUnavailableError` if a device that was asked for is not there.
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
    """Never another device than the one that is asked for; auto is a GPU if there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise UsageError(f"the device is auto, cpu or cuda[:N], not {device!r}")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeUnavailableError("no CUDA device can be used here", hint="train with --device cpu")
    index = local_rank if local_rank is not None else int(number or 0)
    if index >= torch.cuda.device_count():
        raise RuntimeUnavailableError(
            f"there is no device cuda:{index}; there are {torch.cuda.device_count()}",
            hint="lower --nproc-per-node" if local_rank is not None else None,
        )
    return torch.device("cuda", index)


def synchronise(network: nn.Module, world: World) -> nn.Module:
    """The network, its gradients averaged and its batch norm's statistics taken over the batches of all processes."""
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
    """Batch norm over the batches of all processes, equally large, for any backend; torch's own is for GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:
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
    """The sum over all processes; its gradient is the sum of theirs."""

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
    total = cast(Tensor, _SumOverAll.apply(value))  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()
