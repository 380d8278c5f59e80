"""Decide whether imported weights belong to the network, normalisation and channel order they are imported with.

A network with a ResNet's names and shapes need not be a ResNet: a blur pool, another activation or another stride
leaves no trace in a state dict. It does in the statistics of batch norm, which `norm_statistics` compares with those of
real images. This module holds the alternatives that are compared, the thresholds and the messages. The thresholds for
divergences and shifts are in nats; see `LayerFit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.converters.importers.input_options import Channels
from resnet_infer.converters.importers.norm_statistics import LayerFit, measure_stem
from resnet_infer.data.feed import PHOTOGRAPHS, open_feed
from resnet_infer.data.preprocess import Pixels
from resnet_infer.errors import DataError, ModelError
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.spec import ModelSpec
from resnet_infer.models.weights.package_files import present
from resnet_infer.verification.tolerances import Verdict

MOST_PICTURES = 64
"""Most images that a check uses, which bounds its time."""
LEAST_PICTURES = 16
"""Fewest images for a check: the means of fewer depend too much on chance."""

STEM_MISFIT = 0.15
"""Divergence of the first batch norm above which the normalisation is wrong, or the statistics are of other images."""
WELL = 0.1
"""Largest divergence of a first batch norm that fits well."""
RISE = 0.035
"""Rise of the median shift from one window of layers to the next above which a warning is given."""
WINDOW = 8
"""Number of layers in such a window: trained networks have single layers that fit badly, which are no rise."""
MISFIT = 0.03
"""Mean shift of all layers above which a warning is given, even if the shift rises slowly."""
REFUSED = 0.1
"""Mean shift of all layers above which weights are refused, if the first batch norm fits well."""
REFUSED_DIVERGENCE = 1.0
"""Mean divergence of all layers above which a mean shift above `MISFIT` suffices for refusal: a blur pool changes the
variances more than the means."""
FIRST = 2.0, 0.02
"""Multiple of the largest shift before it, and least shift, which the first layer that does not fit exceeds."""
FIRST_DIVERGENCE = 3.0, 0.2
"""Multiple and least value as in `FIRST`, for the divergence; a layer that exceeds either pair does not fit."""
APART = 0.002
"""Difference of a layer's shifts above which two variants of a network differ in this layer."""
BETTER = 0.5, 0.03
"""Largest ratio and least difference of the mean shifts with which one padding fits clearly better than the other."""
BETTER_STEM = 0.5, 0.012
"""Ratio and difference as in `BETTER`, for the first layer's shift and another mean or order of channels: with the
right input this shift is below 0.008."""
TIED = 0.02, 0.05
"""Largest differences of the first layer's shift and divergence with which two normalisations fit equally well."""
BETTER_DIVERGENCE = 0.4, 0.1
"""Ratio and difference as in `BETTER`, for the first layer's divergence, which also depends on the std."""

UNCHECKED = (
    "pooling at the end",
    "sigmoid or softmax",
    "leaky ReLU or ReLU6",
    "dilation instead of stride",
    "which convolution of a bottleneck strides",
    "ImageNet's or CIFAR-10's mean and std",
    "RGB or BGR where mean and std go with their colours",
    "resize and crop",
    "the order of the classes",
)
"""Properties that batch norm statistics do not show."""


@dataclass(frozen=True)
class Normalisation:
    """Describe a network's input: order of the channels, and mean and standard deviation in that order.

    `mean` and `std` are in units in which the largest pixel value is `scale` (1 or 255).
    """

    channels: Channels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: int = 1

    def apply(self, pictures: Pixels) -> NDArray[np.float32]:
        """Normalise uint8 images (N, H, W, 3) RGB: float32, same shape, channels in the network's order."""
        pixels = pictures[..., ::-1] if self.channels == "bgr" else pictures
        mean, std = (np.float32(np.array(value) / self.scale) for value in (self.mean, self.std))
        normalised: NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return normalised

    def __str__(self) -> str:
        mean, std = (",".join(f"{x:g}" for x in value[: len(set(value))]) for value in (self.mean, self.std))
        scale = f" --scale {self.scale}" if self.scale != 1 else ""
        return f"--channels {self.channels} --mean {mean} --std {std}{scale}"


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and std of torchvision's ImageNet weights in units of the full range."""
_CIFAR = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
"""Mean and std of CIFAR-10 in units of the full range."""
NORMALISATIONS = (
    Normalisation("rgb", *_IMAGENET),
    Normalisation("bgr", *_IMAGENET),
    Normalisation("bgr", _IMAGENET[0][::-1], _IMAGENET[1][::-1]),
    Normalisation("rgb", *_CIFAR),
    Normalisation("rgb", (0.5,) * 3, (0.5,) * 3),
    Normalisation("bgr", (0.5,) * 3, (0.5,) * 3),
    Normalisation("rgb", (0.0,) * 3, (1.0,) * 3),
    Normalisation("bgr", (0.0,) * 3, (1.0,) * 3),
    Normalisation("rgb", (0.0,) * 3, (1.0,) * 3, 255),
    Normalisation("bgr", (0.0,) * 3, (1.0,) * 3, 255),
    Normalisation("rgb", (123.68, 116.779, 103.939), (1.0,) * 3, 255),
    Normalisation("bgr", (103.939, 116.779, 123.68), (1.0,) * 3, 255),
)
"""Usual normalisations: torchvision's, the same on OpenCV's BGR, CIFAR-10's, TensorFlow's, plain pixels, Caffe's."""


