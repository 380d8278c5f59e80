"""A checkpoint or an FP32 artifact in, a proven artifact out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resnet_infer.converters.importers.onnx_precision import precision_of_graph
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import ModelError, UsageError, first_line
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.graph import build_graph
from resnet_infer.models.spec import ModelSpec
from resnet_infer.runtimes.base import Images
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.utils.extras import needs
from resnet_infer.utils.files import atomic_path
from resnet_infer.verification.parity import Parity, compare, open_reference, require
from resnet_infer.verification.tolerances import Verdict

with needs("export", "writing an ONNX graph"):
    import onnx
    from onnx import ModelProto

PARITY_PICTURES = 17
"""One alone, and two batches of eight."""


@dataclass(frozen=True)
class Source:
    """The FP32 graph that artifacts are made from, and its proof; an artifact needed none."""

    graph: ModelProto
    spec: ModelSpec
    parity: Verdict[Parity] | None


def export_onnx(
    checkpoint: Checkpoint, target: Path, *, dynamic_size: bool = False, images: Images | None = None
) -> Verdict[Parity]:
    """Write the fused FP32 graph to `target` and prove that it answers as the checkpoint does.

    `images` (uint8 NHWC) are the pictures to compare on, by default synthetic ones. Raises `ParityError`, and
    leaves nothing under the final name, if the answers differ.
    """
    with atomic_path(target) as temporary:
        temporary.write_bytes(build_graph(checkpoint, dynamic_size=dynamic_size).SerializeToString())
        return prove(checkpoint, temporary, str(target), dynamic_size=dynamic_size, images=images)


def open_source(model: Checkpoint | Path, *, dynamic_size: bool = False) -> Source:
    """The FP32 graph of a checkpoint, proven, or the one that an FP32 artifact holds.

    Raises `ParityError` as `export_onnx` does, `ModelError` for a file that is no artifact, `UsageError` for one of
    a lower precision, or if its size cannot be left open.
    """
    if isinstance(model, Checkpoint):
        graph = build_graph(model, dynamic_size=dynamic_size)
        parity = prove(model, graph.SerializeToString(), model.spec.name, dynamic_size=dynamic_size)
        return Source(graph, model.spec, parity)
    graph, spec = read_artifact(model)
    if spec.precision != "fp32":
        raise UsageError(
            f"{model} is {spec.precision} already", hint="give the checkpoint or FP32 artifact that it was made from"
        )
    computed = precision_of_graph(graph, str(model)) if spec.architecture is None else "fp32"
    if computed != "fp32":
        raise ModelError(f"{model} says fp32 and computes in {computed}", hint="adopt the graph it was made from again")
    own = spec.provenance.get("operators")
    if own:
        raise UsageError(
            f"{model} holds {', '.join(own)}, which only ONNX Runtime knows: no other artifact can be made of it",
            hint="adopt the graph from before ONNX Runtime optimised it",
        )
    if dynamic_size:
        raise UsageError(f"{model} has its size already", hint="give the checkpoint to leave height and width open")
    return Source(graph, spec, None)


def read_artifact(path: Path) -> tuple[ModelProto, ModelSpec]:
    """The graph and the spec of an artifact of ours, which ONNX Runtime opens. Raises `ModelError` for other files."""
    try:
        graph = onnx.load(path)
    except Exception as error:  # protobuf's and onnx's share no base class but this
        raise ModelError(f"{path} is no ONNX model, or damaged ({first_line(error)})") from error
    with OnnxRuntime(path, device="cpu", threads=1, optimize=False) as opened:
        return graph, opened.spec


def prove(
    checkpoint: Checkpoint,
    graph: Path | bytes,
    what: str,
    *,
    dynamic_size: bool = False,
    images: Images | None = None,
) -> Verdict[Parity]:
    """Compare the fused graph with the checkpoint, at a second size too if the size is open. Raises `ParityError`."""
    crop = checkpoint.spec.input.crop
    if images is None:
        images = natural_noise(PARITY_PICTURES, crop, crop)
    with (
        open_reference(checkpoint, dynamic_size=dynamic_size) as reference,
        OnnxRuntime(graph, device="cpu") as candidate,
    ):
        parity = compare(reference, candidate, images)
        require(parity, what)
        if dynamic_size:
            other = natural_noise(PARITY_PICTURES, crop + 32, crop + 17)
            require(compare(reference, candidate, other), what)
    return parity
