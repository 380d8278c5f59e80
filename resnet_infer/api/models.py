"""Open, describe, import and export models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from resnet_infer.api.arguments import PathText, check_options, check_value, name_of, named, optional_path, path_of
from resnet_infer.api.options import ExportOptions, ImportOptions
from resnet_infer.api.wording import in_python
from resnet_infer.errors import ModelError, UsageError
from resnet_infer.utils.files import other_suffix, suffix_of

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Unpack

    from resnet_infer.api.arguments import Model
    from resnet_infer.converters.export import ExportResult
    from resnet_infer.converters.formats import Format
    from resnet_infer.converters.importers.labels import Labels
    from resnet_infer.converters.importers.weights import Imported
    from resnet_infer.models.spec import ModelSpec
    from resnet_infer.runtimes.base import Runtime


@in_python()
def open_runtime(
    model: Model = None,
    *,
    runtime: str = "auto",
    device: str | int = "auto",
    threads: int | None = None,
    compute: Literal["auto", "fp32", "bf16"] = "auto",
    **options: Any,
) -> Runtime:
    """Open a model with a runtime, which computes logits from images of the model's size.

    - `model`: a model's name, the path of a checkpoint or artifact, or a loaded checkpoint; None is the default model.
    - `runtime`: "auto", "onnxruntime", "openvino", "tensorrt" or "torch". "auto" runs artifacts as they are, and
      checkpoints as ONNX artifacts, which are exported once.
    - `device`: "auto", "cpu", "cuda" or "cuda:N", or the number of a GPU. A device that is named is used, or opening
      fails.
    - `threads`: number of CPU threads of a call; default: all usable cores.
    - `compute`: what the layers of an FP32 model compute in; "auto" is FP32. With "bf16" the model is first compared
      with itself in FP32, once.
    - `options`: further options of the runtime, such as `spin=False`.

    Raises `UsageError` for an unknown runtime, option or type, `ModelError` for a model that does not exist or cannot
    be opened, `MissingExtraError` without the runtime's package, `RuntimeUnavailableError` for a device or instructions
    that are not there, and `ParityError` for a model that loses too much in bf16.

    >>> import numpy as np
    >>> from resnet_infer import open_runtime
    >>> with open_runtime("resnet20-cifar10", threads=1) as runtime:
    ...     logits = runtime(np.zeros((2, 32, 32, 3), np.uint8))  # uint8 (N, height, width, 3), RGB
    >>> logits.shape, str(logits.dtype)
    ((2, 10), 'float32')
    """
    from resnet_infer import zoo
    from resnet_infer.models.checkpoint import Checkpoint
    from resnet_infer.runtimes.registry import CHECKPOINT, get_runtime
    from resnet_infer.runtimes.registry import open_runtime as opened

    check_value("runtime", runtime, str)
    check_value("device", device, str | int)
    check_value("compute", compute, Literal["auto", "fp32", "bf16"])
    place = str(device)

    def proven(found: Path | Checkpoint) -> Runtime:
        """Open what was found for the model, after the check that `compute` needs."""
        if compute != "auto":
            from resnet_infer.selection.bf16_guard import require_compute

            require_compute(found, compute, runtime=runtime, device=place)
        return opened(found, runtime=runtime, device=place, threads=threads, compute=compute, **options)

    if isinstance(model, Checkpoint) and runtime != "auto" and get_runtime(runtime).opens(CHECKPOINT):
        return proven(model)
    with named(model) as (name,):
        return proven(zoo.file_for(name, runtime))


@in_python()
def read_spec(model: PathText | None = None) -> ModelSpec:
    """Read what a file says about its model: classes, input, precision and provenance, without running it.

    `model` is a name or the path of a checkpoint (`.safetensors`) or artifact (`.onnx`, `.xml`, `.engine`), None the
    default model. Raises `ModelError` for a file that is missing, damaged or without a model spec.

    >>> from resnet_infer import read_spec
    >>> spec = read_spec("resnet20-cifar10")
    >>> spec.input.crop, spec.classes[:3]
    (32, ('airplane', 'automobile', 'bird'))
    """
    from pathlib import Path

    from resnet_infer import zoo
    from resnet_infer.runtimes import artifacts
    from resnet_infer.runtimes.registry import SUFFIXES

    name = name_of(model)
    if name is not None and suffix_of(Path(name)) in SUFFIXES and not Path(name).expanduser().exists():
        raise ModelError(f"{name} does not exist", source=name, reason="missing")
    return artifacts.read_spec(zoo.find(name))


@in_python()
def import_weights(
    weights: PathText, output: PathText | None = None, *, arch: str | None = None, **options: Unpack[ImportOptions]
) -> Imported:
    """Import the weights of a ResNet that another program, such as torchvision or timm, has stored.

    - `weights`: a file of `torch.save` (`.pth`) or a `.safetensors` file.
    - `output`: path to write the checkpoint to, ending in `.safetensors`; None writes no file.
    - `arch`: name of the network, such as "resnet50". Required unless the file is a published one.
    - `labels`: names of the classes, as a list or a file; other options are those of `resnet-infer import`.

    Returns the checkpoint, the assumptions that were made, and how well the weights fit real images.

    Raises `UsageError` for options that do not fit, `ModelError` for a file that holds no weights or does not fit the
    network, and `DataError` for wrong labels.

    >>> from resnet_infer import import_weights
    >>> from safetensors.numpy import load_file, save_file
    >>> tensors = load_file("model.safetensors")
    >>> save_file(tensors, "theirs.safetensors")  # without a model spec, as another program writes it
    >>> imported = import_weights("theirs.safetensors", "ours.safetensors", arch="resnet20", padding="append")
    >>> imported.checkpoint.spec.name, len(imported.checkpoint.spec.classes)
    ('theirs', 10)
    """
    check_options("import_weights", options, ImportOptions)
    check_value("arch", arch, str | None)
    source, target = path_of("weights", weights), optional_path("output", output)
    if suffix_of(source) == ".onnx":
        raise UsageError(
            f"{source} is an ONNX graph, and no file of weights",
            hint=f"make an artifact of it with: resnet-infer import {source} --labels FILE ...",
            source=source,
        )
    from resnet_infer.converters.importers import weights as importing
    from resnet_infer.converters.importers.input_options import InputOptions
    from resnet_infer.models.checkpoint import SUFFIX, save_checkpoint
    from resnet_infer.models.outputs import Output, has_spec, require_free

    given: dict[str, Any] = dict(options)
    labels = _labels(given.pop("labels", None))
    geometry = ("resize", "crop", "mean", "std", "scale", "channels", "interpolation", "exif")
    inputs = InputOptions(**{name: given.pop(name) for name in geometry if name in given})
    given["check_data"] = optional_path("check_data", given.get("check_data"))
    if target is not None:
        if suffix_of(target) != SUFFIX:
            raise UsageError(f"a checkpoint ends in {SUFFIX}, {other_suffix(target)}")
        require_free([Output("output", target, "model of ours", has_spec)], [source])
    imported = importing.import_weights(source, arch, options=inputs, labels=labels, **given)
    if target is not None:
        save_checkpoint(imported.checkpoint, target)
    return imported


def _labels(given: Any) -> Labels | None:
    """Return class names that were given as a list or as a file."""
    from resnet_infer.converters.importers.labels import Labels, read_labels

    if given is None:
        return None
    if isinstance(given, (list, tuple)):
        return Labels(tuple(given), None, "labels")
    return read_labels(path_of("labels", given))


@in_python()
def export(
    model: Model = None,
    output: PathText | None = None,
    *,
    format: str | None = None,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    **options: Unpack[ExportOptions],
) -> ExportResult:
    """Export a model to an artifact, verify it against its source, and return its path and the evidence.

    - `model`: a model's name, the path of a checkpoint or of an FP32 ONNX artifact, or a loaded checkpoint; None is the
      default model.
    - `output`: path of the artifact; default: named after model and precision, in the current folder.
    - `format`: "onnx", "tensorrt" or "openvino"; default: as the suffix of `output` says, else "onnx".
    - `precision`: "int8" needs `calibration_data`: images like those that the model will see.
    - `options`: as those of `resnet-infer export`, with underscores.

    Raises `UsageError` for options that do not fit together, `ModelError`, `DataError` for images that cannot be used,
    `ParityError` if the artifact answers differently or the precision costs too much, and `MissingExtraError`.

    >>> from resnet_infer import export
    >>> result = export("resnet20-cifar10", "small.onnx", precision="fp16")
    >>> result.path.name, result.precision, result.size < 600_000
    ('small.onnx', 'fp16', True)
    """
    from resnet_infer.converters.formats import known_options

    check_options("export", options, ExportOptions, [option.name for option in known_options()])
    check_value("precision", precision, Literal["fp32", "fp16", "int8"])
    check_value("format", format, str | None)
    target = optional_path("output", output)
    chosen = _format(format, target)
    from resnet_infer import zoo
    from resnet_infer.converters import export as exporting
    from resnet_infer.models.checkpoint import Checkpoint

    given = {name: value for name, value in options.items() if value is not None}
    config = _config(precision, given)
    pictures = config.pictures
    exporting.check(chosen, replace(config, target=config.target or chosen.targets[0]))
    source = model if isinstance(model, Checkpoint) else zoo.source(name_of(model))
    if not isinstance(source, Checkpoint) and (suffix_of(source), "fp32") == (chosen.suffix, precision):
        raise ModelError(
            f"{source} is an artifact already",
            hint="lower its precision to int8 or fp16, or give the checkpoint it was made from",
            source=source,
            reason="unsupported",
        )
    stem = source.spec.name if isinstance(source, Checkpoint) else source.stem
    path = target or path_of("output", stem + ("" if precision == "fp32" else f".{precision}") + chosen.suffix)
    read = [None if isinstance(source, Checkpoint) else source, pictures.calibration, pictures.check]
    chosen.require_free(path, read, "output")
    return exporting.export(source, path, config)


def _format(name: str | None, output: Path | None) -> Format:
    """Return the format that is named, or that the suffix of `output` says. Raises `UsageError`."""
    from resnet_infer.converters.formats import ROWS, SPELLINGS, format_of, get_format

    if name is None:
        return format_of(output) if output else ROWS[0]
    small = name.lower()
    chosen = get_format(SPELLINGS.get(small, small))
    if output and suffix_of(output) != chosen.suffix:
        raise UsageError(f"a file of the format {name} ends in {chosen.suffix}, {other_suffix(output)}")
    return chosen


def _config(precision: Any, given: dict[str, Any]) -> Any:
    """Return the settings of an export. What remains in `given` are options of the format."""
    from resnet_infer.converters.config import CALIBRATION_PICTURES, CHECK_PICTURES, ExportConfig, Pictures

    pictures = Pictures(
        optional_path("calibration_data", given.pop("calibration_data", None)),
        given.pop("calibration_pictures", CALIBRATION_PICTURES),
        optional_path("check_data", given.pop("check_data", None)),
        given.pop("check_pictures", CHECK_PICTURES),
    )
    renamed = {"calibration_method": "method"}
    known = ("target", "calibration_method", "max_drop", "weight_bits", "float_layers", "device")
    settings = {renamed.get(name, name): given.pop(name) for name in known if name in given}
    if "timing_cache" in given:
        given["timing_cache"] = path_of("timing_cache", given["timing_cache"])
    more = {name: value for name, value in given.items() if value is not False}
    return ExportConfig(precision=precision, pictures=pictures, options=more, **settings)
