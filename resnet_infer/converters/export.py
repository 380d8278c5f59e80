"""Export a checkpoint or an FP32 artifact as an ONNX graph or a TensorRT engine, in FP32, FP16 or INT8.

The steps: check the configuration, open and verify the FP32 graph (`source`), lower its precision and check the cost
(`precision.lower`), then write the graph, or build and verify an engine (`tensorrt.export`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from resnet_infer.converters.precision.calibration import Calibration, calibrate
from resnet_infer.converters.precision.fp16 import ON_CPU
from resnet_infer.converters.precision.lower import Lowered, lower_to_fp16, lower_to_int8
from resnet_infer.converters.precision.placement import Target
from resnet_infer.converters.precision.ranges import Method
from resnet_infer.converters.source import PARITY_PICTURES, Source, open_source
from resnet_infer.data.feed import Feed, open_feed
from resnet_infer.data.synthetic import natural_noise
from resnet_infer.errors import DataError, UsageError, did_you_mean
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.graph import reading_graph, set_spec
from resnet_infer.models.spec import Measured, ModelSpec, Precision
from resnet_infer.runtimes.base import Images
from resnet_infer.utils.console import note
from resnet_infer.utils.extras import needs
from resnet_infer.utils.files import atomic_path
from resnet_infer.utils.progress import progress
from resnet_infer.verification.gates import choose_gate
from resnet_infer.verification.tolerances import Tolerance

with needs("export", "making an artifact"):
    from onnx import ModelProto
with needs("cpu", "making an artifact"):
    from resnet_infer.runtimes import ort_session

if TYPE_CHECKING:
    from resnet_infer.converters.tensorrt.build import BuildOptions

CALIBRATION_PICTURES = 512
"""Default number of calibration images."""
CHECK_PICTURES = 1000
"""Default number of images on which the lower precision is compared with FP32."""
TRAINING = ("train",)
"""Preferred splits of a data set for calibration."""
HELD_OUT = ("val", "test")
"""Preferred splits of a data set for the comparison with FP32."""
LEAST_PICTURES = 16
"""Fewest images for the comparison. Fewer give no useful estimate of the cost."""
CALIBRATION_SUFFIX = ".calibration.json"
"""Suffix of the calibration file, in place of the artifact's suffix."""


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
    CPU provider, "tensorrt" for TensorRT. `method`, `weight_bits` and `float_layers` are those of `lower_to_int8`.

    `max_drop` is the largest accepted rise of the top-1 error in percentage points, on labelled images. None uses the
    default limits on the change of the logits. `dynamic_size` leaves height and width of the input open. `pictures`
    names the image sources. `engine` holds the TensorRT build options, and `device` is the GPU that builds and verifies
    the engine.
    """

    precision: Precision = "fp32"
    target: Target = "cpu"
    method: Method = "mse"
    weight_bits: int | None = None
    float_layers: Sequence[str] = ()
    max_drop: float | None = None
    dynamic_size: bool = False
    pictures: Pictures = Pictures()
    engine: BuildOptions | None = None
    device: str = "auto"


@dataclass(frozen=True)
class ExportResult:
    """Hold the path of an artifact, and the evidence that its logits match those of its source.

    `evidence` has a key for every check and step that ran: `parity`, `accuracy`, `calibration`, `engine` and
    `engine_parity`.
    """

    path: Path
    precision: Precision
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the path, the size in bytes, the precision and the evidence as JSON values."""
        size = self.path.stat().st_size
        return {"artifact": str(self.path), "bytes": size, "precision": self.precision, **self.evidence}


def export(model: Checkpoint | Path, target: Path, config: ExportConfig) -> ExportResult:
    """Export a checkpoint, or the FP32 artifact at a path, to the file `target`, and report the checks on stderr.

    A `target` with the suffix `.engine` becomes a TensorRT engine, any other an ONNX graph. INT8 also writes its
    calibration beside the artifact, as `NAME.calibration.json`; a later export can use it again.

    Raises `ParityError` if the artifact's logits differ from its source's, or the lower precision costs more than
    allowed; nothing is left at `target` then. Raises `UsageError` for settings that do not fit together, `DataError`
    for images that cannot be used, and `ModelError` for an ONNX file that is damaged or no artifact. An engine further
    raises the errors of `tensorrt.export.require_tensorrt` and `build_engine`.

    >>> model = load_checkpoint(Path("model.safetensors"))
    >>> export(model, Path("model.onnx"), ExportConfig(precision="fp16")).path
    PosixPath('model.onnx')
    """
    with reading_graph(model) if isinstance(model, Path) else nullcontext():
        return _export(model, target, config)


