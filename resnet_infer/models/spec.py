"""Define `ModelSpec`: all that is needed to classify an image, stored in every checkpoint and artifact."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ModelError, UsageError, first_line
from resnet_infer.models import spec_fields as fields
from resnet_infer.models.architectures import Architecture
from resnet_infer.models.format_version import FileFormat
from resnet_infer.utils import strict_json
from resnet_infer.utils.error_statistics import interval

Interpolation = Literal["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"]
"""Resize filters of PIL. All but `nearest` antialias when shrinking."""
Precision = Literal["fp32", "fp16", "int8"]

METADATA_KEY = "resnet_infer.spec"
"""Key of the spec in a safetensors header and in the metadata of an ONNX file."""
FORMAT = FileFormat("model spec")
"""Format of the spec."""


@dataclass(frozen=True, eq=False)
class InputSpec:
    """Describe the preprocessing of an image, and its normalisation inside the graph.

    The shorter side is resized to `resize` pixels with PIL's filter `interpolation`, and a central square of `crop`
    pixels is cut out. The network then gets `(pixel / 255 - mean) / std`. `mean` is float32, per channel (3,) or per
    pixel (crop, crop, 3), and `std` float32 (3,), both in units of the full range. `exif` says whether a photo's
    orientation tag is applied when classifying (published ImageNet figures were measured without). Raises `UsageError`
    for invalid values.
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
        if self.resize > fields.MAX_SIDE:
            raise UsageError(f"the resize ({self.resize}) is at most {fields.MAX_SIDE} pixels")
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
        """Tell whether the mean is per pixel."""
        return self.mean.ndim == 3

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
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
    def from_json(cls, value: Mapping[str, Any], *, newer: bool = False) -> InputSpec:
        """Read the result of `to_json`. Raises `FieldError` and `UsageError` for anything else.

        Unknown fields are ignored in a spec of a `newer` version; in others they are taken for misspelt ones.
        """
        known = ("interpolation", "exif", *(value if newer else ()))
        fields.has_fields(value, "input", ("resize", "crop", "mean", "std"), known)
        crop = fields.whole(value["crop"], "input.crop", 1, fields.MAX_SIDE)
        mean = value["mean"]
        return cls(
            resize=fields.whole(value["resize"], "input.resize", 1, fields.MAX_SIDE),
            crop=crop,
            mean=fields.pixels(mean, "input.mean", crop)
            if isinstance(mean, Mapping)
            else fields.numbers(mean, "input.mean"),
            std=fields.numbers(value["std"], "input.std"),
            interpolation=value.get("interpolation", "bilinear"),
            exif=fields.truth(value.get("exif", True), "input.exif"),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InputSpec) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.resize, self.crop, self.interpolation, self.exif))


@dataclass(frozen=True)
class Measured:
    """Hold a measured error in percent of `pictures`. `top5_error` is None with too few classes.

    `runtime` ran the model (`torch`, `onnxruntime`); None if it is unknown.
    """

    dataset: str
    protocol: str
    pictures: int
    top1_error: float
    top5_error: float | None = None
    runtime: str | None = None

    @classmethod
    def from_json(cls, value: Any, where: str, *, newer: bool = False) -> Measured:
        """Read an entry of a spec's `measured`. `where` names it in messages. Raises `FieldError`.

        Unknown fields are ignored in a spec of a `newer` version.
        """
        value = fields.mapping(value, where)
        known = ("top5_error", "runtime", *(value if newer else ()))
        fields.has_fields(value, where, ("dataset", "protocol", "pictures", "top1_error"), known)
        top5, runtime = value.get("top5_error"), value.get("runtime")
        return cls(
            dataset=fields.text(value["dataset"], f"{where}.dataset"),
            protocol=fields.text(value["protocol"], f"{where}.protocol"),
            pictures=fields.whole(value["pictures"], f"{where}.pictures", 0, 10**12),
            top1_error=fields.number(value["top1_error"], f"{where}.top1_error", 0, 100),
            top5_error=None if top5 is None else fields.number(top5, f"{where}.top5_error", 0, 100),
            runtime=None if runtime is None else fields.text(runtime, f"{where}.runtime"),
        )

    @property
    def top1_interval(self) -> tuple[float, float]:
        """Return Wilson's 95% interval of `top1_error`, in percent."""
        return interval(round(self.top1_error * self.pictures / 100), self.pictures)


