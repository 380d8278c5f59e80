"""Read and write `model.engine.json`, the sidecar that describes a TensorRT engine.

An engine runs only with the TensorRT version and on the GPU that built it, and its header does not name them in text.
The sidecar records both, and they are compared before TensorRT loads the engine. A file of its own leaves the engine
readable for other programs, such as trtexec.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from resnet_infer.errors import ModelError
from resnet_infer.models import spec_fields
from resnet_infer.models.format_version import FileFormat
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.artifacts import Details, Reader
from resnet_infer.runtimes.tensorrt.versions import compatible_majors, version_numbers
from resnet_infer.utils import strict_json
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.inputs import read_bytes, read_text

SUFFIX = ".engine"
FORMAT = FileFormat("engine sidecar")
"""Format of the sidecar."""
AMPERE = (8, 0)
"""Smallest compute capability that runs a hardware-compatible engine (`HardwareCompatibilityLevel.AMPERE_PLUS`)."""


def sidecar_path(engine: Path) -> Path:
    """Return the path of the sidecar of `engine`: `model.engine.json` for `model.engine`."""
    return engine.with_name(f"{engine.name}.json")


@dataclass(frozen=True)
class EngineInfo:
    """Describe a TensorRT engine.

    - `tensorrt`, `gpu`, `compute_capability`: the version, the GPU's name and its (major, minor) that built it.
    - `batch`: smallest, optimal and largest number of images in a call (the optimisation profile).
    - `size`: (height, width) of the images in pixels.
    - `images`, `logits`: names of the input and output tensors.
    - `layers`: number of layers by the precision that TensorRT reports, "other" where it reports none.
    - `onnx_sha256`, `engine_sha256`: hexadecimal SHA-256 of the ONNX graph and of the engine.
    - `unknown`: fields that another version has written; `save` writes them again.
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
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return all known fields except the spec, and the spec's precision, as a JSON object."""
        value = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("spec", "unknown")}
        return {"precision": self.spec.precision, **value}

    def save(self, path: Path) -> None:
        """Write the sidecar to `path`, atomically."""
        value = FORMAT.compose({**self.to_json(), "spec": json.loads(self.spec.dumps())}, self.unknown)
        with atomic_path(path) as temporary:
            temporary.write_text(strict_json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> EngineInfo:
        """Read a sidecar. Raises `ModelError` if it is damaged or was written by a newer version."""
        try:
            value = spec_fields.parse(read_text(path))
            FORMAT.check(value, str(path))
            known: dict[str, Any] = {item.name: value[item.name] for item in fields(cls) if item.name != "unknown"}
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
            info = cls(**known)
            return replace(info, unknown=FORMAT.unknown(value, {**info.to_json(), "spec": value["spec"]}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ModelError(
                f"{path} is damaged ({type(error).__name__}: {error})",
                hint="export the engine again",
                source=path,
                reason="damaged",
            ) from error

    def differences(self, tensorrt: str, gpu: str, compute_capability: tuple[int, int]) -> list[str]:
        """List the reasons why the engine does not run with this TensorRT on this GPU; empty if it does.

        An engine needs the version that built it, or if version-compatible a newer one of the same or the next major
        version. It needs the GPU that built it, or if hardware-compatible any GPU from Ampere on.

        Source: "Version Compatibility" and "Hardware Compatibility" in https://docs.nvidia.com/deeplearning/tensorrt/.
        """
        found = []
        built, here = version_numbers(self.tensorrt), version_numbers(tensorrt)
        newer = here >= built and built[0] in compatible_majors(tensorrt)
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
        """Raise `ModelError` with all `differences` unless the engine runs here. `label` names it in the message."""
        found = self.differences(tensorrt, gpu, compute_capability)
        if found:
            raise ModelError(
                f"{label} does not run here: {'; '.join(found)}",
                hint="export it again on this machine, or there with --version-compatible or --hardware-compatible",
                source=label,
                reason="unavailable",
            )


def read_info(path: Path) -> EngineInfo:
    """Read the sidecar of the engine at `path`, and nothing of the engine.

    Raises `ModelError` if one of the two is missing, or the sidecar is damaged.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist", source=path, reason="missing")
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        raise ModelError(
            f"{path} lacks its sidecar {sidecar.name}, which says what the engine is",
            hint="copy both files together, or export the engine again",
            source=path,
            reason="incomplete",
        )
    return EngineInfo.load(sidecar)


def read_engine(path: Path) -> tuple[bytes, EngineInfo]:
    """Read an engine's bytes and its sidecar.

    Raises `ModelError` if one is missing or damaged, or if they do not belong together.
    """
    info = read_info(path)
    content = read_bytes(path)
    if hashlib.sha256(content).hexdigest() != info.engine_sha256:
        raise ModelError(
            f"{path} is damaged, or {sidecar_path(path).name} belongs to another engine: the SHA-256 differs",
            hint="copy both files again, or export the engine again",
            source=path,
            reason="damaged",
        )
    return content, info


def _details(path: Path) -> Details:
    """Return what built an engine, where it runs and what it takes."""
    engine = read_info(path)
    versions = ", and newer versions (version-compatible)" if engine.version_compatible else ""
    capability = ".".join(map(str, engine.compute_capability))
    gpus = ", and other GPUs from Ampere on (hardware-compatible)" if engine.hardware_compatible else ""
    (low, best, high), (height, width) = engine.batch, engine.size
    rows = [
        ("TensorRT", f"{engine.tensorrt}{versions}"),
        ("GPU", f"{engine.gpu} (compute capability {capability}){gpus}"),
        ("batch", f"{low} to {high}, tuned for {best}"),
        ("pixels", f"{height}x{width}"),
        ("layers", ", ".join(f"{count} {name}" for name, count in engine.layers.items()) or "not told"),
        ("made from", f"an ONNX graph with SHA-256 {engine.onnx_sha256}"),
    ]
    return Details("engine", engine.to_json(), rows)


READER = Reader(
    spec=lambda path: read_info(path).spec,
    size=lambda path: read_info(path).size,
    check=read_engine,
    details=_details,
)
"""Reader of engines. `check` compares the digest of the engine with its sidecar."""
