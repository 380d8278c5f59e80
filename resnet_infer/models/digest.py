"""What tells one model's weights from another's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.weights.download import sha256


def model_digest(source: Path | Checkpoint) -> str:
    """The SHA-256 of an artifact's file; of a checkpoint that of its spec and weights, in the order of their names.

    Hexadecimal.
    """
    if isinstance(source, Path):
        return sha256(source)
    digest = hashlib.sha256(source.spec.dumps().encode())
    for name, value in sorted(source.weights.items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
