"""Describe a network of the table in `families`, with its options, as a plan of convolutions and shortcuts.

`Architecture.plan()` lays a network out as a flat list. The torch module, the ONNX graph and the counts of parameters
and multiply-adds are all derived from that plan, so they cannot disagree. "The paper" is "Deep Residual Learning for
Image Recognition" (He et al., 2016).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from resnet_infer.errors import UsageError
from resnet_infer.models.families import Family, ShortcutOption, find_family, published_names

ShortcutPadding = Literal["append", "split"]
BottleneckStride = Literal["1x1", "3x3"]


@dataclass(frozen=True)
class Conv:
    """Describe a convolution without bias, followed by batch norm (paper, section 3.4). Padding is `kernel // 2`."""

    name: str
    """Prefix of the weight in a state dict, e.g. `layer1.0.conv1`."""
    norm: str
    """Prefix of the batch norm that follows, e.g. `layer1.0.bn1`."""
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    groups: int = 1
    """Number of groups: each of them reads and writes its own share of the channels."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return the shape of the weight in torch's layout: (outputs, inputs of a group, height, width)."""
        return self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel

    @property
    def padding(self) -> int:
        """Return the zero padding on each side, in pixels."""
        return self.kernel // 2


@dataclass(frozen=True)
class ZeroPadShortcut:
    """Describe option A: the input subsampled by `stride`, with `before` and `after` zero channels around it."""

    stride: int
    before: int
    after: int


@dataclass(frozen=True)
class Block:
    """Describe a block: two (basic) or three (bottleneck) convolutions, and what is added to their output.

    `shortcut` is None in a plain net, else "identity", a `ZeroPadShortcut` (option A) or a projecting `Conv`. ReLU
    follows every convolution but the last, and the sum.
    """

    name: str
    convs: tuple[Conv, ...]
    shortcut: Literal["identity"] | ZeroPadShortcut | Conv | None


@dataclass(frozen=True)
class Plan:
    """Describe a network from input to logits: stem, optional 3x3/2 max-pool, blocks, average pool, classifier."""

    stem: Conv
    max_pool: bool
    blocks: tuple[Block, ...]
    features: int
    num_classes: int

    def convs(self) -> Iterator[Conv]:
        """Yield every convolution, projections included, in order of execution."""
        yield self.stem
        for block in self.blocks:
            yield from block.convs
            if isinstance(block.shortcut, Conv):
                yield block.shortcut

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every tensor in the state dict, in torch's layout (O, I, H, W)."""
        shapes: dict[str, tuple[int, ...]] = {}
        for conv in self.convs():
            shapes[f"{conv.name}.weight"] = conv.shape
            for part in NORM_PARAMETERS + NORM_STATISTICS:
                shapes[f"{conv.norm}.{part}"] = (conv.out_channels,)
        shapes["fc.weight"] = (self.num_classes, self.features)
        shapes["fc.bias"] = (self.num_classes,)
        return shapes


NORM_PARAMETERS = ("weight", "bias")
NORM_STATISTICS = ("running_mean", "running_var")
NORM_EPSILON = 1e-5
BOTTLENECK_EXPANSION = 4
"""Channels that a bottleneck puts out, in units of the width of its stage."""


@dataclass(frozen=True)
class Architecture:
    """Hold a network's name and options. Create it with `architecture()`, which adds the defaults and checks them.

    - `name`: `resnet50`, `plain34`, `resnet110`; `resnet50-cifar` is the CIFAR net of a name that the table also has.
    - `shortcut`: option A, B or C (paper, section 3.3), None in a plain net.
    - `padding`: option A's zero channels are all at the end (`append`) or half at each end (`split`), else None.
    - `stride_in`: the strided convolution of a bottleneck, `1x1` (v1, the paper) or `3x3` (v1.5, most weights), or
      None.
    """

    name: str
    num_classes: int
    shortcut: ShortcutOption | None
    padding: ShortcutPadding | None
    stride_in: BottleneckStride | None

    @property
    def family(self) -> Family:
        """Return the row of the table."""
        return find_family(self.name)

    @property
    def plain(self) -> bool:
        """Tell whether the network has no shortcuts."""
        return self.family.plain

    @property
    def depth(self) -> int:
        """Return the number of weighted layers, projections not counted."""
        return self.family.depth

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Architecture:
        """Create an architecture from `to_json`'s result. Unknown fields are ignored. Raises `UsageError`."""
        known = {f.name for f in fields(cls)}
        return architecture(**{key: item for key, item in value.items() if key in known})

    def plan(self) -> Plan:
        """Return the layout of the network."""
        return _plan(self)


