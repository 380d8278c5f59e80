"""Take the steps of training: hold the network and its optimiser, and sum loss and errors over an epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from resnet_infer.errors import TrainingError
from resnet_infer.models.architectures import Architecture
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.network import ResNet
from resnet_infer.training import device as devices
from resnet_infer.training.distributed import World, synchronise
from resnet_infer.training.loop.start import frozen_modules, initial_network, optimiser
from resnet_infer.training.recipes import Recipe

DIVERGED = 1e4
"""Mean loss of an epoch above which no run recovers. Random answers have a loss of the logarithm of the classes."""


class DivergedError(TrainingError):
    """Report what shows that training has diverged. `Trainer` adds where it happened, and what to do."""

    default_reason = "diverged"


class Learner:
    """Hold the network in training with its optimiser and loss scaler, and take one step at a time.

    `network` has the weights; `model` is the same network as it is called, synchronised and compiled. `precision` is
    the one that was chosen: fp32, bf16 or fp16. `totals` (2,) float64 holds the loss, summed over pictures, and the
    wrong answers of this process in the current epoch.
    """

    def __init__(
        self,
        arch: Architecture,
        recipe: Recipe,
        start: Checkpoint | None,
        classes: tuple[str, ...],
        world: World,
        *,
        precision: str = "auto",
        compile: bool | None = None,
    ) -> None:
        """Create the network on the device of `world`; see `Options` for `precision` and `compile`.

        Raises `UsageError` for an unknown precision, for `compile` in several processes, and for more stages to freeze
        than the network has.
        """
        self.recipe, self.world, self.device = recipe, world, world.device
        self.precision = devices.choose_precision(precision, self.device)
        network = initial_network(arch, recipe, start, classes)
        self.network: ResNet = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optimiser(self.network, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.model = devices.compiled(synchronise(self.network, world), self.device, compile, world.size)
        self.start_epoch()

    def start_epoch(self, loss: float = 0.0, wrong: float = 0.0) -> None:
        """Set the sums of this process: to zero, or to what a checkpoint had of an unfinished epoch."""
        self.totals = torch.tensor([loss, wrong], dtype=torch.float64, device=self.device)

    def train(self) -> None:
        """Put the network into training mode, except for frozen modules, whose batch norm keeps its statistics."""
        self.model.train()
        for module in frozen_modules(self.network, self.recipe.freeze):
            module.eval()

    def step(self, inputs: Tensor, labels: Tensor, rate: float) -> None:
        """Take one step of SGD on a batch: `inputs` float32 NCHW, `labels` int64 (N,), `rate` the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with devices.autocast(self.device, self.precision):
            logits = self.model(inputs).float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.totals += torch.stack([loss.double() * len(labels), (logits.argmax(1) != labels).sum().double()])

    def sums(self, seen: int) -> tuple[float, float]:
        """Return the summed loss and the wrong answers in all processes to the `seen` pictures of the epoch.

        Waits for the device. Raises `DivergedError` if the loss is not finite, or larger than one that comes back.
        """
        loss, wrong = self.world.sum(self.totals).tolist()
        if not loss <= DIVERGED * max(1, seen):  # also true for NaN
            mean = loss / max(1, seen)
            raise DivergedError(f"the loss is {mean:.3g}" if math.isfinite(loss) else "the loss is not finite")
        return loss, wrong

    def require_finite_weights(self) -> None:
        """Raise `DivergedError` if a weight or a statistic of batch norm is not finite.

        The last step may have made one so, which no loss shows yet.
        """
        if not all(bool(value.isfinite().all()) for value in self.network.state_dict().values()):
            raise DivergedError("the weights are not finite")


def remedy(recipe: Recipe, rate: float, precision: str) -> str:
    """Return what to try after a run of that `precision` has diverged at a peak learning rate of `rate`."""
    option = "the rates of --stages" if recipe.stages else "--peak-rate"
    fp32 = ", or take --precision fp32" if precision == "fp16" else ""
    return f"lower {option} (now {rate:g}){fp32} and choose another folder with -o"
