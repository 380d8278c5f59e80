"""Import weights of other programs, such as torchvision and timm, as a checkpoint with a model spec.

What the tensors show is read from them: the number of classes and the shortcut option. What they do not show comes from
the options, or is assumed and recorded in the spec's provenance. `weights_check` checks the result on real images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from resnet_infer.converters.importers.input_options import InputOptions, describe
from resnet_infer.converters.importers.labels import Labels, require_classes
from resnet_infer.errors import MissingExtraError, ModelError, UsageError
from resnet_infer.models.architectures import (
    Architecture,
    BottleneckStride,
    ShortcutOption,
    ShortcutPadding,
    architecture,
)
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.spec import METADATA_KEY, InputSpec, ModelSpec, imagenet_classes
from resnet_infer.models.weights import published
from resnet_infer.models.weights.state_dict import count_classes, guess_architecture, match_state_dict
from resnet_infer.models.weights.torch_file import StoredWeights, read_weights
from resnet_infer.utils.files import sha256
from resnet_infer.utils.inputs import require_regular

if TYPE_CHECKING:
    from resnet_infer.converters.importers.weights_check import WeightsFit
    from resnet_infer.verification.tolerances import Verdict

State = Mapping[str, NDArray[Any]]
"""State dict: tensors by name."""

IMAGENET_INPUT = InputSpec(
    resize=256, crop=224, mean=np.array((0.485, 0.456, 0.406)), std=np.array((0.229, 0.224, 0.225))
)
"""Default preprocessing of ImageNet networks: torchvision's."""
CIFAR_INPUT = InputSpec(
    resize=32, crop=32, mean=np.array((0.4914, 0.4822, 0.4465)), std=np.array((0.2470, 0.2435, 0.2616))
)
"""Default preprocessing of CIFAR networks: mean and standard deviation of CIFAR-10's training images, as most use."""
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Names of CIFAR-10's classes in the order of its labels."""


@dataclass(frozen=True)
class Imported:
    """Hold the result of an import.

    - `checkpoint`: weights and spec.
    - `assumed`: assumptions, in words, about what the file does not record.
    - `entry`: keys to the network in its file, joined by dots; None at the top.
    - `check`: how well the weights fit real images; None for a published file without changes, and if a package for the
      check is missing.
    """

    checkpoint: Checkpoint
    assumed: tuple[str, ...]
    entry: str | None = None
    check: Verdict[WeightsFit] | None = None