@dataclass(frozen=True)
class WeightsFit:
    """Hold how well weights fit the network they are imported as.

    - `source`, `pictures`: name of the images, and their number.
    - `layers`: fit of each batch norm, in order of execution.
    - `first`: name of the first batch norm that does not fit, None if all do.
    - `compared`: shift by alternative: the mean over all layers for options of the network, and the first layer's for
      normalisations.
    """

    source: str
    pictures: int
    layers: tuple[LayerFit, ...]
    first: str | None
    compared: Mapping[str, float]

    @property
    def shift(self) -> float:
        """Return the mean shift of all layers in nats, at least 0."""
        return mean_shift(self.layers)

    def summary(self) -> dict[str, Any]:
        """Return the result without the single layers as JSON, for the spec's provenance."""
        worst = max(self.layers, key=lambda layer: layer.shift)
        return {
            "pictures": f"{self.pictures} of {self.source}",
            "mean shift": round(self.shift, 4),
            "largest": f"{worst.shift:.4f} at {worst.name}",
            "unchecked": list(UNCHECKED),
        }


def open_pictures(source: Path | None, spec: ModelSpec) -> tuple[str, Pixels]:
    """Return the name of the images to check on, and the images, uint8 (N, crop, crop, 3) RGB.

    At most `MOST_PICTURES` are taken from `source`, or from the package's photographs if it is None. Raises `DataError`
    if there are fewer than `LEAST_PICTURES`.
    """
    feed = open_feed(source or present(PHOTOGRAPHS), spec, count=MOST_PICTURES)
    if len(feed) < LEAST_PICTURES:
        raise DataError(
            f"{source} has {len(feed)} pictures; weights are checked on {LEAST_PICTURES} or more",
            hint="leave --check-data out to use the photographs of the package",
            source=source,
            reason="empty",
        )
    return str(source or "the package's photographs"), np.concatenate(list(feed.batches()))


def mean_shift(layers: tuple[LayerFit, ...]) -> float:
    """Return the mean shift of the layers in nats, at least 0."""
    return max(float(np.mean([layer.shift for layer in layers])), 0.0)


def mean_divergence(layers: tuple[LayerFit, ...]) -> float:
    """Return the mean divergence of the layers in nats."""
    return float(np.mean([layer.divergence for layer in layers]))


def clearly_better(one: tuple[LayerFit, ...], other: tuple[LayerFit, ...]) -> bool:
    """Tell whether the statistics show that variant `one` of a network was trained, rather than `other`."""
    return one[0].divergence <= STEM_MISFIT and _better(mean_shift(one), mean_shift(other), BETTER)


def _better(low: float, high: float, limits: tuple[float, float]) -> bool:
    """Tell whether `low` is clearly below `high`, by a largest ratio and a least difference. See `BETTER`."""
    share, margin = limits
    low, high = max(low, 0), max(high, 0)
    return low <= share * high and high - low >= margin


def judge(
    checkpoint: Checkpoint,
    pictures: tuple[str, Pixels],
    fits: Mapping[str, tuple[LayerFit, ...]],
    chosen: str,
    *,
    reversed_input: bool = False,
) -> Verdict[WeightsFit]:
    """Return the verdict on `checkpoint`, whose failures are warnings for the user.

    - `pictures`: name and pixels of the images, from `open_pictures`.
    - `fits`: fit of each measured variant of the network, by the option that selects it (`--padding split`).
    - `chosen`: the option of `checkpoint`.
    - `reversed_input`: the network took BGR before the import reversed its first convolution.

    Raises `ModelError` if the weights certainly belong to another network: the first layer fits well, later layers do
    not fit at all, and no other option fits better.
    """
    source, images = pictures
    layers = fits[chosen]
    stem = layers[0]
    inputs = _compare_inputs(checkpoint, images, reversed_input)
    warnings, first = [], None
    for option, fit in fits.items():
        if option != chosen and clearly_better(fit, layers):
            first = first or _first_apart(layers, fit)
            warnings.append(
                f"{option} fits the batch norm statistics clearly better: from {first} on the means are shifted by "
                f"{mean_shift(fit):.3f} on average instead of {mean_shift(layers):.3f}"
            )
    option, best = _best(inputs)
    if best.divergence <= WELL and (
        _better(best.divergence, stem.divergence, BETTER_DIVERGENCE) or _better(best.shift, stem.shift, BETTER_STEM)
    ):
        first = stem.name
        warnings.append(
            f"{option} fits the first batch norm clearly better: its statistics diverge by {best.divergence:.3f} nats "
            f"instead of {stem.divergence:.3f}"
        )
    if not warnings and (stem.divergence > STEM_MISFIT or _rise(layers) > RISE or mean_shift(layers) > MISFIT):
        first = stem.name if stem.divergence > STEM_MISFIT else _first_jump(layers)
        warnings.append(_misfit(checkpoint, layers, first))
    compared = {option: mean_shift(fit) for option, fit in fits.items() if option != chosen}
    compared |= {option: max(fit.shift, 0.0) for option, fit in inputs.items()}
    found = WeightsFit(source, len(images), layers, first, compared)
    line = (
        f"checked on {found.pictures} of {found.source}: the means in batch norm are shifted by {found.shift:.3f} on "
        "average"
    )
    values = {
        "source": found.source,
        "pictures": found.pictures,
        "shift": found.shift,
        "first_layer_that_parts": found.first,
        "compared": compared,
        "warnings": warnings,
        "unchecked": list(UNCHECKED),
        "layers": [asdict(layer) for layer in found.layers],
    }
    return Verdict(found, tuple(warnings), line, values)


