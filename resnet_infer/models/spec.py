"""`ModelSpec`: all that is needed to turn a picture into an answer, carried inside every checkpoint and artifact."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ModelError, UsageError
from resnet_infer.models.architectures import Architecture

Interpolation = Literal["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"]
"""The resize filters of PIL, which antialias when shrinking (all but `nearest`)."""
Precision = Literal["fp32", "fp16", "int8"]

METADATA_KEY = "resnet_infer.spec"
"""Where the spec lies in a safetensors header and in an ONNX file's metadata."""
FORMAT = 1


@dataclass(frozen=True, eq=False)
class InputSpec:
    """From a decoded picture to the pixels of the graph's input, and their normalisation inside the graph.

    The shorter side is resized to `resize` pixels with PIL's filter `interpolation`, and a square of side `crop` is
    cut out. The network then sees `(pixel / 255 - mean) / std`. `mean` is float32, (3,) per channel or
    (crop, crop, 3) per pixel, and `std` float32 (3,), both in units of the full range. `exif`: whether a photo's
    orientation tag is obeyed when classifying (published ImageNet figures were measured without).
    """

    resize: int
    crop: int
    mean: NDArray[Any]
    std: NDArray[Any]
    interpolation: Interpolation = "bilinear"
    exif: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", np.array(self.mean, np.float32))
        object.__setattr__(self, "std", np.array(self.std, np.float32))
        if not 1 <= self.crop <= self.resize:
            raise UsageError(f"the crop ({self.crop}) must be at least 1 and at most the resize ({self.resize})")
        if self.mean.shape not in ((3,), (self.crop, self.crop, 3)):
            raise UsageError(f"the mean has shape {self.mean.shape}; it is (3,) or ({self.crop}, {self.crop}, 3)")
        if self.std.shape != (3,) or not (self.std > 0).all():
            raise UsageError("the standard deviation is three positive numbers")
        if not np.isfinite(self.mean).all() or not np.isfinite(self.std).all():
            raise UsageError("mean and standard deviation must be finite")
        if self.interpolation not in get_args(Interpolation):
            raise UsageError(
                f"interpolation is one of {', '.join(get_args(Interpolation))}, not {self.interpolation!r}"
            )

    @property
    def per_pixel(self) -> bool:
        return self.mean.ndim == 3

    @property
    def protocol(self) -> str:
        """What one view of a picture is called: `native` where it is all of the resized square, else `1-crop`."""
        return "native" if self.resize == self.crop else "1-crop"

    def to_json(self) -> dict[str, Any]:
        mean: Any = (
            [float(x) for x in self.mean]
            if not self.per_pixel
            else {
                "shape": list(self.mean.shape),
                "float32": base64.b64encode(self.mean.astype("<f4").tobytes()).decode(),
            }
        )
        return {
            "resize": self.resize,
            "crop": self.crop,
            "interpolation": self.interpolation,
            "mean": mean,
            "std": [float(x) for x in self.std],
            "exif": self.exif,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputSpec:
        mean = value["mean"]
        if isinstance(mean, Mapping):
            mean = np.frombuffer(base64.b64decode(mean["float32"]), "<f4").reshape(mean["shape"])
        return cls(**{**value, "mean": mean})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InputSpec) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # compares arrays


@dataclass(frozen=True)
class Measured:
    """An error that was measured, in percent of `pictures`; `top5` is None where there are too few classes."""

    dataset: str
    protocol: str
    pictures: int
    top1_error: float
    top5_error: float | None = None


@dataclass(frozen=True)
class ModelSpec:
    """What a network is, what it answers, what it eats, and where it comes from.

    `classes` are names, at least two, in the order of the logits. `class_ids` (WordNet ids) may stand beside them.
    `architecture` is None for an adopted graph. `provenance` is plain JSON: recipe, data, length, machine, licence,
    whatever is known.
    """

    name: str
    architecture: Architecture | None
    classes: tuple[str, ...]
    input: InputSpec
    class_ids: tuple[str, ...] | None = None
    precision: Precision = "fp32"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    measured: tuple[Measured, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            count = "no class" if not self.classes else f"one class ({self.classes[0]})"
            raise UsageError(
                f"a model needs at least two classes, and this has {count}: "
                "probabilities are shares between classes, so one alone would always have 100%",
                hint="give what is not of the class one of its own",
            )
        if self.architecture and self.architecture.num_classes != len(self.classes):
            raise UsageError(f"{len(self.classes)} class names for {self.architecture.num_classes} classes")
        if self.class_ids is not None and len(self.class_ids) != len(self.classes):
            raise UsageError(f"{len(self.class_ids)} class ids for {len(self.classes)} classes")
        if self.precision not in get_args(Precision):
            raise UsageError(f"precision is one of {', '.join(get_args(Precision))}, not {self.precision!r}")

    def dumps(self) -> str:
        """The spec as JSON."""
        return json.dumps({"format": FORMAT, **self.to_json()}, ensure_ascii=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "architecture": self.architecture.to_json() if self.architecture else None,
            "classes": list(self.classes),
            "class_ids": list(self.class_ids) if self.class_ids else None,
            "input": self.input.to_json(),
            "precision": self.precision,
            "provenance": dict(self.provenance),
            "measured": [asdict(item) for item in self.measured],
        }

    @classmethod
    def loads(cls, text: str, source: str) -> ModelSpec:
        """Read `dumps`' JSON. `source` is the file it was found in, for the message.

        Raises `ModelError` if the text is damaged or was written by a newer version.
        """
        try:
            value = json.loads(text)
            if value["format"] > FORMAT:
                raise ModelError(
                    f"{source}: its spec has format {value['format']}, this version reads up to {FORMAT}",
                    hint="upgrade with: pip install --upgrade resnet-infer",
                )
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{source}: its spec is damaged ({type(error).__name__}: {error})") from error
        return cls.from_json(value, source)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], source: str) -> ModelSpec:
        """Read what `to_json` gave; a provenance may be lacking. Raises `ModelError`, as `loads` does."""
        try:
            arch = value["architecture"]
            ids = value["class_ids"]
            return cls(
                name=value["name"],
                architecture=Architecture.from_json(arch) if arch else None,
                classes=tuple(value["classes"]),
                class_ids=tuple(ids) if ids else None,
                input=InputSpec.from_json(value["input"]),
                precision=value["precision"],
                provenance=value.get("provenance", {}),
                measured=tuple(Measured(**item) for item in value["measured"]),
            )
        except (UsageError, ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise ModelError(f"{source}: its spec is damaged ({type(error).__name__}: {error})") from error

    def with_(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed."""
        return replace(self, **changes)