def import_weights(
    path: Path,
    arch: str | None = None,
    *,
    num_classes: int | None = None,
    shortcut: ShortcutOption | None = None,
    padding: ShortcutPadding | None = None,
    stride_in: BottleneckStride | None = None,
    options: InputOptions | None = None,
    labels: Labels | None = None,
    name: str | None = None,
    entry: str | None = None,
    check_data: Path | None = None,
) -> Imported:
    """Import the weights of a network from a file in any format that `read_weights` knows.

    - `arch`: name of the architecture; required unless the file is a published one, recognised by its SHA-256.
    - `num_classes`, `shortcut`: default: as the shapes show.
    - `padding`: position of option A's zero channels; default: the one that fits the batch norm statistics.
    - `stride_in`: strided convolution of a bottleneck; default: `3x3`, as in torchvision.
    - `options`: preprocessing; default: that of the published file, else `IMAGENET_INPUT` or `CIFAR_INPUT`.
    - `labels`: class names; default: those of the published file, else of ImageNet or CIFAR-10 if their number fits.
    - `name`: name of the model in the spec; default: the published name, or the file's name without its suffix.
    - `entry`: place of the network in its file; see `read_weights`.
    - `check_data`: at least 16 images to check the weights on; default: the package's photographs.

    Defaults that the file does not confirm are listed in `Imported.assumed`.

    Raises `ModelError` if the file cannot be read, is a checkpoint of this package already, does not fit the
    architecture in shapes or in batch norm statistics, or has a single output. Raises `DataError` for the wrong number
    of labels or too few images. Raises `UsageError` if an option is invalid, or required because nothing shows its
    value: `arch`, `labels`, `entry`, or `padding` if the statistics do not decide.

    >>> import_weights(Path("resnet50_timm.safetensors"), "resnet50").checkpoint.spec.architecture.num_classes
    1000
    """
    options = options or InputOptions()
    if _is_checkpoint(path):
        raise ModelError(
            f"{path} is a checkpoint with a model spec already",
            hint=f"use it as it is: {path}",
            source=path,
            reason="unsupported",
        )
    stored = read_weights(path, entry)
    state = stored.tensors
    digest = sha256(path)
    weights = next((row for row in published.PUBLISHED if digest.startswith(row.sha256_prefix)), None)
    arch = arch or (weights.arch if weights else None)
    if arch is None:
        guess = guess_architecture(state)
        raise UsageError(
            f"{path}: say which network its weights belong to, with --arch",
            hint=f"they look like {guess.name}: --arch {guess.name}" if guess else "for example --arch resnet50",
        )
    network = _network(state, arch, str(path), num_classes, shortcut, padding, stride_in)
    tensors = match_state_dict(state, network, str(path))
    require_classes(str(path), network.num_classes)
    provenance: dict[str, Any] = {"source_file": path.name, "source_sha256": digest}
    if stored.entry:
        provenance["source_entry"] = stored.entry
    if options.reversed:
        stem = f"{network.plan().stem.name}.weight"
        tensors[stem] = np.ascontiguousarray(tensors[stem][:, ::-1])
        provenance["channels"] = "BGR in the file; the first convolution is turned round to take RGB"
    assumed: list[str] = []
    if weights:
        own = published.spec_of(weights)
        spec = own.with_(
            provenance={**own.provenance, **provenance}, architecture=network, input=options.over(own.input)
        )
        as_published = spec.architecture == own.architecture and spec.input == own.input and not options.reversed
        if labels:
            labels.require(network.num_classes)
            spec = spec.with_(classes=labels.names, class_ids=labels.ids)
        spec = spec.with_(name=name or spec.name)
        if as_published:
            return Imported(Checkpoint(spec, tensors), (), stored.entry)
        spec = spec.with_(measured=())
    else:
        assumed += [*_warnings(path, digest), *_beside(stored, entry)]
        spec = ModelSpec(
            name=name or path.stem,
            architecture=network,
            input=_input(network, options, assumed),
            provenance=provenance,
            **_classes(network, labels, assumed),
        )
    if network.stride_in and stride_in is None and not weights:
        assumed.append(f"stride in the {network.stride_in} of a bottleneck (Caffe's weights: --stride-in 1x1)")
    checkpoint, check = _checked(Checkpoint(spec, tensors), str(path), padding, options, check_data, assumed)
    more: dict[str, Any] = {"assumed": assumed} if assumed else {}
    if check:
        more |= ({} if check.passed else {"warnings": list(check.failures)}) | {"check": check.measured.summary()}
    spec = checkpoint.spec.with_(provenance={**checkpoint.spec.provenance, **more})
    return Imported(Checkpoint(spec, tensors), tuple(assumed), stored.entry, check)


def _beside(stored: StoredWeights, entry: str | None) -> list[str]:
    """State which of several networks in a file was read if `entry` did not choose it, and which cannot be read."""
    texts = []
    if stored.others and entry is None:
        kind = ", averaged over training" if stored.averaged else ""
        chosen = f"the weights in {stored.entry or 'the top of the file'}{kind}"
        texts.append(f"{chosen}; also there: {', '.join(stored.others)} (--entry NAME)")
    if stored.unread:
        texts.append(
            f"the weights in {stored.entry or 'the top of the file'}; the averaged ones in {', '.join(stored.unread)} "
            "have no names and cannot be read"
        )
    return texts


def _checked(
    checkpoint: Checkpoint,
    source: str,
    padding: ShortcutPadding | None,
    options: InputOptions,
    check_data: Path | None,
    assumed: list[str],
) -> tuple[Checkpoint, Verdict[WeightsFit] | None]:
    """Check the weights on images, and choose option A's padding by the batch norm statistics if it was not given.

    Returns the checkpoint with its final architecture, and the verdict of `weights_check`, or None if a package for the
    check is missing. Assumptions are appended to `assumed`.

    Raises `UsageError` if the padding was not given and the statistics do not decide, and errors as `judge` and
    `open_pictures` do.
    """
    arch = checkpoint.spec.architecture
    assert arch is not None
    try:
        from resnet_infer.converters.importers import norm_statistics, weights_check
    except MissingExtraError as error:
        if arch.shortcut == "A" and padding is None:
            raise _padding_needed(source, arch.name, error.message) from error
        assumed.append(f"that the weights are of {arch.name}: {error.message} ({error.hint})")
        return checkpoint, None
    pictures = weights_check.open_pictures(check_data, checkpoint.spec)
    variants: dict[str, Architecture] = {arch.name: arch}
    if arch.padding:
        variants = {f"--padding {value}": replace(arch, padding=value) for value in get_args(ShortcutPadding)}
    fits = {
        option: norm_statistics.measure(_of(checkpoint, variant), pictures[1]) for option, variant in variants.items()
    }
    chosen = next(option for option, variant in variants.items() if variant == arch)
    if arch.padding and padding is None:
        chosen, other = sorted(fits, key=lambda option: weights_check.mean_shift(fits[option]))
        if not weights_check.clearly_better(fits[chosen], fits[other]):
            raise _padding_needed(source, arch.name, "the batch norm statistics do not tell it either")
        low, high = (weights_check.mean_shift(fits[option]) for option in (chosen, other))
        assumed.append(f"{chosen}: the means in batch norm are shifted by {low:.3f} with it, else by {high:.3f}")
    checkpoint = _of(checkpoint, variants[chosen])
    return checkpoint, weights_check.judge(checkpoint, pictures, fits, chosen, reversed_input=options.reversed)


