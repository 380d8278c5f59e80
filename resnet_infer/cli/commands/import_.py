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
from resnet_infer.utils.console import note, show
from resnet_infer.utils.files import suffix_of

if TYPE_CHECKING:
    from resnet_infer.converters.importers.input_options import InputOptions
    from resnet_infer.converters.importers.labels import Labels
    from resnet_infer.converters.importers.weights_check import WeightsFit
    from resnet_infer.verification.tolerances import Verdict

FILTERS = ("bilinear", "bicubic", "lanczos", "box", "hamming", "nearest")


def import_(
    source: Annotated[
        Path,
        typer.Argument(metavar="WEIGHTS|MODEL.onnx", help="A ResNet's weights (.pth, .safetensors), or an ONNX graph."),
    ],
    arch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Weights: the network, e.g. resnet50, resnet20.")
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_CLASSES, help="Weights: how many classes there must be; default: as many as there are."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Names of the classes: a line each, CSV/TSV (index,id,name) or JSON; order of the outputs.",
        ),
    ] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIDE, help="Pixels of the shorter side before the crop.")
    ] = None,
    crop: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIDE, help="Pixels of the square that is cut out of the centre.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="X,Y,Z", callback=is_channel_values, help="What is subtracted from each channel."),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", callback=is_channel_values, help="What each channel is divided by.")
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            metavar="1|255", callback=choice("1", "255"), help="The full range of a pixel, which mean and std refer to."
        ),
    ] = "1",
    channels: Annotated[
        str | None,
        typer.Option(
            metavar="rgb|bgr",
            callback=choice("rgb", "bgr"),
            help="The order in which the network takes the channels, and that of --mean and --std. Default: rgb.",
        ),
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(metavar="|".join(FILTERS), callback=choice(*FILTERS), help="The filter of the resize.")
    ] = None,
    exif: Annotated[
        bool | None, typer.Option("--exif/--no-exif", help="Whether a photo's orientation tag is obeyed.")
    ] = None,
    shortcut: Annotated[
        str | None, typer.Option(metavar="A|B|C", callback=choice("A", "B", "C"), help="Weights: the shortcut option.")
    ] = None,
    padding: Annotated[
        str | None,
        typer.Option(
            metavar="append|split",
            callback=choice("append", "split"),
            help="Weights, option A: the zero channels come after the others, or half before and half after.",
        ),
    ] = None,
    stride_in: Annotated[
        str | None,
        typer.Option(
            metavar="1x1|3x3", callback=choice("1x1", "3x3"), help="Weights: which convolution of a bottleneck strides."
        ),
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Weights: which of several networks in the file, e.g. state_dict_ema."),
    ] = None,
    check_data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Weights: pictures (a folder or a data set) like those of the training, which the batch norm "
            "statistics are compared with. Default: a few photographs of the package.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="nchw|nhwc", callback=choice("nchw", "nhwc"), help="ONNX: the order of the input's dimensions."
        ),
    ] = None,
    output_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="ONNX: which of several outputs has the classes.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What the model is called.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: the name with .safetensors, or .onnx."),
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
        show(f"{target}  {size / 1e6:.1f} MB")


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
        raise UsageError(f"the result ends in {suffix}, not {target.suffix or 'nothing'}: {target}")
    require_free([Output("-o", target, "model of ours", has_spec)], [source])
    return target


def _reject(options: dict[str, Any], reason: str) -> None:
    """Raise `UsageError` for each option that was given but does not apply to the source."""
    from resnet_infer.errors import UsageError

    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name.replace('_', '-')} {reason}")
