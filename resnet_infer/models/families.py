"""List the architectures as one table. A row holds the values that define a network; everything else follows from them.

`architectures` lays a row out as convolutions and shortcuts. The CIFAR networks of any depth 6n+2 are a rule beside the
rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from resnet_infer.errors import UsageError, did_you_mean

BlockKind = Literal["basic", "bottleneck"]
StemKind = Literal["imagenet", "cifar"]
ShortcutOption = Literal["A", "B", "C"]

_CONVS: Mapping[BlockKind, int] = {"basic": 2, "bottleneck": 3}
"""Kind of block -> its number of convolutions."""
BASE_WIDTH = 64
"""Value of `width` at which a group of a bottleneck's 3x3 convolution has as many channels as the stage is wide."""


@dataclass(frozen=True)
class Family:
    """Describe a network by the values that define it: one row of the table.

    - `name`: `resnet50`. Look-ups ignore case, and a hyphen in front of the first number.
    - `stem`: "imagenet" is a 7x7 convolution with stride 2 and a 3x3 max-pool with stride 2; "cifar" is a 3x3
      convolution.
    - `block`: "basic" has two 3x3 convolutions; "bottleneck" has 1x1, 3x3 and 1x1, and puts out four times the width.
    - `stages`, `widths`: number of blocks and width in channels of each stage. The stem has the width of the first.
    - `shortcut`: default of the shortcut option; None for a plain network, which has no shortcuts.
    - `cardinality`: number of groups of a bottleneck's 3x3 convolution (Xie et al., "Aggregated Residual
      Transformations for Deep Neural Networks", CVPR 2017: ResNeXt).
    - `width`: channels of each of these groups where the stage is 64 wide; torchvision's `width_per_group`. 128 doubles
      the inner channels (Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016).
    - `num_classes`: default number of classes.

    Raises `ValueError` for values that do not exist, are too small, or contradict each other.

    >>> Family("resnext50_32x4d", "imagenet", "bottleneck", (3, 4, 6, 3), (64, 128, 256, 512), "B", 32, 4).depth
    50
    """

    name: str
    stem: StemKind
    block: BlockKind
    stages: tuple[int, ...]
    widths: tuple[int, ...]
    shortcut: ShortcutOption | None
    cardinality: int = 1
    width: int = BASE_WIDTH
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field, value, choices in (
            ("stem", self.stem, get_args(StemKind)),
            ("block", self.block, get_args(BlockKind)),
            ("shortcut", self.shortcut, (*get_args(ShortcutOption), None)),
        ):
            if value not in choices:
                raise ValueError(f"{self.name}: {field} is one of {', '.join(map(str, choices))}, not {value!r}")
        if not self.stages or min(*self.stages, *self.widths, self.cardinality, self.width, self.num_classes) < 1:
            raise ValueError(f"{self.name}: it has a stage, and all of its numbers are 1 or more")
        if len(self.stages) != len(self.widths):
            raise ValueError(f"{self.name} has {len(self.stages)} stages, but {len(self.widths)} widths")
        if self.block == "basic" and (self.cardinality, self.width) != (1, BASE_WIDTH):
            raise ValueError(f"{self.name} has basic blocks: cardinality and width belong to bottlenecks")
        if min(map(self.inner_width, self.widths)) < 1:
            raise ValueError(f"{self.name}: a group of width {self.width} has no channels in a stage of its width")

    @property
    def plain(self) -> bool:
        """Tell whether the network has no shortcuts."""
        return self.shortcut is None

    @property
    def depth(self) -> int:
        """Return the number of weighted layers, projections not counted, as the paper does."""
        return 2 + _CONVS[self.block] * sum(self.stages)

    def inner_width(self, width: int) -> int:
        """Return the channels inside the blocks of a stage `width` channels wide."""
        return width * self.width // BASE_WIDTH * self.cardinality


