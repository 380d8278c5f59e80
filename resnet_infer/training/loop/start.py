"""Prepare what a run starts from: a recipe that fits the data, the network, and its optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from resnet_infer.data.datasets import Dataset
from resnet_infer.errors import DataError, UsageError
from resnet_infer.models.architectures import Architecture, architecture
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.network import ResidualBlock, ResNet
from resnet_infer.models.spec import InputSpec
from resnet_infer.training.distributed import World
from resnet_infer.training.input.sources import WHOLE
from resnet_infer.training.recipes import Recipe
from resnet_infer.training.schedule import Phase


def initial_network(arch: Architecture, recipe: Recipe, start: Checkpoint | None, classes: tuple[str, ...]) -> ResNet:
    """Create the network, with He's random weights by the recipe's seed or with those of `start`.

    The head of `start` is kept only if it has the same `classes`; otherwise the head is random. The stages that the
    recipe freezes have no gradients. Raises `UsageError` if there are not so many stages.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(recipe.seed)
        network = ResNet(arch)
    if recipe.zero_init:
        for module in network.modules():
            if isinstance(module, ResidualBlock) and not module.plain:  # without a shortcut the output would be zero
                nn.init.zeros_(getattr(module, f"bn{module.count}").weight)
    if start:
        head = start.spec.classes == classes
        weights = {n: torch.from_numpy(v) for n, v in start.weights.items() if head or not n.startswith("fc.")}
        network.load_state_dict(weights, strict=False)
    for module in frozen_modules(network, recipe.freeze):
        module.requires_grad_(False)
    return network


def frozen_modules(network: ResNet, count: int) -> list[nn.Module]:
    """Return the stem and the first `count` stages; nothing for 0. Their batch norm must stay in evaluation mode.

    Raises `UsageError` if there are not so many stages.
    """
    if not 0 <= count <= len(network.stage_names):
        raise UsageError(f"{network.arch.name} has {len(network.stage_names)} stages to freeze, not {count}")
    if not count:
        return []
    return [network.conv1, network.bn1, *(network.get_submodule(name) for name in network.stage_names[:count])]


def optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Create SGD for the parameters that are not frozen.

    Weight decay acts on all of them, or only on the weights of convolutions and head, as the recipe says.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if recipe.decay_all or parameter.ndim > 1]
    others = [parameter for parameter in parameters if not (recipe.decay_all or parameter.ndim > 1)]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.peak_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=True,
    )


def fit_recipe(recipe: Recipe, arch: Architecture, train: Dataset, world: World, log: Callable[[str], None]) -> Recipe:
    """Return the recipe; its batch is all of `train` if that has fewer pictures than a batch, and `log` is told so.

    Raises `DataError` if network and data have different numbers of classes, and `UsageError` if the processes of
    `world` cannot share a batch equally.
    """
    if arch.num_classes != len(train.classes):
        raise DataError(
            f"{train.name} has {len(train.classes)} classes, {arch.name} {arch.num_classes}",
            source=train.name,
            reason="mismatch",
        )
    count = len(train.samples)
    if count < recipe.batch_size:
        log(f"{train.name} has {count} pictures to train on: they are one batch")
        recipe = replace(recipe, batch_size=max(1, count // world.size * world.size))
    if recipe.batch_size % world.size or count < recipe.batch_size:
        raise UsageError(f"a batch of {recipe.batch_size} is not shared equally by {world.size} processes")
    return recipe


def require_fitting_sizes(recipe: Recipe, arch: Architecture, phases: Sequence[Phase], model: InputSpec | None) -> None:
    """Raise `UsageError` if the phases' sizes contradict the augmentation, the network or the starting `model`."""
    crops = {phase.crop for phase in phases}
    if len({(phase.resize, phase.crop) for phase in phases}) > 1 and recipe.augmentation not in WHOLE:
        raise UsageError("stages of different sizes need the augmentation scale or area")
    if recipe.augmentation == "scale" and max(crops) > recipe.scales[0]:
        raise UsageError(f"scales are not below the crop, which is {max(crops)} pixels")
    require_values_to_normalise(arch, min(crops), recipe.batch_size)
    if model and model.per_pixel and recipe.mean == "model" and crops != {model.crop}:
        raise UsageError(f"the mean of the starting model is a picture of {model.crop} pixels: keep that crop")


def require_values_to_normalise(arch: Architecture, crop: int, batch_size: int) -> None:
    """Raise `UsageError` if batch norm would have a single value of each channel, which it cannot normalise.

    That is a batch of one picture (over all processes) whose last feature maps are one cell.
    """
    plan = arch.plan()
    strides = [plan.stem.stride, 2 if plan.max_pool else 1]
    strides += [conv.stride for block in plan.blocks for conv in block.convs]
    if batch_size == 1 and crop <= math.prod(strides):
        raise UsageError(
            f"a batch of one picture of {crop} pixels leaves {arch.name} one value of each channel, which batch norm "
            "cannot normalise",
            hint="train with --batch-size 2 or more, or with a larger --crop",
        )


def choose_architecture(recipe: Recipe, start: Checkpoint | None, classes: int) -> Architecture:
    """Return the network of the recipe, or that of `start`, with so many classes.

    Raises `UsageError` if they contradict each other, or if there is neither.
    """
    own = start.spec.architecture if start else None
    if own is None:
        if recipe.arch is None or recipe.mean == "model":
            raise UsageError(f"{recipe.name} starts from a model", hint="name it with --from, e.g. --from resnet50")
        return architecture(recipe.arch, classes)
    if recipe.arch is not None and architecture(recipe.arch).name != own.name:
        raise UsageError(f"the starting model is a {own.name}, not a {recipe.arch}", hint="leave --arch away")
    return replace(own, num_classes=classes)
