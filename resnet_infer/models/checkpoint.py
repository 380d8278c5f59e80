"""Read and write checkpoints: safetensors files whose header holds the `ModelSpec`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ModelError
from resnet_infer.models.spec import METADATA_KEY, ModelSpec
from resnet_infer.utils.files import atomic_path, sha256
from resnet_infer.utils.inputs import require_regular

Weights = Mapping[str, NDArray[Any]]
SUFFIX = ".safetensors"
"""Suffix of a checkpoint."""
EXTRA_PREFIX = "training."
"""Prefix of tensors that are not the network's. A trainer keeps its momentum under it."""


@dataclass(frozen=True)
class Checkpoint:
    """Hold a spec and its weights, float32, named and shaped as in `Plan.shapes()`.

    `extra` holds tensors that are not weights, and `notes` further entries of the header. The writer defines their
    meaning.
    """

    spec: ModelSpec
    weights: Weights = field(repr=False)
    extra: Weights = field(default_factory=dict, repr=False)
    notes: Mapping[str, str] = field(default_factory=dict, repr=False)


def save_checkpoint(checkpoint: Checkpoint, path: Path, *, half: bool = False) -> None:
    """Write a checkpoint atomically. `half` stores the kernels, which are nearly all of it, in half precision.

    The vectors of batch norm stay in float32, because a variance may be too small for float16. Raises `ModelError` if
    the weights do not fit the spec's architecture, or are too large for half precision.
    """
    from safetensors.numpy import save

    check_weights(checkpoint.spec, checkpoint.weights, str(path))
    tensors = {name: np.ascontiguousarray(value) for name, value in checkpoint.weights.items()}
    if half:
        with np.errstate(over="ignore"):
            tensors = {name: value.astype(np.float16) if value.ndim > 1 else value for name, value in tensors.items()}
        check_weights(checkpoint.spec, tensors, f"{path} in half precision")
    tensors |= {EXTRA_PREFIX + name: np.ascontiguousarray(value) for name, value in checkpoint.extra.items()}
    with atomic_path(path) as temporary:
        # safetensors' own writer makes the file unreadable for other users.
        temporary.write_bytes(save(tensors, metadata={**checkpoint.notes, METADATA_KEY: checkpoint.spec.dumps()}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Half-precision weights become float32.

    Raises `ModelError` if the file is missing, damaged or not a checkpoint, or its weights do not fit its spec.

    >>> load_checkpoint(Path("model.safetensors")).spec.name
    'resnet50'
    """
    with _opened(path) as (file, notes):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    spec = ModelSpec.loads(notes.pop(METADATA_KEY), str(path))
    weights = {k: v.astype(np.float32) for k, v in tensors.items() if not k.startswith(EXTRA_PREFIX)}
    extra = {k.removeprefix(EXTRA_PREFIX): v for k, v in tensors.items() if k.startswith(EXTRA_PREFIX)}
    check_weights(spec, weights, str(path))
    return Checkpoint(spec, weights, extra, notes)


def read_checkpoint_spec(path: Path) -> ModelSpec:
    """Read the spec in a checkpoint's header, and none of its weights.

    Raises `ModelError` if the file is missing, damaged, or not a checkpoint of ours.
    """
    with _opened(path) as (_, notes):
        return ModelSpec.loads(notes[METADATA_KEY], str(path))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """Open a checkpoint for reading, and give it with the metadata of its header, which contains the spec."""
    from safetensors import SafetensorError, safe_open

    try:
        require_regular(path)
        with safe_open(path, "numpy") as file:
            notes = dict(file.metadata() or {})
            if METADATA_KEY not in notes:
                raise ModelError(
                    f"{path} is a safetensors file without a model spec",
                    hint=f"if it holds a ResNet's weights: resnet-infer import {path} --arch resnet50 -o model{SUFFIX}",
                    source=path,
                    reason="no_spec",
                )
            yield file, notes
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", source=path, reason="missing") from error
    except (SafetensorError, OSError, TypeError) as error:
        raise ModelError(
            f"{path} is damaged or no safetensors file ({error})", source=path, reason="damaged"
        ) from error


def check_weights(spec: ModelSpec, weights: Weights, source: str) -> None:
    """Raise `ModelError` naming missing, left-over, misshapen and non-finite tensors, if there are any."""
    if spec.architecture is None:
        raise ModelError(
            f"{source}: a checkpoint needs an architecture; this spec has none", source=source, reason="mismatch"
        )
    shapes = spec.architecture.plan().shapes()
    problems = [f"missing {name}" for name in shapes if name not in weights]
    problems += [f"left over {name}" for name in weights if name not in shapes]
    for name, shape in shapes.items():
        if name in weights:
            value = weights[name]
            if value.shape != shape:
                problems.append(f"{name} is {value.shape}, not {shape}")
            elif not np.isfinite(value).all():
                problems.append(f"{name} is not finite")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ModelError(
            f"{source}: the weights do not fit {spec.architecture.name}: {shown}", source=source, reason="mismatch"
        )


def model_digest(source: Path | Checkpoint) -> str:
    """Return the SHA-256, in hexadecimal, of an artifact's file, or of a checkpoint's spec and weights.

    The weights of a checkpoint are hashed in the order of their names.
    """
    if isinstance(source, Path):
        return sha256(source)
    import hashlib  # which loads OpenSSL

    digest = hashlib.sha256(source.spec.dumps().encode())
    for name, value in sorted(source.weights.items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
