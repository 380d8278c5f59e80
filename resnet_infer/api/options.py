"""Declare the keyword options of the public functions, for type checkers and for the checks in `arguments`.

They have the names of the command's options, with underscores. A value of None, or leaving it out, means the default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypedDict

from resnet_infer.api.arguments import PathText


class ImportOptions(TypedDict, total=False):
    """Name the options of `import_weights`."""

    num_classes: int | None
    labels: PathText | Sequence[str] | None
    resize: int | None
    crop: int | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    scale: Literal[1, 255]
    channels: Literal["rgb", "bgr"] | None
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"] | None
    exif: bool | None
    shortcut: Literal["A", "B", "C"] | None
    padding: Literal["append", "split"] | None
    stride_in: Literal["1x1", "3x3"] | None
    entry: str | None
    check_data: PathText | None
    name: str | None


class ExportOptions(TypedDict, total=False):
    """Name the options of `export`: first those of all formats, then those that belong to some (`formats.ROWS`)."""

    target: Literal["cpu", "tensorrt"] | None
    calibration_data: PathText | None
    calibration_method: Literal["mse", "minmax", "entropy", "percentile"]
    calibration_pictures: int
    check_data: PathText | None
    check_pictures: int
    max_drop: float | None
    weight_bits: Literal[7, 8] | None
    float_layers: Sequence[str]
    device: str
    dynamic_size: bool
    min_batch: int | None
    opt_batch: int | None
    max_batch: int | None
    workspace: int | None
    optimization_level: int | None
    version_compatible: bool
    hardware_compatible: bool
    timing_cache: PathText | None


class CompareOptions(TypedDict, total=False):
    """Name the options of `compare`."""

    runtime: str
    reference_runtime: str
    device: str
    reference_device: str
    pictures: int
    split: str | None
    seed: int
    tolerance: float | None


class EvaluateOptions(TypedDict, total=False):
    """Name the options of `evaluate`, those of `EvaluationConfig`."""

    protocols: Sequence[str]
    scales: Sequence[int] | None
    url: str | None
    ensemble: bool
    max_drop: float | None
    split: str | None
    class_order: Literal["numbers", "string", "natural"] | Sequence[str] | None
    runtime: str
    device: str
    batch_size: int
    workers: int | None
    threads: int | None
    compute: Literal["auto", "fp32", "bf16"]
    skip_unreadable: bool
    answers: PathText | None
    resume: bool


class BenchmarkOptions(TypedDict, total=False):
    """Name the options of `benchmark` that times models side by side."""

    batch_size: int | Sequence[int]
    runtime: str
    device: str
    threads: int | Sequence[int] | None
    compute: Literal["auto", "fp32", "bf16"]
    photos: PathText | None
    rounds: int
    seconds: float


class ScenarioOptions(TypedDict, total=False):
    """Name the options of `benchmark` with a `scenario`, those of `Scenario`."""

    url: str | None
    runtime: str
    device: str
    threads: int | None
    compute: Literal["auto", "fp32", "bf16"]
    data: PathText | None
    crops: Literal[1, 10]
    accuracy: bool
    official: bool
    seconds: float | None
    rates: Sequence[float]
    clients: int | None
    bound_ms: float | None
    output: PathText | None


class TrainOptions(TypedDict, total=False):
    """Name the options of `train`: first those of a `Recipe`, then those that do not change what is learned."""

    arch: str | None
    iterations: int | None
    epochs: float | None
    stages: str | None
    batch_size: int | None
    peak_rate: float | None
    schedule: Literal["step", "plateau", "one-cycle", "cosine"] | None
    milestones: Sequence[float] | None
    warmup: float | None
    patience: int | None
    momentum: float | None
    nesterov: bool | None
    weight_decay: float | None
    decay_all: bool | None
    label_smoothing: float | None
    zero_init: bool | None
    augmentation: Literal["pad", "scale", "area", "none"] | None
    resize: int | None
    crop: int | None
    pad: int | None
    scales: tuple[int, int] | None
    area: tuple[float, float] | None
    flip: bool | None
    colour: float | None
    mean: Literal["pixel", "channel", "model"] | None
    freeze: int | None
    validation: int | None
    seed: int | None
    class_order: Literal["string", "natural"] | Sequence[str] | None
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    compile: bool | None
    data_in: Literal["auto", "memory", "files"]
    workers: int | None
    save_every: float
    tensorboard: bool
    log: Callable[[str], None]