def _export(model: Checkpoint | Path, target: Path, config: ExportConfig) -> ExportResult:
    """Do the steps of `export`, without its handling of errors from a damaged graph."""
    check(config)
    engine = target.suffix == ".engine"
    half = True
    if engine:
        from resnet_infer.converters.tensorrt import export as tensorrt

        half = tensorrt.graph_for(config.precision, tensorrt.require_tensorrt(config.device)).half
    source = open_source(model, dynamic_size=config.dynamic_size)
    evidence: dict[str, Any] = {}
    if source.parity:
        note(str(source.parity))
        evidence["parity"] = source.parity.to_json()
    graph, calibration = source.graph, None
    if config.precision == "int8":
        graph, calibration = _int8(source, config, evidence)
    elif config.precision == "fp16":
        # TensorRT 8 converts the FP32 graph to FP16 itself. The cost of FP16 is checked all the same.
        lowered = _fp16(source, config, evidence)
        graph = lowered if half else source.graph
    if engine:
        crop = source.spec.input.crop
        _build(graph, target, config, natural_noise(PARITY_PICTURES, crop, crop), evidence)
    else:
        with atomic_path(target) as temporary:
            temporary.write_bytes(graph.SerializeToString())
    if calibration:
        path = target.with_suffix(CALIBRATION_SUFFIX)
        calibration.save(path)
        evidence["calibration"] = {
            "file": str(path),
            "pictures": len(calibration.pictures),
            "sha256": calibration.sha256,
        }
    return ExportResult(target, config.precision, evidence)


def check(config: ExportConfig) -> None:
    """Check the settings before anything slow. Raises `UsageError` for those that do not fit together."""
    if config.target not in get_args(Target):
        raise UsageError(
            f"unknown target {config.target!r}" + did_you_mean(config.target, get_args(Target)),
            hint=f"known are {', '.join(get_args(Target))}",
        )
    data = config.pictures.calibration
    if config.precision == "int8":
        if data is None:
            raise UsageError(
                "INT8 needs pictures: what range the values inside the network have is measured on them",
                hint="give some hundred pictures like those it will see with --calibration-data",
            )
        return
    for given, option in ((data, "--calibration-data"), (config.float_layers, "--float-layers")):
        if given:
            raise UsageError(f"{option} is for --precision int8, not {config.precision}")
    if config.precision == "fp32" and (config.max_drop is not None or config.pictures.check):
        raise UsageError("FP32 costs nothing that could be measured: leave --max-drop and --check-data out")


def _int8(source: Source, config: ExportConfig, evidence: dict[str, Any]) -> tuple[ModelProto, Calibration]:
    """Calibrate, or load the given calibration, and quantise the graph. Adds the cost to `evidence`."""
    data = config.pictures.calibration
    assert data
    calibration = feed = None
    if data.name.endswith(".json"):
        calibration = Calibration.load(data)
        calibration.require(source.graph)
    else:
        feed = open_feed(data, source.spec, count=config.pictures.calibration_count, prefer=TRAINING)
    # Opened before the slow calibration, because opening may fail.
    pictures, gate = _open_check_pictures(source.spec, config, feed)
    if calibration is None:
        assert feed
        with progress("calibrating", len(feed), "pictures") as advance:
            calibration = calibrate(source.graph, feed.crops(), advance=advance)
    lowered = lower_to_int8(
        source.graph,
        calibration,
        pictures,
        gate,
        target=config.target,
        method=config.method,
        weight_bits=config.weight_bits,
        float_layers=config.float_layers,
    )
    return _record_cost(lowered, pictures, evidence), calibration


def _fp16(source: Source, config: ExportConfig, evidence: dict[str, Any]) -> ModelProto:
    """Convert the graph to FP16. Adds the cost to `evidence`."""
    if ort_session.CUDA not in ort_session.available_providers():
        note(ON_CPU)
    pictures, gate = _open_check_pictures(source.spec, config, None)
    return _record_cost(lower_to_fp16(source.graph, pictures, gate), pictures, evidence)