@dataclass(frozen=True, repr=False)
class ModelSpec:
    """Describe a network, its classes, its input and its origin.

    `classes` are at least two names, in the order of the logits; `class_ids` are their WordNet ids, if known.
    `architecture` is None for an imported ONNX graph. `provenance` is plain JSON: recipe, data, duration, machine,
    licence, whatever is known. In `provenance` and `name`, text that is not UTF-8 is escaped; in the classes it raises
    `UsageError`. `unknown` holds the fields that another version has written, and `dumps` writes them again.

    Specs can be compared and are hashable. `dumps` writes a spec as JSON text, and `loads` reads it.

    >>> from resnet_infer import ModelSpec, read_spec
    >>> spec = read_spec("resnet20-cifar10")
    >>> spec
    <ModelSpec resnet20-cifar10: resnet20, 10 classes, input 32x32, fp32>
    >>> ModelSpec.loads(spec.dumps()) == spec
    True
    """

    name: str
    architecture: Architecture | None
    classes: tuple[str, ...]
    input: InputSpec
    class_ids: tuple[str, ...] | None = None
    precision: Precision = "fp32"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    measured: tuple[Measured, ...] = ()
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False)

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
        for text in (*self.classes, *(self.class_ids or ())):
            if not fields.is_utf8(text):
                raise UsageError(f"the class name {text!a} is not UTF-8", hint="give it another name")
        object.__setattr__(self, "name", fields.writable(self.name))
        object.__setattr__(self, "provenance", fields.writable(self.provenance))
        if self.precision not in get_args(Precision):
            raise UsageError(f"precision is one of {', '.join(get_args(Precision))}, not {self.precision!r}")

    def __hash__(self) -> int:
        return hash((self.name, self.precision, self.classes, self.input))

    def __repr__(self) -> str:
        network = self.architecture.name if self.architecture else "imported graph"
        sides = f"{self.input.crop}x{self.input.crop}"
        return f"<ModelSpec {self.name}: {network}, {len(self.classes)} classes, input {sides}, {self.precision}>"

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        from resnet_infer.reporting.notebook import table_html

        rows = [
            ("network", self.architecture.name if self.architecture else "imported graph"),
            ("classes", f"{len(self.classes)}: {', '.join(self.classes[:5])}" + ", ..." * (len(self.classes) > 5)),
            ("input", f"resize {self.input.resize}, crop {self.input.crop}, {self.input.interpolation}"),
            ("precision", self.precision),
            *((f"error on {item.dataset}", f"{item.top1_error:.2f}% ({item.protocol})") for item in self.measured),
        ]
        return table_html(self.name, (), rows)

    def dumps(self) -> str:
        """Return the spec as JSON text."""
        return strict_json.dumps(FORMAT.compose(self.to_json(), self.unknown), ensure_ascii=False)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object, without the unknown ones."""
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
    def loads(cls, text: str, source: str = "the model spec") -> ModelSpec:
        """Read the text that `dumps` writes. `source` is the file, for messages.

        Raises `ModelError` if the text is damaged, a field has an invalid value, or a newer version wrote it.
        """
        try:
            value = fields.parse(text)
            newer = FORMAT.check(value, source)
            spec = cls.from_json(value, source, newer=newer)
            unknown = FORMAT.unknown(value, spec.to_json())
        except ValueError as error:
            raise ModelError(
                f"{source}: its spec is damaged: {first_line(error)}", source=source, reason="damaged"
            ) from error
        return replace(spec, unknown=unknown) if unknown else spec

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> ModelSpec:
        """Read the spec out of an ONNX file's metadata, where it lies under `METADATA_KEY`.

        `source` is the file, for the message. Raises `ModelError` if there is none, and as `loads` does.
        """
        if METADATA_KEY not in metadata:
            raise ModelError(
                f"{source} carries no model spec",
                hint=f"adopt it with: resnet-infer import {source} --labels FILE ...",
                source=source,
                reason="no_spec",
            )
        return cls.loads(metadata[METADATA_KEY], source)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], source: str = "the model spec", *, newer: bool = False) -> ModelSpec:
        """Read the result of `to_json`. The provenance may be missing, and unknown fields are ignored.

        Inside `architecture`, `input` and `measured` they are ignored only in a spec of a `newer` version.
        Raises `ModelError`, naming the field and `source`, as `loads` does.
        """
        try:
            for name in ("name", "architecture", "classes", "class_ids", "input", "precision", "measured"):
                if name not in value:
                    raise fields.FieldError(f"it lacks {name}")
            arch, ids, measured = value["architecture"], value["class_ids"], value["measured"]
            if not isinstance(measured, list):
                raise fields.FieldError("measured is no list")
            return cls(
                name=fields.text(value["name"], "name"),
                architecture=None if arch is None else _architecture(arch, newer),
                classes=fields.texts(value["classes"], "classes"),
                class_ids=None if ids is None else fields.texts(ids, "class_ids"),
                input=InputSpec.from_json(fields.mapping(value["input"], "input"), newer=newer),
                precision=value["precision"],
                provenance=fields.plain(fields.mapping(value.get("provenance", {}), "provenance"), "provenance"),
                measured=tuple(
                    Measured.from_json(item, f"measured[{i}]", newer=newer) for i, item in enumerate(measured)
                ),
            )
        except (UsageError, ValueError) as error:
            raise ModelError(
                f"{source}: its spec cannot be used: {first_line(error)}", source=source, reason="damaged"
            ) from error

    def with_(self, **changes: Any) -> ModelSpec:
        """Return a copy with some fields changed. Unknown fields inside a changed one are left out.

        >>> spec.with_(name="other").name
        'other'
        """
        unknown = {key: value for key, value in self.unknown.items() if key not in changes}
        return replace(self, **{"unknown": unknown, **changes})


def _architecture(value: Any, newer: bool) -> Architecture:
    """Read the architecture. Unknown fields are ignored in a spec of a `newer` version.

    Raises `FieldError` and `UsageError`.
    """
    value = fields.mapping(value, "architecture")
    known = ("num_classes", "shortcut", "padding", "stride_in")
    fields.has_fields(value, "architecture", ("name",), (*known, *(value if newer else ())))
    for name in ("name", *known):
        item = value.get(name)
        if name == "num_classes" and name in value:
            fields.whole(item, "architecture.num_classes", 1, fields.MAX_CLASSES)
        elif name == "name" or item is not None:
            fields.text(item, f"architecture.{name}")
    return Architecture.from_json(value)


@functools.cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names and the WordNet ids of the classes of ImageNet (ILSVRC 2012), 1000 of each.

    They are in the order of the logits of published weights. Names are distinct: if two classes share their first
    synonym, a word is added ("crane (bird)", "crane (machine)"). WordNet ids ascend.
    """
    loader: Any = __spec__ and __spec__.loader  # reads from a zip file too
    table = loader.get_data(str(Path(__file__).with_name("imagenet_classes.tsv"))).decode()
    rows = [line.split("\t") for line in table.splitlines()]
    return tuple(name for _, _, name in rows), tuple(wordnet_id for _, wordnet_id, _ in rows)