def _of(checkpoint: Checkpoint, arch: Architecture) -> Checkpoint:
    """Return the checkpoint with another architecture in its spec."""
    return replace(checkpoint, spec=checkpoint.spec.with_(architecture=arch))


def _padding_needed(source: str, arch: str, reason: str) -> UsageError:
    """Create the error that requires `--padding`, with the reason why it cannot be determined."""
    return UsageError(
        f"{source}: say where the shortcuts of {arch} put their zero channels, with --padding; "
        f"the weights do not reveal it, and the wrong one answers wrongly without an error ({reason})",
        hint="append: zeros after the channels, torch.cat((x, zeros), 1), as most code does; split: half before, "
        "half after, F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4))",
    )


def _is_checkpoint(path: Path) -> bool:
    """Tell whether the file is a checkpoint of this package: safetensors with a model spec."""
    try:
        require_regular(path)
        with safe_open(path, "numpy") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _network(
    state: State,
    arch: str,
    source: str,
    num_classes: int | None,
    shortcut: ShortcutOption | None,
    padding: ShortcutPadding | None,
    stride_in: BottleneckStride | None,
) -> Architecture:
    """Return the architecture called `arch`, with the number of classes and the shortcut from the shapes by default.

    Raises `UsageError` for an unknown name or an option that does not belong to the architecture.
    """
    named = architecture(arch)
    if shortcut is None and not named.plain:
        guess = guess_architecture(state)
        if guess and guess.name == named.name:
            shortcut = guess.shortcut
    classes = num_classes or count_classes(state, source)
    return architecture(arch, classes, shortcut=shortcut, padding=padding, stride_in=stride_in)


def _input(network: Architecture, options: InputOptions, assumed: list[str]) -> InputSpec:
    """Return the preprocessing, with defaults for fields that were not given, and append these to `assumed`."""
    imagenet = network.family.stem == "imagenet"
    spec = options.over(IMAGENET_INPUT if imagenet else CIFAR_INPUT)
    for fields in (("mean", "std"), ("resize", "crop", "interpolation")):
        silent = [field for field in fields if field not in options.given]
        if silent:
            assumed.append(f"{describe(spec, silent)}, as is usual for {'ImageNet' if imagenet else 'CIFAR-10'}")
    return spec


def _classes(network: Architecture, labels: Labels | None, assumed: list[str]) -> dict[str, Any]:
    """Return the fields `classes` and `class_ids` of the spec, and append to `assumed` if they are a default.

    Raises `DataError` for the wrong number of labels, and `UsageError` if labels are required but missing.
    """
    count = network.num_classes
    if labels:
        labels.require(count)
        return {"classes": labels.names, "class_ids": labels.ids}
    if network.family.stem == "imagenet" and count == len(imagenet_classes()[0]):
        assumed.append("the classes of ImageNet (ILSVRC 2012) in their usual order")
        names, ids = imagenet_classes()
        return {"classes": names, "class_ids": ids}
    if network.family.stem == "cifar" and count == len(CIFAR10_CLASSES):
        assumed.append("the classes of CIFAR-10 in their usual order")
        return {"classes": CIFAR10_CLASSES}
    raise UsageError(
        f"the classifier has {count} classes, and nothing names them", hint="give their names with --labels FILE"
    )


def _warnings(path: Path, digest: str) -> list[str]:
    """Return a warning if the file has the name of published weights but another SHA-256, else an empty list."""
    for row in published.PUBLISHED:
        if row.sha256_prefix in path.name:
            return [f"no published weights: {path.name} has the name of {row.name}, but SHA-256 {digest[:8]}"]
    return []
