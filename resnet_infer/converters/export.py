"""Export a checkpoint or an FP32 artifact as an artifact of any format, in FP32, FP16 or INT8.

`export` is the whole road: check the settings, open the FP32 graph, lower its precision, verify the cost, write the
file, prove the written file. The steps are in `source`, `pictures`, `precision.lower` and in the module of the format,
which `formats` names.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resnet_infer.converters.config import ExportConfig, Pictures
from resnet_infer.converters.formats import Evidence, Format, format_of, known_targets
from resnet_infer.converters.pictures import ExportPictures, open_pictures
from resnet_infer.converters.precision.calibration import Calibration
from resnet_infer.converters.precision.lower import Lowered, lower
from resnet_infer.converters.source import open_source
from resnet_infer.errors import UsageError, did_you_mean
from resnet_infer.models.checkpoint import Checkpoint
from resnet_infer.models.graph import reading_graph
from resnet_infer.models.spec import Measured, Precision
from resnet_infer.runtimes.artifacts import model_parts
from resnet_infer.runtimes.registry import SUFFIXES
from resnet_infer.utils.console import note
from resnet_infer.utils.files import atomic_pair
from resnet_infer.verification.gates import require

CALIBRATION_SUFFIX = ".calibration.json"
"""Suffix of the calibration file, in place of the artifact's suffix."""


@dataclass(frozen=True)
class ExportResult:
    """Hold the path of an artifact, and the evidence that its logits match those of its source.

    `evidence` has a key for every check and step that ran: `parity`, `accuracy`, `calibration`, and those of the
    format, such as `engine` and `engine_parity`.
    """

    path: Path
    precision: Precision
    evidence: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that hold the graph and the weights, the artifact first."""
        return tuple(model_parts(self.path)) if self.path.suffix in SUFFIXES else (self.path,)

    @property
    def size(self) -> int:
        """Return the bytes of these files."""
        return sum(file.stat().st_size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Return the path, the size in bytes, the precision and the evidence as JSON values."""
        return {"artifact": str(self.path), "bytes": self.size, "precision": self.precision, **self.evidence}


def export(model: Checkpoint | Path, target: Path, config: ExportConfig) -> ExportResult:
    """Export a checkpoint, or the FP32 artifact at a path, to the file `target`, and report the checks on stderr.

    The suffix of `target` chooses the format (`formats.ROWS`). INT8 also writes its calibration beside the artifact, as
    `NAME.calibration.json`; a later export can use it again.

    Raises `ParityError` if the artifact's logits differ from its source's, or the lower precision costs more than
    allowed; nothing is left at `target` then. Raises `UsageError` for settings that do not fit together, `DataError`
    for images that cannot be used, `ModelError` for an ONNX file that is damaged or no artifact, and the errors of the
    format's `check`, `write` and `prove`.

    >>> model = load_checkpoint(Path("model.safetensors"))
    >>> export(model, Path("model.onnx"), ExportConfig(precision="fp16")).path
    PosixPath('model.onnx')
    """
    chosen = format_of(target)
    check(chosen, config)
    config = replace(config, target=config.target or chosen.targets[0])
    with reading_graph(model) if isinstance(model, Path) else nullcontext():
        source = open_source(model, dynamic_size=bool(config.options.get("dynamic_size")))
        evidence: Evidence = {}
        if source.parity:
            note(str(source.parity))
            evidence = {"parity": source.parity.to_json()}
        pictures = open_pictures(source.graph.spec, config)
        lowered = lower(source.graph, pictures, config)
        lowered, accuracy = verify(lowered, pictures)
        with atomic_pair(target, chosen.companion_of) as temporary:
            written = chosen.write_file(lowered, temporary, config)
            proven = chosen.prove_file(lowered, temporary, config)
        saved = save_calibration(lowered.calibration, target)
    return ExportResult(target, config.precision, {**evidence, **accuracy, **written, **proven, **saved})


def check(chosen: Format, config: ExportConfig) -> None:
    """Check the settings before anything slow. Raises `UsageError` for those that do not fit together."""
    targets = known_targets()
    if config.target is not None and config.target not in targets:
        raise UsageError(
            f"unknown target {config.target!r}" + did_you_mean(config.target, targets),
            hint=f"known are {', '.join(targets)}",
        )
    check_precision(config)
    chosen.check_config(config)


def check_precision(config: ExportConfig) -> None:
    """Check that the settings belong to the precision. Raises `UsageError`."""
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


def verify(lowered: Lowered, pictures: ExportPictures | None) -> tuple[Lowered, Evidence]:
    """Check the cost of a lower precision against the gate, and report it on stderr.

    Returns the graph and the evidence. If the images have labels, the graph's spec has the top-1 and top-5 errors.
    Raises `ParityError` if the cost exceeds the gate. FP32 has no cost.
    """
    if lowered.verdict is None or pictures is None:
        return lowered, {}
    feed, verdict = pictures.check, lowered.verdict
    require(verdict, pictures.gate, lowered.what)
    spec = lowered.graph.spec
    note(f"{spec.precision} against fp32 on {feed.source}: {verdict}")
    for name, reason in lowered.float_layers.items():
        note(f"left in float: {name} ({reason})")
    accuracy = {
        "pictures_from": feed.source,
        "cost": verdict.to_json(),
        "gate": pictures.gate.to_json("error", "agreement", "max_drop"),
        "float_layers": dict(lowered.float_layers),
        "layer_costs": [item.to_json() for item in lowered.layer_costs],
    }
    if cost := verdict.measured.difference:
        # ONNX Runtime ran the lowered graph, whatever the format.
        name, count = Path(feed.source).name, verdict.measured.pictures
        measured = Measured(name, "1-crop", count, cost.model.top1, cost.model.top5, "onnxruntime")
        lowered = replace(lowered, graph=lowered.graph.with_spec(spec.with_(measured=(measured,))))
    return lowered, {"accuracy": accuracy}


def save_calibration(calibration: Calibration | None, target: Path) -> Evidence:
    """Write the calibration beside the artifact `target`, if there is one."""
    if calibration is None:
        return {}
    path = target.with_suffix(CALIBRATION_SUFFIX)
    calibration.save(path)
    return {"calibration": {"file": str(path), "pictures": len(calibration.pictures), "sha256": calibration.sha256}}


__all__ = ["CALIBRATION_SUFFIX", "ExportConfig", "ExportResult", "Pictures", "check", "check_precision", "export"]
