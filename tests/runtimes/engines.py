"""An engine's file and sidecar, as far as they can be read without TensorRT."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from resnet_infer.models.spec import InputSpec, ModelSpec
from resnet_infer.runtimes.tensorrt.engine_file import EngineInfo, sidecar_path

INFO = EngineInfo(
    spec=ModelSpec("small", None, ("a", "b"), InputSpec(8, 8, np.zeros(3), np.ones(3)), precision="int8"),
    tensorrt="10.3.0",
    gpu="NVIDIA Test GPU",
    compute_capability=(9, 0),
    batch=(1, 8, 64),
    size=(8, 8),
    images="images",
    logits="logits",
    version_compatible=False,
    hardware_compatible=False,
    layers={"int8": 3, "other": 1},
    onnx_sha256="0" * 64,
    engine_sha256=hashlib.sha256(b"an engine").hexdigest(),
)


def write_engine(folder: Path, **changes: object) -> Path:
    """Write `model.engine` with the sidecar `INFO`, fields of it changed."""
    path = folder / "model.engine"
    path.write_bytes(b"an engine")
    replace(INFO, **changes).save(sidecar_path(path))  # type: ignore[arg-type]  # of a field each
    return path
