"""Write an ONNX artifact, and prove the written file: the format `onnx` of `export`."""

from __future__ import annotations

from pathlib import Path

from resnet_infer.converters.config import ExportConfig
from resnet_infer.converters.formats import Evidence
from resnet_infer.converters.precision.fp16 import ON_CPU
from resnet_infer.converters.precision.lower import Lowered
from resnet_infer.errors import ParityError
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.utils.console import warn
from resnet_infer.utils.extras import needs
from resnet_infer.utils.inputs import read_bytes
from resnet_infer.verification.gates import judge, require
from resnet_infer.verification.metrics import measure
from resnet_infer.verification.tolerances import GATES

with needs("cpu", "writing an ONNX artifact"):
    from resnet_infer.runtimes import ort_session


def write(lowered: Lowered, path: Path, config: ExportConfig) -> Evidence:
    """Write the graph. A note says what FP16 is worth where there is no GPU."""
    if config.precision == "fp16" and ort_session.CUDA not in ort_session.available_providers():
        warn(ON_CPU)
    path.write_bytes(lowered.graph.content)
    return {}


def prove(lowered: Lowered, path: Path, config: ExportConfig) -> Evidence:
    """Compare the file with the verified graph, byte for byte.

    A graph of a lower precision is also run from the file, because it may not be the graph that was measured: FP16 is
    measured with the rounding of a GPU. Raises `ParityError` if the file or its answers differ.
    """
    if read_bytes(path) != lowered.graph.content:
        raise ParityError(
            f"{path}: the written file is not the graph that was verified", hint="check the disk", source=path
        )
    if lowered.answers is not None:
        images, logits = lowered.answers
        gate = GATES[config.precision]
        with OnnxRuntime(path, device="cpu") as runtime:
            require(judge(measure(logits, runtime(images)), gate), gate, f"{path.name} as it was written")
    return {}
