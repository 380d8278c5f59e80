"""An ONNX artifact in, a proven TensorRT engine out: TensorRT 8.6, 10 and 11."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from traceback import clear_frames

from resnet_infer.converters.source import PARITY_PICTURES
from resnet_infer.converters.tensorrt.build import Build, BuildOptions
from resnet_infer.converters.tensorrt.engine_graph import GraphKind, graph_for, read_graph
from resnet_infer.converters.tensorrt.engine_layers import count_layers, require_precision
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import RuntimeUnavailableError
from resnet_infer.models.spec import Precision
from resnet_infer.runtimes.base import Images, parse_device
from resnet_infer.runtimes.onnxruntime import OnnxRuntime
from resnet_infer.runtimes.tensorrt.cuda import Gpu
from resnet_infer.runtimes.tensorrt.engine_file import AMPERE, EngineInfo, sidecar_path
from resnet_infer.runtimes.tensorrt.library import load_tensorrt, major_version
from resnet_infer.runtimes.tensorrt.runtime import TensorRTRuntime
from resnet_infer.utils.console import note
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.progress import Advance
from resnet_infer.verification.parity import Parity, Reference, compare, exact_graph, require
from resnet_infer.verification.tolerances import ENGINES, Verdict


def require_tensorrt(device: str = "auto") -> int:
    """The major version of TensorRT that will build, for `graph_for`; call it before anything slow.

    Raises `RuntimeUnavailableError` without driver, GPU or a TensorRT that loads, `MissingExtraError` without the
    packages.
    """
    gpu = _open_gpu(device)
    try:
        return major_version(load_tensorrt(gpu))
    finally:
        gpu.close()


def build_engine(
    model: bytes | Path,
    target: Path,
    *,
    precision: Precision,
    options: BuildOptions | None = None,
    device: str = "auto",
    progress: Advance | None = None,
    prove: Callable[[Path], object] | None = None,
) -> EngineInfo:
    """Build an engine from an ONNX artifact, and write it to `target` with its sidecar.

    `model` must be the graph that `graph_for(precision, require_tensorrt())` names. Height and width that are open in
    it are fixed to the spec's crop. `progress` is told of steps, where TensorRT tells them (10 and newer). `prove` gets
    the engine's temporary path, the sidecar beside it, before both get their names; if it raises, nothing is left.

    Raises `ModelError` for a graph that TensorRT cannot read or build, or if the engine does not run in `precision`;
    and as `require_tensorrt`. Ctrl-C ends the build at its next step, or at its end where there are none.
    """
    options = options or BuildOptions()
    graph = read_graph(model)
    gpu = _open_gpu(device)
    try:
        tensorrt = load_tensorrt(gpu)
        graph.require(precision, major_version(tensorrt))
        if options.hardware_compatible and gpu.compute_capability < AMPERE:
            raise RuntimeUnavailableError(f"a hardware-compatible engine needs an Ampere GPU or newer, not {gpu.name}")
        crop = graph.spec.input.crop
        size = (graph.size[0] or crop, graph.size[1] or crop)
        if None in graph.size:
            note(f"{graph.label} takes pictures of any size; the engine takes {size[0]}x{size[1]}")
        build = Build(tensorrt, graph, precision, options, size)
        with gpu.current():
            try:
                plan = build.plan(progress)
                layers = build.layers(plan)
            except BaseException as error:
                clear_frames(error.__traceback__)  # what it holds of TensorRT's must not outlive the GPU
                raise
        require_precision(layers, precision, graph.convolutions, build.major)
        info = EngineInfo(
            spec=graph.spec.with_(precision=precision, measured=()),  # nothing was measured of the engine yet
            tensorrt=str(tensorrt.__version__),
            gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            batch=(options.min_batch, options.opt_batch, options.max_batch),
            size=size,
            images=graph.images,
            logits=graph.logits,
            version_compatible=options.version_compatible,
            hardware_compatible=options.hardware_compatible,
            layers=count_layers(layers),
            onnx_sha256=graph.sha256,
            engine_sha256=hashlib.sha256(plan).hexdigest(),
        )
    finally:
        gpu.close()
    _write(plan, info, target, prove)
    return info


def prove(engine: Path, model: bytes | Path, images: Images | None = None, *, device: str = "auto") -> Verdict[Parity]:
    """Compare an engine with ONNX Runtime on the CPU, which runs the graph `model` that the engine was built from.

    `images` (uint8 NHWC) are by default synthetic ones. Raises `ParityError` if the answers differ.
    """
    with OnnxRuntime(model, device="cpu") as reference, TensorRTRuntime(engine, device=device) as candidate:
        if images is None:
            images = natural_noise(PARITY_PICTURES, *candidate.info.size)
        precision = candidate.spec.precision
        # A lower precision is what its rounding makes of it, which float64 has none of.
        exact = exact_graph(model) if precision == "fp32" else None
        parity = compare(
            Reference("the graph" if exact else "ONNX Runtime on the CPU", reference, exact),
            candidate,
            images,
            tolerance=ENGINES[precision],
        )
    require(parity, f"the engine of {candidate.spec.name}")
    return parity


def _open_gpu(device: str) -> Gpu:
    kind, number = parse_device(device)
    if kind == "cpu":
        raise RuntimeUnavailableError(
            "a TensorRT engine is built and run on an NVIDIA GPU only", hint="for a CPU: export with --format onnx"
        )
    return Gpu(number)


def _write(plan: bytes, info: EngineInfo, target: Path, prove: Callable[[Path], object] | None) -> None:
    """Both files under temporary names, proven, then the sidecar and last the engine under their own."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(plan)
        companion = sidecar_path(temporary)
        try:
            info.save(companion)
            if prove:
                prove(temporary)
        finally:
            companion.unlink(missing_ok=True)
        info.save(sidecar_path(target))


__all__ = ["BuildOptions", "GraphKind", "build_engine", "graph_for", "prove", "require_tensorrt"]