def _open_check_pictures(spec: ModelSpec, config: ExportConfig, feed: Feed | None) -> tuple[Feed, Tolerance]:
    """Open the images for the comparison with FP32, and choose the limits for it.

    `feed` holds the calibration images, None if there are none. Raises `UsageError` for too few images, or for
    `max_drop` without labels.
    """
    wanted = config.pictures
    if wanted.check:
        used = feed.names if feed and wanted.check == wanted.calibration else ()
        found = _labelled_if_possible(wanted.check, spec, wanted.check_count, HELD_OUT, config.max_drop is not None)
        if set(used) & set(found.names) and found.name == (feed and feed.name):
            note("some of the pictures to compare on calibrate too, so the cost may be a little more than is measured")
        if len(found) < LEAST_PICTURES:
            raise UsageError(
                f"--check-data has {len(found)} pictures; it takes {LEAST_PICTURES} to tell what INT8 costs"
            )
    elif feed:
        found = _open_unused_pictures(spec, config, feed)
    else:
        found = open_feed(None, spec)
        note("without pictures the cost is measured on synthetic ones: --check-data gives real ones")
    return found, choose_gate(config.precision, config.max_drop, found.labels is not None)


def _open_unused_pictures(spec: ModelSpec, config: ExportConfig, feed: Feed) -> Feed:
    """Open the images of the calibration data that `feed` does not use; if they are too few, those that it uses."""
    data = config.pictures.calibration
    assert data
    count = config.pictures.check_count
    try:
        rest = _labelled_if_possible(data, spec, count, TRAINING, config.max_drop is not None, feed.names)
    except DataError:
        rest = None
    if rest and len(rest) >= LEAST_PICTURES:
        return rest
    note("the pictures that calibrate are those to compare on too, so the cost may be a little more than is measured")
    return _labelled_if_possible(data, spec, len(feed), TRAINING, config.max_drop is not None)


def _labelled_if_possible(
    source: Path, spec: ModelSpec, count: int, prefer: Sequence[str], required: bool, exclude: Sequence[str] = ()
) -> Feed:
    """Open images with their labels, or without them if the labels do not fit the model and are not `required`."""
    try:
        return open_feed(source, spec, count=count, prefer=prefer, exclude=exclude, labelled=True)
    except DataError as error:
        if required:
            raise
        note(f"compared without labels: {error.message}")
        return open_feed(source, spec, count=count, prefer=prefer, exclude=exclude)


def _record_cost(lowered: Lowered, pictures: Feed, evidence: dict[str, Any]) -> ModelProto:
    """Report the cost on stderr, add it to `evidence`, and return the graph.

    If the images have labels, the top-1 and top-5 errors are written into the graph's spec.
    """
    cost = lowered.verdict.measured
    note(f"{lowered.spec.precision} against fp32 on {pictures.source}: {lowered.verdict}")
    for name, reason in lowered.float_layers.items():
        note(f"left in float: {name} ({reason})")
    evidence["accuracy"] = {"pictures_from": pictures.source, **lowered.to_json()}
    if cost.difference:
        errors = cost.difference.model
        # ONNX Runtime ran the lowered graph, for an engine too.
        name = Path(pictures.source).name
        measured = Measured(name, "1-crop", cost.pictures, errors.top1, errors.top5, "onnxruntime")
        set_spec(lowered.model, lowered.spec.with_(measured=(measured,)))
    return lowered.model


def _build(graph: ModelProto, target: Path, config: ExportConfig, images: Images, evidence: dict[str, Any]) -> None:
    """Build an engine from the graph at `target`, and verify it on `images`. Adds both results to `evidence`."""
    from resnet_infer.converters.tensorrt import export as tensorrt

    content = graph.SerializeToString()

    def prove(engine: Path) -> None:
        """Compare the engine with the graph before it gets its final name."""
        parity = tensorrt.prove(engine, content, images, device=config.device)
        note(str(parity))
        evidence["engine_parity"] = parity.to_json()

    with progress("building the engine", None, "steps") as advance:
        info = tensorrt.build_engine(
            content,
            target,
            precision=config.precision,
            options=config.engine,
            device=config.device,
            progress=advance,
            prove=prove,
        )
    evidence["engine"] = {name: value for name, value in info.to_json().items() if name != "spec"}
