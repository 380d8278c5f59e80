"""Measure the ranges of activations on calibration images in one pass, and store them as JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from resnet_infer.converters.precision.canonicalise import canonicalise
from resnet_infer.converters.precision.histogram import Histogram
from resnet_infer.converters.precision.placement import Net, Target, place
from resnet_infer.converters.precision.ranges import Grid, Method, Range, find_range
from resnet_infer.errors import DataError, ModelError, UsageError, did_you_mean, first_line, reason_of
from resnet_infer.models import spec_fields
from resnet_infer.models.format_version import FileFormat
from resnet_infer.models.graph import INPUT
from resnet_infer.runtimes.base import Images
from resnet_infer.utils import strict_json
from resnet_infer.utils.extras import needs
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.inputs import read_text

with needs("export", "exporting"):
    from onnx import ModelProto, TensorProto, helper, numpy_helper
with needs("cpu", "exporting"):
    from resnet_infer.runtimes import ort_session

FORMAT = FileFormat("calibration")
"""Format of the calibration file."""
MEMORY = 256 << 20
"""Bytes of activations per batch, unless a single image needs more."""
LARGEST_BATCH = 64
"""Most images per batch."""
MOST = 3.0e38
"""Largest magnitude that a mean in a file may have: activations are float32."""

Ranges = Mapping[str, Mapping[Grid, Mapping[Method, Range]]]
"""Range of each tensor, for each grid and method."""
Means = Mapping[str, tuple[float, ...]]
"""Mean of each channel of each tensor."""


@dataclass(frozen=True)
class Calibration:
    """Hold the range of every activation that may be quantised, for every grid and method.

    `means` holds the mean of each channel of every tensor that is the input of a convolution or fully connected layer.
    `pictures` are the names of the calibration images, in order. `sha256` is the digest of their names and pixels, and
    `net_sha256` that of the network (see `net_sha256`). `unknown` holds the fields that another version has
    written, and `save` writes them again.
    """

    ranges: Ranges
    means: Means
    pictures: tuple[str, ...]
    sha256: str
    net_sha256: str
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def range(self, tensor: str, grid: Grid, method: Method) -> Range:
        """Return the lowest and highest value of a tensor. Raises `ModelError` for one that was not measured."""
        try:
            return self.ranges[tensor][grid][method]
        except KeyError as error:
            raise ModelError(
                f"the calibration has no range of {tensor} on the {grid} grid by {method}",
                hint="calibrate again",
                reason="mismatch",
            ) from error

    def mean(self, tensor: str) -> tuple[float, ...]:
        """Return the mean of each channel of a tensor. Raises `ModelError` for one that was not measured."""
        if tensor not in self.means:
            raise ModelError(f"the calibration has no mean of {tensor}", hint="calibrate again", reason="mismatch")
        return self.means[tensor]

    def require(self, model: ModelProto) -> None:
        """Raise `ModelError` unless the ranges were measured on this network."""
        if net_sha256(model) != self.net_sha256:
            raise ModelError(
                "the calibration was measured on another net", hint="calibrate again, with this one", reason="mismatch"
            )

    def scaled(self, factor: float, tensors: Collection[str] | None = None) -> Calibration:
        """Return a copy in which the ranges of `tensors`, by default of all, are multiplied by `factor`.

        Raises `UsageError` for a tensor that was not measured.
        """
        for name in tensors or ():
            if name not in self.ranges:
                raise UsageError(f"no range of {name!r} was measured" + did_you_mean(name, self.ranges))
        ranges: Ranges = {
            name: {
                grid: {method: (factor * low, factor * high) for method, (low, high) in methods.items()}
                for grid, methods in grids.items()
            }
            if tensors is None or name in tensors
            else grids
            for name, grids in self.ranges.items()
        }
        unknown = {name: value for name, value in self.unknown.items() if name != "ranges"}
        return replace(self, ranges=ranges, unknown=unknown)

    def save(self, path: Path) -> None:
        """Write the calibration as JSON, atomically."""
        text = strict_json.dumps(FORMAT.compose(self._known(), self.unknown), ensure_ascii=False, indent=1)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def _known(self) -> dict[str, Any]:
        """Return all fields but the unknown ones."""
        return {name: value for name, value in vars(self).items() if name != "unknown"}

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file that `save` wrote. Raises `ModelError` for any other file, and for one of a newer format."""
        try:
            value = spec_fields.parse(read_text(path))
            FORMAT.check(value, str(path))
            ranges = {
                str(name): {
                    grid: {method: _range(grids[grid][method]) for method in get_args(Method)}
                    for grid in get_args(Grid)
                }
                for name, grids in value["ranges"].items()
            }
            means = {name: _means(channels) for name, channels in value["means"].items()}
            pictures = spec_fields.texts(value["pictures"], "pictures")
            sha256, net = (spec_fields.text(value[name], name) for name in ("sha256", "net_sha256"))
            found = cls(ranges, means, pictures, sha256, net)
            return replace(found, unknown=FORMAT.unknown(value, found._known()))
        except OSError as error:
            raise ModelError(
                f"{path} cannot be read: {error.strerror or error}", source=path, reason=reason_of(error)
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise ModelError(
                f"{path} is no calibration, or damaged ({type(error).__name__}: {error})",
                hint="calibrate again",
                source=path,
                reason="damaged",
            ) from error


def calibrate(
    model: ModelProto,
    feed: Iterable[tuple[str, Images]],
    *,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Calibration:
    """Run an FP32 network on every image once, and measure its activations.

    `feed` yields names and crops, uint8, (height, width, 3). `batch_size` is the number of images per inference; the
    default keeps the activations below `MEMORY` bytes. Memory does not grow with the number of images. After each batch
    `advance` is called with its number of images.

    Raises `DataError` without images, `UsageError` for an image of another dtype or shape, and `ModelError` if the
    network cannot be run, has no layer that can be quantised, or yields values that are not finite.

    >>> calibration = calibrate(graph, open_feed(Path("imagenet"), spec, count=512).crops())
    >>> calibration.save(Path("model.calibration.json"))
    """
    meter = _Meter(canonicalise(model))
    pictures: list[str] = []
    waiting: list[Images] = []
    digest = hashlib.sha256()

    def measure() -> None:
        """Measure the waiting images as one batch."""
        meter.measure(np.stack(waiting))
        advance(len(waiting))
        waiting.clear()

    for name, pixels in feed:
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise UsageError(f"{name}: a picture is uint8 (height, width, 3), not {pixels.dtype} {pixels.shape}")
        if waiting and waiting[0].shape != pixels.shape:
            measure()
        pictures.append(name)
        digest.update(strict_json.dumps([name, pixels.shape]).encode() + pixels.tobytes())
        waiting.append(pixels)
        if len(waiting) >= (batch_size or meter.batch_size):
            measure()
    if waiting:
        measure()
    if not pictures:
        raise DataError(
            "INT8 needs pictures to measure ranges on, and there are none",
            hint="give some hundred like those that the net will see, with --calibration-data",
            reason="empty",
        )
    return Calibration(meter.ranges(), meter.means(), tuple(pictures), digest.hexdigest(), net_sha256(model))


def net_sha256(model: ModelProto) -> str:
    """Compute the SHA-256 of a graph's nodes and weights.

    The graph's name, its spec and the size of its input do not count.
    """
    digest = hashlib.sha256()
    for node in model.graph.node:
        digest.update(node.SerializeToString(deterministic=True))
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        digest.update(strict_json.dumps([tensor.name, str(value.dtype), value.shape]).encode() + value.tobytes())
    return digest.hexdigest()


class _Meter:
    """Run a network, and keep a histogram of every activation that the placement of any target quantises."""

    def __init__(self, model: ModelProto) -> None:
        """Make the tensors to measure outputs of `model`, a canonical graph, and load it into ONNX Runtime."""
        net = Net(model)
        origins = (origin for target in get_args(Target) for origin in place(net, target).tensors.values())
        self._histograms = {name: Histogram() for name in dict.fromkeys(origins)}
        self._channel_axes = {node.input[0]: 1 if node.op_type == "Conv" else -1 for node in net.weighted()}
        self._sums: dict[str, Any] = dict.fromkeys(self._channel_axes, 0.0)
        if not self._histograms:
            raise ModelError(
                "the graph has no convolution or fully connected layer that can be quantised", reason="unsupported"
            )
        self._pictures = 0
        self.batch_size = 1
        """Images per batch: one at first, then what fits into `MEMORY`."""
        self._tensors = list(dict.fromkeys([*self._histograms, *self._sums]))
        present = {item.name for item in model.graph.output}
        model.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in self._tensors
            if name not in present
        )
        options = ort_session.session_options(silent=True)
        try:
            self._session = ort_session.open_session(model.SerializeToString(), options)
        except Exception as error:  # the exceptions of ONNX Runtime share no other base class
            raise ModelError(f"ONNX Runtime cannot load the net ({first_line(error)})", reason="failed") from error

    def measure(self, images: Images) -> None:
        """Add the activations on `images`, uint8, (N, height, width, 3). Raises `ModelError` if one is not finite."""
        try:
            outputs = self._session.run(self._tensors, {INPUT: images})
        except Exception as error:  # as above
            raise ModelError(
                f"the net does not run on pictures of {images.shape} ({first_line(error)})", reason="mismatch"
            ) from error
        for name, values in zip(self._tensors, outputs, strict=True):
            if name in self._histograms and not self._histograms[name].add(values):
                raise ModelError(
                    f"{name} is not finite on the pictures, so the net has no ranges",
                    hint="train the network, or set its batch-norm statistics, before exporting it",
                    source=name,
                    reason="not_finite",
                )
            if name in self._sums:
                # The mean is taken per image first, so that the result does not depend on the batch size.
                axis = self._channel_axes[name] % values.ndim
                others = tuple(range(1, axis)) + tuple(range(axis + 1, values.ndim))
                self._sums[name] += values.mean(axis=others).sum(axis=0, dtype=np.float64)
        self._pictures += len(images)
        bytes_each = sum(values.nbytes for values in outputs) // len(images)
        self.batch_size = max(1, min(LARGEST_BATCH, MEMORY // max(1, bytes_each)))

    def ranges(self) -> Ranges:
        """Compute the range of every tensor, for each grid and method."""
        return {
            name: {
                grid: {method: find_range(histogram, grid, method) for method in get_args(Method)}
                for grid in get_args(Grid)
            }
            for name, histogram in self._histograms.items()
        }

    def means(self) -> Means:
        """Return the mean of each channel of the inputs of layers with weights."""
        return {name: tuple((total / self._pictures).tolist()) for name, total in self._sums.items()}


def _means(value: Any) -> tuple[float, ...]:
    """Read the channel means of a tensor from a JSON value. Raises `ValueError`."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{value} is no list of means")
    return tuple(spec_fields.number(item, "a mean", -MOST, MOST) for item in value)


def _range(value: Any) -> Range:
    """Read a range from a JSON value. Raises `ValueError` unless it is finite and includes zero."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{value} is no range")
    low, high = float(value[0]), float(value[1])
    if not (-np.inf < low <= 0 <= high < np.inf):
        raise ValueError(f"{value} is no range around zero")
    return low, high
