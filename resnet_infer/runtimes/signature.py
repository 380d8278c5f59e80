"""Check the inputs and outputs of a graph against its spec when a runtime opens it, and the images of each call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_infer.errors import ModelError, UsageError
from resnet_infer.models.spec import ModelSpec

OUTPUT = "logits"
"""Name of the output to read if a graph has several."""


@dataclass(frozen=True)
class Tensor:
    """Describe an input or output of a graph.

    `dtype` is the name in NumPy (`uint8`, `float32`), `shape` has None for each dynamic dimension.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """Format the tensor for messages: `input, uint8 [any, 224, 224, 3]`."""
        return f"{self.name}, {self.dtype} [{', '.join(str(side or 'any') for side in self.shape)}]"


def require_images(images: NDArray[np.uint8], size: tuple[int | None, int | None], label: str) -> None:
    """Raise `UsageError` unless `images` are uint8 (N, height, width, 3) of the `size` that the model `label` takes."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UsageError(f"images are uint8 of shape (N, height, width, 3), not {images.dtype} {images.shape}")
    if any(want not in (None, have) for have, want in zip(images.shape[1:3], size, strict=True)):
        wanted, given = (" x ".join(str(side or "any") for side in sides) for sides in (size, images.shape[1:3]))
        raise UsageError(f"{label} takes pictures of {wanted} pixels (height x width), not {given}")


def require_signature(
    spec: ModelSpec, inputs: Sequence[Tensor], outputs: Sequence[Tensor], label: str
) -> tuple[Tensor, Tensor]:
    """Return the input and the output of a graph, if they fit its spec.

    There must be one input, uint8 (N, height, width, 3), whose sides are dynamic or the spec's crop. The output is the
    only one or the one called `logits`, float32 (N, classes).

    `label` names the model in messages. Raises `ModelError`, which describes what the graph has instead.
    """
    if len(inputs) != 1:
        raise _misfit(label, f"it has {len(inputs)} inputs ({_listed(inputs)}), and an artifact has one, the pictures")
    images = inputs[0]
    if images.dtype != "uint8" or len(images.shape) != 4 or images.shape[3] != 3:
        raise _misfit(label, f"its input is {images}, and pictures are uint8 [any, height, width, 3]")
    crop = spec.input.crop
    if any(side not in (None, crop) for side in images.shape[1:3]):
        raise _misfit(label, f"its input is {images}, and its spec cuts out {crop}x{crop} pixels")
    chosen = [item for item in outputs if item.name == OUTPUT] or list(outputs)
    if len(chosen) != 1:
        raise _misfit(label, f"it has {len(outputs)} outputs ({_listed(outputs)}), of which none is called {OUTPUT}")
    logits, classes = chosen[0], len(spec.classes)
    if logits.dtype != "float32" or len(logits.shape) != 2:
        raise _misfit(label, f"its output is {logits}, and logits are float32 [any, {classes}]")
    if logits.shape[1] not in (None, classes):
        raise _misfit(label, f"its output is {logits}, and its spec names {classes} classes")
    return images, logits


def _misfit(label: str, problem: str) -> ModelError:
    """Return the error of a graph that does not fit its spec."""
    return ModelError(
        f"{label}: the graph does not fit its spec: {problem}",
        hint="export it again, or adopt the graph with: resnet-infer import FILE.onnx",
        source=label,
        reason="mismatch",
    )


def _listed(tensors: Sequence[Tensor]) -> str:
    """List at most four tensors for messages."""
    return "; ".join(map(str, tensors[:4])) + ("; ..." if len(tensors) > 4 else "") or "none"
