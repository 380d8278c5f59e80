"""Turn stored levels into the network's input on the device: normalise, pad, crop, mirror and shift colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_infer.data.datasets import Sample
from resnet_infer.models.spec import InputSpec
from resnet_infer.training.input.augment import STATISTICS, Draws, colour_shifts, pad_and_crop, step_generator
from resnet_infer.training.input.pixel_statistics import LARGEST_SAMPLE, measure
from resnet_infer.training.input.views import views
from resnet_infer.training.recipes import Recipe


class Normalise:
    """Convert levels, NHWC of uint8 or float32 on any device, to normalised float32 NHWC on `device`."""

    def __init__(self, geometry: InputSpec, device: torch.device) -> None:
        self.device = device
        self.mean = torch.from_numpy(geometry.mean).to(device)
        self.std = torch.from_numpy(geometry.std).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise `images`: levels of 0 to 255."""
        return (images.to(self.device, non_blocking=True).float() / 255 - self.mean) / self.std


class BatchPreprocessor:
    """Prepare batches to train on, for one geometry.

    `input` has mean and deviation, as the spec of the model will state them.
    """

    def __init__(
        self,
        recipe: Recipe,
        geometry: InputSpec,
        samples: Sequence[Sample],
        model: InputSpec | None,
        device: torch.device,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """Take mean and colours from `samples`, or, if the recipe's mean is "model", the mean from `model`.

        `between` is called between batches of them, and what it raises is raised.
        """

        def levels() -> Iterator[NDArray[np.uint8]]:
            for images, _ in views(samples, geometry):
                between()
                yield images

        self.recipe, self.device = recipe, device
        own = model if recipe.mean == "model" else None
        statistics = None
        if own is None or recipe.colour:
            if len(samples) > LARGEST_SAMPLE:
                drawn = step_generator(recipe.seed, STATISTICS, 0).choice(len(samples), LARGEST_SAMPLE, replace=False)
                samples = [samples[index] for index in np.sort(drawn)]
            statistics = measure(levels())
        if own:
            mean, std = own.mean, own.std
        else:
            assert statistics
            mean, std = statistics.normalisation("channel" if recipe.mean == "model" else recipe.mean)
        self.input = InputSpec(geometry.resize, geometry.crop, mean, std, geometry.interpolation, geometry.exif)
        self.colours = statistics.colours() if statistics and recipe.colour else None
        self.normalise = Normalise(self.input, device)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Convert a batch to train on: NHWC levels to float32 NCHW in channels-last memory."""
        out = self.normalise(images)
        if self.recipe.augmentation in ("pad", "none"):
            pad = self.recipe.pad if self.recipe.augmentation == "pad" else 0
            out = pad_and_crop(out, pad, self.recipe.flip, draws)
        if self.colours is not None:
            shifts = colour_shifts(self.colours, self.recipe.colour, draws).astype(np.float32)
            out = out + (torch.from_numpy(shifts).to(self.device) / self.normalise.std)[:, None, None]
        return out.permute(0, 3, 1, 2)
