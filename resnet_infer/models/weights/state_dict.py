"""Translate the names that other programs give to a ResNet's weights to ours, which are torchvision's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ModelError
from resnet_infer.models.architectures import (
    NORM_STATISTICS,
    Architecture,
    ShortcutOption,
    architecture,
)
from resnet_infer.models.families import published_families

_RENAMES = (
    (re.compile(r"^(?:(?:module|model|_orig_mod|backbone)\.)+"), ""),
    (re.compile(r"^(?:linear|last_linear|classifier|head\.fc)\.(?=weight$|bias$)"), "fc."),
    (re.compile(r"^(layer\d+\.\d+)\.shortcut\."), r"\1.downsample."),
)
"""Patterns of names and their replacements.

They remove the prefixes of wrappers (DataParallel, Lightning, torch.compile, MMPretrain), and translate other names of
classifiers and shortcuts.
"""

_COUNTERS = ("num_batches_tracked", "n_averaged")
"""Counters of batch norm and of torch's AveragedModel. Nothing is computed from them."""

_CONV = re.compile(r"^(.*\b)(?:conv(\d)|downsample\.0)\.weight$")
"""Pattern of a convolution's weight that has a batch norm behind it."""
_BODY = re.compile(r"^(?:conv|bn|layer)\d")
"""Pattern of the tensors outside the classifier."""


@dataclass(frozen=True)
class _Entry:
    """Hold a tensor and the name it had in its file."""

    original: str
    value: NDArray[Any]


def match_state_dict(
    state: Mapping[str, NDArray[Any]], arch: Architecture, source: str
) -> dict[str, NDArray[np.float32]]:
    """Extract the weights of `arch` from a foreign state dict: float32 copies, named and shaped as in `Plan.shapes()`.

    The names of torchvision, timm and common CIFAR repositories are known, and the prefixes of wrappers. The counters
    `num_batches_tracked` and `n_averaged` are dropped. A classifier in the form of a 1x1 convolution is accepted. The
    bias of a convolution moves into the running mean of the batch norm behind it, which gives the same answers.

    Raises `ModelError`, which begins with `source`, if the tensors do not fit. It names missing, left-over, misshapen
    and non-finite tensors, and negative variances. The hint names the network that the shapes belong to, if it is
    known.
    """
    entries = _canonical(state, source)
    shapes = arch.plan().shapes()
    weights = {name: _float32(entries[name].value) for name in shapes if name in entries}
    misshapen = [
        f"{entries[name].original} {value.shape} instead of {shapes[name]}"
        for name, value in weights.items()
        if value.shape != shapes[name]
    ]
    problems = {
        "missing": [name for name in shapes if name not in entries],
        "left over": [entry.original for name, entry in entries.items() if name not in shapes],
        "of another shape": misshapen,
        "not finite": [entries[name].original for name, value in weights.items() if not np.isfinite(value).all()],
        "a negative variance": [
            entries[name].original
            for name, value in weights.items()
            if name.endswith(NORM_STATISTICS[1]) and (value < 0).any()
        ],
    }
    if any(problems.values()):
        said = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise ModelError(
            f"{source}: the weights do not fit {arch.name}: {said}",
            hint=_hint(entries, arch),
            source=source,
            reason="mismatch",
        )
    return weights


def guess_architecture(state: Mapping[str, NDArray[Any]]) -> Architecture | None:
    """Return the published network that fits the names and shapes in a foreign state dict, or None.

    Shapes tell depth, shortcut option and number of classes. They do not tell `padding` and `stride_in`, which stay at
    their defaults, nor a plain net from one with option A, which is taken to be residual.
    """
    try:
        return _guess(_canonical(state, "weights"))
    except ModelError:
        return None


def count_classes(state: Mapping[str, NDArray[Any]], source: str) -> int | None:
    """Return the number of outputs of the classifier in a foreign state dict, or None if it has no classifier."""
    head = _canonical(state, source).get("fc.weight")
    return head.value.shape[0] if head and head.value.ndim else None


def _canonical(state: Mapping[str, NDArray[Any]], source: str) -> dict[str, _Entry]:
    """Return the entries under our names, without those that can be dropped.

    Raises `ModelError` for two of one name.
    """
    entries: dict[str, _Entry] = {}
    for original, value in state.items():
        name = original
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        if name.rpartition(".")[2] in _COUNTERS:
            continue
        if name == "fc.weight" and value.ndim == 4 and value.shape[2:] == (1, 1):
            value = value[:, :, 0, 0]
        if name in entries:
            raise ModelError(
                f"{source}: {entries[name].original} and {original} both seem to be {name}",
                source=source,
                reason="ambiguous",
            )
        entries[name] = _Entry(original, value)
    _fold_biases(entries)
    return entries


def _fold_biases(entries: dict[str, _Entry]) -> None:
    """Fold the biases of convolutions, as Caffe has them, into the means: (x + b) - mean = x - (mean - b)."""
    for name in list(entries):
        match = _CONV.match(name)
        if not match:
            continue
        bias_name = name.removesuffix("weight") + "bias"
        mean_name = match[1] + (f"bn{match[2]}" if match[2] else "downsample.1") + ".running_mean"
        bias, mean = entries.get(bias_name), entries.get(mean_name)
        if bias and mean and bias.value.shape == mean.value.shape:
            del entries[bias_name]
            folded = mean.value.astype(np.float64) - bias.value.astype(np.float64)
            entries[mean_name] = _Entry(mean.original, folded)


def _guess(entries: Mapping[str, _Entry], *, plain: bool = False) -> Architecture | None:
    """Guess the network; see `guess_architecture`.

    If a plain and a residual net have the same shapes, `plain` decides.
    """
    shapes = {name: entry.value.shape for name, entry in entries.items()}
    head = shapes.get("fc.weight", ())
    if len(head) != 2 or head[0] < 1:
        return None
    body = {name for name in shapes if _BODY.match(name)}
    for family in sorted(published_families(), key=lambda family: family.plain != plain):
        # Some networks have the same shapes with two options. The row's own is the likely one.
        options = sorted(get_args(ShortcutOption), key=lambda option: option != family.shortcut)
        for option in (None,) if family.plain else options:
            candidate = architecture(family.name, head[0], shortcut=option)
            wanted = candidate.plan().shapes()
            if body <= wanted.keys() and all(shapes.get(key) == shape for key, shape in wanted.items()):
                return candidate
    return None


def _hint(entries: Mapping[str, _Entry], arch: Architecture) -> str | None:
    """Return a hint that names the network of the weights, if that is another one."""
    guess = _guess(entries, plain=arch.plain)
    if guess is None:
        return None
    details = []
    expected = arch if guess.name == arch.name else architecture(guess.name)
    if guess.shortcut != expected.shortcut:
        details.append(f"shortcut option {guess.shortcut}")
    if guess.num_classes != expected.num_classes:
        details.append(f"{guess.num_classes} classes")
    if guess.name == arch.name and not details:
        return None
    return f"these weights look like {guess.name}" + (f" with {' and '.join(details)}" if details else "")


def _float32(value: NDArray[Any]) -> NDArray[np.float32]:
    """Copy an array as float32."""
    with np.errstate(over="ignore"):
        return np.array(value, np.float32, order="C")


def _listed(names: list[str]) -> str:
    """Join some names for a message."""
    shown = 5
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
