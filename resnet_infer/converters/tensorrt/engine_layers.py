"""The precision that a built engine really runs in, as TensorRT's inspector tells it.

What the inspector writes differs from version to version, and with a dynamic batch TensorRT 8 and 10 leave the types of
activations out. So every sign is read: the type of the weights, then those of the inputs, then the kernel's name.
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
"""Words for a type in the inspector's JSON, e.g. "Half" and "Row major linear FP32"."""
_KERNELS: tuple[tuple[Precision, str], ...] = (
    ("int8", r"i8i8|i8i32|i8f32|imma|(?<!u)int8"),
    ("fp16", r"f16f16|hmma|h1688|h16816|h884|fp16"),
    ("fp32", r"f32f32|sgemm|scudnn|fp32"),
)
"""Marks of the arithmetic in a kernel's name, e.g. sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw."""


@dataclass(frozen=True)
class Layer:
    """A layer of an engine: its precision, None where nothing tells it, and whether it is a convolution."""

    name: str
    precision: Precision | None
    convolution: bool
    kernel: str = ""


def read_layers(information: str) -> list[Layer]:
    """The layers in the inspector's JSON. Raises `ModelError` if it does not hold them in detail."""
    try:
        found = json.loads(information, strict=False)["Layers"]  # names are parted by control characters
        return [_layer(item) for item in found]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"TensorRT's account of the engine's layers cannot be read ({type(error).__name__}: {error})",
            hint="the engine's precision cannot be proven, so it was not kept",
        ) from error


def count_layers(layers: Iterable[Layer]) -> dict[str, int]:
    """Precision -> layers that run in it; "other" for those that nothing tells of."""
    return dict(sorted(Counter(layer.precision or "other" for layer in layers).items()))


def require_precision(
    layers: list[Layer], precision: Precision, convolutions: Mapping[Precision, int], major: int
) -> None:
    """Raise `ModelError` unless the engine runs in `precision`.

    `convolutions` are the graph's, by precision. At least one convolution must run in the precision (one layer, where
    TensorRT tells of no convolution); those in a wider one are no more than the graph itself has (TensorRT 8 chooses
    freely for FP16); FP32 is FP32 everywhere, without TF32.
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
        )


def _layer(item: Mapping[str, Any]) -> Layer:
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
    return next((precision for precision, word in words if re.search(word, text, re.IGNORECASE)), None)
