"""Open the FP32 graph that an export starts from, and verify it against its checkpoint.

Lowering the precision is the task of `precision.lower`, and importing foreign models that of `importers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resnet_infer.converters.importers.onnx_precision import precision_of_graph
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import ModelError, UsageError, first_line
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.graph import Graph, build_graph
from resnet_infer.runtimes.base import Images, Runtime
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.utils.extras import needs
from resnet_infer.utils.files import atomic_path
from resnet_infer.verification.parity import Parity, Reference, compare, exact_graph, open_reference, require
from resnet_infer.verification.tolerances import ENGINES, Verdict

with needs("export", "writing an ONNX graph"):
    import onnx

PARITY_PICTURES = 17
"""Images of a parity check: one alone, and two batches of eight."""


@dataclass(frozen=True)
class Source:
    """Hold the FP32 graph that an export starts from, and its comparison with the checkpoint.

    `parity` is None for a graph that was read from an artifact.
    """

    graph: Graph
    parity: Verdict[Parity] | None


def export_onnx(
    checkpoint: Checkpoint, target: Path, *, dynamic_size: bool = False, images: Images | None = None
) -> Verdict[Parity]:
    """Write a checkpoint's FP32 graph to `target`, batch norm folded, and verify it against the checkpoint.

    `images`, uint8, (N, height, width, 3), are compared on; the default are synthetic ones. `dynamic_size` leaves
    height and width of the input open. Raises `ParityError` if the logits differ; nothing is left at `target` then.

    >>> export_onnx(load_checkpoint(Path("model.safetensors")), Path("model.onnx")).passed
    True
    """
    with atomic_path(target) as temporary:
        temporary.write_bytes(build_graph(checkpoint, dynamic_size=dynamic_size).SerializeToString())
        return prove(checkpoint, temporary, str(target), dynamic_size=dynamic_size, images=images)


def open_source(model: Checkpoint | Path, *, dynamic_size: bool = False) -> Source:
    """Build and verify the FP32 graph of a checkpoint, or read that of an FP32 artifact.

    `dynamic_size` leaves height and width of the input open; an artifact's size is fixed already. Raises `ParityError`
    if the logits of graph and checkpoint differ, `ModelError` for a file that is no artifact of FP32 or holds operators
    of ONNX Runtime only, and `UsageError` for an artifact of a lower precision, or with `dynamic_size`.
    """
    if isinstance(model, Checkpoint):
        graph = Graph(build_graph(model, dynamic_size=dynamic_size), model.spec)
        return Source(graph, prove(model, graph.content, model.spec.name, dynamic_size=dynamic_size))
    graph = read_artifact(model)
    spec = graph.spec
    if spec.precision != "fp32":
        raise UsageError(
            f"{model} is {spec.precision} already", hint="give the checkpoint or FP32 artifact that it was made from"
        )
    computed = precision_of_graph(graph.model, str(model)) if spec.architecture is None else "fp32"
    if computed != "fp32":
        raise ModelError(
            f"{model} says fp32 and computes in {computed}",
            hint="adopt the graph it was made from again",
            source=model,
            reason="mismatch",
        )
    own = spec.provenance.get("operators")
    if own:
        raise UsageError(
            f"{model} holds {', '.join(own)}, which only ONNX Runtime knows: no other artifact can be made of it",
            hint="adopt the graph from before ONNX Runtime optimised it",
        )
    if dynamic_size:
        raise UsageError(f"{model} has its size already", hint="give the checkpoint to leave height and width open")
    return Source(graph, None)


def read_artifact(path: Path) -> Graph:
    """Read the graph of an ONNX artifact.

    Raises `ModelError` for a file of another kind, or that is damaged, carries no spec, or cannot be loaded by ONNX
    Runtime.
    """
    if path.suffix != ".onnx":
        raise ModelError(
            f"{path} is no ONNX file: an export starts from a checkpoint or an ONNX artifact",
            hint="give the checkpoint or the .onnx that it was made from",
            source=path,
            reason="unsupported",
        )
    try:
        graph = onnx.load(path)
    except Exception as error:  # the exceptions of protobuf and onnx share no other base class
        raise ModelError(
            f"{path} is no ONNX model, or damaged ({first_line(error)})", source=path, reason="damaged"
        ) from error
    with OnnxRuntime(path, device="cpu", threads=1, optimize=False) as opened:
        return Graph(graph, opened.spec)


def prove(
    checkpoint: Checkpoint,
    graph: Path | bytes,
    what: str,
    *,
    dynamic_size: bool = False,
    images: Images | None = None,
) -> Verdict[Parity]:
    """Verify the exported graph, a path or its bytes, against the checkpoint.

    `images` are uint8, (N, height, width, 3), by default synthetic. With `dynamic_size`, a second image size is
    compared too. Raises `ParityError`, with `what` as the graph's name, if the logits differ.
    """
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


def prove_against_graph(
    candidate: Runtime, graph: Path | bytes, what: str, images: Images | None = None
) -> Verdict[Parity]:
    """Verify an artifact that another program computes against the ONNX graph that it was made from.

    `candidate` has the artifact open. ONNX Runtime computes the graph on the CPU. `images` are uint8 (N, height, width,
    3), N >= 2, of the artifact's size, by default synthetic. What passes is in `verification.tolerances.ENGINES`.
    Raises `ParityError`, with `what` as the artifact's name, if the logits differ by more.
    """
    precision = candidate.spec.precision
    if images is None:
        crop = candidate.spec.input.crop
        images = natural_noise(PARITY_PICTURES, *(side or crop for side in candidate.size))
    # Float64 is no reference for FP16 and INT8, whose rounding is part of the result.
    exact = exact_graph(graph) if precision == "fp32" else None
    with OnnxRuntime(graph, device="cpu") as runtime:
        reference = Reference("the graph" if exact else "ONNX Runtime on the CPU", runtime, exact)
        parity = compare(reference, candidate, images, tolerance=ENGINES[precision])
    require(parity, what)
    return parity
