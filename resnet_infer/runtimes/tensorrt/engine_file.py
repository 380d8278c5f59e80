"""`model.engine.json`: what a TensorRT engine is, kept beside it, so that other programs still read the engine.

An engine runs on the TensorRT and the GPU that built it, and its own header tells neither in words. So all that decides
whether it may be loaded is written down here, and compared before TensorRT sees the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from resnet_infer.errors import ModelError
from resnet_infer.models import spec_fields
from resnet_infer.models.spec import ModelSpec
from resnet_infer.utils import strict_json
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.inputs import read_bytes, read_text

SUFFIX = ".engine"
FORMAT = 1
AMPERE = (8, 0)
"""The least compute capability of a hardware-compatible engine, TensorRT's level AMPERE_PLUS."""
_NEWER = {(8, 10), (10, 11)}
"""Major versions of TensorRT whose version-compatible engines the other runs, besides its own."""


def sidecar_path(engine: Path) -> Path:
    """Where the sidecar of `engine` lies: `model.engine.json` for `model.engine`."""
    return engine.with_name(f"{engine.name}.json")


def version_numbers(version: str) -> tuple[int, ...]:
    """TensorRT's version as numbers: "10.16.1.11" is (10, 16, 1, 11)."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


@dataclass(frozen=True)
class EngineInfo:
    """A TensorRT engine: its spec, what built it, and what it takes.

    `tensorrt`, `gpu` (name) and `compute_capability` are those that built it. `batch` is the least, the best and the
    largest number of pictures in a call; `size` their (height, width). `images` and `logits` are the tensors' names.
    `layers` counts the layers by the precision that TensorRT says they run in ("other": it does not say).
    """

    spec: ModelSpec
    tensorrt: str
    gpu: str
    compute_capability: tuple[int, int]
    batch: tuple[int, int, int]
    size: tuple[int, int]
    images: str
    logits: str
    version_compatible: bool
    hardware_compatible: bool
    layers: Mapping[str, int]
    onnx_sha256: str
    engine_sha256: str

    def to_json(self) -> dict[str, Any]:
        """All but the spec, and the precision out of it."""
        value = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "spec"}
        return {"precision": self.spec.precision, **value}

    def save(self, path: Path) -> None:
        """Write the sidecar to `path`."""
        value = {"format": FORMAT, **self.to_json(), "spec": json.loads(self.spec.dumps())}
        with atomic_path(path) as temporary:
            temporary.write_text(strict_json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> EngineInfo:
        """Read a sidecar. Raises `ModelError` if it is damaged or was written by a newer version."""
        try:
            value = spec_fields.parse(read_text(path))
            if spec_fields.whole(value["format"], "format", 1, 10**9) > FORMAT:
                raise ModelError(
                    f"{path} has format {value['format']}, this version reads up to {FORMAT}",
                    hint="upgrade resnet-infer: pip install --upgrade . in a newer checkout",
                )
            known: dict[str, Any] = {item.name: value[item.name] for item in fields(cls)}
            known["spec"] = ModelSpec.loads(strict_json.dumps(known["spec"]), str(path))
            for name, length in (("compute_capability", 2), ("batch", 3), ("size", 2)):
                known[name] = tuple(int(number) for number in known[name])
                if len(known[name]) != length:
                    raise ValueError(f"{name} has {len(known[name])} numbers")
            for name in ("tensorrt", "gpu", "images", "logits", "onnx_sha256", "engine_sha256"):
                if not isinstance(known[name], str):
                    raise TypeError(f"{name} is no text")
            if not version_numbers(known["tensorrt"]):
                raise ValueError("tensorrt is no version")
            low, best, high = known["batch"]
            if not 1 <= low <= best <= high or min(known["size"]) < 1:
                raise ValueError("batch or size is out of range")
            for name in ("version_compatible", "hardware_compatible"):
                spec_fields.truth(known[name], name)
            for name, count in spec_fields.mapping(known["layers"], "layers").items():
                spec_fields.whole(count, f"layers.{name}", 0, 10**9)
            return cls(**known)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ModelError(
                f"{path} is damaged ({type(error).__name__}: {error})", hint="export the engine again"
            ) from error

    def differences(self, tensorrt: str, gpu: str, compute_capability: tuple[int, int]) -> list[str]:
        """Why the engine does not run with this TensorRT on this GPU; empty if it does.

        By NVIDIA's rules: the same version, or for a version-compatible engine a newer one of the same major, or of
        the next one; the same GPU, or for a hardware-compatible engine Ampere or newer.
        """
        found = []
        built, here = version_numbers(self.tensorrt), version_numbers(tensorrt)
        newer = here >= built and (here[:1] == built[:1] or (built[0], here[0]) in _NEWER)
        if self.tensorrt != tensorrt and not (self.version_compatible and newer):
            found.append(f"it was built by TensorRT {self.tensorrt}, and this is TensorRT {tensorrt}")
        if self.hardware_compatible:
            if compute_capability < AMPERE:
                found.append(f"it runs on Ampere GPUs and newer, and {gpu} is older")
        elif (self.gpu, self.compute_capability) != (gpu, compute_capability):
            built_for, this = (".".join(map(str, pair)) for pair in (self.compute_capability, compute_capability))
            found.append(
                f"it was built for {self.gpu} (compute capability {built_for}), and this is {gpu} "
                f"(compute capability {this})"
            )
        return found

    def require(self, tensorrt: str, gpu: str, compute_capability: tuple[int, int], label: str) -> None:
        """Raise `ModelError`, with all that differs, unless the engine runs here."""
        found = self.differences(tensorrt, gpu, compute_capability)
        if found:
            raise ModelError(
                f"{label} does not run here: {'; '.join(found)}",
                hint="export it again on this machine, or there with --version-compatible or --hardware-compatible",
            )


def read_engine(path: Path) -> tuple[bytes, EngineInfo]:
    """An engine's bytes and its sidecar. Raises `ModelError` if one is missing, damaged or not the other's."""
    if not path.is_file():
        raise ModelError(f"{path} does not exist")
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        raise ModelError(
            f"{path} lacks its sidecar {sidecar.name}, which says what the engine is",
            hint="copy both files together, or export the engine again",
        )
    info = EngineInfo.load(sidecar)
    content = read_bytes(path)
    if hashlib.sha256(content).hexdigest() != info.engine_sha256:
        raise ModelError(
            f"{path} is damaged, or {sidecar.name} belongs to another engine: the SHA-256 differs",
            hint="copy both files again, or export the engine again",
        )
    return content, info
