"""Augment a whole batch at once.

Random numbers belong to the step and not to the process, so that a resumed run draws the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from resnet_infer.models.spec import Interpolation
from resnet_infer.training.recipes import Recipe

PERMUTATION, AUGMENT, STATISTICS = 0, 1, 2
"""Streams of random numbers."""
ASPECT = (3 / 4, 4 / 3)
"""Range of the aspect ratio (width over height) of crops of the augmentation area."""
SIZE, SHAPE, ACROSS, DOWN, MIRROR = range(5)
"""Columns of `Draws.uniform`."""
FLOATS_AT_ONCE = 1 << 25
"""Most float32 values that are resized at once; it bounds the memory of `crop_boxes`."""


class Draws(NamedTuple):
    """Hold the random numbers of a batch, float64: `uniform` (N, 5) in [0, 1), `normal` (N, 3)."""

    uniform: NDArray[np.float64]
    normal: NDArray[np.float64]


class SampledBatch(NamedTuple):
    """Hold a step's pictures, (N,) indices into the training set, and their random numbers."""

    indices: NDArray[np.int64]
    draws: Draws


def step_generator(seed: int, stream: int, step: int) -> np.random.Generator:
    """Return a generator that depends on nothing but its arguments.

    A resumed run therefore draws what an uninterrupted one draws.
    """
    return np.random.Generator(np.random.PCG64([seed, stream, step]))


class BatchSampler:
    """Sample the pictures and random numbers of every step, for one of several processes.

    Every epoch is a new permutation of `count` pictures in whole batches; those left over wait for the next one. The
    batch of a step is the same however many processes share it; each takes an equal, contiguous part.

    Example::

        sampler = BatchSampler(count=50_000, batch_size=128, seed=0)
        indices, draws = sampler.sample(step=0)
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.steps_per_epoch = count // batch_size
        self._part = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
        self.own_batch = self._part.stop - self._part.start
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def sample(self, step: int) -> SampledBatch:
        """Return this process's part of the batch of `step`, counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = step_generator(self.seed, PERMUTATION, epoch).permutation(self.count)
        generator = step_generator(self.seed, AUGMENT, step)
        draws = Draws(generator.random((self.batch_size, 5)), generator.standard_normal((self.batch_size, 3)))
        indices = self._permutation[index * self.batch_size :][: self.batch_size]
        return SampledBatch(indices[self._part], Draws(*(part[self._part] for part in draws)))