def _best(inputs: Mapping[str, LayerFit]) -> tuple[str, LayerFit]:
    """Return the normalisation that fits best, as options, and its fit. `or` joins options that fit equally well."""
    shift, divergence = TIED
    ranked = sorted(inputs.items(), key=lambda item: item[1].divergence + item[1].shift)
    best = ranked[0][1]
    tied = [
        option
        for option, fit in ranked
        if fit.shift <= best.shift + shift and fit.divergence <= best.divergence + divergence
    ]
    return " or ".join(tied), best


def _misfit(checkpoint: Checkpoint, layers: tuple[LayerFit, ...], first: str) -> str:
    """Return the warning for weights that no other option fits better. Raises `ModelError` as `judge` does."""
    arch = checkpoint.spec.architecture
    assert arch is not None
    if layers[0].divergence > STEM_MISFIT:
        return (
            f"the batch norm statistics part from pictures at {first}, the first, by {layers[0].divergence:.2f} nats, "
            "whatever usual mean and std are taken: such statistics are no photograph's. The network is untrained, or "
            "made for other pictures (check it on yours: --check-data FOLDER)"
        )
    text = (
        f"the weights have the names and shapes of {arch.name}, but do not behave as it: "
        f"the batch norm statistics part from pictures at {first} (mean shift of all layers: {mean_shift(layers):.3f})"
    )
    cause = (
        "a network with another pooling, activation, stride or dilation does that, and one trained at another size or "
        "on other pictures (--crop, --check-data FOLDER)"
    )
    far = mean_shift(layers) > REFUSED or (mean_shift(layers) > MISFIT and mean_divergence(layers) > REFUSED_DIVERGENCE)
    if layers[0].divergence <= WELL and far:
        raise ModelError(
            text,
            hint=f"{cause}. Else export the network with its own code, torch.onnx.export(...), and import the .onnx",
            reason="mismatch",
        )
    return f"{text}; {cause}. To be sure, export it with its own code, torch.onnx.export(...), and import the .onnx"


def _rise(layers: tuple[LayerFit, ...]) -> float:
    """Return the largest rise of the median shift from one window of layers to the next. See `RISE`."""
    values = [layer.shift for layer in layers]
    window = min(WINDOW, len(values) // 2)
    return max(
        float(np.median(values[start : start + window]) - np.median(values[max(0, start - window) : start]))
        for start in range(1, len(values) - window + 1)
    )


def _first_jump(layers: tuple[LayerFit, ...]) -> str:
    """Return the first batch norm that fits much worse than all before it, else the one with the largest shift."""
    shift, divergence = layers[0].shift, layers[0].divergence
    for layer in layers[1:]:
        if _jump(shift, layer.shift, FIRST) or _jump(divergence, layer.divergence, FIRST_DIVERGENCE):
            return layer.name
        shift, divergence = max(shift, layer.shift), max(divergence, layer.divergence)
    return max(layers, key=lambda layer: layer.shift).name


def _jump(before: float, value: float, limits: tuple[float, float]) -> bool:
    """Tell whether `value` exceeds a multiple of `before`, and a least value. See `FIRST`."""
    times, least = limits
    return value > max(times * before, least)


def _first_apart(one: tuple[LayerFit, ...], other: tuple[LayerFit, ...]) -> str:
    """Return the first batch norm whose input differs between two variants of a network."""
    pairs = zip(one, other, strict=True)
    return next((a.name for a, b in pairs if abs(a.shift - b.shift) > APART), one[0].name)


def _compare_inputs(checkpoint: Checkpoint, images: Pixels, reversed_input: bool) -> dict[str, LayerFit]:
    """Measure the fit of the first batch norm with each of `NORMALISATIONS` that differs from the checkpoint's."""
    spec = checkpoint.spec.input
    assumed = (images[:1].astype(np.float32) / np.float32(255) - spec.mean) / spec.std
    others: dict[str, NDArray[np.float32]] = {}
    for normalisation in NORMALISATIONS:
        pixels = normalisation.apply(images)
        # The checkpoint takes RGB, even if the network took BGR before the import.
        pixels = pixels[..., ::-1] if reversed_input else pixels
        if not np.allclose(pixels[:1], assumed, rtol=1e-3, atol=1e-3):
            others[str(normalisation)] = pixels
    return measure_stem(checkpoint, others)
