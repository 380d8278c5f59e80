"""Determine the precision in which a built engine runs, from the report of TensorRT's `IEngineInspector`.

The report differs from version to version, and with a dynamic batch TensorRT 8 and 10 omit the types of activations.
The precision of a layer is therefore taken from the type of the weights, else from the types of the inputs, else from
the name of the kernel.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from resnet_infer.converters.tensorrt.engine_graph import STRONGLY_TYPED
from resnet_infer.errors import ModelError
from resnet_infer.models.spec import Precision

_TYPES: tuple[tuple[Precision, str], ...] = (
    ("int8", r"(?<!u)int8"),
    ("fp16", r"half|fp16|float16(?<!bfloat16)"),
    ("fp32", r"fp32|float\b|float32"),
)
"""Patterns of data types in the inspector's JSON, e.g. "Half" and "Row major linear FP32"."""
_KERNELS: tuple[tuple[Precision, str], ...] = (
    ("int8", r"i8i8|i8i32|i8f32|imma|(?<!u)int8"),
    ("fp16", r"f16f16|hmma|h1688|h16816|h884|fp16"),
    ("fp32", r"f32f32|sgemm|scudnn|fp32"),
)
"""Patterns of the arithmetic in a kernel's name, e.g. sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw."""


@dataclass(frozen=True)
class Layer:
    """Describe a layer of an engine.

    `precision` is None if the report does not show it. `convolution` tells whether the layer is a convolution.
    `kernel` is the name of the kernel that TensorRT chose (its tactic), empty if unknown.
    """

    name: str
    precision: Precision | None
    convolution: bool
    kernel: str = ""


def read_layers(information: str) -> list[Layer]:
    """Read the layers from the JSON of `IEngineInspector.get_engine_information`.

    Raises `ModelError` if the layers are missing or lack details, as without `ProfilingVerbosity.DETAILED`.
    """
    try:
        found = json.loads(information, strict=False)["Layers"]  # names may contain control characters
        return [_layer(item) for item in found]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"TensorRT's account of the engine's layers cannot be read ({type(error).__name__}: {error})",
            hint="the engine's precision cannot be proven, so it was not kept",
            reason="failed",
        ) from error


def count_layers(layers: Iterable[Layer]) -> dict[str, int]:
    """Count the layers by precision. Layers of unknown precision count as "other".

    >>> count_layers([Layer("conv1", "int8", True), Layer("pool", None, False)])
    {'int8': 1, 'other': 1}
    """
    return dict(sorted(Counter(layer.precision or "other" for layer in layers).items()))


def require_precision(
    layers: list[Layer], precision: Precision, convolutions: Mapping[Precision, int], major: int
) -> None:
    """Raise `ModelError` unless the engine runs in `precision`.

    `convolutions` is the number of the graph's convolutions by precision, and `major` TensorRT's major version.

    - At least one convolution must run in `precision`. If the precision of no convolution is known, one layer of any
      kind suffices.
    - No more convolutions may run in a wider precision than the graph has in it. TensorRT 8 is excepted for FP16, where
      it chooses the precision of each layer itself.
    - In FP32 no layer may run in FP16, INT8 or TF32.
    """
    wrong: list[Layer] = []
    if precision == "fp32":
        wrong = [item for item in layers if item.precision in ("fp16", "int8") or "tf32" in item.kernel.lower()]
    elif precision == "int8" or major >= STRONGLY_TYPED:
        wider: set[Precision] = {"fp32", "fp16"} if precision == "int8" else {"fp32"}
        allowed = sum(convolutions.get(name, 0) for name in wider)
        wrong = [item for item in layers if item.convolution and item.precision in wider][allowed:]
    telling = [item for item in layers if item.convolution and item.precision] or layers
    if wrong or not any(item.precision == precision for item in telling):
        counts = ", ".join(f"{count} in {name}" for name, count in count_layers(layers).items()) or "none"
        named = f"; not so {', '.join(item.name for item in wrong[:3])}" if wrong else ""
        raise ModelError(
            f"the engine does not run in {precision} as it was asked to: of its {len(layers)} layers {counts}{named}",
            hint="the engine was not kept",
            reason="mismatch",
        )


def _layer(item: Mapping[str, Any]) -> Layer:
    """Convert the inspector's JSON object for a layer. Raises `KeyError` or `AttributeError` without details."""
    kernel = str(item.get("TacticName", ""))
    kind = f"{item.get('LayerType', '')} {item.get('ParameterType', '')}".lower()
    inputs = " ".join(
        f"{tensor.get('Format/Datatype', '')} {tensor.get('DataType', '')} {tensor.get('Format', '')}"
        for tensor in item.get("Inputs", ())
    )
    weights = item.get("Weights")
    weights = str(weights.get("Type", "")) if isinstance(weights, Mapping) else ""
    return Layer(
        name=str(item["Name"]),
        precision=_first(_TYPES, weights) or _first(_TYPES, inputs) or _first(_KERNELS, kernel),
        convolution="conv" in kind or "fprop" in kernel.lower(),
        kernel=kernel,
    )


def _first(words: Iterable[tuple[Precision, str]], text: str) -> Precision | None:
    """Return the first precision whose pattern occurs in `text`, ignoring case, or None."""
    return next((precision for precision, word in words if re.search(word, text, re.IGNORECASE)), None)