def pad_and_crop(images: Tensor, pad: int, flip: bool, draws: Draws) -> Tensor:
    """Pad NHWC `images` with zeros, cut a random window of the old size out of each, mirror half of them if `flip`.

    Normalise pictures before, so that the border has the value of the mean (paper, section 4.2). Returns the same shape
    and dtype.
    """
    count, height, width, _ = images.shape
    device = images.device
    offsets = torch.from_numpy((draws.uniform[:, [DOWN, ACROSS]] * (2 * pad + 1)).astype(np.int64)).to(device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        columns = torch.where(mirrored(draws, device)[:, None], width - 1 - columns, columns)
    rows = torch.arange(height, device=device) + offsets[:, :1]
    columns = columns + offsets[:, 1:]
    padded = functional.pad(images, (0, 0, pad, pad, pad, pad))
    return padded[torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def boxes(recipe: Recipe, crop: int, sizes: NDArray[np.int64], draws: Draws) -> NDArray[np.float64]:
    """Draw the window of each picture that becomes its crop: left, top, width, height, (N, 4) in pixels.

    `sizes` (N, 2) has width and height. The augmentation "scale" takes a crop of `crop` pixels out of the picture
    resized to a random shorter side; the corner lies on a whole pixel of the resized picture. "area" draws an area and
    an aspect ratio, the latter uniform in its logarithm; the window lies on whole pixels of the picture, and a side
    longer than the picture's is cut to it. A window between pixels would make a crop that is not reduced softer than
    the served view.
    """
    whole = sizes.astype(np.float64)
    if recipe.augmentation == "scale":
        low, high = recipe.scales
        shorter = low + np.floor(draws.uniform[:, SIZE] * (high - low + 1))
        pixel = (whole.min(axis=1) / shorter)[:, None]
        places = np.floor(whole / pixel + 1e-6) - crop + 1
        corner = np.floor(draws.uniform[:, [ACROSS, DOWN]] * places) * pixel
        window = np.repeat(crop * pixel, 2, axis=1)
    else:
        low_share, high_share = recipe.area
        area = whole.prod(axis=1) * (low_share + draws.uniform[:, SIZE] * (high_share - low_share))
        first, last = np.log(ASPECT)
        aspect = np.exp(first + draws.uniform[:, SHAPE] * (last - first))
        sides = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1)
        window = np.clip(np.rint(sides), 1, whole)
        corner = np.floor(draws.uniform[:, [ACROSS, DOWN]] * (whole - window + 1))
    return np.concatenate([corner, window], axis=1)


def crop_boxes(
    images: Tensor, windows: NDArray[np.float64], size: int, interpolation: Interpolation, mirror: Tensor | None
) -> Tensor:
    """Cut `windows` out of uint8 NHWC `images` and resize them to `size` pixels; those in `mirror` (N,) are mirrored.

    Returns float32 NHWC in levels of 0 to 255. The filter is PIL's, which antialiases. A crop made here and one made by
    PIL differ by rounding. With bicubic and lanczos, which overshoot, they differ a little more, because PIL clips
    after each of its two passes.
    """
    height, width, channels = images.shape[1:]
    corners = torch.from_numpy(windows.astype(np.float32)).to(images.device)
    across = _filter_weights(corners[:, 0], corners[:, 2], width, size, interpolation)
    down = _filter_weights(corners[:, 1], corners[:, 3], height, size, interpolation)
    if mirror is not None:
        across = torch.where(mirror[:, None, None], across.flip(1), across)
    part = max(1, FLOATS_AT_ONCE // (height * width * channels))
    out = torch.empty(len(images), size, size, channels, device=images.device)
    for start in range(0, len(images), part):
        rows = slice(start, start + part)
        lines = down[rows] @ images[rows].float().flatten(2)
        turned = lines.view(-1, size, width, channels).transpose(1, 2).flatten(2)
        out[rows] = (across[rows] @ turned).view(-1, size, size, channels).transpose(1, 2)
    return out.round_().clamp_(0, 255)


def _filter_weights(start: Tensor, length: Tensor, inputs: int, outputs: int, interpolation: Interpolation) -> Tensor:
    """Return the weight of each of `inputs` pixels of a line in each of `outputs` pixels, (N, outputs, inputs).

    The part of `length` pixels from `start` on, (N,) each, is resized as PIL does it: the filter is as wide as an
    output pixel and at least as wide as an input pixel, and also reads pixels beyond the part, up to the edge of the
    picture.
    """
    scale = (length / outputs)[:, None]
    centres = start[:, None] + (torch.arange(outputs, device=start.device) + 0.5) * scale
    if interpolation == "nearest":
        nearest = centres.floor().long().clamp(0, inputs - 1)
        return functional.one_hot(nearest, inputs).float()
    pixels = torch.arange(inputs, device=start.device) + 0.5
    weights = FILTERS[interpolation]((pixels - centres[:, :, None]) / scale.clamp(min=1)[:, :, None])
    return weights / weights.sum(2, keepdim=True)


def _bicubic(x: Tensor) -> Tensor:
    """Return Keys's cubic filter with a = -0.5, as PIL has it, at the distance `x` in pixels."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


FILTERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "bilinear": lambda x: (1 - x.abs()).clamp(min=0),
    "bicubic": _bicubic,
    "lanczos": lambda x: torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0),
    "box": lambda x: ((x > -0.5) & (x <= 0.5)).float(),
    "hamming": lambda x: torch.where(x.abs() < 1, torch.sinc(x) * (0.54 + 0.46 * torch.cos(math.pi * x)), 0.0),
}
"""PIL's filters as functions of the distance in pixels."""


def mirrored(draws: Draws, device: torch.device | str = "cpu") -> Tensor:
    """Return which pictures are mirrored, (N,) bool."""
    return torch.from_numpy(draws.uniform[:, MIRROR] < 0.5).to(device)


def colour_shifts(components: NDArray[np.float64], deviation: float, draws: Draws) -> NDArray[np.float64]:
    """Return AlexNet's shift of each picture's colours, (N, 3), in units of the full range.

    It is the sum of the principal components of the colours, each times its eigenvalue times a normal number of that
    `deviation` (Krizhevsky et al. 2012, section 4.1). `components` (3, 3) has them in columns, times their eigenvalues.
    """
    shifts: NDArray[np.float64] = (draws.normal * deviation) @ components.T
    return shifts
