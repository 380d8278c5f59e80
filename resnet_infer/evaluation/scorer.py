"""Apply a protocol to a model: read and resize images once for all models, and average the answers to views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter, thread_time
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.classifier import Classifier
from resnet_infer.data.datasets import Content, Sample
from resnet_infer.data.image import read_image, require_resizable
from resnet_infer.data.preprocess import Pixels, resize_shorter_side
from resnet_infer.data.protocols import find_protocol
from resnet_infer.errors import PictureError, UsageError
from resnet_infer.lanes import batch_limit
from resnet_infer.models.spec import InputSpec, Interpolation, ModelSpec

PAPER_SCALES = (224, 256, 384, 480, 640)
"""Shorter sides in pixels of the paper's multi-scale testing, for networks with crops of `PAPER_CROP`."""
PAPER_CROP = 224
"""Crop in pixels to which `PAPER_SCALES` belong."""

PROBES, PROBE = 4, 1024
"""Parts of a large file that its digest reads, and the bytes of each."""

Probabilities = NDArray[np.float64]
"""Probabilities of pictures, (pictures, classes)."""


class OpenPicture:
    """Read a picture once, decode it once, and resize it once to each shorter side, for all models.

    `digest` is the same for the same content, and rarely the same for another. `decode_seconds` is the CPU time of this
    thread for reading and decoding. Raises `PictureError` if the file cannot be read.
    """

    def __init__(self, sample: Sample) -> None:
        self.name = sample.name
        self.decode_seconds = 0.0
        start = thread_time()
        self.content = sample.read()
        self.digest = _digest(as_bytes(self.content))
        self.decode_seconds += thread_time() - start
        self._images: dict[bool, Image.Image] = {}
        self._resized: dict[tuple[bool, int, Interpolation], Image.Image] = {}

    def image(self, exif: bool) -> Image.Image:
        """Return the decoded picture, upright by its EXIF tag if `exif`. Raises `PictureError` if it is damaged."""
        exif = exif and isinstance(self.content, bytes)
        if exif not in self._images:
            start = thread_time()
            content = self.content
            self._images[exif] = (
                read_image(content, self.name, exif=exif) if isinstance(content, bytes) else Image.fromarray(content)
            )
            self.decode_seconds += thread_time() - start
        return self._images[exif]

    def resized(self, side: int, spec: InputSpec) -> Image.Image:
        """Return the picture with a shorter side of `side` pixels. Raises `PictureError` if it is too narrow."""
        key = (spec.exif, side, spec.interpolation)
        if key not in self._resized:
            image = self.image(spec.exif)
            require_resizable(image, side, self.name)
            try:
                self._resized[key] = resize_shorter_side(image, side, spec.interpolation)
            except MemoryError as error:
                raise PictureError(
                    f"{self.name}: there is not enough memory to resize it", source=self.name, reason="memory"
                ) from error
        return self._resized[key]


def as_bytes(content: Content) -> bytes:
    """Return the bytes of a file, or of the pixels of a picture that has none."""
    return content if isinstance(content, bytes) else content.tobytes()


def _digest(content: bytes) -> int:
    """Return a number from the length and a CRC of the content.

    Of a large file the CRC covers `PROBES` parts from the first byte to the last, because all of it would take longer.
    """
    size = len(content)
    if size <= PROBES * PROBE:
        return size << 32 | crc32(content)
    value = 0
    for number in range(PROBES):
        start = number * (size - PROBE) // (PROBES - 1)
        value = crc32(content[start : start + PROBE], value)
    return size << 32 | value


class Scorer(Protocol):
    """Answer by one protocol: a model in this process, or a service.

    `rows` is how many rows of a batch a picture fills, and `clock` what `score` is timed with. `scales` are the shorter
    sides at which it views a picture, if the protocol needs several sizes.
    """

    rows: int
    scales: tuple[int, ...]
    clock: Callable[[], float]

    @property
    def spec(self) -> ModelSpec:
        """Spec of the model."""

    def prepare(self, picture: OpenPicture) -> Any:
        """Return what `score` needs of the picture. Called in threads. Raises `PictureError`."""

    def score(self, prepared: Sequence[Any]) -> Probabilities:
        """Return the probabilities of pictures that were prepared, (pictures, classes)."""


