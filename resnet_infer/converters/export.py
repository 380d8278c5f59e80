"""A checkpoint in, a proven artifact out."""

from __future__ import annotations

from pathlib import Path

from resnet_infer.converters.parity import TOLERANCE, Parity, compare, reference_runtime, require
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.files import atomic_path
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.runtimes.base import Images

PARITY_PICTURES = 17
"""One alone, and two batches of eight."""


def export_onnx(
    checkpoint: Checkpoint, target: Path, *, dynamic_size: bool = False, images: Images | None = None
) -> Parity:
    """Write the fused FP32 graph to `target` and prove that it answers as the checkpoint does.

    `images` (uint8 NHWC) are the pictures to compare on, by default synthetic ones. Raises `ParityError`, and
    leaves nothing under the final name, if the answers differ.
    """
    from resnet_infer.models.graph import build_graph
    from resnet_infer.runtimes.onnxruntime import OnnxRuntime

    crop = checkpoint.spec.input.crop
    if images is None:
        images = natural_noise(PARITY_PICTURES, crop, crop)
    model = build_graph(checkpoint, dynamic_size=dynamic_size)
    with atomic_path(target) as temporary:
        temporary.write_bytes(model.SerializeToString())
        reference, name = reference_runtime(checkpoint, dynamic_size=dynamic_size)
        with reference, OnnxRuntime(temporary, device="cpu") as candidate:
            parity = compare(reference, candidate, images, name=name, tolerance=TOLERANCE["fp32"])
            require(parity, str(target))
            if dynamic_size:
                other = natural_noise(PARITY_PICTURES, crop + 32, crop + 17)
                require(compare(reference, candidate, other, name=name, tolerance=TOLERANCE["fp32"]), str(target))
    return parity