_IMAGENET_WIDTHS = (64, 128, 256, 512)
FAMILIES: tuple[Family, ...] = (
    # Table 1 of the paper. Published weights of 18 and 34 layers use option B, so that is the default.
    Family("resnet18", "imagenet", "basic", (2, 2, 2, 2), _IMAGENET_WIDTHS, "B"),
    Family("resnet34", "imagenet", "basic", (3, 4, 6, 3), _IMAGENET_WIDTHS, "B"),
    Family("resnet50", "imagenet", "bottleneck", (3, 4, 6, 3), _IMAGENET_WIDTHS, "B"),
    Family("resnet101", "imagenet", "bottleneck", (3, 4, 23, 3), _IMAGENET_WIDTHS, "B"),
    Family("resnet152", "imagenet", "bottleneck", (3, 8, 36, 3), _IMAGENET_WIDTHS, "B"),
    Family("plain18", "imagenet", "basic", (2, 2, 2, 2), _IMAGENET_WIDTHS, None),
    Family("plain34", "imagenet", "basic", (3, 4, 6, 3), _IMAGENET_WIDTHS, None),
)
"""All networks but those of the rule for CIFAR."""

CIFAR_DEPTHS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"resnet": (20, 32, 44, 56, 110, 1202), "plain": (20, 32, 44, 56, 110)}
)
"""Kind of CIFAR network -> depths in section 4.2 of the paper. Every other depth 6n+2 is built the same way."""


def published_families() -> tuple[Family, ...]:
    """Return the rows of the table, then the CIFAR networks of the paper, residual and plain."""
    return (*FAMILIES, *(_cifar(kind, depth) for kind, depths in CIFAR_DEPTHS.items() for depth in depths))


def published_names() -> tuple[str, ...]:
    """Return the names of `published_families`."""
    return tuple(family.name for family in published_families())


def find_family(name: str) -> Family:
    """Return the row called `name`, or the CIFAR network of that name. Raises `UsageError` for an unknown name.

    >>> find_family("ResNet-50").stages
    (3, 4, 6, 3)
    """
    key = _key(name)
    if found := _row(key):
        return found
    match = re.fullmatch(rf"({'|'.join(CIFAR_DEPTHS)})([0-9]{{1,5}})(-cifar)?", key)
    if match and int(match[2]) >= 8 and int(match[2]) % 6 == 2:
        return _cifar(match[1], int(match[2]))
    cifar = " or ".join(f"{kind}D" for kind in CIFAR_DEPTHS)
    raise UsageError(
        f"unknown architecture {name!r}" + did_you_mean(name.strip().lower().replace("-", ""), published_names()),
        hint=f"known are {_summary(family.name for family in FAMILIES)}, and {cifar} for CIFAR with D = 6n+2 "
        f"({', '.join(map(str, CIFAR_DEPTHS['resnet']))}, ...; add -cifar where ImageNet has the same depth)",
    )


def _key(name: str) -> str:
    """Return a name in the form in which names are compared: `ResNet-50` and `resnet050` are `resnet50`."""
    text = name.strip().lower()
    match = re.fullmatch(r"([a-z_]+)-?(\d{1,5})(?!\d)(.*)", text)
    return f"{match[1]}{int(match[2])}{match[3]}" if match else text


def _row(key: str) -> Family | None:
    """Return the row of the table with that `_key`, or None."""
    return next((family for family in FAMILIES if _key(family.name) == key), None)


def _cifar(kind: str, depth: int) -> Family:
    """Return the CIFAR network of section 4.2. Its name ends in `-cifar` if a row of the table has the shorter name."""
    name, n = f"{kind}{depth}", (depth - 2) // 6
    name = f"{name}-cifar" if _row(name) else name
    return Family(name, "cifar", "basic", (n, n, n), (16, 32, 64), "A" if kind == "resnet" else None, num_classes=10)


def _summary(names: Iterable[str]) -> str:
    """Join names for a message. Names that begin alike share their beginning: `resnet18/34, plain18`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        start = re.match(r"\D*", name)
        assert start is not None
        groups.setdefault(start[0], []).append(name[start.end() :])
    return ", ".join(start + "/".join(ends) for start, ends in groups.items())
