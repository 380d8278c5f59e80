"""Export an ONNX artifact as a TensorRT engine with TensorRT 8.6, 10 or 11, and check its precision and its answers.

`build` makes the calls of the builder, `engine_graph` checks the graph, and `engine_layers` the engine's precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from traceback import clear_frames

from resnet_infer.converters.config import ExportConfig
from resnet_infer.converters.formats import Evidence
from resnet_infer.converters.precision.lower import Lowered
from resnet_infer.converters.source import prove_against_graph
from resnet_infer.converters.tensorrt.build import Build, BuildOptions
from resnet_infer.converters.tensorrt.engine_graph import GraphKind, graph_for, read_graph
from resnet_infer.converters.tensorrt.engine_layers import count_layers, require_precision
from resnet_infer.errors import RuntimeUnavailableError
from resnet_infer.models.graph import Graph
from resnet_infer.models.spec import Precision
from resnet_infer.runtimes.base import Images, parse_device
from resnet_infer.runtimes.tensorrt.cuda import Gpu
from resnet_infer.runtimes.tensorrt.engine_file import AMPERE, EngineInfo, sidecar_path
from resnet_infer.runtimes.tensorrt.library import load_tensorrt, major_version
from resnet_infer.runtimes.tensorrt.runtime import TensorRTRuntime
from resnet_infer.utils.console import note
from resnet_infer.utils.files import atomic_pair
from resnet_infer.utils.progress import Advance, progress
from resnet_infer.verification.parity import Parity
from resnet_infer.verification.tolerances import Verdict


def require_tensorrt(device: str = "auto") -> int:
    """Check that engines can be built on `device`, and return the major version of TensorRT, as `graph_for` needs it.

    `device` is `auto`, `cuda` or `cuda:N`. The check is fast, so it belongs in front of any slow preparation.

    Raises `RuntimeUnavailableError` for the device `cpu`, and without a driver, the GPU, or a TensorRT that loads.
    Raises `MissingExtraError` without the packages, and `UsageError` for an unknown device.
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

    - `model`: bytes or path of a graph of the kind `graph_for(precision, require_tensorrt())`. A dynamic height or
      width is fixed to the spec's crop, in pixels.
    - `device`: `auto`, `cuda` or `cuda:N`.
    - `progress`: receives the steps of the build, from TensorRT 10 on.
    - `prove`: called with the temporary path of the engine, which has its sidecar beside it, before the files get their
      final names. If it raises an exception, no new file is left.

    Raises `ModelError` if the graph is of the wrong kind, if TensorRT cannot parse or build it, or if the engine does
    not run in `precision`. Raises `RuntimeUnavailableError` if the engine does not fit in the GPU's memory, or for
    `hardware_compatible` on a GPU older than Ampere; further errors are those of `require_tensorrt`. Ctrl-C ends the
    build at its next step, or at its end in versions without steps.

    >>> info = build_engine(Path("resnet50.onnx"), Path("resnet50.engine"), precision="fp32")
    >>> info.batch, info.size
    ((1, 8, 64), (224, 224))
    """
    options = options or BuildOptions()
    graph = read_graph(model)
    gpu = _open_gpu(device)
    try:
        tensorrt = load_tensorrt(gpu)
        graph.require(precision, major_version(tensorrt))
        if options.hardware_compatible and gpu.compute_capability < AMPERE:
            raise RuntimeUnavailableError(
                f"a hardware-compatible engine needs an Ampere GPU or newer, not {gpu.name}",
                source=gpu.name,
                reason="unavailable",
            )
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
                clear_frames(error.__traceback__)  # its TensorRT objects must be freed before the GPU's context
                raise
        require_precision(layers, precision, graph.convolutions, build.major)
        info = EngineInfo(
            spec=graph.spec.with_(precision=precision, measured=()),  # the graph's figures are not the engine's
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
    """Compare the logits of an engine with those of its graph `model` in ONNX Runtime on the CPU.

    The images and what passes are those of `prove_against_graph`. Raises `ParityError` if the logits differ by more.
    """
    with TensorRTRuntime(engine, device=device) as candidate:
        return prove_against_graph(candidate, model, f"the engine of {candidate.spec.name}", images)


def check(config: ExportConfig) -> None:
    """Check that the engine of an export can be built here. Raises `UsageError`, and as `require_tensorrt` does."""
    _options(config)
    require_tensorrt(config.device)


def write(lowered: Lowered, target: Path, config: ExportConfig) -> Evidence:
    """Build the engine of an export, and write it to `target` with its sidecar. Raises as `build_engine` does."""
    with progress("building the engine", None, "steps") as advance:
        info = build_engine(
            _graph(lowered, config).content,
            target,
            precision=config.precision,
            options=_options(config),
            device=config.device,
            progress=advance,
        )
    return {"engine": {name: value for name, value in info.to_json().items() if name != "spec"}}


def prove_file(lowered: Lowered, engine: Path, config: ExportConfig) -> Evidence:
    """Compare the engine of an export with its graph. Raises `ParityError` if the logits differ."""
    parity = prove(engine, _graph(lowered, config).content, device=config.device)
    note(str(parity))
    return {"engine_parity": parity.to_json()}


def _graph(lowered: Lowered, config: ExportConfig) -> Graph:
    """Return the graph to build from. TensorRT 8 makes FP16 of the FP32 graph itself."""
    if config.precision != "fp16":
        return lowered.graph  # in every version, so the GPU need not be opened to ask for it
    kind = graph_for(config.precision, require_tensorrt(config.device))
    return lowered.graph if kind.half else lowered.source


def _options(config: ExportConfig) -> BuildOptions:
    """Return the options of the builder, with batch sizes that fit together and the workspace in bytes."""
    given = dict(config.options)
    least, best, most = (given.get(f"{name}_batch") for name in ("min", "opt", "max"))
    given["max_batch"] = most or max(64, best or 0, least or 0)
    given["opt_batch"] = best or min(given["max_batch"], max(8, least or 0))
    given["min_batch"] = least or 1
    if "workspace" in given:
        given["workspace"] *= 2**20
    return BuildOptions(**given)


def _open_gpu(device: str) -> Gpu:
    """Open the GPU that `device` names. Raises `RuntimeUnavailableError` for `cpu` and without a working GPU."""
    kind, number = parse_device(device)
    if kind == "cpu":
        raise RuntimeUnavailableError(
            "a TensorRT engine is built and run on an NVIDIA GPU only",
            hint="for a CPU: export with --format onnx",
            reason="unavailable",
        )
    return Gpu(number)


def _write(plan: bytes, info: EngineInfo, target: Path, prove: Callable[[Path], object] | None) -> None:
    """Write both files under temporary names, call `prove`, and give them their final names, the engine last."""
    with atomic_pair(target, sidecar_path) as temporary:
        temporary.write_bytes(plan)
        info.save(sidecar_path(temporary))
        if prove:
            prove(temporary)


__all__ = ["BuildOptions", "GraphKind", "build_engine", "graph_for", "prove", "require_tensorrt"]