def architecture(
    name: str,
    num_classes: int | None = None,
    *,
    shortcut: ShortcutOption | None = None,
    padding: ShortcutPadding | None = None,
    stride_in: BottleneckStride | None = None,
) -> Architecture:
    """Return the architecture called `name`, with every option at its default unless given.

    Raises `UsageError` for an unknown name or value, or an option that the network does not have.

    >>> count_parameters(architecture("resnet50"))
    25557032
    """
    family = find_family(name)
    if num_classes is None:
        num_classes = family.num_classes
    if num_classes < 1:
        raise UsageError(f"a classifier needs at least one class, not {num_classes}")
    for option, value, choices in (
        ("shortcut", shortcut, get_args(ShortcutOption)),
        ("padding", padding, get_args(ShortcutPadding)),
        ("stride_in", stride_in, get_args(BottleneckStride)),
    ):
        if value is not None and value not in choices:
            raise UsageError(f"{option} is one of {', '.join(choices)}, not {value!r}")
    if family.plain:
        if shortcut or padding:
            raise UsageError(f"{family.name} has no shortcuts: leave shortcut and padding out")
    else:
        shortcut = shortcut or family.shortcut
        if shortcut == "A":
            padding = padding or "append"
        elif padding:
            raise UsageError(f"padding belongs to shortcut option A; {family.name} here uses option {shortcut}")
    if family.block == "bottleneck":
        stride_in = stride_in or "3x3"
    elif stride_in:
        raise UsageError(f"stride_in belongs to bottleneck blocks; {family.name} has basic blocks")
    return Architecture(family.name, num_classes, shortcut, padding, stride_in)


def _plan(arch: Architecture) -> Plan:
    """Lay out the network."""
    family = arch.family
    stem_width = family.widths[0]
    kernel, stride = (7, 2) if family.stem == "imagenet" else (3, 1)
    stem = Conv("conv1", "bn1", 3, stem_width, kernel, stride)
    channels = stem_width
    blocks: list[Block] = []
    for stage, (count, width) in enumerate(zip(family.stages, family.widths, strict=True), start=1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            block = _block(arch, family, f"layer{stage}.{index}", channels, width, stride)
            blocks.append(block)
            channels = block.convs[-1].out_channels
    return Plan(stem, family.stem == "imagenet", tuple(blocks), channels, arch.num_classes)


def _block(arch: Architecture, family: Family, name: str, channels: int, width: int, stride: int) -> Block:
    if family.block == "basic":
        out = width
        layers = [(channels, width, 3, stride, 1), (width, width, 3, 1, 1)]
    else:
        out, inner = width * BOTTLENECK_EXPANSION, family.inner_width(width)
        first, second = (stride, 1) if arch.stride_in == "1x1" else (1, stride)
        layers = [(channels, inner, 1, first, 1), (inner, inner, 3, second, family.cardinality), (inner, out, 1, 1, 1)]
    convs = tuple(Conv(f"{name}.conv{i}", f"{name}.bn{i}", *numbers) for i, numbers in enumerate(layers, start=1))
    return Block(name, convs, _shortcut(arch, name, channels, out, stride))


def _shortcut(
    arch: Architecture, name: str, channels: int, out: int, stride: int
) -> Literal["identity"] | ZeroPadShortcut | Conv | None:
    """Choose the shortcut of a block from `channels` to `out` channels."""
    if arch.shortcut is None:
        return None
    if arch.shortcut != "C" and channels == out and stride == 1:
        return "identity"
    if arch.shortcut == "A":
        extra = out - channels
        before = extra // 2 if arch.padding == "split" else 0
        return ZeroPadShortcut(stride, before, extra - before)
    return Conv(f"{name}.downsample.0", f"{name}.downsample.1", channels, out, 1, stride)


def count_parameters(arch: Architecture) -> int:
    """Count the learned parameters: weights, scales and shifts of batch norm, classifier; no running statistics."""
    total = 0
    for name, shape in arch.plan().shapes().items():
        if not name.endswith(NORM_STATISTICS):
            total += math.prod(shape)
    return total


def count_multiply_adds(arch: Architecture, height: int, width: int) -> int:
    """Count the multiply-adds of convolutions and classifier for one height x width image (paper, table 1)."""
    plan = arch.plan()
    total = 0

    def run(conv: Conv, size: tuple[int, int]) -> tuple[int, int]:
        nonlocal total
        out = (_out(size[0], conv.stride), _out(size[1], conv.stride))
        total += out[0] * out[1] * math.prod(conv.shape)
        return out

    size = run(plan.stem, (height, width))
    if plan.max_pool:
        size = (_out(size[0], 2), _out(size[1], 2))
    for block in plan.blocks:
        entry = size
        for conv in block.convs:
            size = run(conv, size)
        if isinstance(block.shortcut, Conv):
            run(block.shortcut, entry)
    return total + plan.features * plan.num_classes


def _out(size: int, stride: int) -> int:
    return (size - 1) // stride + 1


__all__ = [
    "Architecture",
    "Block",
    "Conv",
    "Plan",
    "ShortcutOption",
    "ZeroPadShortcut",
    "architecture",
    "count_multiply_adds",
    "count_parameters",
    "published_names",
]
