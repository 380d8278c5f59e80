"""Identify a model's weights by a digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.weights.download import sha256


def model_digest(source: Path | Checkpoint) -> str:
    """Return the SHA-256, in hexadecimal, of an artifact's file, or of a checkpoint's spec and weights.

    The weights of a checkpoint are hashed in the order of their names.
    """
    if isinstance(source, Path):
        return sha256(source)
    digest = hashlib.sha256(source.spec.dumps().encode())
    for name, value in sorted(source.weights.items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
