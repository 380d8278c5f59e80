"""Tabulate published errors: tables 2 to 6 of the paper, and those of released models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from resnet_infer.data.protocols import find_protocol
from resnet_infer.models.architectures import Architecture, BottleneckStride, ShortcutOption

DataName = Literal["ImageNet validation", "ImageNet test", "CIFAR-10 test"]
PICTURES: dict[DataName, int] = {"ImageNet validation": 50_000, "ImageNet test": 100_000, "CIFAR-10 test": 10_000}
"""Published data set -> number of its pictures."""
PAPER = "He et al. 2016"
"""Source of the paper's own figures."""
ENSEMBLE = "ensemble"
"""`network` of a published ensemble."""


@dataclass(frozen=True)
class Figure:
    """Hold a published error, in percent; None where it was not stated.

    `network` is its name in our table, with `shortcut` and `stride_in` where they are known; None for a network of
    others. `spread` is mean and standard deviation over runs. `data` is where it was measured, None for where its table
    says.
    """

    label: str
    top1: float | None = None
    top5: float | None = None
    network: str | None = None
    shortcut: ShortcutOption | None = None
    stride_in: BottleneckStride | None = None
    spread: str = ""
    data: DataName | None = None

    def __str__(self) -> str:
        return "/".join("-" if value is None else f"{value:g}" for value in (self.top1, self.top5)).removesuffix("/-")

    def fits(self, arch: Architecture) -> bool:
        """Return whether the error is that of this network, as far as is known."""
        return self.network == arch.name and self.shortcut in (None, arch.shortcut)


