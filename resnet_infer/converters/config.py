"""Hold the settings of an export: the precision, how INT8 is calibrated, and the image sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_infer.models.spec import Precision

if TYPE_CHECKING:
    from resnet_infer.converters.precision.placement import Target
    from resnet_infer.converters.precision.ranges import Method

CALIBRATION_PICTURES = 512
"""Default number of calibration images."""
CHECK_PICTURES = 1000
"""Default number of images on which the lower precision is compared with FP32."""


@dataclass(frozen=True)
class Pictures:
    """Name the sources of images for calibration and for the comparison with FP32.

    `calibration` is a data set, a folder, an archive or an image, or the `.calibration.json` of an earlier export.
    INT8 needs it. `calibration_count` is the number of images chosen from it.

    `check` is the source of the images on which the lower precision is compared with FP32, and `check_count` their
    number. Without it, INT8 is compared on those images of `calibration` that are not used to calibrate, and FP16, or
    INT8 with a calibration file, on synthetic images.
    """

    calibration: Path | None = None
    calibration_count: int = CALIBRATION_PICTURES
    check: Path | None = None
    check_count: int = CHECK_PICTURES


@dataclass(frozen=True)
class ExportConfig:
    """Hold the settings of an export.

    `precision` is "fp32", "fp16" or "int8". `target` chooses the quantisation scheme of INT8: "cpu" for ONNX Runtime's
    CPU provider, "tensorrt" for TensorRT; None takes the first of the format's targets. `method`, `weight_bits` and
    `float_layers` are those of `lower_to_int8`.

    `max_drop` is the largest accepted rise of the top-1 error in percentage points, on labelled images. None uses the
    default limits on the change of the logits. `pictures` names the image sources. `device` is the GPU that builds and
    verifies an engine.

    `options` are the options of the format (`formats.Format.options`), named and given as in the command, with
    underscores: `{"dynamic_size": True}` or `{"max_batch": 32, "workspace": 512}`.
    """

    precision: Precision = "fp32"
    target: Target | None = None
    method: Method = "mse"
    weight_bits: int | None = None
    float_layers: Sequence[str] = ()
    max_drop: float | None = None
    pictures: Pictures = Pictures()
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
