"""Build the torch module of an architecture, for training, for the torch runtime and as the reference for parity."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from resnet_infer.errors import UsageError
from resnet_infer.models.architectures import NORM_EPSILON, Architecture, Block, Conv, ZeroPadShortcut
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.spec import ModelSpec


class ZeroPad(nn.Module):
    """Apply shortcut option A: every `stride`-th pixel, and new channels of zeros (paper, section 3.3)."""

    def __init__(self, shortcut: ZeroPadShortcut) -> None:
        super().__init__()
        self.stride = shortcut.stride
        self.channels = (shortcut.before, shortcut.after)

    def forward(self, x: Tensor) -> Tensor:
        """Return the subsampled and padded feature maps, float32 NCHW."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.channels))


class ResidualBlock(nn.Module):
    """Build a block of the plan: basic or bottleneck, residual or plain.

    Its names are those of torchvision's state dicts.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.count = len(block.convs)
        for index, conv in enumerate(block.convs, start=1):
            self.add_module(f"conv{index}", _conv(conv))
            self.add_module(f"bn{index}", _norm(conv))
        self.plain = block.shortcut is None
        if isinstance(block.shortcut, Conv):
            self.downsample: nn.Module | None = nn.Sequential(_conv(block.shortcut), _norm(block.shortcut))
        elif isinstance(block.shortcut, ZeroPadShortcut):
            self.downsample = ZeroPad(block.shortcut)
        else:
            self.downsample = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, float32 NCHW."""
        out = x
        for index in range(1, self.count + 1):
            out = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(out))
            if index < self.count:
                out = functional.relu(out)
        if not self.plain:
            out = out + (x if self.downsample is None else self.downsample(x))
        return functional.relu(out)


class ResNet(nn.Module):
    """Build a network from normalised images, float32 (N, 3, H, W), to logits, float32 (N, classes).

    >>> network = ResNet(architecture("resnet18"))
    >>> network(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 1000])
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        plan = arch.plan()
        self.arch = arch
        self.conv1 = _conv(plan.stem)
        self.bn1 = _norm(plan.stem)
        self.max_pool = plan.max_pool
        stages: dict[str, list[nn.Module]] = {}
        for block in plan.blocks:
            stages.setdefault(block.name.partition(".")[0], []).append(ResidualBlock(block))
        self.stage_names = tuple(stages)
        for name, blocks in stages.items():
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(plan.features, plan.num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """Initialise the weights as He et al. do (paper, section 3.4; its reference 13, equation 10).

        Batch norm starts as the identity. The variance follows the number of inputs. With the number of outputs the
        first convolution of a CIFAR net would get weights less than half as large. Batch norm makes small weights learn
        fast, which would destabilise a deep net at first.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def features(self, x: Tensor) -> Tensor:
        """Return the feature maps before the global pooling, float32 NCHW."""
        x = functional.relu(self.bn1(self.conv1(x)))
        if self.max_pool:
            x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for name in self.stage_names:
            x = getattr(self, name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, float32 (N, classes)."""
        pooled = self.features(x).mean(dim=(2, 3))
        return cast(Tensor, self.fc(pooled))


def _conv(conv: Conv) -> nn.Conv2d:
    """Build the convolution."""
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel,
        stride=conv.stride,
        padding=conv.padding,
        groups=conv.groups,
        bias=False,
    )


def _norm(conv: Conv) -> nn.BatchNorm2d:
    """Build the batch norm behind a convolution."""
    return nn.BatchNorm2d(conv.out_channels, eps=NORM_EPSILON)


@torch.no_grad()
def set_norm_statistics(network: ResNet, batches: Iterable[Tensor]) -> None:
    """Set every running mean and variance to the average over `batches` (normalised, float32 NCHW).

    With these statistics even a network with random weights keeps its activations in range and distinguishes images.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    training = network.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for batch in batches:
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(training)


@contextlib.contextmanager
def torch_defaults() -> Iterator[None]:
    """Restore torch's defaults in a `with` block or a decorated function: gradients, dtype, device and autocast.

    A program may have changed them; its settings return at the end. The default dtype is shared by all threads.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":  # entering a device adds a cost to every call
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield


def weights_of(network: ResNet) -> dict[str, NDArray[np.float32]]:
    """Return the network's weights and statistics as a checkpoint holds them: float32, by name."""
    state = network.state_dict()
    return {name: state[name].detach().float().cpu().contiguous().numpy() for name in network.arch.plan().shapes()}


@torch_defaults()
def untrained_checkpoint(spec: ModelSpec, images: NDArray[np.uint8], seed: int = 0) -> Checkpoint:
    """Create random weights that distinguish `images`, uint8 NHWC, for benchmarks and tests of speed and parity.

    Each convolution is the identity and a tenth of He's random weights. Batch norm shifts by 1 and takes its statistics
    from `images`. The mean logit of each class is 0. A deep net of purely random weights is chaotic: it multiplies
    every rounding error from layer to layer until no two implementations agree. Trained weights do not.

    Raises `UsageError` if the spec has no architecture.
    """
    if spec.architecture is None:
        raise UsageError(f"{spec.name} has no architecture to initialise")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = ResNet(spec.architecture)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module is not network.conv1:
                module.weight.mul_(0.1).add_(nn.init.dirac_(torch.empty_like(module.weight), module.groups))
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.bias)
        pixels = (images.astype(np.float32) / 255 - spec.input.mean) / spec.input.std
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        set_norm_statistics(network, [batch])
        network.fc.bias.sub_(network.eval()(batch).mean(0))
    return Checkpoint(spec, weights_of(network))
