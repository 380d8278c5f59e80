"""Generate synthetic images, for use where no photographs are at hand."""

from __future__ import annotations

import numpy as np

from resnet_infer.data.preprocess import Pixels


def natural_noise(count: int, height: int, width: int, seed: int = 0) -> Pixels:
    """Generate random images with the 1/f amplitude spectrum of photographs: uint8, (count, height, width, 3), RGB.

    They differ enough in colour, contrast and structure for a network to tell them apart, which white noise does not.
    The same `seed` gives the same images.

    >>> natural_noise(2, 224, 224).shape
    (2, 224, 224, 3)
    """
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / max(height, width))
    pictures = np.empty((count, height, width, 3), np.uint8)
    for picture in pictures:
        spectrum = generator.normal(size=(3, *frequency.shape)) + 1j * generator.normal(size=(3, *frequency.shape))
        shared = spectrum[:1]  # photographs vary mostly in brightness, less in colour
        field = np.fft.irfft2((shared + 0.5 * spectrum) * amplitude, s=(height, width))
        field /= field.std()
        contrast, brightness = generator.uniform(30, 75), generator.uniform(70, 185, size=(3, 1, 1))
        picture[:] = np.clip(field * contrast + brightness, 0, 255).round().transpose(1, 2, 0)
    return pictures
