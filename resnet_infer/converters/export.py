"""What `export` does: a proven FP32 graph, lowered, guarded, written; and for TensorRT an engine built of it."""

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
CHECK_PICTURES = 1000
TRAINING = ("train",)
HELD_OUT = ("val", "test")
"""Splits that pictures are taken from, where a data set has several: to calibrate, and to see what INT8 costs."""
LEAST_PICTURES = 16
"""Fewer say nothing about a cost."""
CALIBRATION_SUFFIX = ".calibration.json"


@dataclass(frozen=True)
class Pictures:
    """Where pictures come from. `calibration` is a data set, a folder, or a file with ranges measured before.

    `check` are those on which the lower precision is compared with FP32; by default what calibration left of its own.
    """

    calibration: Path | None = None
    calibration_count: int = CALIBRATION_PICTURES
    check: Path | None = None
    check_count: int = CHECK_PICTURES


@dataclass(frozen=True)
class ExportConfig:
    """What is to be made. `max_drop` is in points of top-1 error; see `lower_to_int8` for the others."""

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
    """An artifact, and the evidence that it answers as its source does."""

    path: Path
    precision: Precision
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        size = self.path.stat().st_size
        return {"artifact": str(self.path), "bytes": size, "precision": self.precision, **self.evidence}


def export(model: Checkpoint | Path, target: Path, config: ExportConfig) -> ExportResult:
    """Make the artifact `target`, an engine if it ends in `.engine`, and say on stderr what was proven.

    INT8 leaves its calibration beside it, `NAME.calibration.json`, to be used again. Raises `ParityError`, and leaves
    nothing under the final name, if the artifact does not answer as its source does, or costs more than asked for;
    `ModelError` for an ONNX file whose graph is damaged.
    """
    with reading_graph(model) if isinstance(model, Path) else nullcontext():
        return _export(model, target, config)


def _export(model: Checkpoint | Path, target: Path, config: ExportConfig) -> ExportResult:
    engine = target.suffix == ".engine"
    half = True
    if engine:
        from resnet_infer.converters.tensorrt import export as tensorrt

        half = tensorrt.graph_for(config.precision, tensorrt.require_tensorrt(config.device)).half
    check(config)
    source = open_source(model, dynamic_size=config.dynamic_size)
    evidence: dict[str, Any] = {}
    if source.parity:
        note(str(source.parity))
        evidence["parity"] = source.parity.to_json()
    graph, calibration = source.graph, None
    if config.precision == "int8":
        graph, calibration = _int8(source, config, evidence)
    elif config.precision == "fp16":
        # TensorRT 8 makes its own FP16 of the FP32 graph; what FP16 costs is the same question.
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
    """Before anything slow. Raises `UsageError`."""
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
    data = config.pictures.calibration
    assert data
    calibration = feed = None
    if data.name.endswith(".json"):
        calibration = Calibration.load(data)
        calibration.require(source.graph)
    else:
        feed = open_feed(data, source.spec, count=config.pictures.calibration_count, prefer=TRAINING)
    # Before the slow part, because it may fail.
    pictures, gate = _compared_on(source.spec, config, feed)
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
    return _told(lowered, pictures, evidence), calibration


def _fp16(source: Source, config: ExportConfig, evidence: dict[str, Any]) -> ModelProto:
    if ort_session.CUDA not in ort_session.available_providers():
        note(ON_CPU)
    pictures, gate = _compared_on(source.spec, config, None)
    return _told(lower_to_fp16(source.graph, pictures, gate), pictures, evidence)


def _compared_on(spec: ModelSpec, config: ExportConfig, feed: Feed | None) -> tuple[Feed, Tolerance]:
    """The pictures to compare on, and what is asked of the comparison. `feed` are those that calibrate."""
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
        found = _rest(spec, config, feed)
    else:
        found = open_feed(None, spec)
        note("without pictures the cost is measured on synthetic ones: --check-data gives real ones")
    return found, choose_gate(config.precision, config.max_drop, found.labels is not None)


def _rest(spec: ModelSpec, config: ExportConfig, feed: Feed) -> Feed:
    """The pictures of the calibration data that do not calibrate; if they are too few, those that do."""
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
    try:
        return open_feed(source, spec, count=count, prefer=prefer, exclude=exclude, labelled=True)
    except DataError as error:
        if required:
            raise
        note(f"compared without labels: {error.message}")
        return open_feed(source, spec, count=count, prefer=prefer, exclude=exclude)


def _told(lowered: Lowered, pictures: Feed, evidence: dict[str, Any]) -> ModelProto:
    """Say what was found, and write the error, where it was measured, into the spec."""
    cost = lowered.verdict.measured
    note(f"{lowered.spec.precision} against fp32 on {pictures.source}: {lowered.verdict}")
    for name, reason in lowered.float_layers.items():
        note(f"left in float: {name} ({reason})")
    evidence["accuracy"] = {"pictures_from": pictures.source, **lowered.to_json()}
    if cost.difference:
        errors = cost.difference.model
        # The lowered graph is run by ONNX Runtime, whatever its artifact is for.
        name = Path(pictures.source).name
        measured = Measured(name, "1-crop", cost.pictures, errors.top1, errors.top5, "onnxruntime")
        set_spec(lowered.model, lowered.spec.with_(measured=(measured,)))
    return lowered.model


def _build(graph: ModelProto, target: Path, config: ExportConfig, images: Images, evidence: dict[str, Any]) -> None:
    from resnet_infer.converters.tensorrt import export as tensorrt

    content = graph.SerializeToString()

    def prove(engine: Path) -> None:
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