@dataclass(frozen=True)
class Table:
    """Hold a table of published errors, all of one protocol on one data set."""

    source: str
    title: str
    data: DataName
    protocol: str
    rows: tuple[Figure, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the table as `--paper --json` prints it."""
        return asdict(self)


def _imagenet(
    depth: int, top1: float, top5: float | None, shortcut: ShortcutOption = "B", stride_in: BottleneckStride = "1x1"
) -> Figure:
    """Return a ResNet's error on ImageNet, as tables of the paper label it."""
    option = f" {shortcut}" if depth == 34 else ""
    stride = stride_in if depth >= 50 else None
    return Figure(f"ResNet-{depth}{option}", top1, top5, f"resnet{depth}", shortcut, stride)


def _plain(depth: int, top1: float, top5: float | None = None) -> Figure:
    """Return the error of a plain network on ImageNet."""
    return Figure(f"plain-{depth}", top1, top5, f"plain{depth}")


def _cifar(depth: int, top1: float, spread: str = "") -> Figure:
    """Return a ResNet's error on CIFAR-10."""
    return Figure(f"ResNet-{depth}", top1, None, f"resnet{depth}", "A", spread=spread)


def _v15(depth: int, top1: float, top5: float) -> Figure:
    """Return the error of a ResNet v1.5, which has its stride in the 3x3 convolution."""
    return _imagenet(depth, top1, top5, stride_in="3x3")


TABLES = (
    Table(
        PAPER,
        "Table 2: plain and residual networks, option A",
        "ImageNet validation",
        "10-crop",
        (_plain(18, 27.94), _plain(34, 28.54), _imagenet(18, 27.88, None, "A"), _imagenet(34, 25.03, None, "A")),
    ),
    Table(
        PAPER,
        "Table 3: error of single models",
        "ImageNet validation",
        "10-crop",
        (
            Figure("VGG-16", 28.07, 9.33),
            Figure("GoogLeNet", None, 9.15),
            Figure("PReLU-net", 24.27, 7.38),
            _plain(34, 28.54, 10.02),
            _imagenet(34, 25.03, 7.76, "A"),
            _imagenet(34, 24.52, 7.46, "B"),
            _imagenet(34, 24.19, 7.40, "C"),
            _imagenet(50, 22.85, 6.71),
            _imagenet(101, 21.75, 6.05),
            _imagenet(152, 21.43, 5.71),
        ),
    ),
    Table(
        PAPER,
        "Table 4: error of single models",
        "ImageNet validation",
        "multi-scale",
        (
            Figure("VGG (ILSVRC'14)", None, 8.43, data="ImageNet test"),
            Figure("GoogLeNet (ILSVRC'14)", None, 7.89),
            Figure("VGG (v5)", 24.4, 7.1),
            Figure("PReLU-net", 21.59, 5.71),
            Figure("BN-inception", 21.99, 5.81),
            _imagenet(34, 21.84, 5.71, "B"),
            _imagenet(34, 21.53, 5.60, "C"),
            _imagenet(50, 20.74, 5.25),
            _imagenet(101, 19.87, 4.60),
            _imagenet(152, 19.38, 4.49),
        ),
    ),
    Table(
        PAPER,
        "Table 5: error of ensembles",
        "ImageNet test",
        ENSEMBLE,
        (
            Figure("VGG (ILSVRC'14)", None, 7.32),
            Figure("GoogLeNet (ILSVRC'14)", None, 6.66),
            Figure("VGG (v5)", None, 6.8),
            Figure("PReLU-net", None, 4.94),
            Figure("BN-inception", None, 4.82),
            Figure("ResNet (ILSVRC'15), six models", None, 3.57),
        ),
    ),
    Table(
        PAPER,
        "Table 6: error on CIFAR-10",
        "CIFAR-10 test",
        "native",
        (
            Figure("Maxout", 9.38),
            Figure("NIN", 8.81),
            Figure("DSN", 8.22),
            Figure("FitNet, 19 layers", 8.39),
            Figure("Highway, 19 layers", 7.54, spread="7.72 ± 0.16"),
            Figure("Highway, 32 layers", 8.80),
            _cifar(20, 8.75),
            _cifar(32, 7.51),
            _cifar(44, 7.17),
            _cifar(56, 6.97),
            _cifar(110, 6.43, "6.61 ± 0.16"),
            _cifar(1202, 7.93),
        ),
    ),
    Table(
        "Caffe release",
        "The authors' released models",
        "ImageNet validation",
        "1-crop",
        (_imagenet(50, 24.7, 7.8), _imagenet(101, 23.6, 7.1), _imagenet(152, 23.0, 6.7)),
    ),
    Table(
        "fb.resnet.torch",
        "Retrained with the stride in the 3x3 convolution (v1.5)",
        "ImageNet validation",
        "1-crop",
        (
            _v15(18, 30.43, 10.76),
            _v15(34, 26.73, 8.74),
            _v15(50, 24.01, 7.02),
            _v15(101, 22.44, 6.21),
            _v15(152, 22.16, 6.16),
        ),
    ),
    Table(
        "fb.resnet.torch",
        "Retrained with the stride in the 3x3 convolution (v1.5)",
        "ImageNet validation",
        "10-crop",
        (
            _v15(18, 28.22, 9.42),
            _v15(34, 24.76, 7.35),
            _v15(50, 22.24, 6.08),
            _v15(101, 21.08, 5.35),
            _v15(152, 20.69, 5.21),
        ),
    ),
)
"""Tables 2 to 6 of the paper, then the errors of the authors' released models, and of the networks that most use."""


def published(arch: Architecture, protocol: str, data: str | None) -> list[tuple[Table, Figure]]:
    """Return what was published for this network and protocol on the data `data` (see `identity`), the paper's first.

    The paper's bottlenecks have their stride in the 1x1 convolution. Their figure is also returned for the other kind
    of bottleneck, as the closest one.
    """
    found = {
        (table.source, table.protocol): (table, row)
        for table, row in comparison(arch, protocol, data)
        if row.fits(arch)
    }
    return list(found.values())


def comparison(arch: Architecture, protocol: str, data: str | None) -> list[tuple[Table, Figure]]:
    """Return all that is published for that data and protocol, also for networks of others; each row once.

    Only networks made for that data are compared: with 1,000 classes (ImageNet), and CIFAR networks with 10. Raises
    `UsageError` for an unknown protocol.
    """
    kind = (arch.family.stem, arch.num_classes)
    if {("imagenet", 1000): "ImageNet validation", ("cifar", 10): "CIFAR-10 test"}.get(kind) != data:
        return []
    columns = find_protocol(protocol).paper_columns
    rows = {
        # Table 3 repeats rows of table 2 and completes them.
        (table.source, table.protocol, row.label): (table, row)
        for table in TABLES
        if table.data == data and table.protocol in columns
        for row in table.rows
        if row.data in (None, data)
    }
    return list(rows.values())