class LocalScorer:
    """Apply one protocol to a model in this process.

    Softmax is averaged over the views of a picture, and then over the scales if the protocol needs several sizes.
    `batch_size` is in views. Raises `UsageError` for an unknown protocol, and for one that the model cannot follow.
    """

    def __init__(
        self, classifier: Classifier, protocol: str, *, scales: Sequence[int] | None = None, batch_size: int = 32
    ) -> None:
        self.classifier, self.protocol = classifier, find_protocol(protocol)
        self.scales: tuple[int, ...] = _scales(classifier, scales) if self.protocol.needs_sizes else ()
        self.rows = self.protocol.views
        self._views = self.protocol.function()
        runtime = classifier.runtime
        alone = runtime.on_calling_thread and runtime.device == "cpu" and runtime.describe().get("threads") == 1
        self.clock: Callable[[], float] = thread_time if alone else perf_counter
        crop = self.spec.input.crop
        # Batches of larger pictures have fewer of them, so that they need no more memory than batches of crops.
        self.pixels = batch_limit(batch_size, crop, classifier.lanes) * crop**2

    @property
    def spec(self) -> ModelSpec:
        """Spec of the model."""
        return self.classifier.spec

    def prepare(self, picture: OpenPicture) -> list[Pixels]:
        """Return arrays of views, each (views, height, width, 3); the answer is the mean of their means."""
        geometry = self.spec.input
        sides = self.scales if self.protocol.needs_sizes else (geometry.resize,)
        return [self._views(picture.resized(side, geometry), geometry) for side in sides]

    def score(self, prepared: Sequence[Sequence[Pixels]]) -> Probabilities:
        """Return the probabilities of pictures, (pictures, classes). Views of one shape share a batch."""
        shapes: dict[tuple[int, ...], list[tuple[int, Pixels]]] = {}
        for index, arrays in enumerate(prepared):
            for views in arrays:
                shapes.setdefault(views.shape, []).append((index, views))
        total = np.zeros((len(prepared), len(self.spec.classes)))
        for (count, height, width, _), members in shapes.items():
            size = max(self.pixels // (count * height * width), 1)
            for start in range(0, len(members), size):
                part = members[start : start + size]
                means = self.classifier.probabilities([views for _, views in part], allow_nan=True)
                np.add.at(total, [index for index, _ in part], means)
        means_of_all: Probabilities = total / np.array([[len(arrays)] for arrays in prepared])
        return means_of_all


def _scales(classifier: Classifier, scales: Sequence[int] | None) -> tuple[int, ...]:
    """Return the shorter sides of multi-scale testing. Raises `UsageError` if the model has a fixed size."""
    spec = classifier.spec
    crop = spec.input.crop
    if spec.input.per_pixel:
        raise UsageError(
            f"{spec.name} cannot be tested at several scales: its mean is one value for each pixel of {crop}x{crop}",
            hint="train with a mean per channel (--mean channel) for multi-scale testing",
        )
    if classifier.runtime.size != (None, None):
        raise UsageError(
            f"{spec.name} takes pictures of {' x '.join(str(side or 'any') for side in classifier.runtime.size)} "
            "pixels only, so it has no other scales",
            hint="use --runtime torch, or an artifact made with: resnet-infer export MODEL --dynamic-size",
        )
    if scales is None and crop != PAPER_CROP:
        raise UsageError(
            f"the paper's scales belong to crops of {PAPER_CROP} pixels; those of {spec.name} have {crop}",
            hint=f"name shorter sides with --scales, e.g. --scales {crop},{crop * 5 // 4},{crop * 3 // 2}",
        )
    chosen = tuple(PAPER_SCALES if scales is None else scales)
    if not chosen or min(chosen) < 1 or len(set(chosen)) < len(chosen):
        raise UsageError(f"the scales are distinct shorter sides in pixels, not {', '.join(map(str, chosen))}")
    return chosen
