"""Say whether foreign weights are of the network, the normalisation and the order of channels they are imported with.

A network with a ResNet's names and shapes need not be one: a blurring pool, another activation or another stride leave
no trace in a state dict. They do in the statistics of batch norm, see `norm_statistics`. This module holds what is
compared, the thresholds, and the words for what was found.
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
from resnet_infer.data.feed import open_feed
from resnet_infer.data.preprocess import Pixels
from resnet_infer.errors import DataError, ModelError
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.spec import ModelSpec
from resnet_infer.verification.tolerances import Verdict

PHOTOGRAPHS = Path(__file__).parents[2] / "data" / "photographs"
"""The package's own photographs, for when no others are given."""
MOST_PICTURES = 64
LEAST_PICTURES = 16

STEM_MISFIT = 0.15
"""Divergence of the first batch norm from which mean and std, or the statistics, are another's."""
WELL = 0.1
"""The first batch norm fits well: it diverges by no more."""
RISE = 0.035
"""Rise of the shift, from the median of some layers to that of as many behind them, that is warned of."""
WINDOW = 8
"""How many layers those are: one layer that fits badly, as trained networks have them, is no rise."""
MISFIT = 0.03
"""Mean shift over all layers that is warned of, however slowly it came."""
REFUSED = 0.1
"""The same, for weights that are refused; only where the first batch norm fits well."""
REFUSED_DIVERGENCE = 1.0
"""Mean divergence over all layers, in nats, with which `MISFIT` is enough for that: a blurring pool shows in the
variances more than in the means."""
FIRST = 2.0, 0.02
"""The first layer to part has a shift of more than so many times all before it, and of more than so much."""
FIRST_DIVERGENCE = 3.0, 0.2
"""Or its divergence has."""
APART = 0.002
"""Two variants of a network differ in a layer by more than so much shift."""
BETTER = 0.5, 0.03
"""Another padding fits clearly better: its shift, that of all layers, is at most this share of the other's, and less by
so much."""
BETTER_STEM = 0.5, 0.012
"""The same for another mean or order of channels, by the shift of the first layer alone: that of networks which are fed
rightly is below 0.008."""
TIED = 0.02, 0.05
"""Of two options neither fits better if their shifts and their divergences, of the first layer, are so close."""
BETTER_DIVERGENCE = 0.4, 0.1
"""The same for the divergence of the first layer, which another std makes."""

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
"""What batch norm statistics do not tell."""


@dataclass(frozen=True)
class Normalisation:
    """What a network is fed with: `mean` and `std` in units of the full range `scale`, in its own order of channels."""

    channels: Channels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: int = 1

    def apply(self, pictures: Pixels) -> NDArray[np.float32]:
        """float32 (N, H, W, 3) in the network's order, of RGB pictures."""
        pixels = pictures[..., ::-1] if self.channels == "bgr" else pictures
        mean, std = (np.float32(np.array(value) / self.scale) for value in (self.mean, self.std))
        normalised: NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return normalised

    def __str__(self) -> str:
        mean, std = (",".join(f"{x:g}" for x in value[: len(set(value))]) for value in (self.mean, self.std))
        scale = f" --scale {self.scale}" if self.scale != 1 else ""
        return f"--channels {self.channels} --mean {mean} --std {std}{scale}"


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
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
"""What people feed networks with: torchvision's, the same on OpenCV's BGR, CIFAR-10's, TensorFlow's, Caffe's."""


@dataclass(frozen=True)
class WeightsFit:
    """Hold how well weights fit the network they are imported as.

    `source` and `pictures` say what was looked at. `layers` are in order of execution. `first` is the batch norm where
    the network parts from its statistics, None where it does not. `compared` has the mean shift with other options (of
    all layers), and with other normalisations (of the first layer alone), by option.
    """

    source: str
    pictures: int
    layers: tuple[LayerFit, ...]
    first: str | None
    compared: Mapping[str, float]

    @property
    def shift(self) -> float:
        return mean_shift(self.layers)

    def summary(self) -> dict[str, Any]:
        """The result without the layers, for the provenance."""
        worst = max(self.layers, key=lambda layer: layer.shift)
        return {
            "pictures": f"{self.pictures} of {self.source}",
            "mean shift": round(self.shift, 4),
            "largest": f"{worst.shift:.4f} at {worst.name}",
            "unchecked": list(UNCHECKED),
        }


