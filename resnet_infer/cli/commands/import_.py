"""Implement `resnet-infer import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_infer.cli.options import Json
from resnet_infer.cli.parsing import channel_values, choice, is_channel_values
from resnet_infer.models.format_version import document
from resnet_infer.models.spec_fields import MAX_CLASSES, MAX_SIDE
from resnet_infer.utils import strict_json
from resnet_infer.utils.console import note, show, size_text
from resnet_infer.utils.files import other_suffix, suffix_of

if TYPE_CHECKING:
    from resnet_infer.converters.importers.input_options import InputOptions
    from resnet_infer.converters.importers.labels import Labels
    from resnet_infer.converters.importers.weights_check import WeightsFit
    from resnet_infer.verification.tolerances import Verdict

EXAMPLES = ("import resnet50.pth --arch resnet50 --labels names.txt", "import classifier.onnx --labels names.txt")
"""Command lines that the help ends with."""
FILTERS = ("bilinear", "bicubic", "lanczos", "box", "hamming", "nearest")


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="WEIGHTS|MODEL.onnx", help="Weights of a ResNet (.pth, .safetensors), or an ONNX classifier."
        ),
    ],
    arch: Annotated[str | None, typer.Option(metavar="NAME", help="For weights: the network, e.g. resnet50.")] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_CLASSES, help="For weights: fail if the number of classes is another."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Names of the classes in the order of the outputs: one on each line, CSV/TSV (index,id,name) or JSON.",
        ),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_SIDE, help="Shorter side of an image in pixels, before the centre crop."),
    ] = None,
    crop: Annotated[int | None, typer.Option(min=1, max=MAX_SIDE, help="Side of the centre crop in pixels.")] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="X,Y,Z", callback=is_channel_values, help="Mean of the normalisation, for each channel."),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,Z",
            callback=is_channel_values,
            help="Standard deviation of the normalisation, for each channel.",
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            metavar="1|255",
            callback=choice("1", "255"),
            help="Range of the pixel values that --mean and --std refer to: 0 to 1, or 0 to 255.",
        ),
    ] = "1",
    channels: Annotated[
        str | None,
        typer.Option(
            metavar="rgb|bgr",
            callback=choice("rgb", "bgr"),
            help="Order of the channels, of the network's input and in --mean and --std; default: rgb.",
        ),
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(metavar="|".join(FILTERS), callback=choice(*FILTERS), help="Filter of the resize.")
    ] = None,
    exif: Annotated[
        bool | None, typer.Option("--exif/--no-exif", help="Whether images are turned as their EXIF orientation says.")
    ] = None,
    shortcut: Annotated[
        str | None,
        typer.Option(
            metavar="A|B|C", callback=choice("A", "B", "C"), help="For weights: the shortcut option of the paper."
        ),
    ] = None,
    padding: Annotated[
        str | None,
        typer.Option(
            metavar="append|split",
            callback=choice("append", "split"),
            help="For weights with shortcut A: zero channels after the others, or half before and half after.",
        ),
    ] = None,
    stride_in: Annotated[
        str | None,
        typer.Option(
            metavar="1x1|3x3",
            callback=choice("1x1", "3x3"),
            help="For weights: the convolution of a bottleneck that has the stride.",
        ),
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For weights: which of several networks in the file, e.g. state_dict_ema."),
    ] = None,
    check_data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="For weights: images like those of the training (a folder or a data set), to check the batch norm "
            "statistics with; default: a few photographs that come with the package.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="nchw|nhwc", callback=choice("nchw", "nhwc"), help="For ONNX: order of the input's dimensions."
        ),
    ] = None,
    output_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="For ONNX: which of several outputs is the logits.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the model.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write; default: the name of the model with .safetensors, or .onnx.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Import the weights of a ResNet as a checkpoint, or an ONNX classifier as an artifact."""
    from resnet_infer.converters.importers.input_options import InputOptions
    from resnet_infer.converters.importers.labels import read_labels

    options = InputOptions(
        resize=resize,
        crop=crop,
        mean=channel_values(mean),
        std=channel_values(std),
        interpolation=interpolation,  # type: ignore[arg-type]  # checked by the option
        exif=exif,
        scale=int(scale),
        channels=channels,  # type: ignore[arg-type]  # checked by the option
    )
    names = read_labels(labels) if labels else None
    of_weights = {
        "arch": arch,
        "num_classes": num_classes,
        "shortcut": shortcut,
        "padding": padding,
        "stride_in": stride_in,
        "entry": entry,
        "check_data": check_data,
    }
    of_graphs = {"layout": layout, "output_name": output_name}
    check = None
    if suffix_of(source) == ".onnx":
        _reject(of_weights, f"belongs to weights; {source} is an ONNX graph")
        target, result = _import_graph(source, output, name, options, names, of_graphs)
    else:
        _reject(of_graphs, f"belongs to ONNX graphs (.onnx), and {source} is none")
        target, result, check = _import_weights(source, output, name, options, names, of_weights)
    for text in result["assumed"]:
        note(f"assumed: {text}")
    if check:
        note(str(check))
        note(f"not checked: {', '.join(check.to_json()['unchecked'])}")
        for text in check.failures:
            note(f"WARNING: {text}")
    size = target.stat().st_size
    if as_json:
        print(strict_json.dumps(document({"model": str(target), "bytes": size, **result}), ensure_ascii=False))
    else:
        show(f"{target}  {size_text(size)}")


def _import_graph(
    source: Path, output: Path | None, name: str | None, options: InputOptions, labels: Labels | None, more: Any
) -> tuple[Path, dict[str, Any]]:
    from resnet_infer.converters.importers.onnx import import_onnx

    target = _target(output, name or f"{source.stem}-adopted", ".onnx", source)
    adopted = import_onnx(source, target, options=options, labels=labels, name=name, **more)
    note(str(adopted.parity))
    return target, {"assumed": adopted.assumed, "parity": adopted.parity.to_json()}


def _import_weights(
    source: Path, output: Path | None, name: str | None, options: InputOptions, labels: Labels | None, more: Any
) -> tuple[Path, dict[str, Any], Verdict[WeightsFit] | None]:
    from resnet_infer.converters.importers.weights import import_weights
    from resnet_infer.models.checkpoint import SUFFIX, save_checkpoint
    from resnet_infer.models.outputs import Output, require_writable

    if output:  # checked before the work
        _target(output, "", SUFFIX, source)
    else:
        require_writable(Output("-o", Path(f"model{SUFFIX}"), "model of ours"))  # the name is not known yet
    imported = import_weights(source, options=options, labels=labels, name=name, **more)
    target = _target(output, imported.checkpoint.spec.name, SUFFIX, source)
    save_checkpoint(imported.checkpoint, target)
    check = imported.check
    told = {"assumed": imported.assumed, "entry": imported.entry, "check": check.to_json() if check else None}
    return target, told, check


def _target(output: Path | None, name: str, suffix: str, source: Path) -> Path:
    """Return the path of the result. Raises `UsageError` for another suffix, the source, or a file with no spec."""
    from resnet_infer.errors import UsageError
    from resnet_infer.models.outputs import Output, has_spec, require_free

    target = output or Path(f"{name}{suffix}")
    if suffix_of(target) != suffix:
        raise UsageError(f"the result ends in {suffix}, {other_suffix(target)}")
    require_free([Output("-o", target, "model of ours", has_spec)], [source])
    return target


def _reject(options: dict[str, Any], reason: str) -> None:
    """Raise `UsageError` for each option that was given but does not apply to the source."""
    from resnet_infer.errors import UsageError

    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name.replace('_', '-')} {reason}")
