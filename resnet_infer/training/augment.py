"""Augmentation of a whole batch at once, from random numbers that belong to the step and not to the process."""

from __future__ import annotations

import torch
from torch import Tensor


def step_generator(seed: int, stream: int, step: int) -> torch.Generator:
    """A generator that depends on nothing but its arguments, so a resumed run draws what the whole run would have."""
    return torch.Generator().manual_seed((seed * 1_000_003 + stream) * 1_000_000_007 + step)


def crop_and_flip(images: Tensor, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Pad NHWC `images` with zeros, cut a random window of the old size out of each, mirror half of them.

    Pictures are to be normalised before, so that the border is the mean (paper, section 4.2). Same shape and dtype out.
    """
    count, height, width, _ = images.shape
    top = torch.randint(0, 2 * pad + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * pad + 1, (count, 1), generator=generator)
    columns = torch.arange(width).expand(count, width)
    if flip:
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows = torch.arange(height) + top
    columns = columns + left
    padded = torch.nn.functional.pad(images, (0, 0, pad, pad, pad, pad))
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