def open_pictures(source: Path | None, spec: ModelSpec) -> tuple[str, Pixels]:
    """What is looked at, and its name: uint8 (N, crop, crop, 3) of `source`, by default of the package's photographs.

    Raises `DataError` for fewer than `LEAST_PICTURES`.
    """
    feed = open_feed(source or PHOTOGRAPHS, spec, count=MOST_PICTURES)
    if len(feed) < LEAST_PICTURES:
        raise DataError(
            f"{source} has {len(feed)} pictures; weights are checked on {LEAST_PICTURES} or more",
            hint="leave --check-data out to use the photographs of the package",
        )
    return str(source or "the package's photographs"), np.concatenate(list(feed.batches()))


def mean_shift(layers: tuple[LayerFit, ...]) -> float:
    """The shift of all layers, at least 0."""
    return max(float(np.mean([layer.shift for layer in layers])), 0.0)


def mean_divergence(layers: tuple[LayerFit, ...]) -> float:
    """The divergence of all layers in nats."""
    return float(np.mean([layer.divergence for layer in layers]))


def clearly_better(one: tuple[LayerFit, ...], other: tuple[LayerFit, ...]) -> bool:
    """Whether the statistics tell that `one` is the network that was trained, rather than `other`."""
    return one[0].divergence <= STEM_MISFIT and _better(mean_shift(one), mean_shift(other), BETTER)


def _better(low: float, high: float, limits: tuple[float, float]) -> bool:
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
    """Return the verdict on `checkpoint`, whose fit is `fits[chosen]`; its failures are warnings for the user.

    `fits` has all the variants that were measured, by the options that make them (`--padding split`).
    `reversed_input`: the network took BGR before its first convolution was turned round.

    Raises `ModelError` for weights that are beyond doubt another network's: the first layer fits well, later ones are
    far from their statistics, and no other option explains it.
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
    """The options that fit best, with `or` between those that fit equally well, and their fit."""
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
    """The warning for weights that no other option explains. Raises `ModelError`, see `judge`."""
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
        )
    return f"{text}; {cause}. To be sure, export it with its own code, torch.onnx.export(...), and import the .onnx"


def _rise(layers: tuple[LayerFit, ...]) -> float:
    """The largest lasting rise of the shift between neighbouring layers, see `RISE`."""
    values = [layer.shift for layer in layers]
    window = min(WINDOW, len(values) // 2)
    return max(
        float(np.median(values[start : start + window]) - np.median(values[max(0, start - window) : start]))
        for start in range(1, len(values) - window + 1)
    )


def _first_jump(layers: tuple[LayerFit, ...]) -> str:
    """The first batch norm that fits much worse than all before it; the worst if there is no such one."""
    shift, divergence = layers[0].shift, layers[0].divergence
    for layer in layers[1:]:
        if _jump(shift, layer.shift, FIRST) or _jump(divergence, layer.divergence, FIRST_DIVERGENCE):
            return layer.name
        shift, divergence = max(shift, layer.shift), max(divergence, layer.divergence)
    return max(layers, key=lambda layer: layer.shift).name


def _jump(before: float, value: float, limits: tuple[float, float]) -> bool:
    times, least = limits
    return value > max(times * before, least)


def _first_apart(one: tuple[LayerFit, ...], other: tuple[LayerFit, ...]) -> str:
    """The first batch norm that two variants of a network feed differently."""
    pairs = zip(one, other, strict=True)
    return next((a.name for a, b in pairs if abs(a.shift - b.shift) > APART), one[0].name)


def _compare_inputs(checkpoint: Checkpoint, images: Pixels, reversed_input: bool) -> dict[str, LayerFit]:
    """The fit of the first batch norm with the usual normalisations, but for the one that is assumed."""
    spec = checkpoint.spec.input
    assumed = (images[:1].astype(np.float32) / np.float32(255) - spec.mean) / spec.std
    others: dict[str, NDArray[np.float32]] = {}
    for normalisation in NORMALISATIONS:
        pixels = normalisation.apply(images)
        # The checkpoint takes RGB, whatever its network took.
        pixels = pixels[..., ::-1] if reversed_input else pixels
        if not np.allclose(pixels[:1], assumed, rtol=1e-3, atol=1e-3):
            others[str(normalisation)] = pixels
    return measure_stem(checkpoint, others)
